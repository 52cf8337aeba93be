//! What happens before a connection exists.

use std::time::Duration;

use polyquic_core::{ConnectionError, EndpointConfig, ShardKey, TransportConfig, VarInt};
#[cfg(feature = "quic-lb")]
use polyquic_core::{QuicLbConfig, QuicLbError};

use crate::fixtures::{endpoint_config, noise};
use crate::link::Network;
use crate::pair::{Pair, Setup, addr, lost};
use crate::peer::Admission;

#[test]
fn retry_proves_the_address() {
    let mut pair = Pair::new(1);
    pair.server.admission = Admission::Retry;
    pair.handshake();
    assert_proved_once(&pair.server.validated);
    assert_eq!(pair.server.core.stats().accepted_handshakes, 1);
    assert_eq!(
        pair.elapsed(),
        Duration::from_millis(50),
        "a round trip more"
    );
    pair.transfer(&noise(1, 50_000).into(), &noise(2, 50_000).into());
}

/// A Retry that was damaged on its way changes nothing about the one that is right (RFC 9001 section
/// 5.8).
#[test]
fn a_damaged_retry_does_not_spoil_the_right_one() {
    // Of token and tag, from the end.
    for byte in [0, 15, 20] {
        let mut pair = Pair::new(1);
        pair.server.admission = Admission::Retry;
        pair.down.damage_next = Some(byte);
        pair.handshake();
        assert_eq!(pair.down.damage_next, None);
        assert_eq!(pair.client.core.stats().datagrams_discarded, 1);
        pair.transfer(&noise(1, 50_000).into(), &noise(2, 50_000).into());
    }
}

/// Nor does it after a Version Negotiation packet whose unused bits are those of a Retry.
#[test]
fn a_version_negotiation_packet_is_no_retry() {
    let mut pair = Pair::new(1);
    pair.server.admission = Admission::Retry;
    pair.tap = Some(Vec::new());
    pair.down.cut = true;
    pair.connect();
    pair.run_for(Duration::from_millis(15));
    pair.down.cut = false;
    let hello = &pair.tap.as_ref().unwrap()[0].data;
    let (dst_cid, rest) = hello[6..].split_at(hello[5].into());
    let src_cid = &rest[1..][..rest[0].into()];
    let mut negotiation = vec![0xb0, 0, 0, 0, 0];
    for cid in [src_cid, dst_cid] {
        negotiation.push(cid.len() as u8);
        negotiation.extend_from_slice(cid);
    }
    // Ours is among them, so that it says nothing.
    negotiation.extend([0, 0, 0, 1]);
    let (from, to) = (pair.server.addr, pair.client.addr);
    pair.down.send(pair.now, from, to, None, &negotiation);
    pair.run_for(Duration::from_millis(15));
    let discarded = pair.client.core.stats().datagrams_discarded;
    pair.down.damage_next = Some(0);
    pair.run_until("handshake", |pair| pair.client_app().connected.is_some());
    let stats = pair.client.core.stats();
    assert_eq!(
        stats.datagrams_discarded,
        discarded + 1,
        "the damaged Retry"
    );
}

/// The next connection from the same address brings a token that the first one was given
/// (NEW_TOKEN, RFC 9000 section 8.1.3), and is trusted without a Retry.
#[test]
fn a_token_of_an_earlier_connection_spares_the_retry() {
    let mut pair = Setup {
        server: Box::new(|config| {
            config.validation_token.sent(2);
        }),
        ..Setup::new(1)
    }
    .build();
    pair.server.admission = Admission::Retry;
    pair.handshake();
    pair.run_for(Duration::from_millis(100));
    assert_proved_once(&pair.server.validated);
    pair.server.validated.clear();
    pair.handshake();
    assert_eq!(pair.server.validated, [true]);
}

/// A hello with a post-quantum key share fills two datagrams. The server keeps nothing of an attempt
/// that it sent a Retry to, so that each of the two is an attempt; the client follows one Retry only.
fn assert_proved_once(validated: &[bool]) {
    let (last, others) = validated.split_last().unwrap();
    assert!(last, "no proof");
    assert!((1..=2).contains(&others.len()) && !others.contains(&true));
}

