//! Deadlines, and that there are no others.

use std::time::Duration;

use polyquic_core::{ConnectionError, TransportConfig};

use crate::fixtures::noise;
use crate::pair::{Pair, Setup, lost};

const IDLE: Duration = Duration::from_secs(10);

fn transport(keep_alive: Option<Duration>) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IDLE.try_into().unwrap()))
        .keep_alive_interval(keep_alive);
    transport
}

/// Only the server keeps the connection alive, if anybody does.
fn pair(keep_alive: Option<Duration>) -> Pair {
    Setup {
        client_transport: transport(None),
        server_transport: transport(keep_alive),
        ..Setup::new(1)
    }
    .build()
}

fn wakeups(pair: &Pair) -> usize {
    pair.client.wakeups + pair.server.wakeups
}

#[test]
fn an_idle_connection_has_one_deadline_left() {
    let mut pair = pair(None);
    pair.handshake();
    pair.transfer(&noise(1, 100_000).into(), &noise(2, 100_000).into());
    // Acknowledgements, probes of the path MTU: all of that ends.
    pair.run_for(Duration::from_secs(2));
    let (before, datagrams) = (wakeups(&pair), pair.client.sent.len());
    pair.run_for(IDLE / 2);
    assert_eq!(pair.client.sent.len(), datagrams);
    // An entry of the queue that was left behind by a deadline that moved on, at most.
    assert!(wakeups(&pair) - before <= 2, "woken while idle");
    for peer in [&pair.client, &pair.server] {
        let deadline = peer.next_deadline().unwrap();
        let in_idle_time = pair.now + IDLE / 2 - Duration::from_secs(2)..pair.now + IDLE / 2;
        assert!(in_idle_time.contains(&deadline), "not the idle timer");
    }

    let before = wakeups(&pair);
    pair.run_until_drained();
    assert_eq!(wakeups(&pair) - before, 2, "one each: the idle timer");
    for app in [pair.client_app(), pair.server_app()] {
        assert_eq!(lost(app), Some(&ConnectionError::TimedOut));
    }
}

#[test]
fn keep_alive_outlives_the_idle_timeout() {
    let mut pair = pair(Some(Duration::from_secs(4)));
    pair.handshake();
    pair.run_for(Duration::from_secs(60));
    assert!(lost(pair.client_app()).is_none() && lost(pair.server_app()).is_none());
    let pings = pair.server.conns[0].machine.stats().frame_tx.ping;
    assert!((14..=17).contains(&pings), "{pings} pings in a minute");

    // Nothing helps against a network that is gone.
    pair.up.cut = true;
    pair.down.cut = true;
    let cut = pair.now;
    pair.run_until_drained();
    for app in [pair.client_app(), pair.server_app()] {
        let (at, error) = app.lost.as_ref().unwrap();
        assert_eq!(error, &ConnectionError::TimedOut);
        assert!(*at - cut <= 2 * IDLE, "{:?}", *at - cut);
    }
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let mut pair = pair(None);
    pair.up.cut = true;
    pair.connect();
    pair.run_until_drained();
    assert_eq!(lost(pair.client_app()), Some(&ConnectionError::TimedOut));
    assert_eq!(pair.elapsed(), IDLE);
    // Probes back off: far fewer than one per round trip.
    assert!(pair.client.sent.len() < 20, "{}", pair.client.sent.len());
}

/// Ten connections and ten thousand seconds: what an endpoint waits for is always the earliest
/// deadline of all.
#[test]
fn one_queue_for_many_connections() {
    let mut pair = pair(Some(Duration::from_secs(4)));
    for _ in 0..10 {
        pair.handshake();
        pair.run_for(Duration::from_millis(300));
    }
    assert_eq!(pair.client.scheduled(), 10);
    pair.run_for(Duration::from_secs(60));
    assert!((pair.client.conns.iter()).all(|conn| conn.app.lost.is_none()));
    let now = pair.now;
    for index in 0..10 {
        let machine = &mut pair.client.touch(index).machine;
        machine.close(now, 0u32.into(), "".into());
    }
    pair.run_until_drained();
}
