//! The contract of an adapter, over a perfect network and over bad ones, for many seeds.
//!
//! Left out are the groups that need sockets of the operating system (`udp`, whose promises
//! `network/quic.rs` looks at here), several sockets on one address (`shards`), and other threads
//! (`threads`).
//!
//! The suite runs both ends on one host, so what is bad is that host's way to itself, both ways alike.
//! Paths with two ends, which lose packets in one direction, rebind or migrate, are the business of
//! `network/quic.rs` and of `crates/swarm`.

use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use polyquic_sim::{Host, Link, Queue, Sim, TooLarge, Verdict, each_seed};
use polyquic_testkit::{fixtures, harness};

mod perfect {
    polyquic_testkit::conformance!(
        |app| polyquic_sim::run(1, app),
        except: [udp, shards, threads]
    );
}

/// Run `app` for some seeds on a host that `prepare` has changed.
fn on<F: Future<Output = ()>>(seeds: u64, prepare: impl Fn(&Host, u64), app: impl Fn(Host) -> F) {
    each_seed(0..seeds, |sim: &Sim| {
        fixtures::log_secrets_to(sim.key_log());
        let host = sim.host("host");
        host.set_timer_slack(Duration::from_millis(1));
        prepare(&host, sim.seed());
        sim.run(app(host));
        harness::progress();
    });
}

/// Nothing is lost, but tasks run in other orders, and datagrams come and go alone or few at a time.
mod other_orders {
    use super::{few_segments, on};

    polyquic_testkit::conformance!(
        |app| on(10, few_segments, app),
        except: [udp, shards, threads, shutdown]
    );
}

/// Packets take their time, more or less of it, and some arrive twice.
mod far_away {
    use super::{far_away, on};

    polyquic_testkit::conformance!(
        |app| on(10, far_away, app),
        except: [udp, shards, threads, shutdown]
    );
}

/// Packets are lost, damaged, doubled, too large, and overtake each other.
mod bad {
    use super::{bad, on};

    polyquic_testkit::conformance!(
        |app| on(BAD_SEEDS, bad, app),
        except: [datagrams, cancel, closing, zero_rtt, udp, shards, threads, shutdown]
    );

    const BAD_SEEDS: u64 = 12;

    /// Of a group, what QUIC promises over such a network.
    macro_rules! some {
        ($group:ident: $($test:ident)*) => {
            mod $group {
                $(
                    #[test]
                    fn $test() {
                        let name = concat!(module_path!(), "::", stringify!($test));
                        polyquic_testkit::harness::run(name, || {
                            super::on(
                                super::BAD_SEEDS,
                                super::bad,
                                polyquic_testkit::$group::$test,
                            )
                        });
                    }
                )*
            }
        };
    }

    // Datagrams may be lost.
    some!(datagrams: datagrams_can_be_switched_off);
    // A peer need not hear of a close: it may have to wait for its idle timeout.
    some!(closing:
        what_arrived_can_be_read_after_a_close
        a_closed_endpoint_does_nothing_more
        wait_idle_waits_for_the_last_connection
        the_last_handle_frees_the_address
        closing_during_the_handshake
    );
    // Not `datagrams`, nor `waiting_for_the_end_of_connections`.
    some!(cancel:
        opening_and_accepting_unidirectional_streams
        opening_and_accepting_bidirectional_streams
        giving_up_leaves_the_wake_up_to_others
        reading_and_writing
        waiting_for_the_end_of_streams
        accepting_connections
        timeouts_lose_nothing
    );
    // Not `accepted_0rtt_delivers`, which sends a datagram.
    some!(zero_rtt:
        strangers_have_no_0rtt
        rejected_0rtt_is_told
        void_streams_do_not_hinder_delivery
        rejection_makes_room_for_streams
        void_streams_do_not_silence_their_successors
        servers_may_speak_first
        resumption_spares_the_certificate
    );
}

/// Everything goes through a narrow link, whose queue marks what it holds for long.
mod narrow {
    use super::{narrow, on};

    polyquic_testkit::conformance!(
        |app| on(4, narrow, app),
        except: [datagrams, udp, shards, threads, shutdown]
    );
}

fn few_segments(host: &Host, seed: u64) {
    let few = [(1, 1), (1, 64), (64, 1), (2, 3), (10, 10)];
    let (send, receive) = few[seed as usize % few.len()];
    host.set_segments(send, receive);
}

fn far_away(host: &Host, _seed: u64) {
    let link = Link::new()
        .delay(Duration::from_millis(20))
        .jitter(Duration::from_millis(5))
        .duplicate(0.05);
    host.set_loopback(link);
}

fn bad(host: &Host, seed: u64) {
    let link = Link::new()
        .delay(Duration::from_millis(5))
        .duplicate(0.02)
        .reorder(0.05, Duration::from_millis(3));
    match seed % 3 {
        0 => host.set_loopback(link.bursts(0.01, 0.4)),
        // What is probed for the path's MTU vanishes.
        1 => host.set_loopback(link.loss(0.02).mtu(1300, TooLarge::Vanishes)),
        _ => {
            host.set_loopback(link.disorder(Duration::from_millis(2)));
            damage(host);
        }
    }
}

/// Flip a bit of every fortieth packet. Not of those with a long header: who damages the first packet of
/// a connection ends the attempt, as anybody may who sees it.
fn damage(host: &Host) {
    const FORM: u8 = 0x80;
    let mut count = 0;
    host.filter_loopback(move |packet| {
        if packet.payload[0] & FORM == 0 {
            count += 1;
            if count % 40 == 0 {
                let bit = count * 7919 % (packet.payload.len() * 8);
                packet.payload[bit / 8] ^= 1 << (bit % 8);
            }
        }
        Verdict::Pass
    });
}

fn narrow(host: &Host, _seed: u64) {
    let target = Duration::from_millis(5);
    let queue = Queue::codel(400_000, target, Duration::from_millis(100)).with_ecn();
    let link = Link::new()
        .bandwidth(20_000_000)
        .delay(Duration::from_millis(10))
        .queue(queue);
    host.set_loopback(link);
}

/// What a case captures in a process of its own: certificates, keys, tokens and tickets are made there.
fn captured(case: &str, run: u32) -> Vec<u8> {
    let name = format!("polyquic-sim-conformance-{}-{run}", std::process::id());
    let folder: PathBuf = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([case, "--exact"])
        .env("POLYQUIC_SIM_SEED", "3")
        .env("POLYQUIC_SIM_CAPTURE", &folder)
        .output()
        .unwrap();
    let file = format!("conformance.{}-seed-3.pcapng", case.replace("::", "."));
    let capture = std::fs::read(folder.join(file));
    std::fs::remove_dir_all(&folder).unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{case}: {stdout}");
    assert!(stdout.contains("1 passed"), "{case}: {stdout}");
    capture.unwrap()
}

/// To the last byte, and to the nanosecond: or a seed would not bring a failure back.
#[test]
fn a_seed_gives_the_same_capture_in_another_process_with_its_keys() {
    for case in [
        "bad::handshake::both_sides_know_each_other",
        "bad::scale::many_streams_at_once",
        "bad::zero_rtt::resumption_spares_the_certificate",
    ] {
        let first = captured(case, 1);
        let secrets = b"SERVER_TRAFFIC_SECRET_0 ";
        let has_keys = first.windows(secrets.len()).any(|it| it == secrets);
        assert!(has_keys, "{case} has no keys");
        assert!(first == captured(case, 2), "{case} differs from run to run");
    }
}