#[test]
fn refusal_reaches_the_client() {
    let mut pair = Pair::new(1);
    pair.server.admission = Admission::Refuse;
    pair.connect();
    pair.run_until("the refusal", |pair| lost(pair.client_app()).is_some());
    assert_eq!(pair.elapsed(), Duration::from_millis(20));
    assert!(matches!(
        lost(pair.client_app()),
        Some(ConnectionError::ConnectionClosed(_))
    ));
    assert_eq!(pair.server.core.open_connections(), 0);
    pair.run_until_drained();
}

#[test]
fn who_is_ignored_hears_nothing() {
    let mut pair = Pair::new(1);
    pair.server.admission = Admission::Ignore;
    pair.connect();
    pair.run_until_drained();
    assert_eq!(lost(pair.client_app()), Some(&ConnectionError::TimedOut));
    assert!(pair.server.sent.is_empty());
    assert!(pair.server.core.stats().ignored_handshakes > 1);
}

/// Until the client has proved its address, a server sends at most three times what it received
/// (RFC 9000 section 8.1).
#[test]
fn no_amplification() {
    let mut pair = Pair::new(1);
    pair.tap = Some(Vec::new());
    // The client's address is forged: nothing arrives there.
    pair.down.cut = true;
    pair.connect();
    pair.run_for(Duration::from_secs(120));
    let received: usize = (pair.tap.iter().flatten())
        .map(|datagram| datagram.data.len())
        .sum();
    let sent: usize = pair.server.sent.iter().map(|sent| sent.bytes).sum();
    assert!(sent > 0 && sent <= 3 * received, "{sent} for {received}");
    assert_eq!(pair.server.core.open_connections(), 0, "given up");
}

/// A long header with this version, as long as asked.
fn hello(version: u32, len: usize) -> Vec<u8> {
    let mut data = vec![0xc0];
    data.extend(version.to_be_bytes());
    data.extend([8, 1, 2, 3, 4, 5, 6, 7, 8]);
    data.extend([4, 9, 9, 9, 9]);
    data.resize(len, 0);
    data
}

#[test]
fn version_negotiation_offers_version_1_only_and_only_for_long_datagrams() {
    // Version 2 and drafts are as foreign as versions that nobody has thought of.
    for version in [0x6b33_43cf, 0xff00_001d, 0xfa00_00aa] {
        let mut pair = Pair::new(1);
        pair.tap = Some(Vec::new());
        let (from, to) = (pair.client.addr, pair.server.addr);
        let data = hello(version, 1199);
        pair.up.send(pair.now, from, to, None, &data);
        pair.run_for(Duration::from_secs(1));
        assert!(pair.server.sent.is_empty(), "an answer to a short datagram");

        let data = hello(version, 1200);
        pair.up.send(pair.now, from, to, None, &data);
        pair.run_for(Duration::from_secs(1));
        let tap = pair.tap.as_ref().unwrap();
        let answer = &tap.last().unwrap().data;
        assert_eq!(tap.len(), 3);
        assert_eq!(&answer[1..5], [0; 4], "version 0 is a negotiation");
        // Our ids, the other way round.
        assert_eq!(&answer[5..10], [4, 9, 9, 9, 9]);
        assert_eq!(&answer[10..19], [8, 1, 2, 3, 4, 5, 6, 7, 8]);
        let versions: Vec<u32> = (answer[19..].chunks(4))
            .map(|version| u32::from_be_bytes(version.try_into().unwrap()))
            .collect();
        let reserved = |version: &u32| version & 0x0f0f_0f0f == 0x0a0a_0a0a;
        let offered: Vec<_> = versions.iter().filter(|v| !reserved(v)).collect();
        assert_eq!(offered, [&1]);
    }
}

/// A client has nothing to offer. A packet of our version might be of a former life of this
/// endpoint, and gets a stateless reset.
#[test]
fn clients_do_not_answer_strangers() {
    let mut pair = Pair::new(1);
    let (from, to) = (addr(9, 9), pair.client.addr);
    for version in [1, 0xfa00_00aa] {
        let data = hello(version, 1300);
        pair.down.send(pair.now, from, to, None, &data);
    }
    pair.run_for(Duration::from_secs(1));
    assert_eq!(pair.client.core.stats().datagrams_received, 2);
    assert_eq!(pair.client.core.stats().datagrams_discarded, 1);
    assert_eq!(pair.client.sent.len(), 1);
    assert!(pair.client.sent[0].bytes < 1300);
}

