//! Loss, duplication, disorder, damage, MTU, cuts.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use polyquic_sim::{Fate, Link, NatConfig, Sim, TooLarge, Verdict};

use super::{Pair, millis};

#[test]
fn a_perfect_link_delivers_at_once_and_in_order() {
    let pair = Pair::new(Link::new());
    let received = pair.exchange(1000, 100);
    assert_eq!(received, (0..1000).collect::<Vec<_>>());
}

#[test]
fn losses_have_their_probability() {
    let pair = Pair::new(Link::new().loss(0.1));
    let received = pair.exchange(10_000, 10).len();
    assert!((8_850..9_150).contains(&received), "{received} arrived");
    assert_eq!(pair.from.access().stats_up().lost, 10_000 - received as u64);
}

#[test]
fn bursts_are_as_long_as_they_should_be() {
    let pair = Pair::new(Link::new().bursts(0.01, 0.25));
    let received = pair.exchange(20_000, 10);
    let gaps: Vec<_> = received
        .windows(2)
        .map(|pair| pair[1] - pair[0] - 1)
        .filter(|&gap| gap > 0)
        .collect();
    let lost: u32 = gaps.iter().sum();
    let mean = f64::from(lost) / gaps.len() as f64;
    assert!((3.0..5.0).contains(&mean), "bursts of {mean} on average");
    assert!((500..1100).contains(&lost), "{lost} were lost");
}

#[test]
fn duplicates_arrive_twice() {
    let pair = Pair::new(Link::new().duplicate(0.5));
    let received = pair.exchange(1000, 10);
    assert!((1_400..1_600).contains(&received.len()));
    let mut once = received.clone();
    once.dedup();
    assert_eq!(once, (0..1000).collect::<Vec<_>>());
}

#[test]
fn jitter_keeps_the_order_and_disorder_does_not() {
    let spread = |link| {
        let pair = Pair::new(link);
        pair.exchange(1000, 10)
    };
    let jitter = spread(Link::new().jitter(millis(10)));
    assert!(jitter.is_sorted());
    let disorder = spread(Link::new().disorder(millis(10)));
    assert_eq!(disorder.len(), 1000);
    assert!(!disorder.is_sorted());
    let held_back = spread(Link::new().delay(millis(1)).reorder(0.1, millis(5)));
    let late = held_back.windows(2).filter(|it| it[0] > it[1]).count();
    assert!(late > 0, "nobody was overtaken");
}

#[test]
fn damage_is_one_bit() {
    let pair = Pair::new(Link::new().corrupt(1.0));
    let payload = [0x55; 50];
    pair.sender.send_to(&payload, pair.dst).unwrap();
    let received = pair.sim.run(pair.receiver.recv()).unwrap();
    let flipped: u32 = received
        .payload
        .iter()
        .zip(payload)
        .map(|(a, b)| (a ^ b).count_ones())
        .sum();
    assert_eq!(flipped, 1);
}

#[test]
fn what_is_too_large_vanishes() {
    let pair = Pair::new(Link::new().mtu(1300, TooLarge::Vanishes));
    // 28 bytes of headers.
    assert_eq!(pair.exchange(3, 1272).len(), 3);
    assert_eq!(pair.exchange(3, 1273).len(), 0);
    assert_eq!(pair.from.access().stats_up().lost, 3);
}

#[test]
fn what_is_too_large_can_be_reported() {
    let pair = Pair::new(Link::new());
    pair.to
        .access()
        .set_down(Link::new().mtu(1300, TooLarge::Reported));
    assert_eq!(pair.exchange(3, 1400).len(), 0);
    // The first one alone got as far as the link; the host knows better then.
    assert_eq!(pair.exchange(5, 1400).len(), 0);
    assert!(pair.from.access().stats_up().offered < 8);
    assert_eq!(pair.exchange(5, 1200).len(), 5);
    // After a while it asks again.
    pair.to.access().set_down(Link::new());
    assert_eq!(pair.exchange(5, 1400).len(), 0);
    pair.sim.run(pair.sim.sleep(Duration::from_secs(600)));
    assert_eq!(pair.exchange(5, 1400).len(), 5);
}

