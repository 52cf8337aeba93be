//! Streams over networks good and bad.

use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{Dir, TransportConfig, VarInt};

use crate::fixtures::{for_seeds, noise};
use crate::link::Network;
use crate::pair::{Pair, Setup, assert_received, is_finished, send};

/// Datagrams overtake each other by up to three quarters of a round trip, besides being lost.
fn rough(loss: f64) -> Network {
    Network {
        jitter: Duration::from_millis(15),
        loss,
        duplicate: loss / 4.0,
        ..Network::default()
    }
}

/// `bytes` both ways at once over `network`, for a few seeds.
fn bulk(network: Network, bytes: usize) {
    for_seeds(3, |seed| {
        let mut pair = Setup {
            network: network.clone(),
            ..Setup::new(seed)
        }
        .build();
        pair.handshake();
        let (up, down) = (noise(seed, bytes), noise(seed + 1000, bytes));
        pair.transfer(&up.into(), &down.into());
    });
}

#[test]
fn handshake_takes_one_round_trip() {
    let mut pair = Pair::new(1);
    pair.handshake();
    let client = pair.client_app().connected.unwrap();
    assert_eq!(
        pair.elapsed(),
        Duration::from_millis(30),
        "the client's last flight takes another half"
    );
    assert_eq!(pair.now - client, Duration::from_millis(10));
    assert!(!pair.client.conns[0].machine.is_handshaking());
    assert_eq!(
        pair.client.conns[0].machine.rtt(),
        Duration::from_millis(20)
    );
}

#[test]
fn handshake_gets_through_a_bad_network() {
    for_seeds(50, handshake_over_a_bad_network);
}

/// quinn-proto 0.11.19 counts the client's last handshake message against a congestion window that
/// the losses made small, with earlier packets still in it. As it was never sent, its packet number
/// space has nothing in flight and is never probed; the spaces that are, the server cannot get
/// anything new from. One handshake in 250 was lost that way, before `core` widened the window for it.
#[test]
fn every_handshake_gets_through_a_bad_network() {
    for_seeds(1000, handshake_over_a_bad_network);
}

fn handshake_over_a_bad_network(seed: u64) {
    let mut pair = Setup {
        network: rough(0.2),
        ..Setup::new(seed)
    }
    .build();
    pair.handshake();
}

#[test]
fn bulk_over_a_clean_network() {
    bulk(Network::default(), 3 << 20);
}

#[test]
fn bulk_reordered() {
    bulk(rough(0.0), 1 << 20);
}

#[test]
fn bulk_with_one_percent_lost() {
    bulk(rough(0.01), 1 << 20);
}

#[test]
fn bulk_with_five_percent_lost() {
    bulk(rough(0.05), 1 << 20);
}

#[test]
fn bulk_with_twenty_percent_lost() {
    bulk(rough(0.2), 200_000);
}

#[test]
fn bulk_with_bits_flipped() {
    let network = Network {
        corrupt: 0.1,
        ..rough(0.01)
    };
    bulk(network, 300_000);
}

/// A bottleneck of 10 Mbit/s that drops what it cannot queue is used, and not drowned.
#[test]
fn bulk_through_a_bottleneck() {
    let mut pair = Setup {
        network: Network {
            bytes_per_second: Some(1_250_000),
            ..Network::default()
        },
        ..Setup::new(1)
    }
    .build();
    pair.handshake();
    let start = pair.elapsed();
    pair.transfer(&noise(1, 2_000_000).into(), &noise(2, 2_000_000).into());
    let took = pair.elapsed() - start;
    // 1.6 seconds is what the bottleneck takes for this much.
    assert!(took < Duration::from_millis(2700), "{took:?}");
    let path = pair.client.conns[0].machine.stats().path;
    assert!(path.lost_packets < path.sent_packets / 6, "{path:?}");
}

