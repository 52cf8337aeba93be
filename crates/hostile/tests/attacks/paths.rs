//! Addresses, connection ids and keys: who is believed to be whom.

use std::time::Duration;

use polyquic_core::rustls::Side;
use polyquic_hostile::{Frame, Kind, Space, initial_keys, version_negotiation};

use crate::arena::{Arena, Terms, attack, costs_the_same_however_long};
use crate::code::*;
use crate::heap::Work;

/// What a datagram costs that comes between those of the innocent: it splits the batches in which these
/// are received, and copies are as large as their originals.
const AMONG_OTHERS: Work = Work {
    allocations: 50,
    bytes: 60_000,
};

#[test]
fn packets_with_the_id_of_another_connection_are_dropped() {
    attack(&Terms::default(), async |arena| {
        let mut other = arena.connect().await;
        let mut evil = arena.connect().await;
        let own = evil.remote_cid().to_vec();
        for _ in 0..200 {
            let mut packet = evil.packet_of(Kind::OneRtt, &[Frame::close(0)]);
            packet.dcid = other.remote_cid().to_vec();
            evil.send_packet(&packet);
        }
        evil.run(10).await;
        other.still_open().await;
        assert_eq!(evil.remote_cid(), own);
        evil.still_open().await;
    });
}

/// Each new address is an unproved path: it gets at most three times what came from it, and the one
/// before is given up.
#[test]
fn addresses_that_flap_are_not_flooded() {
    let terms = Terms {
        answers: 3.0,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.connect().await;
        let mut addresses = Vec::new();
        for round in 0..100 {
            let from = arena.address();
            addresses.push(from);
            // Data that is echoed, so that there is something to send.
            let packet = evil.packet_of(Kind::OneRtt, &[Frame::stream(0, round * 900, &[1; 900])]);
            let datagram = evil.seal(&packet);
            arena.world.send(from, arena.server_addr(), &datagram);
            evil.run(3).await;
            evil.take_frames();
        }
        arena.world.sleep(Duration::from_secs(5)).await;
        for addr in addresses {
            let sent = arena.world.traffic(addr, arena.server_addr()).bytes;
            let got = arena.world.traffic(arena.server_addr(), addr).bytes;
            let limit = 3 * sent + 1452;
            assert!(got <= limit, "{got} bytes for {sent}");
        }
    });
}

/// The largest datagram: one that begins with a byte of the limit left may be this much beyond it.
const LARGEST_DATAGRAM_BYTES: u64 = 1452;

/// A client that says it is in turns at its own address and at a victim's. RFC 9000 section 8.1 wants
/// three times what came from the victim's. quinn-proto begins to count anew at each move, so that small
/// packets are answered by two large ones; `crates/core/src/moves.rs` counts over all moves.
#[test]
fn moving_to_a_victim_and_back_adds_up_to_three_times() {
    const MOVES: u64 = 50;
    let terms = Terms {
        // With 200 kB that are echoed and never acknowledged.
        heap: 700_000,
        answers: 2.0,
        ..Terms::default()
    };
    let script = async |arena: &Arena| {
        let mut evil = arena.connect().await;
        // Something to send, and more than one window of it.
        for chunk in 0..200 {
            evil.send([Frame::stream(0, chunk * 1000, &[1; 1000])]);
        }
        evil.manners.acks = false;
        evil.run(12).await;
        let victim = arena.address();
        for _ in 0..MOVES {
            let packet = evil.packet_of(Kind::OneRtt, &[Frame::Ping]);
            let datagram = evil.seal(&packet);
            arena.world.send(victim, arena.server_addr(), &datagram);
            evil.run(2).await;
            evil.send([Frame::Ping]);
            evil.run(2).await;
            evil.take_frames();
        }
        evil.rest().await;
        let sent = arena.world.traffic(victim, arena.server_addr()).bytes;
        let got = arena.world.traffic(arena.server_addr(), victim).bytes;
        println!("the victim got {got} bytes for {sent}");
        (sent, got)
    };
    attack(&terms, async |arena| {
        let (sent, got) = script(arena).await;
        assert!(
            0 < got && got <= 3 * sent + LARGEST_DATAGRAM_BYTES,
            "{got} for {sent}"
        );
    });
    let forbidden = Terms {
        server: |it| {
            it.migration(false);
        },
        ..terms
    };
    attack(&forbidden, async |arena| {
        let (_, got) = script(arena).await;
        assert_eq!(got, 0);
    });
}

