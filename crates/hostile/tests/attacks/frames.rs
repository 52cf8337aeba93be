//! Frames that are wrong in themselves, or where they are: each ends the connection, with the right
//! code (RFC 9000 sections 12.4, 19, 20.1).

use polyquic_hostile::{Frame, Kind, Space};

use crate::arena::{Terms, attack};
use crate::code::*;

/// Each of these packets ends a connection of its own, with this code.
fn each_closes(cases: &[(Vec<Frame>, u64)]) {
    attack(&Terms::default(), async |arena| {
        for (frames, code) in cases {
            let mut evil = arena.connect().await;
            println!("{frames:?}");
            evil.send(frames.clone());
            evil.closed_with(*code).await;
        }
    });
}

/// Raw bytes in the place of frames.
fn raw(bytes: &[u8]) -> Vec<Frame> {
    vec![Frame::Raw(bytes.to_vec())]
}

#[test]
fn unknown_frame_types_are_encoding_errors() {
    each_closes(&[
        (raw(&[0x20]), FRAME_ENCODING_ERROR),
        (raw(&[0x40, 0xff]), FRAME_ENCODING_ERROR),
        (raw(&[0xff; 8]), FRAME_ENCODING_ERROR),
        (raw(&[0x80, 0xff, 0xff, 0xff]), FRAME_ENCODING_ERROR),
        (raw(&[0x01, 0x22]), FRAME_ENCODING_ERROR),
    ]);
}

#[test]
fn truncated_frames_are_encoding_errors() {
    each_closes(&[
        // A varint, a STREAM, a CRYPTO, an ACK and a CONNECTION_CLOSE that promise more than follows.
        (raw(&[0x10, 0xc0]), FRAME_ENCODING_ERROR),
        (raw(&[0x0a, 0x00, 0x3f, b'x']), FRAME_ENCODING_ERROR),
        (raw(&[0x06, 0x00, 0x7f, 0xff]), FRAME_ENCODING_ERROR),
        (raw(&[0x02, 0x05, 0x00, 0x3f, 0x00]), FRAME_ENCODING_ERROR),
        (raw(&[0x1c, 0x00, 0x00, 0x30]), FRAME_ENCODING_ERROR),
        (raw(&[0x31, 0x20]), FRAME_ENCODING_ERROR),
        (raw(&[0x18, 0x01, 0x00, 0x08]), FRAME_ENCODING_ERROR),
    ]);
}

#[test]
fn packet_without_frames_is_a_violation() {
    each_closes(&[(vec![], PROTOCOL_VIOLATION)]);
}

#[test]
fn handshake_is_not_confirmed_by_a_client() {
    attack(&Terms::default(), async |arena| {
        // A completed handshake.
        let mut evil = arena.connect().await;
        // Any frames, or `Frame::Raw(bytes)`.
        evil.send([Frame::HandshakeDone]);
        evil.closed_with(PROTOCOL_VIOLATION).await;
    });
}

#[test]
fn frames_that_only_servers_send_are_violations_from_a_client() {
    each_closes(&[
        (vec![Frame::HandshakeDone], PROTOCOL_VIOLATION),
        (vec![Frame::NewToken(b"token".to_vec())], PROTOCOL_VIOLATION),
    ]);
}

#[test]
fn data_beyond_flow_control_is_refused() {
    let far = 2_000_000;
    each_closes(&[
        (vec![Frame::stream(0, far, b"x")], FLOW_CONTROL_ERROR),
        (vec![Frame::stream(2, 1_250_000, b"x")], FLOW_CONTROL_ERROR),
        (
            vec![Frame::ResetStream {
                id: 0,
                code: 0,
                final_size: far,
            }],
            FLOW_CONTROL_ERROR,
        ),
        (
            vec![Frame::stream(0, (1 << 62) - 1, b"x")],
            FLOW_CONTROL_ERROR,
        ),
    ]);
}