/// Hundreds of streams both ways, through limits that make them wait for each other.
#[test]
fn many_streams_at_the_limits_of_flow_control() {
    for_seeds(3, |seed| {
        let transport = || {
            let mut transport = TransportConfig::default();
            transport
                .max_concurrent_bidi_streams(VarInt::from_u32(20))
                .stream_receive_window(VarInt::from_u32(3_000))
                .receive_window(VarInt::from_u32(20_000))
                .send_window(15_000);
            transport
        };
        let mut pair = Setup {
            network: rough(0.02),
            client_transport: transport(),
            server_transport: transport(),
            ..Setup::new(seed)
        }
        .build();
        pair.handshake();
        pair.server_conn().app.echo = true;
        let mut streams = Vec::new();
        for number in 0..200u64 {
            let data = Bytes::from(noise(seed * 1000 + number, 5_000));
            pair.run_until("a free stream", |pair| {
                let conn = pair.client_conn();
                match conn.machine.streams().open(Dir::Bi) {
                    Some(id) => {
                        conn.app.write(&mut conn.machine, id, data.clone());
                        streams.push((id, data.clone()));
                        true
                    }
                    None => false,
                }
            });
        }
        pair.run_until("all echoes, and all acknowledgements", |pair| {
            let app = pair.client_app();
            (streams.iter()).all(|(id, _)| is_finished(app, *id) && app.finished.contains(id))
        });
        for (id, data) in &streams {
            assert_received(pair.client_app(), *id, data);
        }
        assert!(pair.client_app().is_done_writing() && pair.server_app().is_done_writing());
    });
}

#[test]
fn reset_and_stop_carry_their_codes() {
    let mut pair = Pair::new(1);
    pair.handshake();
    let data = Bytes::from(noise(1, 100_000));

    let reset = pair.upload(&data);
    let machine = &mut pair.client_conn().machine;
    machine
        .send_stream(reset)
        .reset(VarInt::from_u32(5))
        .unwrap();
    // The peer hears of a stream that carried nothing but its reset.
    let never_used = machine.streams().open(Dir::Uni).unwrap();
    machine
        .send_stream(never_used)
        .reset(VarInt::from_u32(6))
        .unwrap();
    pair.run_until("both resets", |pair| {
        let code = |id| pair.server_app().received.get(&id)?.reset;
        code(reset) == Some(VarInt::from_u32(5)) && code(never_used) == Some(VarInt::from_u32(6))
    });

    let stopped = send(pair.client_conn(), Dir::Bi, &data);
    pair.run_until("the stream to arrive", |pair| {
        pair.server_app().received.contains_key(&stopped)
    });
    let machine = &mut pair.server_conn().machine;
    machine
        .recv_stream(stopped)
        .stop(VarInt::from_u32(7))
        .unwrap();
    pair.run_until("the stop", |pair| {
        pair.client_app().stopped.get(&stopped) == Some(&VarInt::from_u32(7))
    });
}

/// A server that answers without reading the request, and then lets go of it, makes room for the next
/// stream, although nothing arrives any more that it could react to.
#[test]
fn room_for_a_stream_is_told_when_an_unread_one_is_dropped() {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1));
    let mut pair = Setup {
        server_transport: transport,
        ..Setup::new(1)
    }
    .build();
    pair.handshake();
    pair.server_conn().app.lazy = true;
    let request = pair.request(&Bytes::from_static(b"request"));
    pair.run_until("the request", |pair| {
        pair.server_app().received.contains_key(&request)
    });
    let conn = pair.server_conn();
    (conn.app).write(&mut conn.machine, request, Bytes::from_static(b"answer"));
    pair.run_for(Duration::from_secs(1));
    assert!(is_finished(pair.client_app(), request));
    assert!(pair.server_app().finished.contains(&request));
    let open = |pair: &mut Pair| pair.client_conn().machine.streams().open(Dir::Bi);
    assert!(open(&mut pair).is_none(), "one at a time");

    let machine = &mut pair.server_conn().machine;
    machine.stop_stream(request, VarInt::from_u32(0)).unwrap();
    pair.run_for(Duration::from_millis(10));
    assert!(open(&mut pair).is_some());
}

