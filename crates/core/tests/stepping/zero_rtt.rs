//! Data before the handshake is complete.

use std::time::Duration;

use bytes::Bytes;
use polyquic_core::Dir;

use crate::fixtures::{endpoint_config, noise, server_config};
use crate::link::Network;
use crate::pair::{Pair, Setup, assert_received, is_finished, send};

/// A client that has been connected before.
fn acquainted(setup: Setup) -> Pair {
    let mut pair = setup.build();
    pair.handshake();
    // Session tickets come after the handshake.
    pair.run_for(Duration::from_millis(500));
    pair.close(0, "");
    pair.run_until_drained();
    pair
}

/// Connect again and send at once.
fn connect_and_send(pair: &mut Pair, data: &Bytes) -> (usize, polyquic_core::StreamId) {
    let index = pair.connect();
    let conn = pair.client.touch(index);
    assert!(conn.machine.has_0rtt(), "no keys of an earlier connection");
    (index, send(conn, Dir::Bi, data))
}

#[test]
fn early_data_arrives_with_the_hello() {
    let mut pair = acquainted(Setup::new(1));
    let start = pair.now;
    let data = Bytes::from(noise(1, 2_000));
    let (index, stream) = connect_and_send(&mut pair, &data);
    pair.run_until("the data", |pair| {
        (pair.server.conns.get(1)).is_some_and(|conn| is_finished(&conn.app, stream))
    });
    assert_eq!(pair.now - start, Duration::from_millis(10));
    assert!(pair.server.conns[1].machine.is_handshaking());
    assert_received(&pair.server.conns[1].app, stream, &data);
    pair.run_until("the handshake", |pair| {
        pair.client.conns[index].app.connected.is_some()
    });
    assert!(pair.client.conns[index].machine.accepted_0rtt());
}

#[test]
fn early_data_survives_losses() {
    early_data_under_losses(5_000);
}

/// Early data that fills the congestion window (12,000 bytes at first) would stall until the idle
/// timeout, but for what `core` does about the deadlock of
/// `every_handshake_gets_through_a_bad_network`. It is more likely here, as early data stays in the
/// window until the server's acknowledgements arrive, which it does not repeat.
#[test]
fn much_early_data_survives_losses() {
    early_data_under_losses(20_000);
}

fn early_data_under_losses(bytes: usize) {
    crate::fixtures::for_seeds(10, |seed| {
        let mut pair = acquainted(Setup::new(seed));
        let rough = Network {
            loss: 0.2,
            jitter: Duration::from_millis(15),
            ..Network::default()
        };
        pair.up.network = rough.clone();
        pair.down.network = rough;
        let data = Bytes::from(noise(seed, bytes));
        let (_, stream) = connect_and_send(&mut pair, &data);
        pair.run_until("the data", |pair| {
            (pair.server.conns.get(1)).is_some_and(|conn| is_finished(&conn.app, stream))
        });
        assert_received(&pair.server.conns[1].app, stream, &data);
    });
}

/// A server that does not know the session (any more) goes on with a full handshake, and the data
/// has to be sent again.
#[test]
fn early_data_may_be_rejected() {
    let mut pair = acquainted(Setup::new(1));
    pair.server.restart(
        &endpoint_config(2, "server"),
        Some(server_config(Default::default())),
    );
    let data = Bytes::from(noise(1, 2_000));
    let (index, early) = connect_and_send(&mut pair, &data);
    pair.run_until("the handshake", |pair| {
        pair.client.conns[index].app.connected.is_some()
    });
    assert!(!pair.client.conns[index].machine.accepted_0rtt());
    // Streams of 0-RTT are forgotten; the first one after that has the same id.
    let again = send(pair.client.touch(index), Dir::Bi, &data);
    assert_eq!(again, early);
    pair.run_until("the data", |pair| {
        (pair.server.conns.first()).is_some_and(|conn| is_finished(&conn.app, again))
    });
    assert_received(&pair.server.conns[0].app, again, &data);
}
