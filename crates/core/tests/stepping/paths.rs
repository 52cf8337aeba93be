//! Addresses that change, keys that change, routers that mark.

use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{EcnCodepoint, MtuDiscoveryConfig, StreamId, TransportConfig};

use crate::fixtures::{for_seeds, noise};
use crate::link::Network;
use crate::pair::{Pair, Setup, addr, assert_received, is_finished, lost};

/// A transfer both ways that is in full swing.
struct Running {
    pair: Pair,
    upload: StreamId,
    download: StreamId,
    data: Bytes,
}

fn running(setup: Setup) -> Running {
    let seed = setup.seed;
    let mut pair = setup.build();
    pair.handshake();
    let data = Bytes::from(noise(seed, 2 << 20));
    let (upload, download) = (pair.upload(&data), pair.download(&data));
    pair.run_for(Duration::from_millis(100));
    assert!(!is_finished(pair.server_app(), upload));
    assert!(!is_finished(pair.client_app(), download));
    Running {
        pair,
        upload,
        download,
        data,
    }
}

impl Running {
    fn complete(mut self) -> Pair {
        let (upload, download) = (self.upload, self.download);
        self.pair.run_until("the rest of the transfer", |pair| {
            is_finished(pair.server_app(), upload) && is_finished(pair.client_app(), download)
        });
        assert_received(self.pair.server_app(), upload, &self.data);
        assert_received(self.pair.client_app(), download, &self.data);
        self.pair
    }
}

/// Ten megabytes per second, so that a transfer takes a while.
fn slow(seed: u64) -> Setup {
    Setup {
        network: Network {
            bytes_per_second: Some(10_000_000),
            ..Network::default()
        },
        ..Setup::new(seed)
    }
}

/// The client knows that it moves, as after `Endpoint::rebind`.
#[test]
fn a_client_that_moves_keeps_its_transfer() {
    for_seeds(3, |seed| {
        let mut running = running(slow(seed));
        for port in 2000..2003 {
            let pair = &mut running.pair;
            pair.client.addr = addr(1, port);
            pair.client_conn().machine.local_address_changed();
            pair.run_for(Duration::from_millis(60));
            let seen = pair.server.conns[0].machine.remote_address();
            assert_eq!(seen, pair.client.addr);
        }
        running.complete();
    });
}

/// Moves of which nothing comes, more than the server counts at a time. They cost the connection
/// neither its way back, nor its batches, nor a move in earnest.
#[test]
fn a_client_may_give_up_many_moves() {
    let seen = |pair: &Pair| pair.server.conns[0].machine.remote_address();
    for other_host in [false, true] {
        let mut running = running(slow(1));
        for port in 2000..2020 {
            let pair = &mut running.pair;
            let home = pair.client.addr;
            pair.client.addr = addr(if other_host { 7 } else { 1 }, port);
            pair.client_conn().machine.ping();
            // It is gone before an answer comes.
            pair.run_until("the move", |pair| seen(pair) == pair.client.addr);
            pair.client.addr = home;
            pair.client_conn().machine.ping();
            pair.run_until("the way back", |pair| seen(pair) == home);
            pair.run_for(Duration::from_millis(50));
        }
        let mut pair = running.complete();
        let again = noise(2, 1 << 20).into();
        pair.server.sent.clear();
        let download = pair.download(&again);
        pair.run_until("a download", |pair| {
            is_finished(pair.client_app(), download)
        });
        assert!(pair.server.sent.iter().any(|sent| sent.datagrams > 1));

        pair.client.addr = addr(9, 9999);
        pair.client_conn().machine.local_address_changed();
        pair.transfer(&again, &again);
        assert_eq!(seen(&pair), addr(9, 9999));
        assert!(pair.elapsed() < Duration::from_secs(10));
    }
}

/// A client that moved away and only listens hears of it: the server asks at the old address whether
/// anybody is there, and the answer takes it back.
#[test]
fn a_silent_client_is_asked_at_its_old_address() {
    let mut pair = Pair::new(1);
    pair.handshake();
    pair.run_for(Duration::from_secs(1));
    let home = pair.client.addr;
    for port in 2000..2020 {
        // Somebody else was faster with the client's only packet.
        pair.client_conn().machine.ping();
        pair.client.addr = addr(66, port);
        pair.run_for(Duration::ZERO);
        pair.client.addr = home;
        pair.run_for(Duration::from_millis(15));
        let server = &pair.server.conns[0].machine;
        assert_eq!(server.remote_address(), addr(66, port));
        pair.run_for(Duration::from_millis(50));
        let server = &pair.server.conns[0].machine;
        assert_eq!(server.remote_address(), home, "{port}");
    }
}

/// A NAT gave the client another port, and nobody told it.
#[test]
fn a_client_that_was_moved_keeps_its_transfer() {
    for_seeds(3, |seed| {
        let mut running = running(slow(seed));
        running.pair.client.addr = addr(7, 7777);
        let pair = running.complete();
        let server = &pair.server.conns[0].machine;
        assert_eq!(server.remote_address(), addr(7, 7777));
        assert!(server.stats().frame_tx.path_challenge > 0, "not validated");
    });
}

#[test]
fn a_server_that_forbids_migration_stays_where_it_is() {
    let mut running = running(Setup {
        server: Box::new(|config| {
            config.migration(false);
        }),
        ..slow(1)
    });
    let pair = &mut running.pair;
    pair.client.addr = addr(7, 7777);
    pair.client_conn().machine.local_address_changed();
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.server.conns[0].machine.remote_address(), addr(1, 1000));
    assert!(!is_finished(pair.server_app(), running.upload));
}