/// With a higher priority, a stream that was written last is delivered first.
#[test]
fn priorities_decide_who_goes_first() {
    let mut pair = Pair::new(1);
    pair.handshake();
    let data = Bytes::from(noise(1, 400_000));
    let low = pair.upload(&data);
    let conn = pair.client_conn();
    let high = conn.machine.streams().open(Dir::Uni).unwrap();
    conn.machine.send_stream(high).set_priority(1).unwrap();
    conn.app.write(&mut conn.machine, high, data);
    pair.run_until("the urgent stream", |pair| {
        is_finished(pair.server_app(), high)
    });
    assert!(!is_finished(pair.server_app(), low));
}

/// The peer may open a few streams at first, and all of them once it has shown that it wants to.
#[test]
fn streams_are_granted_as_they_are_used() {
    let mut pair = Pair::new(1);
    pair.handshake();
    let open_all = |pair: &mut Pair| {
        let conn = pair.client_conn();
        let mut opened = 0;
        while let Some(id) = conn.machine.streams().open(Dir::Uni) {
            // Not finished: it stays open.
            conn.machine.send_stream(id).write(b"x").unwrap();
            opened += 1;
        }
        opened
    };
    let first = open_all(&mut pair);
    assert!((1..100).contains(&first), "{first} at once");
    pair.run_for(Duration::from_millis(20));
    assert_eq!(first + open_all(&mut pair), 100, "after a round trip");
    pair.run_for(Duration::from_millis(100));
    assert_eq!(open_all(&mut pair), 0, "the limit is the limit");

    // Few at a time, never half of the first grant: each one that ends makes room for another.
    let mut pair = Pair::new(2);
    pair.handshake();
    for number in 0..200u64 {
        pair.transfer(&noise(number, 10).into(), &noise(number, 20).into());
    }
}

/// Acknowledgements that are padded count as in flight, and nobody acknowledges them. They must not
/// fill the window for good.
#[test]
fn padded_acknowledgements_do_not_fill_the_window() {
    for_seeds(5, |seed| {
        let transport = || {
            let mut transport = TransportConfig::default();
            transport
                .pad_to_mtu(true)
                .stream_receive_window(64_000u32.into());
            transport
        };
        let mut pair = Setup {
            network: rough(0.05),
            client_transport: transport(),
            server_transport: transport(),
            ..Setup::new(seed)
        }
        .build();
        pair.handshake();
        pair.transfer(&noise(seed, 1 << 20).into(), &Bytes::from_static(b"x"));
        pair.transfer(&Bytes::from_static(b"x"), &noise(seed, 1 << 20).into());
    });
}

/// CUBIC's window grows with the third power of the time since the last loss, whatever was sent
/// meanwhile. quinn-proto's overflowed before 0.11.19.
#[test]
fn cubic_survives_a_month_without_losses() {
    let transport = || {
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(None);
        transport
    };
    let mut pair = Setup {
        network: rough(0.05),
        client_transport: transport(),
        server_transport: transport(),
        ..Setup::new(1)
    }
    .build();
    pair.handshake();
    let data = Bytes::from(noise(1, 1 << 20));
    pair.transfer(&data, &data);
    for link in [&mut pair.up, &mut pair.down] {
        link.network = Network::default();
    }
    for days in [1, 30, 3650] {
        let path = pair.server.conns[0].machine.stats().path;
        assert!(
            path.congestion_events > 0,
            "this is about what comes after one"
        );
        pair.run_for(Duration::from_secs(days * 24 * 60 * 60));
        let download = pair.download(&data);
        pair.run_for(Duration::from_secs(60));
        assert!(is_finished(pair.client_app(), download));
        let after = pair.server.conns[0].machine.stats().path;
        // A packet more for each window that is acknowledged.
        assert!(path.cwnd < after.cwnd, "{days} days");
        assert!(after.cwnd <= path.cwnd + data.len() as u64, "{days} days");
        assert_eq!(after.lost_packets, path.lost_packets);
    }
}
