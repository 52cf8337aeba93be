//! Datagrams that make no sense. Nothing that arrives may cause a panic, or disturb a connection.

use std::time::Duration;

use rand::{Rng, RngExt, rngs::StdRng};

use crate::fixtures::{derive, for_seeds, noise};
use crate::link::flip_bits;
use crate::pair::{Pair, addr};

const DATAGRAMS_PER_SEED: usize = 20_000;

/// A datagram derived from a genuine one, or from nothing.
fn spoil(rng: &mut StdRng, genuine: &[Vec<u8>]) -> Vec<u8> {
    let mut data = genuine[rng.random_range(0..genuine.len())].clone();
    match rng.random_range(0..6) {
        0 => data.truncate(rng.random_range(0..=data.len())),
        1 => flip_bits(rng, &mut data),
        // Of the header, above all.
        2 => {
            let header = data.len().min(40);
            flip_bits(rng, &mut data[..header]);
        }
        3 => {
            let at = rng.random_range(0..data.len());
            rng.fill_bytes(&mut data[at..]);
        }
        // Two genuine ones as one.
        4 => data.extend_from_slice(&genuine[rng.random_range(0..genuine.len())]),
        _ => {
            data = vec![0; rng.random_range(0..1500)];
            rng.fill_bytes(&mut data);
            if rng.random_bool(0.5) && data.len() > 5 {
                // Else most would be of unknown versions.
                data[0] |= 0xc0;
                data[1..5].copy_from_slice(&[0, 0, 0, 1]);
            }
        }
    }
    data
}

/// Everything that was sent in a handshake with Retry, a transfer, and a close.
fn genuine_datagrams(seed: u64) -> Vec<Vec<u8>> {
    let mut pair = Pair::new(seed);
    pair.tap = Some(Vec::new());
    pair.server.admission = crate::peer::Admission::Retry;
    pair.handshake();
    pair.transfer(&noise(1, 30_000).into(), &noise(2, 30_000).into());
    pair.close(0, "done");
    pair.run_until_drained();
    let tap = pair.tap.take().unwrap();
    tap.into_iter().map(|datagram| datagram.data).collect()
}

#[test]
fn junk_disturbs_nobody() {
    for_seeds(3, |seed| {
        let mut rng = derive(seed, "junk");
        let mut pair = Pair::new(seed);
        // Of this connection, and of others.
        let mut genuine = genuine_datagrams(seed + 1000);
        pair.tap = Some(Vec::new());
        pair.handshake();
        pair.transfer(&noise(1, 30_000).into(), &noise(2, 30_000).into());
        let tap = pair.tap.take().unwrap();
        genuine.extend(tap.into_iter().map(|datagram| datagram.data));

        let data = noise(seed, 2 << 20).into();
        let (upload, download) = (pair.upload(&data), pair.download(&data));
        let (client, server, stranger) = (pair.client.addr, pair.server.addr, addr(66, 6));
        for number in 0..DATAGRAMS_PER_SEED {
            let junk = spoil(&mut rng, &genuine);
            let forged = rng.random_bool(0.5);
            let now = pair.now;
            if rng.random_bool(0.5) {
                let from = if forged { client } else { stranger };
                pair.up.send(now, from, server, None, &junk);
            } else {
                let from = if forged { server } else { stranger };
                pair.down.send(now, from, client, None, &junk);
            }
            if number % 100 == 0 {
                pair.run_for(Duration::from_millis(5));
            }
        }
        pair.run_until("the transfer", |pair| {
            crate::pair::is_finished(pair.server_app(), upload)
                && crate::pair::is_finished(pair.client_app(), download)
        });
        crate::pair::assert_received(pair.server_app(), upload, &data);
        crate::pair::assert_received(pair.client_app(), download, &data);
        pair.close(0, "done");
        // Connections that came of spoiled hellos end as well.
        pair.run_until_drained();
    });
}
