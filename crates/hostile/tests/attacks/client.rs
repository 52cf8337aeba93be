//! Hostile servers, against a client of the handles.

use polyquic_core::ConnectionError;
use polyquic_endpoint::Connecting;
use polyquic_hostile::{Frame, Params, Peer, id, retry, version_negotiation};
use polyquic_testkit::fixtures::{Certificates, server_tls};

use crate::arena::{Arena, Evil, Terms, attack};
use crate::code::*;

/// A server that has heard from the client and said nothing.
async fn silent(arena: &Arena) -> (Evil<'_>, Connecting) {
    let (mut evil, connecting) = arena.lure_with(&Params::default());
    evil.manners.handshake = false;
    evil.manners.acks = false;
    evil.until(|it| !it.original_dcid().is_empty()).await;
    (evil, connecting)
}

#[test]
fn frames_that_are_wrong_end_the_connection_of_a_client_too() {
    let cases = [
        // Streams that only it opens, has not opened, or did not allow.
        (Frame::stream(0, 0, b"x"), STREAM_STATE_ERROR),
        (Frame::stream(2, 0, b"x"), STREAM_STATE_ERROR),
        (Frame::StopSending { id: 0, code: 0 }, STREAM_STATE_ERROR),
        (Frame::MaxStreamData { id: 0, max: 1 }, STREAM_STATE_ERROR),
        (Frame::stream(4 * 100 + 1, 0, b"x"), STREAM_LIMIT_ERROR),
        (Frame::stream(1, 2_000_000, b"x"), FLOW_CONTROL_ERROR),
        (Frame::NewToken(Vec::new()), FRAME_ENCODING_ERROR),
        (Frame::RetireConnectionId(99), PROTOCOL_VIOLATION),
        (Frame::ack(&[0..=1_000_000]), PROTOCOL_VIOLATION),
        (Frame::Raw(vec![0x21]), FRAME_ENCODING_ERROR),
    ];
    attack(&Terms::default(), async |arena| {
        for (frame, code) in &cases {
            println!("{frame:?}");
            let (mut evil, connection) = arena.lure().await;
            evil.send([frame.clone()]);
            evil.closed_with(*code).await;
            assert!(connection.close_reason().is_some());
        }
    });
}

#[test]
fn servers_transport_parameters_are_checked() {
    let bytes = |id, value: &[u8]| {
        let mut params = Params::default();
        params.set(id, value).clone()
    };
    let mut preferred = vec![127, 0, 0, 1, 1, 1];
    preferred.extend_from_slice(&[0; 18]);
    preferred.push(0); // a connection id of no bytes
    preferred.extend_from_slice(&[1; 16]);
    let cases = [
        bytes(id::RETRY_SCID, b"never"),
        bytes(id::STATELESS_RESET_TOKEN, &[1; 15]),
        bytes(id::PREFERRED_ADDRESS, &[1; 3]),
        bytes(id::PREFERRED_ADDRESS, &preferred),
        bytes(id::MAX_UDP_PAYLOAD_SIZE, &[1]),
        Params::default().tail(&[0x40]).clone(),
        // Without, or with the wrong, ids: somebody may have tampered with the handshake.
        Params::default().exactly().clone(),
        bytes(id::ORIGINAL_DCID, &[1; 8])
            .set(id::INITIAL_SCID, &[7; 8])
            .exactly()
            .clone(),
    ];
    attack(&Terms::default(), async |arena| {
        for params in &cases {
            println!("{params:?}");
            let (mut evil, connecting) = arena.lure_with(params);
            evil.closed_with(TRANSPORT_PARAMETER_ERROR).await;
            assert!(connecting.await.is_err());
        }
    });
}

