//! Hosts, their clocks, and time itself.

use std::cell::RefCell;
use std::future::pending;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use polyquic_endpoint::{sleep, timeout};
use polyquic_runtime::Runtime;
use polyquic_sim::{Internet, Link, Sim};

use super::{Pair, millis};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn time_jumps() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    sim.run(host.run({
        let host = host.clone();
        async move { sleep(&host, 100 * HOUR).await }
    }));
    assert!(sim.elapsed() >= 100 * HOUR && sim.elapsed() < 100 * HOUR + millis(1));
    assert!(sim.polls() < 10);
}

/// A panic of `f`, as text.
fn panic_of(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("it panics");
    panic
        .downcast_ref::<String>()
        .cloned()
        .unwrap_or_else(|| panic.downcast_ref::<&str>().expect("text").to_string())
}

#[test]
fn a_deadlock_is_told() {
    let message = panic_of(|| {
        let sim = Sim::new(1);
        sim.host("victim").spawn(pending());
        sim.run(pending::<()>());
    });
    assert!(message.contains("nothing can happen any more"), "{message}");
    assert!(message.contains("on victim"), "{message}");
}

#[test]
fn what_takes_too_long_is_told() {
    let message = panic_of(|| {
        let sim = Sim::new(1);
        sim.set_time_limit(HOUR);
        sim.run(sim.sleep(2 * HOUR));
    });
    assert!(message.contains("limit of 3600s"), "{message}");
}

#[test]
fn busy_waiting_takes_time() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    let outcome = sim.run(timeout(&host, millis(5), async {
        loop {
            polyquic_testkit::tools::yield_now().await;
        }
    }));
    assert!(outcome.is_err());
}

#[test]
fn clocks_go_wrong() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    host.set_clock_rate(1_000);
    let before = host.clock().now();
    sim.run(sim.sleep(Duration::from_secs(1000)));
    let shown = host.clock().now() - before;
    assert_eq!(shown.as_secs(), 1001);
    // It fires early, then: by its own clock it is on time.
    let start = sim.elapsed();
    sim.run(sleep(&host, Duration::from_secs(1001)));
    let took = sim.elapsed() - start;
    assert_eq!(took.as_millis(), 1_000_000);
}

#[test]
fn a_timer_copes_with_a_clock_that_slows_down() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    let timer = sleep(&host, Duration::from_secs(10));
    sim.run(sim.sleep(Duration::from_secs(5)));
    host.set_clock_rate(-500_000);
    sim.run(timer);
    assert_eq!(sim.elapsed().as_secs(), 15);
}

#[test]
fn a_timer_copes_with_a_clock_that_speeds_up() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    let clock = host.clone();
    let waiting = host.run(async move { sleep(&clock, Duration::from_secs(10)).await });
    sim.run(sim.sleep(Duration::from_secs(5)));
    host.set_clock_rate(1_000_000);
    sim.run(waiting);
    assert_eq!(sim.elapsed().as_millis() / 10, 750);
}

/// By a clock that almost stands, it is millions of years away.
#[test]
fn a_deadline_may_be_further_away_than_time_goes() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    host.set_clock_rate(-999_999);
    let clock = host.clone();
    // Multiplied by a million, and cut to 64 bits, these nanoseconds are a deadline that has passed.
    let far = Duration::from_nanos(1 << 58);
    host.spawn(async move { sleep(&clock, far).await });
    sim.run(sim.sleep(HOUR));
    assert!(sim.polls() < 10, "{} polls", sim.polls());
}

#[test]
fn what_is_given_up_is_not_waited_for() {
    let message = panic_of(|| {
        let sim = Sim::new(1);
        sim.set_time_limit(HOUR);
        let host = sim.host("host");
        let outcome = sim.run(timeout(&host, 2 * HOUR, std::future::ready(())));
        assert!(outcome.is_ok());
        let given_up = sim.sleep(2 * HOUR);
        drop(given_up);
        sim.run(pending::<()>());
    });
    assert!(message.contains("nothing can happen any more"), "{message}");
}

#[test]
fn calendars_can_be_wrong() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    let date = || host.clock().calendar().unwrap();
    let before = date();
    sim.run(sim.sleep(HOUR));
    let passed = || date().duration_since(before).unwrap().as_secs();
    assert_eq!(passed(), HOUR.as_secs());
    host.set_calendar_behind(3 * HOUR);
    assert!(date() < before);
    host.set_calendar_ahead(3 * HOUR);
    assert_eq!(passed(), 4 * HOUR.as_secs());
}

#[test]
fn timers_may_be_late_but_never_early() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    host.set_timer_slack(millis(10));
    let mut late = Vec::new();
    for _ in 0..20 {
        let start = sim.elapsed();
        sim.run(sleep(&host, millis(100)));
        late.push(sim.elapsed() - start - millis(100));
    }
    assert!(late.iter().any(|it| *it > millis(2)));
    assert!(late.iter().all(|it| *it < millis(11)));
}

