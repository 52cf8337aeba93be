//! Networks that lose, repeat, reorder and delay.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use polyquic_endpoint::{Connection, Executor, sleep};

use super::relay::{Fate, Relay, Way};
use crate::fixtures::{Ends, SERVER_NAME, Setup};
use crate::tools::{check_alive, check_transfer, pattern, read_all, send_all, yield_now};

async fn connect_through(ends: &Ends, relay: &Relay) -> (Connection, Connection) {
    let connecting = ends.client.connect(relay.addr, SERVER_NAME).unwrap();
    let accepting = async { ends.server.accept().await.unwrap().await };
    let (client, server) = futures::join!(connecting, accepting);
    (client.unwrap(), server.unwrap())
}

/// Handshakes and transfers get through a network that loses, repeats and reorders a tenth each.
pub async fn a_shaky_network_delivers_everything<R: Executor>(rt: R) {
    let ends = Setup::new()
        .transport(|transport| {
            // What a first packet's loss costs.
            transport.initial_rtt(Duration::from_millis(20));
        })
        .start(&rt);
    let relay = Relay::new(ends.addr);
    relay.set_both(Fate::Shake(10));
    for round in 0..3 {
        let (client, server) = connect_through(&ends, &relay).await;
        let data = pattern(round, 100_000);
        join(
            check_transfer(&client, &server, &data),
            check_transfer(&server, &client, &data),
        )
        .await;
        client.close(0u32.into(), b"");
    }
    assert_eq!(ends.server.stats().accepted_handshakes, 3);
    ends.finish().await;
}

/// `send_datagram` makes room by dropping the oldest datagrams that were not sent.
pub async fn the_oldest_datagrams_are_dropped<R: Executor>(rt: R) {
    const COUNT: u32 = 500;
    const LEN: usize = 1000;
    const BUFFER: usize = 20_000;
    let ends = Setup::new()
        .client_transport(|transport| {
            transport.datagram_send_buffer_size(BUFFER);
        })
        .start(&rt);
    let relay = Relay::new(ends.addr);
    let (client, server) = connect_through(&ends, &relay).await;
    check_alive(&client, &server).await;
    assert!(client.datagram_send_buffer_space() <= BUFFER);
    // Nothing is acknowledged, so that little can be sent.
    relay.set_both(Fate::Hold);
    for number in 0..COUNT {
        let mut datagram = number.to_le_bytes().to_vec();
        datagram.resize(LEN, 0);
        client.send_datagram(datagram.into()).unwrap();
        yield_now().await;
    }
    assert!(client.datagram_send_buffer_space() < LEN);
    relay.release();
    let mut numbers = Vec::new();
    while numbers.last() != Some(&(COUNT - 1)) {
        let datagram: Bytes = server.read_datagram().await.unwrap();
        numbers.push(u32::from_le_bytes(datagram[..4].try_into().unwrap()));
    }
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert!(
        numbers.len() < COUNT as usize / 2,
        "nothing was dropped, so this tests nothing: {} arrived",
        numbers.len()
    );
    // Those in the buffer at the end are the newest, without a gap.
    let newest = COUNT - BUFFER as u32 / (LEN as u32 + 100);
    let kept: Vec<_> = numbers.iter().copied().filter(|&it| it >= newest).collect();
    assert!(kept.into_iter().eq(newest..COUNT), "{numbers:?}");
    ends.finish().await;
}

/// What arrives before the handshake is complete is marked, as it may be a replay.
pub async fn early_streams_are_marked<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let relay = Relay::new(ends.addr);
    let (client, server) = connect_through(&ends, &relay).await;
    check_alive(&client, &server).await;

    // The server's answer is held, so that the client cannot complete the handshake.
    relay.set(Way::Down, Fate::Hold);
    let connecting = ends.client.connect(relay.addr, SERVER_NAME).unwrap();
    let (client, accepted) = connecting.into_0rtt().expect("there is a ticket");
    let sending = client.open_uni().await.unwrap();
    assert!(client.close_reason().is_none());
    send_all(sending, b"early").await;
    let incoming = ends.server.accept().await.unwrap();
    let (server, _) = incoming.accept().unwrap().into_0rtt().unwrap();
    let recv = server.accept_uni().await.unwrap();
    assert!(recv.is_0rtt());
    assert_eq!(read_all(recv).await, b"early");
    relay.release();
    assert!(accepted.await);

    send_all(client.open_uni().await.unwrap(), b"late").await;
    // The server may not have seen the end of the handshake yet, but has by the next answer.
    assert_eq!(read_all(server.accept_uni().await.unwrap()).await, b"late");
    check_alive(&client, &server).await;
    send_all(client.open_uni().await.unwrap(), b"later").await;
    let recv = server.accept_uni().await.unwrap();
    assert!(!recv.is_0rtt());
    assert_eq!(read_all(recv).await, b"later");
    ends.finish().await;
}

/// A network that stops for a while, and then delivers everything at once, costs time only.
pub async fn an_outage_is_survived<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let relay = Relay::new(ends.addr);
    let (client, server) = connect_through(&ends, &relay).await;
    let data = pattern(1, 2_000_000);
    let (client, server, relay) = (&client, &server, &relay);
    // Owns the executor's handle, as a reference to it must not be held across an await.
    let outages = async move {
        for held in [Fate::Hold, Fate::Vanish] {
            let seen = client.stats().udp_rx.bytes;
            while client.stats().udp_rx.bytes < seen + 100_000 {
                yield_now().await;
            }
            relay.set_both(held);
            sleep(&rt, Duration::from_millis(50)).await;
            relay.release();
        }
    };
    let ((), ()) = join(check_transfer(server, client, &data), outages).await;
    ends.finish().await;
}
