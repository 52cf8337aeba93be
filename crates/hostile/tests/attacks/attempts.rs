//! Attempts to connect, by the hundred, before and after a decision about them.

use std::net::SocketAddr;
use std::time::Duration;

use polyquic_endpoint::Incoming;
use polyquic_hostile::{Frame, Kind, Peer};

use crate::arena::{App, Arena, Evil, Terms, attack};
use crate::handshake::{ATTEMPT, HANDSHAKE};
use crate::heap::live_bytes;

/// Of [`Terms::server`] below.
const MAX_INCOMING: usize = 50;
const EACH_BYTES: u64 = 10_000;
const ALL_BYTES: u64 = 100_000;

/// An attempt by somebody whose address is not theirs: who, and a datagram.
fn attempt(arena: &Arena) -> (SocketAddr, Vec<u8>) {
    let mut evil = arena.stranger();
    evil.manners.handshake = false;
    evil.send_in(Kind::Initial, [Frame::crypto(0, &[1; 900])]);
    let datagram = evil.peer.poll_transmit().expect("it was just said");
    (arena.address(), datagram)
}

/// Until what was sent has arrived, and the application has heard of it.
async fn arrive(arena: &Arena) {
    arena.world.sleep(Duration::from_millis(12)).await;
}

/// Bytes alive at the ends of the network.
fn alive(arena: &Arena) -> isize {
    live_bytes() - arena.world.under_way_bytes() as isize
}

/// An application that decides nothing: attempts, and what comes after their first datagram, have limits.
#[test]
fn attempts_that_nobody_decides_on_are_bounded() {
    let terms = Terms {
        app: App::Hoard,
        // What waits, with the script's copies; what buffers round up; a batch that is just received.
        heap: MAX_INCOMING as isize * 8_000 + ALL_BYTES as isize * 3 / 2 + 2 * 65_536,
        work: ATTEMPT,
        answers: 0.0,
        server: |it| {
            it.max_incoming(MAX_INCOMING)
                .incoming_buffer_size(EACH_BYTES)
                .incoming_buffer_size_total(ALL_BYTES);
        },
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        // So that what is alive is what attackers sent.
        arena.alone().await;
        let discarded = arena.stats().datagrams_discarded;
        let mut attempts = Vec::new();
        for _ in 0..4 * MAX_INCOMING {
            let (from, datagram) = attempt(arena);
            arena.world.send(from, arena.server_addr(), &datagram);
            if attempts.len() < MAX_INCOMING {
                attempts.push((from, datagram));
            }
            arena.world.sleep(Duration::from_millis(1)).await;
        }
        arrive(arena).await;
        assert_eq!(arena.undecided.borrow().len(), MAX_INCOMING);
        let discarded = arena.stats().datagrams_discarded - discarded;
        assert_eq!(discarded as usize, 3 * MAX_INCOMING);

        let send = async |(from, datagram): &(SocketAddr, Vec<u8>)| {
            for _ in 0..30 {
                arena.world.send(*from, arena.server_addr(), datagram);
            }
            arrive(arena).await;
        };
        // A packet's record is larger than nothing, and tables double.
        let before = alive(arena);
        send(&attempts[0]).await;
        let grew = alive(arena) - before;
        let all = EACH_BYTES as isize;
        assert!((all / 2..all * 3 / 2).contains(&grew), "{grew} for one");
        for attempt in &attempts[1..] {
            send(attempt).await;
        }
        let grew = alive(arena) - before;
        let all = ALL_BYTES as isize;
        assert!((all / 2..all * 3 / 2).contains(&grew), "{grew} for all");
        // None of it was another attempt.
        assert_eq!(arena.undecided.borrow().len(), MAX_INCOMING);
        arena
            .undecided
            .take()
            .into_iter()
            .for_each(Incoming::ignore);
    });
}

/// With receive offload, a first packet is a slice of a buffer of 64 KiB, most of which may be junk.
#[test]
fn first_packets_among_junk_keep_no_buffers() {
    let terms = Terms {
        app: App::Hoard,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        for _ in 0..MAX_INCOMING {
            let (from, datagram) = attempt(arena);
            let junk = vec![0; datagram.len()];
            arena.world.send(from, arena.server_addr(), &datagram);
            for _ in 0..50 {
                arena.world.send(from, arena.server_addr(), &junk);
            }
            arena.world.sleep(Duration::from_millis(1)).await;
        }
        arrive(arena).await;
        arena.sample();
        assert_eq!(arena.undecided.borrow().len(), MAX_INCOMING);
        arena
            .undecided
            .take()
            .into_iter()
            .for_each(Incoming::ignore);
    });
}

/// What [`Endpoint`](polyquic_endpoint::Endpoint) keeps of stateless answers until they are sent.
const MAX_RESPONSES: usize = 256;