/// The same with answers to challenges that never arrived there: wrong ones prove nothing.
#[test]
fn wrong_answers_to_challenges_prove_no_address() {
    let terms = Terms {
        // With 200 kB that are echoed and never acknowledged.
        heap: 700_000,
        answers: 3.0,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.connect().await;
        for chunk in 0..200 {
            evil.send([Frame::stream(0, chunk * 1000, &[1; 1000])]);
        }
        evil.manners.acks = false;
        evil.run(12).await;
        let victim = arena.address();
        for round in 0u64..50 {
            let answer = Frame::PathResponse(round.to_be_bytes());
            for packet in [
                evil.packet_of(Kind::OneRtt, &[Frame::Ping]),
                evil.packet_of(Kind::OneRtt, &[Frame::Ping, answer])
                    .padded_to(1200),
            ] {
                let datagram = evil.seal(&packet);
                arena.world.send(victim, arena.server_addr(), &datagram);
                evil.run(2).await;
            }
            evil.send([Frame::Ping]);
            evil.run(2).await;
            evil.take_frames();
        }
        evil.rest().await;
        let sent = arena.world.traffic(victim, arena.server_addr()).bytes;
        let got = arena.world.traffic(arena.server_addr(), victim).bytes;
        println!("the victim got {got} bytes for {sent}");
        assert!(
            0 < got && got <= 3 * sent + LARGEST_DATAGRAM_BYTES,
            "{got} for {sent}"
        );
    });
}

/// Have a download sent to somebody else.
#[test]
fn download_cannot_be_pointed_at_a_victim() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        for chunk in 0..100 {
            evil.send([Frame::stream(0, chunk * 1000, &[1; 1000])]);
        }
        evil.manners.acks = false;
        evil.run(12).await;
        let victim = arena.address();
        let packet = evil.packet_of(Kind::OneRtt, &[Frame::Ping]);
        let datagram = evil.seal(&packet);
        arena.world.send(victim, arena.server_addr(), &datagram);
        evil.run(1000).await;
        let sent = arena.world.traffic(victim, arena.server_addr()).bytes;
        let got = arena.world.traffic(arena.server_addr(), victim).bytes;
        assert!(sent > 0 && got <= 3 * sent + 1452, "{got} bytes for {sent}");
    });
}

/// Whether any of these frames acknowledges a packet of the application's.
fn acknowledged(frames: &[(Space, Frame)], pn: u64) -> bool {
    let mut acks = frames.iter().filter(|it| it.0 == Space::Data);
    acks.any(|it| it.1.acknowledges(pn))
}

/// RFC 9001 section 6.2: a second update before the first is acknowledged may be an error; it must
/// not be obeyed.
#[test]
fn keys_updated_twice_at_once_end_the_connection() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        evil.manners.acks = false;
        evil.take_frames();
        evil.update_keys();
        evil.send([Frame::Ping]);
        evil.update_keys();
        let second = evil.next_packet_number(Space::Data);
        evil.send([Frame::Ping]);
        evil.closed_with(KEY_UPDATE_ERROR).await;
        let frames = evil.take_frames();
        assert!(acknowledged(&frames, second - 1), "{frames:?}");
        assert!(!acknowledged(&frames, second), "{frames:?}");
    });
}

/// A packet of the old keys with a number above that of the first of the new ones (RFC 9001 section
/// 6.4).
#[test]
fn old_keys_for_new_packets_are_refused() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        let mut late = evil.packet_of(Kind::OneRtt, &[Frame::Ping]);
        late.pn += 1000;
        let datagram = evil.seal(&late);
        evil.update_keys();
        let first = evil.next_packet_number(Space::Data);
        evil.send([Frame::Ping]);
        evil.run(1).await;
        evil.send_datagram(datagram);
        evil.still_open().await;
        let frames = evil.take_frames();
        assert!(acknowledged(&frames, first), "{frames:?}");
        assert!(!acknowledged(&frames, late.pn), "{frames:?}");
    });
}

