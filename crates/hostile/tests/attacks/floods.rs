//! Too much of what is allowed: memory and work stay bounded.

use polyquic_hostile::{Frame, Kind, Params, Space, id};

use crate::arena::{App, Arena, Evil, Terms, attack, costs_the_same_however_long};
use crate::code::*;
use crate::heap::Work;

/// Send `rounds` times 32 packets of frames that are made for each packet, a millisecond apart.
async fn flood(evil: &mut Evil<'_>, rounds: u64, make: impl Fn(u64) -> Vec<Frame>) {
    flood_for(evil, rounds, make, |_| {}).await;
}

/// The same, with a look at what comes back.
async fn flood_for(
    evil: &mut Evil<'_>,
    rounds: u64,
    make: impl Fn(u64) -> Vec<Frame>,
    mut seen: impl FnMut(&Frame),
) {
    for round in 0..rounds {
        for packet in round * 32..(round + 1) * 32 {
            let frames = make(packet);
            evil.send(frames);
        }
        evil.run(1).await;
        evil.take_frames().iter().for_each(|it| seen(&it.1));
        if evil.close().is_some() {
            break;
        }
    }
}

/// A stream with a hole in front, and every other byte after it: quinn-proto keeps at most a fixed
/// number of pieces of a stream, and each costs its own bytes and a record.
#[test]
fn stream_in_a_thousand_gaps_is_closed_before_it_costs_much() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        flood(&mut evil, 20, |packet| {
            let at = |n: u64| Frame::stream(0, 1 + 2 * (packet * 64 + n), b"x");
            (0..64).map(at).collect()
        })
        .await;
        evil.closed_with(INTERNAL_ERROR).await;
    });
}

#[test]
fn handshake_stream_in_a_thousand_gaps_is_closed_before_it_costs_much() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        flood(&mut evil, 40, |packet| {
            let at = |n: u64| Frame::crypto(1 + 2 * (packet * 64 + n), b"x");
            (0..64).map(at).collect()
        })
        .await;
        // It has 16 KiB of room, and so fewer gaps than a stream.
        let code = evil.close_code();
        let right = [INTERNAL_ERROR, CRYPTO_BUFFER_EXCEEDED].map(Some);
        assert!(right.contains(&code), "{code:?}");
    });
}

/// One byte in each packet, in order: pieces are merged, and their packets let go.
#[test]
fn stream_of_single_bytes_does_not_keep_their_packets() {
    let terms = Terms {
        app: App::Sleep,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.connect().await;
        flood(&mut evil, 100, |packet| {
            vec![Frame::stream(0, packet, b"x"), Frame::Padding(1000)]
        })
        .await;
        evil.still_open().await;
    });
}

/// The same bytes over and over are not kept twice.
#[test]
fn duplicate_chunks_are_kept_once() {
    let terms = Terms {
        app: App::Sleep,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.connect().await;
        flood(&mut evil, 100, |_| vec![Frame::stream(0, 1, &[7; 1000])]).await;
        evil.still_open().await;
    });
}

/// All streams that there may be, each filled up to what flow control allows, to an application that
/// does not read: this is what `receive_window` is for.
#[test]
fn unread_streams_hold_no_more_than_the_receive_window() {
    const WINDOW_BYTES: u64 = 500_000;
    let terms = Terms {
        app: App::Sleep,
        // The window, and half as much again that quinn-proto lets its buffers be larger than what
        // is in them.
        heap: (WINDOW_BYTES * 3 / 2) as isize + Terms::default().heap,
        transport: |it| {
            it.receive_window((WINDOW_BYTES as u32).into());
        },
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.connect().await;
        flood(&mut evil, WINDOW_BYTES / 32_000, |packet| {
            vec![Frame::stream(
                4 * (packet % 16),
                packet / 16 * 1000,
                &[1; 1000],
            )]
        })
        .await;
        evil.still_open().await;
        evil.send([Frame::stream(60, WINDOW_BYTES, b"x")]);
        evil.closed_with(FLOW_CONTROL_ERROR).await;
    });
}

