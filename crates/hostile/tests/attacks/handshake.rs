//! Before and during handshakes: nothing is proved yet.

use std::time::Duration;

use polyquic_hostile::{Frame, Kind, Params, Peer, id};

use crate::arena::{App, Arena, Evil, Terms, attack};
use crate::code::*;
use crate::heap::Work;

/// What a first packet costs: keys are derived from its connection id, and a token is sealed.
pub(crate) const ATTEMPT: Work = Work {
    allocations: 50,
    bytes: 10_000,
};

/// What a datagram of a handshake costs: TLS is begun, and its answer is sent a few times. Measured: 250 and
/// 68,000 where a ClientHello is one datagram, half of it where it is two.
pub(crate) const HANDSHAKE: Work = Work {
    allocations: 400,
    bytes: 100_000,
};

#[test]
fn transport_parameters_that_cannot_be_are_refused() {
    let set = |id, value| {
        let mut params = Params::default();
        params.set_integer(id, value);
        params
    };
    let bytes = |id, value: &[u8]| {
        let mut params = Params::default();
        params.set(id, value);
        params
    };
    let mut cases = vec![
        set(id::MAX_UDP_PAYLOAD_SIZE, 1199),
        set(id::ACK_DELAY_EXPONENT, 21),
        set(id::MAX_ACK_DELAY, 1 << 14),
        set(id::ACTIVE_CONNECTION_ID_LIMIT, 1),
        set(id::INITIAL_MAX_STREAMS_BIDI, (1 << 60) + 1),
        set(id::INITIAL_MAX_STREAMS_UNI, (1 << 60) + 1),
        // Only servers may send these.
        bytes(id::ORIGINAL_DCID, &[1; 8]),
        bytes(id::RETRY_SCID, &[1; 8]),
        bytes(id::STATELESS_RESET_TOKEN, &[1; 16]),
        bytes(id::PREFERRED_ADDRESS, &[1; 49]),
        // Values of the wrong length.
        bytes(id::DISABLE_ACTIVE_MIGRATION, &[1]),
        bytes(id::INITIAL_MAX_DATA, &[]),
        bytes(id::INITIAL_MAX_DATA, &[0, 0]),
        bytes(id::MAX_ACK_DELAY, &[0x40]),
    ];
    // Twice; cut off (CVE-2026-31812); without, and with another connection id.
    let mut params = Params::default();
    cases.push(params.add(id::INITIAL_MAX_DATA, &[1]).clone());
    for tail in [
        &[0x01][..],
        &[0x40],
        &[0x04, 0x08, 1],
        &[0x04, 0xff],
        &[0x0f, 0x15, 1],
    ] {
        cases.push(Params::default().tail(tail).clone());
    }
    cases.push(Params::default().exactly().clone());
    cases.push(bytes(id::INITIAL_SCID, &[1; 8]).exactly().clone());
    let terms = Terms {
        // They linger for three probe timeouts after the close, as closed connections do.
        heap: cases.len() as isize * 40_000,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        for params in &cases {
            println!("{params:?}");
            let mut evil = arena.stranger_with(params);
            evil.start();
            evil.closed_with(TRANSPORT_PARAMETER_ERROR).await;
        }
    });
}

#[test]
fn transport_parameters_that_nobody_knows_are_ignored() {
    attack(&Terms::default(), async |arena| {
        let mut params = Params::default();
        for unknown in 0..30 {
            params.set(31 * (unknown + 100) + 27, &[0xff; 20]);
        }
        arena.connect_with(&params).await.still_open().await;
    });
}

/// A ClientHello that never ends: TLS gets no more than QUIC's buffer holds.
#[test]
fn client_hello_without_end_is_cut_off() {
    attack(&Terms::default(), async |arena| {
        // In order: TLS is the one to say that a message of 16 MB is too much.
        let mut evil = arena.stranger();
        evil.manners.handshake = false;
        let endless = [&[1, 0xff, 0xff, 0xff][..], &[0; 900]].concat();
        evil.send_in(Kind::Initial, [Frame::crypto(0, &endless)]);
        for piece in 1..200 {
            evil.send_in(Kind::Initial, [Frame::crypto(904 * piece, &[0; 904])]);
            evil.run(1).await;
        }
        // It has no alert for that.
        evil.closed_with(PROTOCOL_VIOLATION).await;

        // With a hole in front: there are 16 KiB of room.
        let mut evil = arena.stranger();
        evil.manners.handshake = false;
        for piece in 0..40 {
            evil.send_in(Kind::Initial, [Frame::crypto(1 + 904 * piece, &[0; 904])]);
            evil.run(1).await;
        }
        evil.closed_with(CRYPTO_BUFFER_EXCEEDED).await;
    });
}