#[test]
fn many_rightful_key_updates_are_followed() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        for _ in 0..10 {
            evil.update_keys();
            evil.still_open().await;
        }
        assert_eq!(evil.counters().unreadable, 0);
    });
}

/// Junk that claims a key update has no effect (RFC 9001 section 6.3): the keys are derived once.
#[test]
fn junk_in_the_other_key_phase_is_dropped() {
    let junk = |rounds| {
        attack(&Terms::default(), async |arena| {
            let mut evil = arena.connect().await;
            for round in 0..rounds {
                for _ in 0..32 {
                    let packet = evil.packet(Kind::OneRtt, vec![round as u8; 40]);
                    let mut datagram = evil.seal(&packet);
                    // The bits are masked, so that half of these flip it.
                    datagram[0] ^= 0x04;
                    let last = datagram.len() - 1;
                    datagram[last] ^= 1;
                    evil.send_datagram(datagram);
                }
                evil.run(1).await;
            }
            evil.still_open().await;
            assert_eq!(evil.counters().unreadable, 0);
        })
    };
    costs_the_same_however_long(junk);
}

/// What looks like stateless resets, to both ends of the innocent connection: without the token they
/// are packets that do not authenticate.
#[test]
fn forged_resets_are_ignored() {
    attack(&Terms::default(), async |arena| {
        let (server, client) = (arena.server_addr(), arena.client_addr());
        for round in 0u8..100 {
            let mut reset = vec![round.wrapping_mul(37); 21 + usize::from(round)];
            reset[0] = 0x40 | (round & 0x3f);
            arena.world.send(server, client, &reset);
            arena.world.send(client, server, &reset);
            arena.world.sleep(Duration::from_millis(2)).await;
        }
    });
}

/// A stateless reset is smaller than what provokes it, and they are limited.
#[test]
fn resets_do_not_amplify_and_are_rationed() {
    let terms = Terms {
        answers: 0.1,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        // An id of a connection that is over and forgotten.
        let mut evil = arena.connect().await;
        let cid = evil.victim_cids()[0].1.clone();
        evil.send([Frame::close(0)]);
        evil.run(1).await;
        evil.manners.acks = false;
        arena.world.sleep(Duration::from_secs(5)).await;
        for round in 0..50 {
            for _ in 0..32 {
                let junk = [&[0x40][..], &cid, &[round; 60]].concat();
                evil.send_datagram(junk);
            }
            evil.run(1).await;
        }
        evil.rest().await;
        let counters = evil.counters();
        // One in 20 ms (`min_reset_interval`).
        assert!(counters.stateless_resets > 0, "{counters:?}");
        assert!(counters.stateless_resets < 10, "{counters:?}");
        assert!(counters.bytes_in * 5 <= counters.bytes_out, "{counters:?}");
    });
}

/// Off the path, by address alone: everything that can be made without keys, and Initial packets,
/// whose keys are public but whose connection ids are not.
#[test]
fn who_sees_nothing_disturbs_nothing() {
    attack(&Terms::default(), async |arena| {
        let (server, client) = (arena.server_addr(), arena.client_addr());
        let mut forger = arena.stranger();
        let guess = forger.original_dcid().to_vec();
        for round in 0..60 {
            let close = forger.packet_of(Kind::Initial, &[Frame::close(0), Frame::ack(&[0..=5])]);
            for side in [Side::Client, Side::Server] {
                let keys = initial_keys(&guess, side);
                let forged = close.seal(&keys.local);
                arena.world.send(client, server, &forged);
                arena.world.send(server, client, &forged);
            }
            let negotiation = version_negotiation(&guess, &guess, &[0x0a0a_0a0a]);
            arena.world.send(server, client, &negotiation);
            arena.world.send(client, server, &negotiation);
            let mut retry = vec![0xf0, 0, 0, 0, 1, 8];
            retry.extend_from_slice(&guess[..8]);
            retry.extend_from_slice(&[8, round, 2, 3, 4, 5, 6, 7, 8]);
            retry.extend_from_slice(&[round; 40]);
            arena.world.send(server, client, &retry);
            arena.world.send(client, server, &retry);
            arena.world.sleep(Duration::from_millis(2)).await;
        }
    });
}