/// A server that answers whatever comes with Retry packets, good and bad.
#[test]
fn retry_is_followed_once() {
    let tls = server_tls(&Certificates::get().server, false);
    let crypto = polyquic_core::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    attack(&Terms::default(), async |arena| {
        for bad in 0..3 {
            let (mut evil, _connecting) = silent(arena).await;
            let (odcid, dcid) = (evil.original_dcid().to_vec(), evil.remote_cid().to_vec());
            let mut packet = match bad {
                0 => retry(&crypto, &odcid, &dcid, &[5; 8], b"token"),
                1 => retry(&crypto, b"another!", &dcid, &[5; 8], b"token"),
                _ => retry(&crypto, &odcid, &dcid, &[5; 8], b""),
            };
            *packet.last_mut().unwrap() ^= u8::from(bad == 0);
            // One that the real server has given it, for the next time.
            let token = evil.heard_token().to_vec();
            let before = evil.counters().datagrams_in;
            evil.send_datagram(packet);
            // It tries again, as if nothing had come.
            evil.until(|it| it.counters().datagrams_in > before).await;
            assert_eq!(evil.heard_token(), token);
            assert_eq!(evil.counters().unreadable, 0);
        }
        let (mut evil, _connecting) = silent(arena).await;
        let (odcid, dcid) = (evil.original_dcid().to_vec(), evil.remote_cid().to_vec());
        evil.send_datagram(retry(&crypto, &odcid, &dcid, &[5; 8], b"token"));
        evil.until(|it| it.heard_token() == b"token").await;
        for _ in 0..50 {
            evil.send_datagram(retry(&crypto, &odcid, &dcid, &[5; 8], b"other"));
            evil.send_datagram(retry(&crypto, &[5; 8], &dcid, &[6; 8], b"other"));
        }
        let before = evil.counters().datagrams_in;
        evil.until(|it| it.counters().datagrams_in > before).await;
        assert_eq!(evil.heard_token(), b"token", "followed twice");
    });
}

/// A token that leaves no room in an Initial packet ends the attempt; any other is sent back.
#[test]
fn retry_token_that_does_not_fit_ends_the_attempt() {
    let tls = server_tls(&Certificates::get().server, false);
    let crypto = polyquic_core::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    attack(&Terms::default(), async |arena| {
        for len in [900, 1060, 1070, 1100, 1130, 1150, 1170, 1190, 1200, 1300] {
            let (mut evil, connecting) = silent(arena).await;
            let (odcid, dcid) = (evil.original_dcid().to_vec(), evil.remote_cid().to_vec());
            let token = vec![1; len];
            let before = evil.counters().datagrams_in;
            evil.send_datagram(retry(&crypto, &odcid, &dcid, &[5; 8], &token));
            evil.run(20).await;
            let answered = evil.counters().datagrams_in > before;
            // What is left of 1200 bytes has to hold a frame.
            assert_eq!(answered, len <= 1130, "{len}");
            if answered {
                assert_eq!(evil.heard_token(), token);
                drop(connecting);
            } else {
                match connecting.await.map(drop).unwrap_err() {
                    ConnectionError::TransportError(error) => {
                        assert_eq!(u64::from(error.code), PROTOCOL_VIOLATION);
                    }
                    other => panic!("{other}"),
                }
            }
            evil.run(20).await;
        }
    });
}

/// Tokens for the next time: few are kept for each name, whatever a server sends.
#[test]
fn new_tokens_without_end_are_not_kept() {
    attack(&Terms::default(), async |arena| {
        let (mut evil, _connection) = arena.lure().await;
        for token in 0..1000u64 {
            evil.send([Frame::NewToken(token.to_be_bytes().repeat(120))]);
            if token % 32 == 0 {
                evil.run(1).await;
            }
        }
        evil.still_open().await;
    });
}

