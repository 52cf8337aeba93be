//! Ends of connections.

use std::time::Duration;

use polyquic_core::{Blame, ConnectionError, VarInt, blame};

use crate::fixtures::{endpoint_config, noise, server_config};
use crate::pair::{Pair, addr, lost};

#[test]
fn close_reaches_the_peer_and_both_sides_drain() {
    let mut pair = Pair::new(1);
    pair.handshake();
    pair.close(42, "enough");
    let closed = pair.now;
    pair.run_until("the server to hear of it", |pair| {
        lost(pair.server_app()).is_some()
    });
    assert_eq!(pair.now - closed, Duration::from_millis(10));
    match lost(pair.server_app()).unwrap() {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, VarInt::from_u32(42));
            assert_eq!(close.reason, "enough");
        }
        other => panic!("{other}"),
    }
    pair.run_until_drained();
    // Three probe timeouts (RFC 9000 section 10.2).
    let lingered = pair.now - closed;
    assert!(lingered < Duration::from_millis(400), "{lingered:?}");
    assert!(lost(pair.client_app()).is_none(), "it was our own doing");
}

/// A close goes out although the congestion window is full, also when attempts to connect have failed
/// meanwhile, and when the client has moved between networks.
#[test]
fn a_close_does_not_wait_for_the_window() {
    let mut pair = Pair::new(1);
    pair.handshake();
    pair.download(&noise(1, 16 << 20).into());
    for host in 7..10 {
        pair.run_for(Duration::from_millis(100));
        pair.client.addr = addr(host, 1000);
        pair.client_conn().machine.local_address_changed();
    }
    pair.run_for(Duration::from_millis(100));
    for _ in 0..3 {
        let index = pair.connect();
        let now = pair.now;
        let machine = &mut pair.client.touch(index).machine;
        machine.close(now, VarInt::from_u32(1), Default::default());
        pair.run_for(Duration::from_millis(15));
    }
    assert_eq!(pair.server.conns.len(), 1, "they were given up at once");
    // Nothing is acknowledged until the window is full.
    pair.up.cut = true;
    pair.run_for(Duration::from_millis(100));
    assert!(lost(pair.client_app()).is_none());
    let now = pair.now;
    let machine = &mut pair.server_conn().machine;
    machine.close(now, VarInt::from_u32(7), Default::default());
    pair.run_for(Duration::from_millis(10));
    let error = lost(pair.client_app()).expect("it hears of it");
    assert!(matches!(error, ConnectionError::ApplicationClosed(_)));
}

/// A close that got lost is said again to whoever goes on sending.
#[test]
fn a_lost_close_is_repeated() {
    let mut pair = Pair::new(1);
    pair.handshake();
    let upload = noise(1, 1 << 20).into();
    pair.download(&upload);
    pair.run_for(Duration::from_millis(30));
    pair.up.network.loss = 1.0;
    pair.close(1, "");
    pair.run_for(Duration::from_millis(5));
    pair.up.network.loss = 0.0;
    pair.run_until("the server to hear of it", |pair| {
        lost(pair.server_app()).is_some()
    });
    pair.run_until_drained();
}

#[test]
fn a_restarted_server_resets_connections_of_its_former_life() {
    for remembers_key in [true, false] {
        let mut pair = Pair::new(1);
        pair.handshake();
        // The key follows from the seed.
        let seed = if remembers_key { 1 } else { 2 };
        let config = endpoint_config(seed, "server");
        pair.server
            .restart(&config, Some(server_config(Default::default())));
        pair.upload(&noise(1, 10_000).into());
        let restarted = pair.now;
        pair.run_until("the client to notice", |pair| {
            lost(pair.client_app()).is_some()
        });
        let error = lost(pair.client_app()).unwrap();
        if remembers_key {
            assert_eq!(error, &ConnectionError::Reset);
            assert_eq!(pair.now - restarted, Duration::from_millis(20));
        } else {
            assert_eq!(error, &ConnectionError::TimedOut);
        }
        assert_eq!(blame(error), Blame::Network);
        pair.run_until("drained", |pair| pair.client.conns[0].drained);
    }
}

/// Resets must not let two endpoints talk to each other forever (RFC 9000 section 10.3.3).
#[test]
fn stateless_resets_are_shorter_than_what_caused_them_and_rare() {
    let mut pair = Pair::new(1);
    pair.handshake();
    pair.server.restart(
        &endpoint_config(1, "server"),
        Some(server_config(Default::default())),
    );
    pair.down.cut = true;
    pair.tap = Some(Vec::new());
    pair.upload(&noise(1, 100_000).into());
    pair.run_for(Duration::from_secs(5));
    let largest = (pair.tap.iter().flatten())
        .map(|datagram| datagram.data.len())
        .max()
        .unwrap();
    assert!(!pair.server.sent.is_empty());
    assert!((pair.server.sent.iter()).all(|reset| reset.bytes < largest));
    for two in pair.server.sent.windows(2) {
        assert!(two[1].at - two[0].at >= Duration::from_millis(20));
    }
}
