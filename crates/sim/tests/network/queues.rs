//! Bandwidth, delay, queues, ECN.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use polyquic_runtime::{DatagramSocket, Ecn, Runtime, Transmit};
use polyquic_sim::{Internet, Link, LinkStats, Queue, SimSocket};

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

/// Send twice what the link takes, 200 packets, which may be marked or may not; returns what became of
/// them.
fn crowd(queue: Queue, ecn: Option<Ecn>) -> LinkStats {
    let pair = Pair::new(Link::new().bandwidth(1_000_000).queue(queue));
    let mut socket = pair.from.bind(pair.from.addr(0)).unwrap();
    let contents = [0; 972];
    let transmit = Transmit {
        destination: pair.dst,
        contents: &contents,
        segment_size: None,
        ecn,
        src_ip: None,
    };
    pair.sim.run(async {
        for _ in 0..200 {
            let sent = std::future::poll_fn(|cx| socket.poll_send(cx, &transmit)).await;
            sent.unwrap();
            pair.sim.sleep(millis(4)).await;
        }
        pair.sim.sleep(Duration::from_secs(10)).await;
    });
    pair.from.access().stats_up()
}

#[test]
fn queues_mark_instead_of_dropping() {
    let queue = Queue::codel(200_000, millis(5), millis(100)).with_ecn();
    let marked = crowd(queue, Some(Ecn::Ect0));
    assert!(marked.marked > 0);
    assert_eq!(marked.overflowed, 0);
    assert_eq!(marked.passed, 200);
    // What does not allow it is dropped.
    let dropped = crowd(queue, None);
    assert_eq!(dropped.marked, 0);
    assert!(dropped.overflowed > 0);
}

#[test]
fn a_queue_without_codel_marks_when_it_is_half_full() {
    // Of 200 packets, which come at twice the link's rate, half wait in the end.
    let queue = |bytes| Queue::drop_tail(bytes).with_ecn();
    let marked = crowd(queue(150_000), Some(Ecn::Ect0)).marked;
    // 75 wait when 150 have come.
    assert!((40..60).contains(&marked), "{marked} marked");
    assert_eq!(crowd(queue(150_000), None).marked, 0);
    assert_eq!(crowd(queue(400_000), Some(Ecn::Ect0)).marked, 0);
    assert_eq!(
        crowd(Queue::drop_tail(150_000), Some(Ecn::Ect0)).marked,
        0,
        "nobody asked for marks"
    );
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

/// Send 100 datagrams of 1000 bytes with headers by `socket`, of which 5000 bytes may wait; returns
/// how long it took.
fn paced(pair: &Pair, mut socket: SimSocket, dst: SocketAddr, src_ip: Option<IpAddr>) -> Duration {
    pair.from.set_send_buffer(5_000);
    let contents = [0; 972];
    let transmit = Transmit {
        destination: dst,
        contents: &contents,
        segment_size: None,
        ecn: None,
        src_ip,
    };
    let start = pair.sim.elapsed();
    pair.sim.run(async {
        for _ in 0..100 {
            let sent = std::future::poll_fn(|cx| socket.poll_send(cx, &transmit)).await;
            sent.unwrap();
        }
    });
    pair.sim.elapsed() - start
}

#[test]
fn a_send_buffer_is_that_of_the_link_that_is_used() {
    let slow = || Link::new().bandwidth(1_000_000);
    let any = "0.0.0.0:0".parse().unwrap();
    // To itself, by the loopback.
    let pair = Pair::new(Link::new());
    pair.from.set_loopback(slow());
    let socket = pair.from.bind(any).unwrap();
    let took = paced(&pair, socket, pair.from.addr(1000), None);
    assert!(took > millis(700), "{took:?}");
    // By an interface that it does not prefer, as the datagram says.
    let pair = Pair::new(Link::new());
    let other = pair.from.add_interface(Internet, slow());
    let socket = pair.from.bind(any).unwrap();
    let took = paced(&pair, socket, pair.dst, Some(other.ip()));
    assert!(took > millis(700), "{took:?}");
    // What waits elsewhere holds nobody back.
    let pair = Pair::new(slow());
    let other = pair.from.add_interface(Internet, Link::new());
    let socket = pair.from.bind(any).unwrap();
    let took = pair.sim.run(async {
        pair.send(50, 972, Duration::ZERO).await;
        pair.sim.elapsed()
    });
    assert!(took < millis(1), "{took:?}");
    let took = paced(&pair, socket, pair.dst, Some(other.ip()));
    assert!(took < millis(1), "{took:?}");
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
