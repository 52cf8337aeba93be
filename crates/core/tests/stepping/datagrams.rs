//! Unreliable datagrams (RFC 9221).

use bytes::Bytes;
use polyquic_core::{SendDatagramError, TransportConfig};

use crate::fixtures::noise;
use crate::pair::{Pair, Setup};

fn send(pair: &mut Pair, data: Bytes) -> Result<(), SendDatagramError> {
    pair.client_conn().machine.datagrams().send(data, false)
}

#[test]
fn datagrams_arrive_in_their_sizes() {
    let mut pair = Pair::new(1);
    pair.handshake();
    let max = pair.client_conn().machine.datagrams().max_size().unwrap();
    assert!((1100..1472).contains(&max), "{max}");
    let sizes = [0, 1, 700, max];
    for size in sizes {
        send(&mut pair, noise(size as u64, size).into()).unwrap();
    }
    pair.run_until("all datagrams", |pair| {
        pair.server_app().datagrams.len() == sizes.len()
    });
    for (size, received) in sizes.into_iter().zip(&pair.server_app().datagrams) {
        assert_eq!(received, &noise(size as u64, size));
    }
    // Larger by now, as the path MTU was found.
    let max = pair.client_conn().machine.datagrams().max_size().unwrap();
    let too_large = Bytes::from(vec![0; max + 1]);
    assert!(matches!(
        send(&mut pair, too_large),
        Err(SendDatagramError::TooLarge)
    ));
}

#[test]
fn a_full_buffer_says_so_and_when_there_is_room() {
    let mut transport = TransportConfig::default();
    transport.datagram_send_buffer_size(5_000);
    let mut pair = Setup {
        client_transport: transport,
        ..Setup::new(1)
    }
    .build();
    pair.handshake();
    let mut sent = 0;
    let refused = loop {
        match send(&mut pair, noise(1, 1000).into()) {
            Ok(()) => sent += 1,
            Err(SendDatagramError::Blocked(datagram)) => break datagram,
            Err(error) => panic!("{error}"),
        }
    };
    assert!((4..=5).contains(&sent), "{sent}");
    assert_eq!(refused.len(), 1000, "given back");
    pair.run_until("them to arrive", |pair| {
        pair.server_app().datagrams.len() == sent
    });
    send(&mut pair, refused).unwrap();
}

#[test]
fn lost_datagrams_stay_lost_and_do_no_harm() {
    let mut pair = Pair::new(3);
    pair.handshake();
    pair.up.network.loss = 0.3;
    for number in 0..100u8 {
        send(&mut pair, Bytes::from(vec![number; 100])).unwrap();
        pair.run_for(std::time::Duration::from_millis(5));
    }
    pair.run_for(std::time::Duration::from_secs(1));
    let arrived = pair.server_app().datagrams.len();
    assert!((40..100).contains(&arrived), "{arrived} of 100");
    pair.up.network.loss = 0.0;
    pair.transfer(&noise(1, 50_000).into(), &noise(2, 50_000).into());
}

#[test]
fn who_takes_none_gets_none() {
    let mut transport = TransportConfig::default();
    transport.datagram_receive_buffer_size(None);
    let mut pair = Setup {
        server_transport: transport,
        ..Setup::new(1)
    }
    .build();
    pair.handshake();
    assert!(pair.client_conn().machine.datagrams().max_size().is_none());
    assert!(matches!(
        send(&mut pair, Bytes::from_static(b"x")),
        Err(SendDatagramError::UnsupportedByPeer)
    ));
}