/// Not enough to be answered. How long a ClientHello is depends on the key exchanges it offers.
fn half(hello: &[u8]) -> &[u8] {
    &hello[..hello.len() / 2]
}

/// Strangers who send half a ClientHello, or all of it and then nothing.
#[test]
fn handshakes_that_are_never_finished_cost_little_and_end() {
    const STRANGERS: usize = 300;
    let terms = Terms {
        // A connection in its handshake: the machine, TLS, and the flight that waits to be
        // acknowledged, with the attacker's own half of that.
        heap: STRANGERS as isize * 60_000,
        work: HANDSHAKE,
        answers: 6.0,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut all = Vec::new();
        for stranger in 0..STRANGERS {
            let mut evil = arena.stranger();
            if stranger % 2 == 0 {
                evil.start();
                evil.manners.finished = false;
            } else {
                let hello = evil.client_hello();
                evil.manners.handshake = false;
                evil.send_in(Kind::Initial, [Frame::crypto(0, half(&hello))]);
            }
            evil.run(2).await;
            all.push(evil);
        }
        arena.world.sleep(Duration::from_millis(12)).await;
        assert!(arena.server.open_connections() >= STRANGERS);
        arena.world.sleep(Duration::from_secs(40)).await;
        assert_eq!(arena.server.open_connections(), 0);
    });
}

/// Before the path's MTU is known.
const LARGEST_DATAGRAM_BYTES: u64 = 1200;

/// The limit of RFC 9000 section 8.1, for each address, over the life of each attempt.
#[test]
fn nobody_is_sent_more_than_three_times_what_came_in_their_name() {
    const VICTIMS: isize = 300;
    attack(
        &Terms {
            // Some are acknowledgements; bytes are what counts here.
            answers: 5.0,
            heap: VICTIMS * 60_000,
            work: HANDSHAKE,
            ..Terms::default()
        },
        async |arena| {
            let mut named = Vec::new();
            for _ in 0..VICTIMS {
                // The address is somebody else's: nothing that is sent there comes back.
                let mut evil = arena.stranger();
                evil.start();
                let victim = arena.address();
                while let Some(datagram) = evil.peer.poll_transmit() {
                    arena.world.send(victim, arena.server_addr(), &datagram);
                }
                named.push(victim);
                arena.world.sleep(Duration::from_millis(3)).await;
            }
            arena.world.sleep(Duration::from_secs(40)).await;
            let mut answered = 0;
            for victim in named {
                let sent = arena.world.traffic(victim, arena.server_addr()).bytes;
                let got = arena.world.traffic(arena.server_addr(), victim).bytes;
                // quinn-proto lets a datagram begin as long as a byte is left (quinn#1082).
                let limit = 3 * sent + LARGEST_DATAGRAM_BYTES - 1;
                assert!(got <= limit, "{got} bytes for {sent}");
                answered += u64::from(got > 0);
            }
            assert_eq!(answered, VICTIMS as u64);
        },
    );
}

#[test]
fn with_retry_spoofed_initials_leave_nothing_behind() {
    let terms = Terms {
        app: App::Retry,
        answers: 1.0,
        work: ATTEMPT,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let open = arena.server.open_connections();
        for _ in 0..500 {
            let mut evil = arena.stranger();
            evil.manners.handshake = false;
            let hello = [1; 600];
            evil.send_in(Kind::Initial, [Frame::crypto(0, &hello)]);
            evil.exchange();
            arena.world.sleep(Duration::from_micros(100)).await;
        }
        arena.world.sleep(Duration::from_millis(20)).await;
        assert!(arena.server.open_connections() <= open + 1);
        let [(_, from), (_, to)] = arena.attack_traffic();
        assert!(to < from / 4, "{to} bytes for {from}");
    });
}

#[test]
fn retry_token_is_good_for_its_address_only() {
    let terms = Terms {
        app: App::Retry,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut owner = arena.stranger();
        owner.start();
        owner.until(Peer::is_confirmed).await;
        let token = owner.token().to_vec();
        assert!(!token.is_empty());

        let mut thief = arena.stranger();
        thief.set_token(&token);
        thief.start();
        thief.closed_with(INVALID_TOKEN).await;
    });
}