#[test]
fn a_paused_host_does_nothing_and_goes_on_later() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    let ticks = Rc::new(RefCell::new(0));
    let (clock, counter) = (host.clone(), ticks.clone());
    host.spawn(async move {
        loop {
            sleep(&clock, Duration::from_secs(1)).await;
            *counter.borrow_mut() += 1;
        }
    });
    let after = |wait| {
        sim.run(sim.sleep(wait));
        *ticks.borrow()
    };
    assert_eq!(after(millis(3_500)), 3);
    host.pause();
    assert_eq!(after(HOUR), 3);
    host.resume();
    assert_eq!(after(millis(1_500)), 5);
}

#[test]
fn a_crash_leaves_nothing() {
    let pair = Pair::new(Link::new());
    pair.to.spawn(pending());
    assert_eq!(pair.to.tasks(), 1);
    pair.to.crash();
    assert_eq!(pair.to.tasks(), 0);
    let error = pair.receiver.local_addr().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    // The address is free again.
    let again = pair.to.udp(pair.dst).unwrap();
    pair.sender.send_to(b"hello", pair.dst).unwrap();
    pair.sim.run(again.recv()).unwrap();
}

#[test]
fn a_host_that_crashed_during_a_pause_can_be_used_again() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    host.pause();
    host.crash();
    assert_eq!(sim.run(host.run(async { 7 })), 7);
}

#[test]
fn empty_datagrams_fill_the_buffer() {
    let sim = Sim::new(1);
    let (from, to) = (sim.host("from"), sim.host("to"));
    to.set_recv_buffer(2_800);
    let sender = from.udp(from.addr(1)).unwrap();
    let receiver = to.udp(to.addr(1)).unwrap();
    for _ in 0..200 {
        sender.send_to(&[], to.addr(1)).unwrap();
    }
    sim.run(sim.sleep(millis(1)));
    // 28 bytes of headers.
    assert_eq!(std::iter::from_fn(|| receiver.try_recv()).count(), 100);
    // And there is room again.
    sender.send_to(b"more", to.addr(1)).unwrap();
    sim.run(receiver.recv()).unwrap();
}

#[test]
fn addresses_are_bound_once() {
    let sim = Sim::new(1);
    let host = sim.host("host");
    let first = host.udp(host.addr(0)).unwrap();
    let taken = first.local_addr().unwrap();
    assert_ne!(taken.port(), 0);
    let bind = |addr: std::net::SocketAddr| host.udp(addr).map_err(|error| error.kind());
    assert_eq!(bind(taken).unwrap_err(), ErrorKind::AddrInUse);
    let any = ([0, 0, 0, 0], taken.port()).into();
    assert_eq!(bind(any).unwrap_err(), ErrorKind::AddrInUse);
    let foreign = "192.0.2.1:1".parse().unwrap();
    assert_eq!(bind(foreign).unwrap_err(), ErrorKind::AddrNotAvailable);
    drop(first);
    bind(taken).unwrap();
}

#[test]
fn a_host_sends_by_the_interface_it_prefers() {
    let sim = Sim::new(1);
    let phone = sim.host_with("phone", Link::wifi());
    let mobile = phone.add_interface(Internet, Link::lte());
    let server = sim.host("server");
    let socket = phone.udp("0.0.0.0:7".parse().unwrap()).unwrap();
    let listener = server.udp(server.addr(1)).unwrap();
    let source = || {
        socket.send_to(b"hello", server.addr(1)).unwrap();
        sim.run(listener.recv()).unwrap().src.ip()
    };
    let wifi = phone.ip();
    assert_eq!(source(), wifi);
    phone.prefer(&mobile);
    assert_eq!(source(), mobile.ip());
    assert_ne!(mobile.ip(), wifi);
    // Answers reach it by either.
    listener.send_to(b"back", (wifi, 7).into()).unwrap();
    sim.run(socket.recv()).unwrap();
}

#[test]
fn sockets_for_ipv6_hear_ipv4() {
    let sim = Sim::new(1);
    let (a, b) = (sim.host("a"), sim.host("b"));
    let dual = b.udp("[::]:5".parse().unwrap()).unwrap();
    let sender = a.udp("0.0.0.0:6".parse().unwrap()).unwrap();
    sender.send_to(b"four", b.addr(5)).unwrap();
    assert_eq!(sim.run(dual.recv()).unwrap().src, a.addr(6));
    let sender = a.udp("[::]:8".parse().unwrap()).unwrap();
    sender.send_to(b"six", (b.ipv6(), 5).into()).unwrap();
    assert_eq!(sim.run(dual.recv()).unwrap().src.ip(), a.ipv6());
}