#[test]
fn handshake_messages_after_the_handshake_have_little_room() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        flood(&mut evil, 10, |packet| {
            vec![Frame::crypto(1 + packet * 1000, &[0; 1000])]
        })
        .await;
        evil.closed_with(CRYPTO_BUFFER_EXCEEDED).await;
    });
}

/// Open and reset streams as fast as credit comes back (rapid reset). Streams that were reset are
/// counted until the application has seen them, and then forgotten.
#[test]
fn streams_that_are_reset_at_once_are_forgotten() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        let mut limit = 16;
        let mut next = 0;
        for _ in 0..200 {
            while next < limit && next < 5000 {
                let id = 4 * next;
                next += 1;
                evil.send([
                    Frame::stream(id, 0, b"x"),
                    Frame::ResetStream {
                        id,
                        code: 0,
                        final_size: 1,
                    },
                    Frame::StopSending { id, code: 0 },
                ]);
            }
            evil.run(2).await;
            for (_, frame) in evil.take_frames() {
                if let Frame::MaxStreams {
                    bidirectional: true,
                    max,
                } = frame
                {
                    limit = limit.max(max);
                }
            }
        }
        assert!(limit > 500, "credit comes back: {limit}");
        evil.still_open().await;
    });
}

#[test]
fn stop_sending_for_one_stream_a_thousand_times_is_one_reset() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        evil.send([Frame::stream(0, 0, b"x")]);
        evil.rest().await;
        for _ in 0..100 {
            evil.send((0..100).map(|_| Frame::StopSending { id: 0, code: 0 }));
            evil.run(1).await;
        }
        // Now the application has something to write, and finds that nobody listens.
        evil.send([Frame::stream(0, 1, b"y")]);
        evil.rest().await;
        let resets = evil.take_frames();
        let reset = |it: &&(Space, Frame)| matches!(it.1, Frame::ResetStream { .. });
        assert_eq!(resets.iter().filter(reset).count(), 1);
        evil.still_open().await;
    });
}

/// CVE-2023-49295: at most a handful of answers are kept, the oldest are dropped.
#[test]
fn path_challenges_are_not_queued() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        evil.manners.acks = false;
        let mut answers = 0;
        let challenges = |packet: u64| {
            let challenge = |n: u64| Frame::PathChallenge((packet * 100 + n).to_be_bytes());
            (0..100).map(challenge).collect()
        };
        let mut count = |frame: &Frame| {
            answers += u64::from(matches!(frame, Frame::PathResponse(_)));
        };
        flood_for(&mut evil, 100, challenges, &mut count).await;
        evil.run(40).await;
        (evil.take_frames().iter()).for_each(|it| count(&it.1));
        assert_eq!(evil.close(), None);
        // 320,000 challenges; a packet of the victim holds one answer.
        let packets = evil.counters().datagrams_in;
        assert!((1..=packets).contains(&answers), "{answers} in {packets}");
    });
}

/// CVE-2024-22189: force retirements, and do not acknowledge them.
#[test]
fn retirements_that_are_not_acknowledged_are_bounded() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        evil.manners.acks = false;
        flood(&mut evil, 200, |packet| {
            let cid = |n: u64| packet * 30 + n + 1;
            let frame = |n: u64| Frame::new_cid(cid(n), cid(n), &cid(n).to_be_bytes());
            (0..30).map(frame).collect()
        })
        .await;
        evil.closed_with(CONNECTION_ID_LIMIT_ERROR).await;
    });
}

/// The same, for ids that are stale already.
#[test]
fn stale_connection_ids_do_not_queue_retirements_without_end() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        evil.manners.acks = false;
        evil.send([Frame::new_cid(1_000_000, 1_000_000, b"12345678")]);
        evil.run(20).await;
        flood(&mut evil, 200, |packet| {
            let frame = |n: u64| {
                let sequence = (packet * 30 + n) % 999_999;
                Frame::new_cid(sequence, 0, &sequence.to_be_bytes())
            };
            (0..30).map(frame).collect()
        })
        .await;
        assert!(matches!(
            evil.close_code(),
            None | Some(CONNECTION_ID_LIMIT_ERROR)
        ));
    });
}

