//! The contract of an adapter, over a perfect network and over bad ones, for many seeds.
//!
//! Left out are the groups that need sockets of the operating system (`udp`, whose promises
//! `network.rs` looks at here), several sockets on one address (`shards`), and other threads
//! (`threads`).

use std::future::Future;
use std::time::Duration;

use polyquic_sim::{Host, Link, Queue, Sim, each_seed};

mod perfect {
    polyquic_testkit::conformance!(
        |app| polyquic_sim::run(1, app),
        except: [udp, shards, threads]
    );
}

/// Run `app` on a host that reaches itself by `link`, for some seeds.
fn on<F: Future<Output = ()>>(link: Link, seeds: u64, app: impl Fn(Host) -> F) {
    each_seed(0..seeds, |sim: &Sim| {
        let host = sim.host("host");
        host.set_loopback(link.clone());
        host.set_timer_slack(Duration::from_millis(1));
        sim.run(app(host));
    });
}

/// Nothing is lost, but tasks run in other orders, and segments are few.
mod other_orders {
    use super::{Link, on};

    polyquic_testkit::conformance!(
        |app| on(Link::new(), 5, app),
        except: [udp, shards, threads, shutdown]
    );
}

/// Packets take their time, more or less of it, and some arrive twice.
mod far_away {
    use super::{far_away, on};

    polyquic_testkit::conformance!(
        |app| on(far_away(), 5, app),
        except: [udp, shards, threads, shutdown]
    );
}

/// Packets are lost, doubled, and overtake each other. Left out is what QUIC does not promise then:
/// that datagrams arrive (which tests in `cancel` and `zero_rtt` count on), and that a peer hears of a
/// close.
mod lossy {
    use super::{lossy, on};

    polyquic_testkit::conformance!(
        |app| on(lossy(), 10, app),
        except: [datagrams, cancel, closing, zero_rtt, udp, shards, threads, shutdown]
    );
}

/// Everything goes through a narrow link, whose queue marks what it holds for long.
mod narrow {
    use super::{narrow, on};

    polyquic_testkit::conformance!(
        |app| on(narrow(), 2, app),
        except: [datagrams, udp, shards, threads, shutdown]
    );
}

fn far_away() -> Link {
    Link::new()
        .delay(Duration::from_millis(20))
        .jitter(Duration::from_millis(5))
        .duplicate(0.05)
}

fn lossy() -> Link {
    Link::new()
        .delay(Duration::from_millis(5))
        .bursts(0.01, 0.4)
        .duplicate(0.02)
        .reorder(0.05, Duration::from_millis(3))
}

fn narrow() -> Link {
    let target = Duration::from_millis(5);
    Link::new()
        .bandwidth(20_000_000)
        .delay(Duration::from_millis(10))
        .queue(Queue::codel(400_000, target, Duration::from_millis(100)).with_ecn())
}