/// On the path, with everything but the keys: replay, and flip bits in, what is seen of the innocent
/// connection. (Its own packets arrive; whoever can keep them from that needs no attack.)
#[test]
fn observers_who_replay_and_corrupt_change_nothing() {
    let terms = Terms {
        work: AMONG_OTHERS,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let (server, client) = (arena.server_addr(), arena.client_addr());
        arena.world.sleep(Duration::from_millis(30)).await;
        arena.world.listen(server, client);
        for _ in 0..20 {
            arena.world.sleep(Duration::from_millis(5)).await;
            for (from, to, datagram) in arena.world.overheard().into_iter().take(20) {
                arena.world.send(from, to, &datagram);
                for at in [0, 1, 9, datagram.len() - 1] {
                    let mut changed = datagram.clone();
                    changed[at.min(datagram.len() - 1)] ^= 0x10;
                    arena.world.send(from, to, &changed);
                }
            }
        }
    });
}

/// The same from another address: packets that were seen are duplicates, and move nobody.
#[test]
fn replays_from_elsewhere_do_not_move_a_connection() {
    let terms = Terms {
        work: AMONG_OTHERS,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let (server, client) = (arena.server_addr(), arena.client_addr());
        arena.world.sleep(Duration::from_millis(30)).await;
        arena.world.listen(server, client);
        let elsewhere = arena.address();
        for _ in 0..20 {
            arena.world.sleep(Duration::from_millis(8)).await;
            for (from, _, datagram) in arena.world.overheard().into_iter().take(20) {
                if from == client {
                    arena.world.send(elsewhere, server, &datagram);
                }
            }
        }
        assert_eq!(arena.world.traffic(server, elsewhere).datagrams, 0);
    });
}

/// RFC 9000 section 9.3.3: a copy that overtakes the original moves the connection to where it came
/// from, until the next packet of the client moves it back. Whoever can do this can hinder the
/// connection as they can by dropping packets; it must survive, and the wrong address must not be
/// flooded.
#[test]
fn copies_that_overtake_do_not_take_a_connection_away() {
    let terms = Terms {
        percent: 400,
        work: AMONG_OTHERS,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let (server, client) = (arena.server_addr(), arena.client_addr());
        arena.world.bring_attackers_near();
        arena.world.sleep(Duration::from_millis(30)).await;
        arena.world.listen(server, client);
        let mut moved = 0;
        // More addresses than are counted at a time.
        for _ in 0..20 {
            let elsewhere = arena.address();
            arena.world.sleep(Duration::from_millis(10)).await;
            for (from, _, datagram) in arena.world.overheard() {
                if from == client {
                    arena.world.send(elsewhere, server, &datagram);
                }
            }
            arena.world.sleep(Duration::from_millis(10)).await;
            let sent = arena.world.traffic(elsewhere, server).bytes;
            let got = arena.world.traffic(server, elsewhere).bytes;
            let limit = 3 * sent + LARGEST_DATAGRAM_BYTES;
            println!("{got} bytes for {sent} at {:?}", arena.world.elapsed());
            assert!(got <= limit, "{got} bytes for {sent}");
            moved += u64::from(got > 0);
        }
        assert!(moved > 8, "only {moved} addresses were faster");
    });
}

/// Ids that clients choose are looked up in a table of their own, keyed by the standard library's
/// randomised hash; ids that we choose cannot be chosen by them. What can be counted: a thousand
/// attempts with ids that differ in one byte each are discarded or answered like any others.
#[test]
fn chosen_connection_ids_are_like_any_others() {
    let terms = Terms {
        answers: 1.0,
        app: crate::arena::App::Retry,
        work: crate::handshake::ATTEMPT,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.stranger();
        evil.manners.handshake = false;
        for round in 0u16..1000 {
            let mut packet = evil.packet_of(Kind::Initial, &[Frame::Ping]);
            packet.dcid = [&[0; 6][..], &round.to_be_bytes()].concat();
            let keys = initial_keys(&packet.dcid, Side::Client);
            let datagram = packet.padded_to(1200).seal(&keys.local);
            evil.send_datagram(datagram);
            if round % 32 == 0 {
                evil.run(1).await;
            }
        }
        evil.rest().await;
        assert!(evil.counters().retries > 900, "{:?}", evil.counters());
        assert_eq!(evil.received(Space::Initial).len(), 0);
    });
}