/// Retire the victim's ids as fast as it replaces them: it issues one for one, and keeps no more.
#[test]
fn victims_ids_that_are_retired_in_a_loop_are_replaced_one_for_one() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        let mut retired = 0;
        for _ in 0..300 {
            let newest = evil.victim_cids().iter().map(|it| it.0).max().unwrap_or(0);
            let cid = evil
                .victim_cids()
                .iter()
                .find(|it| it.0 == newest)
                .map(|it| it.1.clone());
            if let Some(cid) = cid {
                evil.set_remote_cid(&cid);
            }
            let frames: Vec<_> = (retired..newest).map(Frame::RetireConnectionId).collect();
            retired = newest;
            evil.send(frames.into_iter().chain([Frame::Ping]));
            evil.run(2).await;
            evil.take_frames();
        }
        assert!(retired > 50, "{retired}");
        evil.still_open().await;
    });
}

/// Retire all ids: none is left to address the victim by, and its stateless resets are what comes back.
/// With one of the new ids, which it issues one for one, the connection goes on.
#[test]
fn retiring_the_id_that_is_used_is_harmless() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        let known: Vec<_> = evil.victim_cids().iter().map(|it| it.0).collect();
        let all = known.iter().copied().chain([0]);
        evil.send(all.map(Frame::RetireConnectionId));
        evil.rest().await;
        let unreadable = evil.counters().unreadable;
        evil.take_frames();
        let pn = evil.next_packet_number(Space::Data);
        evil.send([Frame::Ping]);
        evil.rest().await;
        assert!(evil.counters().unreadable > unreadable);
        let frames = evil.take_frames();
        assert!(!frames.iter().any(|it| it.1.acknowledges(pn)), "{frames:?}");
        let issued: std::collections::BTreeMap<_, _> = (evil.victim_cids().iter())
            .map(|it| (it.0, it.1.clone()))
            .collect();
        assert_eq!(issued.len(), 2 * known.len() + 1);
        let (_, newest) = issued.last_key_value().expect("there are some");
        evil.set_remote_cid(newest);
        evil.still_open().await;
    });
}

/// Datagrams for an application that reads none: the oldest are dropped.
#[test]
fn unread_datagrams_are_dropped() {
    let terms = Terms {
        app: App::Sleep,
        // The buffer, and what is between payloads and packets.
        heap: 300_000 + Terms::default().heap,
        transport: |it| {
            it.datagram_receive_buffer_size(Some(200_000));
        },
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.connect().await;
        flood(&mut evil, 100, |_| vec![Frame::Datagram(vec![1; 1000])]).await;
        evil.still_open().await;
    });
}

/// The same with single bytes in large packets.
#[test]
fn unread_datagrams_do_not_keep_their_packets() {
    let terms = Terms {
        app: App::Sleep,
        // Records of single bytes, each of which is an allocation.
        heap: 300_000 + Terms::default().heap,
        transport: |it| {
            it.datagram_receive_buffer_size(Some(200_000));
        },
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.connect().await;
        flood(&mut evil, 200, |_| {
            vec![Frame::Datagram(vec![1]), Frame::Padding(1000)]
        })
        .await;
        evil.still_open().await;
    });
}

/// Acknowledgements of everything that there may ever be, in as many ranges as fit.
#[test]
fn acknowledgements_in_many_ranges_cost_nothing() {
    let acknowledge = |rounds| {
        attack(&Terms::default(), async |arena| {
            let mut evil = arena.connect().await;
            evil.manners.acks = false;
            // Every other number; only those that came, as the victim skips some to find liars.
            let came = evil.received(Space::Data).iter().cloned().flatten();
            let every_other: Vec<_> = came.filter(|it| it % 2 == 0).map(|it| it..=it).collect();
            let ack = match Frame::ack(&every_other) {
                Frame::Ack {
                    largest,
                    first,
                    ranges,
                    ..
                } => Frame::Ack {
                    largest,
                    delay: (1 << 62) - 1,
                    first,
                    ranges,
                    ecn: Some([(1 << 62) - 1; 3]),
                },
                other => other,
            };
            flood(&mut evil, rounds, |_| vec![ack.clone(); 20]).await;
            evil.still_open().await;
        })
    };
    costs_the_same_however_long(acknowledge);
}