/// Every id of this length that the client addresses the server by after the handshake, over several
/// changes of address.
fn ids_in_use(server_endpoint: EndpointConfig, length: usize) -> Vec<Vec<u8>> {
    let mut pair = Setup {
        server_endpoint,
        ..Setup::new(1)
    }
    .build();
    pair.tap = Some(Vec::new());
    pair.handshake();
    pair.upload(&noise(1, 20_000).into());
    pair.run_for(Duration::from_millis(100));
    // Each change of address takes another id into use.
    for port in 0..3 {
        pair.client.addr = addr(1, 2000 + port);
        pair.client_conn().machine.local_address_changed();
        pair.upload(&noise(2, 20_000).into());
        pair.run_for(Duration::from_millis(200));
    }
    let mut ids: Vec<Vec<u8>> = (pair.tap.iter().flatten())
        .filter(|datagram| datagram.to == pair.server.addr && datagram.data[0] & 0x80 == 0)
        .map(|datagram| datagram.data[1..=length].to_vec())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() >= 4, "{} ids", ids.len());
    ids
}

/// Every id that the client addresses the server by names the server's shard.
#[test]
fn connection_ids_name_the_shard() {
    const SHARDS: u16 = 5;
    let key = ShardKey::new([3, 5, 7]);
    for shard in 0..SHARDS {
        let mut config = endpoint_config(1, "server");
        config.shard(key, SHARDS, shard);
        for id in ids_in_use(config, 8) {
            assert_eq!(key.shard_of(&id, SHARDS), Some(shard));
        }
    }
}

/// The same for the server itself, as load balancers see it, and for both.
#[cfg(feature = "quic-lb")]
#[test]
fn connection_ids_name_the_server() {
    let key = ShardKey::new([3, 5, 7]);
    let server_id = [0xaa, 0xbb, 0xcc];
    for (nonce, encrypted) in [(4, false), (4, true), (13, true), (16, true)] {
        let mut quic_lb = QuicLbConfig::new(2, &server_id, nonce).unwrap();
        if encrypted {
            quic_lb = quic_lb.key([0x17; 16]);
        }
        for shards in [1, 3] {
            let mut config = endpoint_config(1, "server");
            config
                .shard(key, shards, shards - 1)
                .quic_lb(quic_lb.clone())
                .unwrap();
            for id in ids_in_use(config, 4 + nonce) {
                assert_eq!(quic_lb.server_id_of(&id).unwrap(), server_id);
                assert_eq!(key.shard_of(&id, shards), Some(shards - 1));
            }
        }
    }
}

#[cfg(feature = "quic-lb")]
#[test]
fn a_configuration_for_load_balancers_suits_the_shards() {
    let short = || QuicLbConfig::new(0, &[1], 4).unwrap();
    let mut config = endpoint_config(1, "server");
    config.shard(ShardKey::new([3, 5, 7]), 2, 0);
    let error = config.quic_lb(short()).unwrap_err();
    assert_eq!(error, QuicLbError::TooShortForShards);
    let mut config = endpoint_config(1, "server");
    config.quic_lb(short()).unwrap();
    assert_eq!(config.check_shards(2), Err(error));
    assert_eq!(config.check_shards(1), Ok(()));
}

/// A server that takes no streams, and a network that carries nothing larger than QUIC's least.
#[test]
fn the_smallest_network_there_may_be() {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    let mut pair = Setup {
        server_transport: transport,
        network: Network {
            mtu_bytes: 1200,
            ..Network::default()
        },
        ..Setup::new(1)
    }
    .build();
    pair.handshake();
    let streams = &mut pair.client_conn().machine;
    assert!(streams.streams().open(polyquic_core::Dir::Bi).is_none());
    pair.transfer(&noise(1, 200_000).into(), &noise(2, 200_000).into());
    assert_eq!(pair.client.conns[0].machine.current_mtu(), 1200);
}