/// Tokens that leave no room in a first packet are not used: the next attempt is one like any other.
#[test]
fn tokens_that_would_fill_the_next_first_packet_are_not_used() {
    attack(&Terms::default(), async |arena| {
        for len in [700, 1080, 1090, 1150, 1200, 1300] {
            let (mut evil, _connection) = arena.lure().await;
            // As many as are kept for a name.
            for _ in 0..2 {
                evil.send([Frame::NewToken(vec![1; len])]);
            }
            evil.still_open().await;
            let (mut next, connecting) = arena.lure_with(&Params::default());
            next.run(20).await;
            assert!(
                next.heard_token().len() < 512,
                "{}",
                next.heard_token().len()
            );
            let _connection = connecting.await.expect("the next server is not to blame");
        }
    });
}

#[test]
fn confirming_again_and_again_does_nothing() {
    attack(&Terms::default(), async |arena| {
        let (mut evil, _connection) = arena.lure().await;
        for _ in 0..100 {
            evil.send([Frame::HandshakeDone, Frame::HandshakeDone]);
        }
        evil.still_open().await;
    });
}

/// RFC 9000 section 6.2: version negotiation ends an attempt only if it answers this attempt, lists
/// no version that was tried, and nothing else has come. It is not protected; who sees the attempt
/// can do this.
#[test]
fn version_negotiation_is_believed_only_when_it_can_be_true() {
    attack(&Terms::default(), async |arena| {
        let (mut evil, connecting) = silent(arena).await;
        let (odcid, dcid) = (evil.original_dcid().to_vec(), evil.remote_cid().to_vec());
        // Not this attempt's ids.
        evil.send_datagram(version_negotiation(&[3; 8], &odcid, &[0x0a0a_0a0a]));
        evil.run(20).await;
        let before = evil.counters().datagrams_in;
        evil.until(|it| it.counters().datagrams_in > before).await; // it tries again
        evil.send_datagram(version_negotiation(&dcid, &odcid, &[0x0a0a_0a0a]));
        evil.run(20).await;
        assert_eq!(
            connecting.await.unwrap_err(),
            ConnectionError::VersionMismatch
        );

        // The version that was tried.
        let (mut evil, _connecting) = silent(arena).await;
        let (odcid, dcid) = (evil.original_dcid().to_vec(), evil.remote_cid().to_vec());
        evil.send_datagram(version_negotiation(&dcid, &odcid, &[0x0a0a_0a0a, 1]));
        evil.run(20).await;
        let before = evil.counters().datagrams_in;
        evil.until(|it| it.counters().datagrams_in > before).await;

        // After the handshake nobody listens to that.
        let (mut evil, _connection) = arena.lure().await;
        let dcid = evil.remote_cid().to_vec();
        evil.send_datagram(version_negotiation(&dcid, &[7; 8], &[0x0a0a_0a0a]));
        evil.still_open().await;
    });
}

/// The token that a server gave is good for a reset, no other is.
#[test]
fn reset_needs_the_token() {
    attack(&Terms::default(), async |arena| {
        let mut params = Params::default();
        params.set(id::STATELESS_RESET_TOKEN, &[0x55; 16]);
        let (mut evil, connecting) = arena.lure_with(&params);
        evil.until(Peer::is_confirmed).await;
        evil.run(12).await;
        let connection = connecting.await.unwrap();
        let dcid = evil.remote_cid().to_vec();
        let reset = |token: u8| [&[0x41][..], &dcid, &[9; 24], &[token; 16]].concat();
        for wrong in 0..0x55 {
            evil.send_datagram(reset(wrong));
        }
        evil.still_open().await;
        evil.send_datagram(reset(0x55));
        evil.run(12).await;
        assert_eq!(connection.close_reason(), Some(ConnectionError::Reset));
    });
}

/// Whoever uses no connection ids cannot be given more (RFC 9000 section 19.15).
#[test]
fn connection_ids_for_who_has_none_are_a_violation() {
    attack(&Terms::default(), async |arena| {
        let (mut evil, connecting) = arena.lure_without_cid();
        evil.until(Peer::is_confirmed).await;
        let _connection = connecting.await.unwrap();
        evil.send([Frame::new_cid(1, 0, &[1; 8])]);
        evil.closed_with(PROTOCOL_VIOLATION).await;
    });
}