#[test]
fn lies_about_final_sizes_are_found() {
    let reset = |final_size| Frame::ResetStream {
        id: 0,
        code: 0,
        final_size,
    };
    let cases = [
        vec![Frame::last(0, 0, b"abc"), Frame::stream(0, 3, b"d")],
        vec![Frame::last(0, 0, b"abc"), Frame::last(0, 0, b"ab")],
        vec![Frame::last(0, 10, b"abc"), reset(12)],
        vec![Frame::stream(0, 10, b"abc"), reset(12)],
        vec![reset(12), reset(13)],
    ];
    each_closes(&cases.map(|frames| (frames, FINAL_SIZE_ERROR)));
}

#[test]
fn streams_beyond_the_limit_are_refused_whatever_opens_them() {
    let (bidi, uni) = (4 * 100, 4 * 100 + 2);
    let cases = [
        Frame::stream(bidi, 0, b"x"),
        Frame::stream(uni, 0, b"x"),
        Frame::MaxStreamData { id: bidi, max: 9 },
        Frame::ResetStream {
            id: uni,
            code: 0,
            final_size: 0,
        },
        Frame::stream((1 << 62) - 4, 0, b"x"),
    ];
    each_closes(&cases.map(|frame| (vec![frame], STREAM_LIMIT_ERROR)));
}

/// quinn-proto does not notice these, against RFC 9000 sections 4.5, 4.6 (the error is a MUST for
/// streams beyond the limit, a SHOULD for final sizes). They have no effect on anybody else, and open
/// nothing.
#[test]
fn lies_that_are_not_found_do_no_harm() {
    attack(&Terms::default(), async |arena| {
        for frames in [
            [Frame::stream(0, 10, b"abc"), Frame::last(0, 0, b"ab")],
            [Frame::StopSending { id: 400, code: 0 }, Frame::Ping],
            [Frame::StreamDataBlocked { id: 400, limit: 0 }, Frame::Ping],
        ] {
            let mut evil = arena.connect().await;
            evil.send(frames);
            evil.still_open().await;
            let opened = evil.take_frames();
            let resets = opened
                .iter()
                .filter(|it| matches!(it.1, Frame::ResetStream { .. }));
            assert_eq!(resets.count(), 0);
        }
    });
}

#[test]
fn frames_for_streams_of_the_wrong_kind_are_refused() {
    // Streams 1 and 3 are the server's, and it has opened none; 2 is the client's, one way.
    let cases = [
        Frame::stream(1, 0, b"x"),
        Frame::stream(3, 0, b"x"),
        Frame::ResetStream {
            id: 3,
            code: 0,
            final_size: 0,
        },
        Frame::MaxStreamData { id: 1, max: 9 },
        Frame::MaxStreamData { id: 2, max: 9 },
        Frame::StopSending { id: 1, code: 0 },
        Frame::StopSending { id: 2, code: 0 },
        Frame::StreamDataBlocked { id: 3, limit: 1 },
    ];
    each_closes(&cases.map(|frame| (vec![frame], STREAM_STATE_ERROR)));
}

#[test]
fn stream_counts_that_cannot_be_are_refused() {
    let max = (1 << 60) + 1;
    for bidirectional in [true, false] {
        each_closes(&[
            (
                vec![Frame::MaxStreams { bidirectional, max }],
                FRAME_ENCODING_ERROR,
            ),
            (
                vec![Frame::StreamsBlocked {
                    bidirectional,
                    limit: max,
                }],
                FRAME_ENCODING_ERROR,
            ),
        ]);
    }
}

#[test]
fn connection_ids_that_cannot_be_are_refused() {
    each_closes(&[
        (vec![Frame::new_cid(1, 0, b"")], FRAME_ENCODING_ERROR),
        (vec![Frame::new_cid(1, 0, &[1; 21])], FRAME_ENCODING_ERROR),
        (vec![Frame::new_cid(1, 2, &[1; 8])], FRAME_ENCODING_ERROR),
        // A number that was never issued.
        (vec![Frame::RetireConnectionId(99)], PROTOCOL_VIOLATION),
    ]);
}

#[test]
fn more_connection_ids_than_were_asked_for_are_refused() {
    let cids = (1..20).map(|it| Frame::new_cid(it, 0, &[it as u8; 8]));
    each_closes(&[(cids.collect(), CONNECTION_ID_LIMIT_ERROR)]);
}