/// Packets whose numbers leave gaps: the victim keeps few ranges to acknowledge.
#[test]
fn packet_numbers_with_gaps_do_not_fill_memory() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        evil.manners.acks = false;
        for _ in 0..100 {
            for _ in 0..32 {
                evil.skip_packet_numbers(Space::Data, 2);
                evil.send([Frame::Ping]);
            }
            evil.run(1).await;
            for (_, frame) in evil.take_frames() {
                if let Frame::Ack { ranges, .. } = frame {
                    assert!(ranges.len() <= 64, "{} ranges", ranges.len());
                }
            }
        }
        evil.still_open().await;
    });
}

/// Acknowledge what was not received: an innocent sender notices by numbers that it skips.
#[test]
fn optimistic_acknowledgement_is_found() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        evil.manners.acks = false;
        // Have it send: an echo of what is sent here.
        let mut offset = 0;
        for _ in 0..2000 {
            if evil.close().is_some() {
                break;
            }
            evil.send([Frame::stream(0, offset, &[1; 1000])]);
            offset += 1000;
            let largest = evil.received(Space::Data).last().map_or(0, |it| *it.end());
            // Everything up to here, whether or not it came.
            evil.send([
                Frame::ack(&[0..=largest]),
                Frame::MaxData(1 << 40),
                Frame::MaxStreamData {
                    id: 0,
                    max: 1 << 40,
                },
            ]);
            evil.run(1).await;
            evil.take_frames();
        }
        evil.closed_with(PROTOCOL_VIOLATION).await;
    });
}

/// Nobody can be made to acknowledge more often than packets come. Who asks for a delay below
/// `min_ack_delay` is closed. Who asks for one of a hundred thousand years gets it, and is the one that
/// waits: until it asks for an answer at once.
#[test]
fn acknowledgement_frequency_cannot_be_abused() {
    const MOST: u64 = (1 << 62) - 1;
    attack(&Terms::default(), async |arena| {
        for (threshold, max_ack_delay, reordering) in [(0, 1, 0), (MOST, MOST, MOST), (1, 0, 1)] {
            let mut evil = arena.connect().await;
            flood(&mut evil, 20, |packet| {
                vec![
                    Frame::AckFrequency {
                        sequence: packet,
                        threshold,
                        max_ack_delay,
                        reordering,
                    },
                    Frame::ImmediateAck,
                ]
            })
            .await;
            evil.rest().await;
            if max_ack_delay != MOST {
                assert_eq!(evil.close_code(), Some(PROTOCOL_VIOLATION));
                continue;
            }
            evil.take_frames();
            for (frame, answered) in [(Frame::Ping, false), (Frame::ImmediateAck, true)] {
                let pn = evil.next_packet_number(Space::Data);
                evil.send([frame]);
                evil.run(200).await;
                let frames = evil.take_frames();
                let acknowledged = frames.iter().any(|it| it.1.acknowledges(pn));
                assert_eq!(acknowledged, answered, "{frames:?}");
            }
            assert_eq!(evil.close(), None);
        }
    });
}

#[test]
fn min_ack_delay_beyond_max_ack_delay_is_refused() {
    attack(&Terms::default(), async |arena| {
        for delay in [26_000, 1 << 24, (1 << 62) - 1] {
            let mut params = Params::default();
            params.set_integer(id::MIN_ACK_DELAY, delay);
            let mut evil = arena.stranger_with(&params);
            evil.start();
            evil.closed_with(TRANSPORT_PARAMETER_ERROR).await;
        }
        for delay in [0, 1, 25_000] {
            let mut params = Params::default();
            params.set_integer(id::MIN_ACK_DELAY, delay);
            let mut evil = arena.connect_with(&params).await;
            evil.still_open().await;
        }
    });
}