/// A client behind two NATs, a server behind one that lets anybody in; too narrow is a link between
/// them, or the server's own.
#[test]
fn what_is_too_large_is_reported_through_nats() {
    for inside in [false, true] {
        let sim = Sim::new(7);
        let outer = sim.nat("outer", NatConfig::default(), Link::new());
        let inner = sim.nat_below("inner", &outer, NatConfig::default(), Link::new());
        let client = sim.host_below("client", &inner, Link::new());
        let theirs = sim.nat("theirs", NatConfig::default().full_cone(), Link::new());
        let server = sim.host_below("server", &theirs, Link::new());
        let to_client = client.udp(client.addr(1)).unwrap();
        let to_server = server.udp(server.addr(1)).unwrap();
        // Opens a port.
        let stranger = sim.host("stranger");
        let listener = stranger.udp(stranger.addr(1)).unwrap();
        to_server.send_to(b"hello", stranger.addr(1)).unwrap();
        let dst = sim.run(listener.recv()).unwrap().src;

        let narrow = Link::new().mtu(1300, TooLarge::Reported);
        match inside {
            true => server.access().set_down(narrow),
            false => theirs.access().set_down(narrow),
        }
        sim.record();
        for _ in 0..2 {
            to_client.send_to(&[0; 1400], dst).unwrap();
            sim.run(sim.sleep(millis(1)));
        }
        let dropped: Vec<_> = sim
            .events()
            .iter()
            .filter(|it| it.fate == Fate::TooLarge)
            .map(|it| it.src.ip())
            .collect();
        // The first one out there, the second one by the host, which knows better.
        assert_eq!(dropped, [outer.ip(), client.ip()], "inside: {inside}");
        to_client.send_to(&[0; 1200], dst).unwrap();
        sim.run(to_server.recv()).unwrap();
    }
}

#[test]
fn a_cut_may_be_one_way() {
    let pair = Pair::new(Link::new());
    pair.from.access().cut_down(true);
    assert_eq!(pair.exchange(2, 10).len(), 2);
    pair.receiver
        .send_to(b"back", pair.from.addr(1000))
        .unwrap();
    pair.sim.run(pair.sim.sleep(millis(1)));
    assert!(pair.sender.try_recv().is_none());
    pair.from.access().cut();
    assert_eq!(pair.exchange(2, 10).len(), 0);
    pair.from.access().mend();
    assert_eq!(pair.exchange(2, 10).len(), 2);
}

#[test]
fn a_filter_chooses_and_changes() {
    let pair = Pair::new(Link::new());
    let seen = Rc::new(Cell::new(0));
    let counter = seen.clone();
    pair.from.access().filter_up(move |packet| {
        counter.set(counter.get() + 1);
        packet.payload[3] = 1;
        if counter.get() == 2 {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    });
    let third = 1 << 24;
    assert_eq!(pair.exchange(3, 10), [third, third + 2]);
    assert_eq!(seen.get(), 3);
}

#[test]
fn what_happens_can_be_recorded() {
    let pair = Pair::new(Link::new().loss(1.0));
    pair.sim.record();
    pair.exchange(1, 10);
    let fates: Vec<_> = pair.sim.events().iter().map(|it| it.fate).collect();
    assert_eq!(fates, [Fate::Sent, Fate::Lost]);
}

#[test]
fn nobody_hears_what_goes_nowhere() {
    let pair = Pair::new(Link::new());
    pair.sim.record();
    for dst in [pair.to.addr(2001), "10.0.200.200:1".parse().unwrap()] {
        pair.sender.send_to(b"hello", dst).unwrap();
    }
    pair.sim.run(pair.sim.sleep(millis(1)));
    let fates: Vec<_> = pair.sim.events().iter().map(|it| it.fate).collect();
    assert!(fates.contains(&Fate::NobodyListens));
    assert!(fates.contains(&Fate::NoRoute));
}