#[test]
fn two_connection_ids_of_one_number_are_refused() {
    // RFC 9000 section 19.15: MAY, and we need not notice; it must do no harm.
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        evil.send([Frame::new_cid(1, 0, &[1; 8]), Frame::new_cid(1, 0, &[2; 8])]);
        evil.rest().await;
        assert!(matches!(evil.close_code(), None | Some(PROTOCOL_VIOLATION)));
    });
}

#[test]
fn acknowledging_what_was_never_sent_is_a_violation() {
    each_closes(&[
        (vec![Frame::ack(&[0..=1_000_000])], PROTOCOL_VIOLATION),
        (
            vec![Frame::ack(&[(1 << 62) - 1..=(1 << 62) - 1])],
            PROTOCOL_VIOLATION,
        ),
        // Ranges below zero.
        (raw(&[0x02, 0x00, 0x00, 0x00, 0x05]), FRAME_ENCODING_ERROR),
        (
            raw(&[0x02, 0x05, 0x00, 0x01, 0x00, 0x10, 0x10]),
            FRAME_ENCODING_ERROR,
        ),
    ]);
}

#[test]
fn application_frames_in_handshake_packets_are_violations() {
    let terms = Terms {
        // Twelve connections that linger in their handshakes.
        heap: 12 * 60_000,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        for kind in [Kind::Initial, Kind::Handshake] {
            for frame in [
                Frame::stream(0, 0, b"x"),
                Frame::MaxData(1),
                Frame::HandshakeDone,
                Frame::new_cid(1, 0, &[1; 8]),
                Frame::PathChallenge([0; 8]),
                Frame::Datagram(b"x".to_vec()),
            ] {
                let mut evil = arena.stranger();
                // The server has its keys until it gets this.
                evil.manners.finished = false;
                // Nor may anything in a Handshake packet tell it that Initial packets are over.
                evil.manners.acks = false;
                evil.start();
                evil.until(|it| !it.received(Space::Handshake).is_empty())
                    .await;
                evil.send_in(kind, [frame]);
                evil.closed_with(PROTOCOL_VIOLATION).await;
            }
        }
    });
}

#[test]
fn reserved_bits_are_violations() {
    attack(&Terms::default(), async |arena| {
        for reserved in 1..=3 {
            let mut evil = arena.connect().await;
            let mut packet = evil.packet_of(Kind::OneRtt, &[Frame::Ping]);
            packet.reserved = reserved;
            evil.send_packet(&packet);
            evil.closed_with(PROTOCOL_VIOLATION).await;
        }
    });
}

#[test]
fn fixed_bit_may_be_anything_because_we_offered_that() {
    // RFC 9287: `grease_quic_bit` is on by default.
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        let mut packet = evil.packet_of(Kind::OneRtt, &[Frame::stream(0, 0, b"x")]);
        packet.fixed = false;
        evil.send_packet(&packet);
        evil.rest().await;
        let acknowledged = |(_, frame): &(Space, Frame)| matches!(frame, Frame::Ack { largest, .. } if *largest == packet.pn);
        assert!(evil.take_frames().iter().any(acknowledged));
        evil.still_open().await;
    });
}

#[test]
fn datagram_larger_than_was_offered_is_a_violation() {
    attack(
        &Terms {
            transport: |it| {
                it.datagram_receive_buffer_size(None);
            },
            ..Terms::default()
        },
        async |arena| {
            let mut evil = arena.connect().await;
            evil.send([Frame::Datagram(b"x".to_vec())]);
            evil.closed_with(PROTOCOL_VIOLATION).await;
        },
    );
}

#[test]
fn handshake_messages_that_tls_does_not_expect_end_the_connection() {
    attack(&Terms::default(), async |arena| {
        for bytes in [&[1u8, 0, 0, 0][..], &[24, 0, 0, 1, 0], &[0xff; 64]] {
            let mut evil = arena.connect().await;
            evil.send([Frame::crypto(0, bytes)]);
            evil.until(|it| it.close().is_some()).await;
            // CRYPTO_ERROR: 0x0100 and a TLS alert; a KeyUpdate must be 0x010a (RFC 9001 section 6).
            let code = evil.close_code().unwrap();
            assert!((0x100..0x200).contains(&code), "{code:#x}");
        }
    });
}
