//! Segmentation offload. That no batch exceeds what the socket takes is checked for every send of
//! every test, in `Peer::transmit`.

use std::time::Duration;

use bytes::Bytes;

use crate::fixtures::noise;
use crate::pair::{Pair, Setup, is_finished};
use crate::peer::Sent;

fn largest(sent: &[Sent]) -> usize {
    sent.iter().map(|sent| sent.datagrams).max().unwrap()
}

/// A connection whose congestion window no longer limits a batch.
fn warm(max_segments: usize) -> Pair {
    let mut pair = Pair::new(1);
    pair.client.max_segments = max_segments;
    pair.handshake();
    pair.transfer(&noise(1, 20 << 20).into(), &Bytes::from_static(b"x"));
    pair
}

#[test]
fn bulk_grows_to_what_fits() {
    let pair = warm(64);
    let first = pair.client.sent[0].datagrams;
    assert!(first <= 10, "starts with {first}");
    // 45 datagrams of 1452 bytes, or 44 of 1472, fit into 65,535 bytes.
    let largest = largest(&pair.client.sent);
    assert!((40..=54).contains(&largest), "{largest} at most");
}

#[test]
fn a_socket_without_offload_gets_single_datagrams() {
    assert_eq!(largest(&warm(1).client.sent), 1);
}

#[test]
fn a_socket_that_lowers_its_limit_is_obeyed() {
    let mut pair = warm(64);
    pair.client.max_segments = 7;
    pair.client.sent.clear();
    pair.transfer(&noise(1, 1 << 20).into(), &Bytes::from_static(b"x"));
    assert_eq!(largest(&pair.client.sent), 7);
}

/// After bulk come requests, and what follows them starts with small batches again.
#[test]
fn requests_fall_back_to_small_batches() {
    let mut pair = warm(64);
    pair.server_conn().app.echo = true;
    for _ in 0..8 {
        let request = pair.request(&Bytes::from_static(b"?"));
        pair.run_until("the answer", |pair| is_finished(pair.client_app(), request));
    }
    pair.run_for(Duration::from_millis(100));
    pair.client.sent.clear();
    pair.upload(&noise(1, 1 << 20).into());
    pair.run_for(Duration::from_millis(1));
    assert!(pair.client.sent[0].datagrams <= 10);
}

/// An initial window below a packet's size would let nothing out, ever.
#[test]
fn packets_larger_than_the_usual_initial_window_get_through() {
    let huge = || {
        let mut transport = polyquic_core::TransportConfig::default();
        transport.initial_mtu(40_000).mtu_discovery_config(None);
        transport
    };
    let mut setup = Setup::new(1);
    setup.network.mtu_bytes = 40_000;
    (setup.client_transport, setup.server_transport) = (huge(), huge());
    for endpoint in [&mut setup.client_endpoint, &mut setup.server_endpoint] {
        endpoint.max_udp_payload_size(40_000).unwrap();
    }
    let mut pair = setup.build();
    pair.handshake();
    pair.transfer(&noise(1, 2 << 20).into(), &Bytes::from_static(b"x"));
    let largest = pair.client.sent.iter().map(|sent| sent.bytes).max();
    assert!(largest >= Some(39_900), "{largest:?}");
}