#[test]
fn empty_datagrams_cost_nothing() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        let before = arena.stats().datagrams_received;
        for _ in 0..50 {
            for _ in 0..32 {
                evil.send_datagram(Vec::new());
            }
            evil.run(1).await;
        }
        evil.still_open().await;
        // Not even looked at: what came are the innocent's, a PING and an acknowledgement.
        let others = arena.stats().datagrams_received - before;
        assert!(others < 50 * 32, "{others}");
    });
}

/// All the small frames there are, a thousand to the packet.
#[test]
fn packets_full_of_small_frames_are_answered_once() {
    let small = |packet: u64| {
        let small = |n: u64| match n % 5 {
            0 => Frame::Ping,
            1 => Frame::MaxData(packet),
            2 => Frame::DataBlocked(packet),
            3 => Frame::StreamsBlocked {
                bidirectional: true,
                limit: n,
            },
            _ => Frame::MaxStreams {
                bidirectional: true,
                max: packet,
            },
        };
        (0..400).map(small).collect()
    };
    costs_the_same_however_long(|rounds| {
        attack(&Terms::default(), async |arena| {
            let mut evil = arena.connect().await;
            flood(&mut evil, rounds, small).await;
            evil.still_open().await;
        })
    });
}

/// Slow-loris: connections with all streams open and a byte now and then.
#[test]
fn slow_streams_cost_what_streams_cost() {
    const CONNECTIONS: isize = 20;
    let terms = Terms {
        // 87 kB for each: a connection, its handshake, 16 streams and their tasks on this side, and
        // the attacker itself.
        heap: CONNECTIONS * 100_000,
        answers: 3.0,
        // Most packets have frames of all 16 streams, which are echoed.
        work: Work {
            allocations: 20,
            bytes: 5_000,
        },
        ..Terms::default()
    };
    attack(&terms, async |arena: &Arena| {
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut evil = arena.connect().await;
            evil.send((0..16).map(|it| Frame::stream(4 * it, 0, b"x")));
            evil.run(1).await;
            all.push(evil);
        }
        for byte in 1..20 {
            for evil in &mut all {
                evil.send((0..16).map(|it| Frame::stream(4 * it, byte, b"x")));
                evil.run(1).await;
                evil.take_frames();
            }
        }
        for evil in &mut all {
            evil.still_open().await;
        }
    });
}

/// Frames of a connection that is closed are not answered without end (RFC 9000 section 10.2.1).
#[test]
fn closed_connection_does_not_answer_without_end() {
    let terms = Terms {
        // One CONNECTION_CLOSE for each packet at most.
        answers: 1.0,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.connect().await;
        evil.send([Frame::HandshakeDone]);
        evil.closed_with(PROTOCOL_VIOLATION).await;
        for _ in 0..20 {
            for _ in 0..32 {
                let packet = evil.packet_of(Kind::OneRtt, &[Frame::Ping]);
                evil.send_packet(&packet);
            }
            evil.run(1).await;
        }
    });
}

/// Bytes that the simulator's receive offload puts into one buffer.
const OFFLOAD_BYTES: isize = 64 * 1024;

/// One byte in each receive buffer of 64 packets, the others being junk: with receive offload, a
/// slice of a packet keeps all of the buffer. quinn-proto merges the pieces of a stream once it thinks
/// that 32 KiB more are kept than are used, by the sizes of packets: about 30 pieces.
#[test]
fn single_bytes_among_junk_keep_a_bounded_number_of_buffers() {
    const STREAMS: u64 = 4;
    let terms = Terms {
        app: App::Sleep,
        heap: STREAMS as isize * 32 * OFFLOAD_BYTES * 5 / 4,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.connect().await;
        for round in 0..400 {
            let (stream, at) = (round % STREAMS, round / STREAMS);
            let byte = Frame::stream(4 * stream, 1 + 2 * at, b"x");
            let len = Frame::encode_all([&byte]).len();
            evil.send([byte, Frame::Padding(1000 - len)]);
            for _ in 0..55 {
                evil.send([Frame::Ping, Frame::Padding(999)]);
            }
            evil.run(1).await;
            evil.take_frames();
        }
        evil.still_open().await;
    });
}