/// More refusals at once than wait to be sent: the others are dropped, and counted.
#[test]
fn refusals_beyond_what_waits_to_be_sent_are_dropped() {
    const REFUSALS: usize = MAX_RESPONSES + 44;
    let terms = Terms {
        app: App::Hoard,
        answers: 1.0,
        heap: REFUSALS as isize * 6_000,
        work: ATTEMPT,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        for _ in 0..REFUSALS {
            let (from, datagram) = attempt(arena);
            arena.world.send(from, arena.server_addr(), &datagram);
            arena.world.sleep(Duration::from_millis(1)).await;
        }
        arrive(arena).await;
        let attempts = arena.undecided.take();
        assert_eq!(attempts.len(), REFUSALS);
        attempts.into_iter().for_each(Incoming::refuse);
        assert_eq!(arena.stats().responses_dropped, 44);
        arrive(arena).await;
        let [_, (answers, _)] = arena.attack_traffic();
        assert_eq!(answers as usize, MAX_RESPONSES);
    });
}

/// Give a stranger a Retry token, and send what it sends with it: the attempt, and these datagrams.
async fn validated(arena: &Arena, peer: &mut Evil<'_>) -> (Incoming, Vec<Vec<u8>>) {
    peer.start();
    peer.run(12).await;
    let first = arena.undecided.borrow_mut().pop().expect("an attempt");
    assert!(arena.undecided.borrow().is_empty());
    first.retry().expect("it bears no token");
    arrive(arena).await;
    let (_, retry) = peer.socket.try_recv().expect("a Retry");
    peer.handle_datagram(&retry);
    let datagrams: Vec<_> = std::iter::from_fn(|| peer.peer.poll_transmit()).collect();
    for datagram in &datagrams {
        peer.socket.send(peer.to, datagram);
    }
    arrive(arena).await;
    let attempt = arena.undecided.borrow_mut().pop().expect("an attempt");
    (attempt, datagrams)
}

/// CVE-2024-45311: an attempt with a Retry token is declined, in each way, and its packets come again.
#[test]
fn packets_of_declined_attempts_that_come_again_do_no_harm() {
    const CONNECTION_REFUSED: u64 = 0x02;
    let terms = Terms {
        app: App::Hoard,
        ..Terms::default()
    };
    let decisions: [fn(Incoming); 3] = [Incoming::refuse, Incoming::ignore, |it| {
        it.retry().unwrap_err().into_incoming().refuse()
    }];
    attack(&terms, async |arena| {
        for (number, decide) in decisions.iter().enumerate() {
            let mut evil = arena.stranger();
            let (attempt, datagrams) = validated(arena, &mut evil).await;
            assert!(attempt.remote_address_validated() && !attempt.may_retry());
            let again = async || {
                for datagram in datagrams.iter().cycle().take(6) {
                    evil.socket.send(evil.to, datagram);
                }
                arrive(arena).await;
                arena.undecided.take()
            };
            assert!(again().await.is_empty(), "there is an attempt already");
            decide(attempt);
            // Now there is none, and what comes is another one.
            let more = again().await;
            assert_eq!(more.len(), 1);
            more.into_iter().for_each(Incoming::ignore);
            evil.run(12).await;
            let refused = (number != 1).then_some(CONNECTION_REFUSED);
            assert_eq!(evil.close_code(), refused);
        }
        let mut evil = arena.stranger();
        let (attempt, datagrams) = validated(arena, &mut evil).await;
        let connecting = attempt.accept().unwrap();
        for datagram in &datagrams {
            evil.socket.send(evil.to, datagram);
        }
        evil.until(Peer::is_confirmed).await;
        let connection = connecting.await.unwrap();
        assert!(arena.undecided.borrow().is_empty());
        evil.still_open().await;
        drop(connection);
    });
}

/// quinn-proto takes a Retry token again and again, with any connection id, from the address that got it,
/// for 15 seconds. Each time is a handshake to which RFC 9000 section 8.1 sets no limit: the address was
/// proved. They cost what handshakes cost, and end like any that are not finished.
#[test]
fn retry_tokens_that_are_replayed_buy_handshakes_that_end() {
    const REPLAYS: usize = 200;
    let terms = Terms {
        app: App::Retry,
        // As `handshakes_that_are_never_finished_…`.
        heap: REPLAYS as isize * 60_000,
        work: HANDSHAKE,
        // One datagram each, or two with a post-quantum key exchange, and no limit to how often the answer
        // is sent again.
        answers: 14.0,
        ..Terms::default()
    };
    attack(&terms, async |arena| {
        let mut owner = arena.stranger();
        owner.start();
        owner.until(Peer::is_confirmed).await;
        let token = owner.token().to_vec();
        let replay = || {
            let mut other = arena.stranger();
            other.set_token(&token);
            other.start();
            arena.say_as(owner.socket.addr(), &mut other.peer);
        };
        let accepted = arena.stats().accepted_handshakes;
        for _ in 0..REPLAYS {
            replay();
            arena.world.sleep(Duration::from_millis(2)).await;
        }
        arrive(arena).await;
        let after = arena.stats().accepted_handshakes;
        assert_eq!((after - accepted) as usize, REPLAYS);
        arena.world.sleep(Duration::from_secs(40)).await;
        assert_eq!(arena.server.open_connections(), 0);
        // It has expired: the answer is INVALID_TOKEN, and no connection.
        replay();
        arrive(arena).await;
        assert_eq!(arena.stats().accepted_handshakes, after);
        assert_eq!(arena.server.open_connections(), 0);
    });
}
