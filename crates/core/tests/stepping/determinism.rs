//! Same seed, same run.

use std::time::Duration;

use crate::fixtures::{for_seeds, noise};
use crate::link::Network;
use crate::pair::{Pair, Setup, addr};
use crate::peer::{Admission, Sent};

/// A bit of everything, over a network that does its worst.
fn run(seed: u64) -> Pair {
    let mut pair = Setup {
        network: Network {
            jitter: Duration::from_millis(8),
            loss: 0.03,
            duplicate: 0.02,
            corrupt: 0.01,
            mark: 0.01,
            bytes_per_second: Some(5_000_000),
            ..Network::default()
        },
        ..Setup::new(seed)
    }
    .build();
    pair.server.admission = Admission::Retry;
    pair.handshake();
    pair.server_conn().app.echo = true;
    for number in 0..10 {
        pair.request(&noise(number, 3_000).into());
    }
    pair.transfer(&noise(1, 300_000).into(), &noise(2, 300_000).into());
    pair.client.addr = addr(1, 2000);
    pair.client_conn().machine.local_address_changed();
    pair.client_conn().machine.force_key_update();
    pair.transfer(&noise(3, 100_000).into(), &noise(4, 100_000).into());
    pair.close(0, "done");
    pair.run_until_drained();
    pair
}

/// What left both sides, when and in which sizes.
fn trace(seed: u64) -> (Vec<Sent>, Vec<Sent>, Duration) {
    let mut pair = run(seed);
    (
        std::mem::take(&mut pair.client.sent),
        std::mem::take(&mut pair.server.sent),
        pair.elapsed(),
    )
}

#[test]
fn same_seed_same_datagrams() {
    for_seeds(5, |seed| {
        let (first, second) = (trace(seed), trace(seed));
        for (side, first, second) in [
            ("client", &first.0, &second.0),
            ("server", &first.1, &second.1),
        ] {
            let differs = first.iter().zip(second).position(|(a, b)| a != b);
            if let Some(at) = differs {
                panic!(
                    "{side}, send {at} of {}: {:?}, then {:?}",
                    first.len(),
                    first[at],
                    second[at]
                );
            }
            assert_eq!(first.len(), second.len(), "{side}");
        }
        assert_eq!(first.2, second.2);
    });
}

#[test]
fn another_seed_another_run() {
    assert_ne!(trace(1), trace(2));
}