#[test]
fn retry_token_that_has_expired_is_refused() {
    let terms = Terms {
        app: App::Retry,
        server: |it| {
            it.retry_token_lifetime(Duration::from_secs(15));
            it.time_source(std::sync::Arc::new(Leaping));
        },
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        // Its clock leaps once the address below has got a token.
        let mut late = arena.stranger();
        LEAP.set(false);
        late.start();
        late.until(|it| it.counters().retries == 1).await;
        LEAP.set(true);
        late.until(|it| it.close().is_some()).await;
        assert_eq!(late.close_code(), Some(INVALID_TOKEN));
        LEAP.set(false);
    });
}

thread_local! {
    static LEAP: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A clock that stands still, or a minute later.
struct Leaping;

impl polyquic_core::TimeSource for Leaping {
    fn now(&self) -> std::time::SystemTime {
        let minute = u64::from(LEAP.get()) * 60;
        std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + minute)
    }
}

#[test]
fn tokens_of_any_size_are_ignored_if_they_are_nobodys() {
    attack(&Terms::default(), async |arena| {
        for len in [1, 16, 64, 200, 700] {
            let mut evil = arena.stranger();
            evil.set_token(&vec![0xa5; len]);
            evil.start();
            evil.until(Peer::is_confirmed).await;
        }
        // So large that there is no room for anything else.
        let mut evil = arena.stranger();
        evil.manners.handshake = false;
        evil.set_token(&[0xa5; 1090]);
        let packet = evil.packet_of(Kind::Initial, &[Frame::Ping]);
        evil.send_packet(&packet);
        evil.run(20).await;
    });
}

fn unknown_version(evil: &mut Evil<'_>, len: usize) -> Vec<u8> {
    let mut packet = evil.packet_of(Kind::Initial, &[]);
    packet.version = 0x0bad_cafe;
    let mut datagram = evil.seal(&packet);
    datagram.truncate(len);
    datagram
}

#[test]
fn short_datagrams_of_unknown_versions_are_not_answered() {
    let terms = Terms {
        answers: 0.0,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut evil = arena.stranger();
        for len in [7, 30, 100, 600, 1199] {
            for _ in 0..100 {
                let datagram = unknown_version(&mut evil, len);
                evil.send_datagram(datagram);
            }
            evil.run(2).await;
        }
        evil.rest().await;
        assert_eq!(evil.counters().datagrams_in, 0);
        let datagram = unknown_version(&mut evil, 1200);
        evil.send_datagram(datagram);
        evil.until(|it| it.counters().version_negotiations == 1)
            .await;
        assert!(evil.counters().bytes_in < 100);
    });
}

#[test]
fn initial_packets_in_short_datagrams_are_not_answered() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.stranger();
        let hello = evil.client_hello();
        let mut packet = evil.packet_of(Kind::Initial, &[]);
        packet.payload = Frame::encode_all(&[Frame::crypto(0, half(&hello))]);
        evil.send_packet(&packet);
        evil.rest().await;
        assert_eq!(evil.counters().datagrams_in, 0);
    });
}

#[test]
fn short_connection_ids_made_up_by_clients_are_a_violation() {
    attack(&Terms::default(), async |arena| {
        // The innocent connection is accepted by then.
        arena.world.sleep(Duration::from_millis(50)).await;
        let accepted = arena.stats().accepted_handshakes;
        for len in 0..8 {
            let mut evil = arena.stranger_who_names(&[7; 20][..len]);
            let hello = evil.client_hello();
            evil.manners.handshake = false;
            evil.send_in(Kind::Initial, [Frame::crypto(0, half(&hello))]);
            evil.closed_with(PROTOCOL_VIOLATION).await;
            assert_eq!(evil.counters().datagrams_in, 1);
        }
        assert_eq!(arena.stats().accepted_handshakes, accepted);
    });
}

/// Packets of several connections in a datagram (RFC 9000 section 12.2), lengths that lie, and
/// tails that are not packets.
#[test]
fn coalesced_packets_are_taken_one_by_one() {
    attack(&Terms::default(), async |arena| {
        let mut other = arena.connect().await;
        let mut evil = arena.connect().await;
        // A packet of another connection behind one's own is dropped, and so is what follows a lie.
        let own = evil.packet_of(Kind::OneRtt, &[Frame::Ping]);
        let own = evil.seal(&own);
        let theirs = other.packet_of(Kind::OneRtt, &[Frame::HandshakeDone]);
        let theirs = other.seal(&theirs);
        evil.send_datagram([own, theirs].concat());
        evil.rest().await;
        other.still_open().await;

        for length in [0, 1, 19, 20, 1_000, 16_000, (1 << 30) - 1] {
            let mut evil = arena.stranger();
            let hello = evil.client_hello();
            let mut packet = evil.packet_of(Kind::Initial, &[Frame::crypto(0, half(&hello))]);
            packet.length = Some(length);
            evil.send_packet(&packet);
            evil.run(20).await;
        }

        // Hundreds of packets of seven bytes.
        let mut evil = arena.stranger();
        evil.start();
        let tiny = [0xe0, 0, 0, 0, 1, 0, 0, 0].repeat(150);
        for _ in 0..100 {
            evil.send_datagram(tiny.clone());
        }
        evil.until(Peer::is_confirmed).await;
    });
}