/// Somebody who repeats a client's datagrams from elsewhere does not take the connection with them:
/// the server asks the address to prove itself, and returns when it does not.
#[test]
fn an_attacker_who_repeats_datagrams_gets_nothing() {
    let mut running = running(slow(1));
    let pair = &mut running.pair;
    pair.tap = Some(Vec::new());
    for _ in 0..20 {
        pair.run_for(Duration::from_millis(5));
        let (now, to) = (pair.now, pair.server.addr);
        let seen = pair.tap.as_mut().unwrap();
        let copies: Vec<_> = seen.drain(..).filter(|copy| copy.to == to).collect();
        for copy in copies {
            pair.up.send(now, addr(66, 6), to, copy.ecn(), &copy.data);
        }
    }
    let pair = running.complete();
    assert_eq!(pair.server.conns[0].machine.remote_address(), addr(1, 1000));
}

#[test]
fn keys_are_updated_in_the_middle_of_a_transfer() {
    for_seeds(3, |seed| {
        let mut running = running(Setup {
            network: Network {
                jitter: Duration::from_millis(15),
                loss: 0.01,
                ..slow(seed).network
            },
            ..Setup::new(seed)
        });
        for round in 0..6 {
            let pair = &mut running.pair;
            let conn = match round % 2 {
                0 => pair.client_conn(),
                _ => pair.server_conn(),
            };
            conn.machine.force_key_update();
            pair.run_for(Duration::from_millis(150));
            assert!(lost(pair.client_app()).is_none() && lost(pair.server_app()).is_none());
        }
        running.complete();
    });
}

/// Marks count like losses for congestion control, and nothing has to be sent again.
#[test]
fn congestion_marks_reduce_the_window() {
    let transfer = |mark| {
        let mut pair = Setup {
            network: Network {
                mark,
                ..Network::default()
            },
            ..Setup::new(1)
        }
        .build();
        pair.handshake();
        pair.transfer(&noise(1, 4 << 20).into(), &Bytes::from_static(b"x"));
        assert!((pair.client.sent.iter()).all(|sent| sent.ecn == Some(EcnCodepoint::Ect0)));
        (pair.client.conns[0].machine.stats().path, pair.elapsed())
    };
    let (clean, clean_time) = transfer(0.0);
    let (marked, marked_time) = transfer(0.01);
    assert_eq!(clean.congestion_events, 0);
    assert!(marked.congestion_events > 0);
    assert!(
        marked.cwnd < clean.cwnd / 2,
        "{} of {}",
        marked.cwnd,
        clean.cwnd
    );
    assert!(marked_time > clean_time);
    assert_eq!(marked.lost_packets, 0, "marked, not lost");
}

/// Which most paths are.
#[test]
fn one_probe_finds_the_mtu_of_an_ordinary_path() {
    let mut pair = Pair::new(1);
    pair.handshake();
    pair.run_for(Duration::from_secs(1));
    for peer in [&pair.client, &pair.server] {
        let path = peer.conns[0].machine.stats().path;
        assert_eq!(path.current_mtu, 1452);
        assert_eq!(path.sent_plpmtud_probes, 1);
    }
}

/// What our default for the search saves: quinn-proto's own takes four probes on the same path.
#[test]
fn quinns_default_search_takes_four_probes() {
    let transport = || {
        let mut transport = TransportConfig::default();
        transport.mtu_discovery_config(Some(MtuDiscoveryConfig::default()));
        transport
    };
    let mut pair = Setup {
        client_transport: transport(),
        server_transport: transport(),
        ..Setup::new(1)
    }
    .build();
    pair.handshake();
    pair.run_for(Duration::from_secs(1));
    for peer in [&pair.client, &pair.server] {
        let path = peer.conns[0].machine.stats().path;
        assert_eq!(path.current_mtu, 1452);
        assert_eq!(path.sent_plpmtud_probes, 4);
    }
}

/// The path MTU is found on a path that is not, and found again when it shrinks.
#[test]
fn path_mtu_discovery() {
    let transport = || {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.minimum_change(20);
        let mut transport = TransportConfig::default();
        transport.mtu_discovery_config(Some(discovery));
        transport
    };
    let mut pair = Setup {
        network: Network {
            mtu_bytes: 1400,
            ..Network::default()
        },
        client_transport: transport(),
        server_transport: transport(),
        ..Setup::new(1)
    }
    .build();
    pair.handshake();
    // A size is given up after three probes, and what follows a probe shows its loss.
    let transfers = |pair: &mut Pair| {
        for _ in 0..8 {
            pair.transfer(&noise(1, 200_000).into(), &noise(2, 200_000).into());
        }
        pair.client.conns[0].machine.stats().path
    };
    let path = transfers(&mut pair);
    assert!((1370..=1400).contains(&path.current_mtu), "{path:?}");
    assert_eq!(path.lost_packets, 0, "probes do not count as losses");

    pair.up.network.mtu_bytes = 1250;
    pair.down.network.mtu_bytes = 1250;
    let path = transfers(&mut pair);
    assert!((1200..=1250).contains(&path.current_mtu), "{path:?}");
    assert!(path.black_holes_detected > 0);
}
