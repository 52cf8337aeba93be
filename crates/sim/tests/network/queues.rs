//! Bandwidth, delay, queues, ECN.

use std::time::Duration;

use polyquic_runtime::{DatagramSocket, Ecn, Runtime, Transmit};
use polyquic_sim::{Link, Queue};

use super::{Pair, millis};

#[test]
fn bandwidth_and_delay_take_their_time() {
    // 1000 bytes with headers take 8 ms at 1 Mbit/s.
    let pair = Pair::new(Link::new().bandwidth(1_000_000).delay(millis(30)));
    let arrivals = pair.sim.run(async {
        pair.send(3, 972, Duration::ZERO).await;
        let mut arrivals = Vec::new();
        for _ in 0..3 {
            pair.receiver.recv().await.unwrap();
            arrivals.push(pair.sim.elapsed());
        }
        arrivals
    });
    for (arrival, expected) in arrivals.iter().zip([38, 46, 54]) {
        let late = *arrival - millis(expected);
        assert!(late < millis(1), "{arrival:?} instead of {expected} ms");
    }
}

#[test]
fn a_full_queue_drops_its_tail() {
    let link = Link::new()
        .bandwidth(1_000_000)
        .queue(Queue::drop_tail(10_000));
    let pair = Pair::new(link);
    // One is being sent, ten wait.
    assert_eq!(pair.exchange(20, 972), (0..11).collect::<Vec<_>>());
    assert_eq!(pair.from.access().stats_up().overflowed, 9);
    assert_eq!(pair.from.access().stats_up().longest_wait, millis(80));
}

/// Send twice what the link takes, for five seconds; returns the average wait.
fn overload(queue: Queue) -> (Pair, Duration) {
    let pair = Pair::new(Link::new().bandwidth(1_000_000).queue(queue));
    pair.sim.run(async {
        pair.send(1250, 972, millis(4)).await;
        pair.received(Duration::from_secs(10)).await
    });
    let stats = pair.from.access().stats_up();
    let wait = stats.waited / stats.passed as u32;
    (pair, wait)
}

#[test]
fn codel_keeps_the_queue_shorter() {
    let (_, tail) = overload(Queue::drop_tail(100_000));
    let (pair, codel) = overload(Queue::codel(100_000, millis(5), millis(100)));
    assert!(codel < tail * 3 / 4, "{codel:?} against {tail:?}");
    assert!(pair.from.access().stats_up().overflowed > 10);
}

/// Send one packet that allows marks, and return what arrives of its mark.
fn mark(link: Link) -> Option<Ecn> {
    let pair = Pair::new(link);
    let mut socket = pair.from.bind(pair.from.addr(0)).unwrap();
    let transmit = Transmit {
        destination: pair.dst,
        contents: b"marked",
        segment_size: None,
        ecn: Some(Ecn::Ect0),
        src_ip: None,
    };
    pair.sim.run(async {
        let sent = std::future::poll_fn(|cx| socket.poll_send(cx, &transmit)).await;
        sent.unwrap();
        pair.receiver.recv().await.unwrap().ecn
    })
}

#[test]
fn marks_are_kept_set_and_erased() {
    assert_eq!(mark(Link::new()), Some(Ecn::Ect0));
    assert_eq!(mark(Link::new().mark(1.0)), Some(Ecn::Ce));
    assert_eq!(mark(Link::new().mark(1.0).bleach()), None);
}

#[test]
fn queues_mark_instead_of_dropping() {
    let (plain, _) = overload(Queue::codel(100_000, millis(5), millis(100)).with_ecn());
    // Raw sockets send packets that do not allow it.
    assert_eq!(plain.from.access().stats_up().marked, 0);
    assert!(plain.from.access().stats_up().overflowed > 0);
}

#[test]
fn a_send_buffer_holds_the_sender_back() {
    let pair = Pair::new(Link::new().bandwidth(1_000_000));
    pair.from.set_send_buffer(5_000);
    let mut socket = pair.from.bind(pair.from.addr(0)).unwrap();
    let contents = [0; 972];
    let transmit = Transmit {
        destination: pair.dst,
        contents: &contents,
        segment_size: None,
        ecn: None,
        src_ip: None,
    };
    let took = pair.sim.run(async {
        for _ in 0..100 {
            let sent = std::future::poll_fn(|cx| socket.poll_send(cx, &transmit)).await;
            sent.unwrap();
        }
        pair.sim.elapsed()
    });
    // All but what fits into the buffer had to be sent first.
    assert!(took > millis(700), "{took:?}");
    assert_eq!(pair.from.access().stats_up().lost, 0);
}

#[test]
fn links_change_while_packets_wait() {
    let pair = Pair::new(Link::new().bandwidth(1_000_000));
    let took = pair.sim.run(async {
        pair.send(100, 972, Duration::ZERO).await;
        pair.sim.sleep(millis(80)).await;
        pair.from
            .access()
            .set_up(Link::new().bandwidth(100_000_000));
        for _ in 0..100 {
            pair.receiver.recv().await.unwrap();
        }
        pair.sim.elapsed()
    });
    assert!(took > millis(80) && took < millis(100), "{took:?}");
}