/// Unacknowledged Initial and Handshake packets after the handshake, by an observer: their keys are
/// gone, and whoever has them gains nothing.
#[test]
fn initial_packets_after_the_handshake_change_nothing() {
    attack(&Terms::default(), async |arena| {
        let mut evil = arena.connect().await;
        for _ in 0..100 {
            evil.send_in(Kind::Initial, [Frame::close(0)]);
            evil.send_in(Kind::Handshake, [Frame::close(0)]);
        }
        evil.run(5).await;
        evil.still_open().await;
    });
}

/// Send only the first packet of a ClientHello, so that the server waits for more; what is held back.
async fn begin(evil: &mut Evil<'_>) -> Vec<Vec<u8>> {
    // Less than any ClientHello has.
    evil.manners.piece_bytes = 150;
    evil.start();
    let first = evil.peer.poll_transmit().unwrap();
    let rest: Vec<_> = std::iter::from_fn(|| evil.peer.poll_transmit()).collect();
    assert!(!rest.is_empty(), "a ClientHello of one packet");
    evil.send_datagram(first);
    evil.run(12).await;
    rest
}

/// Whoever sees a client's first packet can end its handshake (RFC 9000 section 21.2, RFC 9001
/// section 5): Initial packets are not protected against them. Nobody else's suffers.
#[test]
fn observers_can_end_a_handshake_but_no_other() {
    attack(&Terms::default(), async |arena: &Arena| {
        let mut watched = arena.stranger();
        begin(&mut watched).await;
        let mut other = arena.stranger();
        let rest = begin(&mut other).await;
        let mut forged = watched.packet_of(Kind::Initial, &[Frame::close(0)]);
        forged.dcid = watched.original_dcid().to_vec();
        watched.send_packet(&forged);
        watched.run(12).await;
        // The innocent connection is over by then; what is open is the handshake that nobody touched.
        arena.world.sleep(Duration::from_secs(10)).await;
        assert_eq!(arena.server.open_connections(), 1);
        for datagram in rest {
            other.send_datagram(datagram);
        }
        other.until(Peer::is_confirmed).await;
    });
}

/// With the id of a handshake and no more: everything that needs no keys, and junk.
#[test]
fn junk_with_an_observed_id_does_not_end_a_handshake() {
    attack(&Terms::default(), async |arena: &Arena| {
        let mut watched = arena.stranger();
        let rest = begin(&mut watched).await;
        let cid = watched.original_dcid().to_vec();
        let from = watched.socket.addr();
        let accepted = arena.stats().accepted_handshakes;
        for kind in [Kind::Initial, Kind::Handshake] {
            for first in [0xc0, 0xd0, 0xe0] {
                let mut packet = watched.packet_of(Kind::Initial, &[]);
                packet.kind = kind;
                packet.dcid.clone_from(&cid);
                let wrong = polyquic_hostile::initial_keys(
                    b"another!",
                    polyquic_core::rustls::Side::Client,
                );
                let mut junk = packet.seal(&wrong.local);
                junk[0] = first | (junk[0] & 0x0f);
                arena.world.send(from, arena.server_addr(), &junk);
            }
        }
        watched.run(12).await;
        assert_eq!(watched.close(), None);
        for datagram in rest {
            watched.send_datagram(datagram);
        }
        watched.until(Peer::is_confirmed).await;
        watched.still_open().await;
        // It was that handshake which was completed, and there was no other.
        assert_eq!(arena.stats().accepted_handshakes, accepted);
    });
}

/// What must not be in early data (RFC 9000 section 12.4).
#[test]
fn handshake_messages_in_early_data_are_a_violation() {
    attack(&Terms::default(), async |arena| {
        let tls = std::sync::Arc::new(polyquic_testkit::fixtures::client_tls(None));
        let mut first = arena.stranger_of(tls.clone());
        first.start();
        first.until(Peer::is_confirmed).await;
        first.rest().await;
        let mut second = arena.stranger_of(tls);
        second.start();
        second.send_in(Kind::ZeroRtt, [Frame::crypto(0, b"x")]);
        second.closed_with(PROTOCOL_VIOLATION).await;
    });
}
