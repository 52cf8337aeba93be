//! Everything follows from the seed.

use std::process::Command;

use polyquic_sim::{Link, Sim, TraceHash, deterministic_tls};
use polyquic_testkit::tools::{check_transfer, pattern};

use super::millis;
use super::quic::connect;

/// A busy minute on a bad network; returns its fingerprint.
fn simulate(seed: u64) -> TraceHash {
    let sim = Sim::new(seed);
    let link = Link::wifi()
        .duplicate(0.01)
        .corrupt(0.01)
        .disorder(millis(2));
    let server = sim.host_with("server", link);
    let client = sim.host_with("client", Link::lte());
    sim.run(async {
        // Not for a handshake that was damaged: that is another test.
        server.access().set(Link::lte());
        let ends = connect(&client, &server, |_| {}).await;
        server
            .access()
            .set(Link::wifi().duplicate(0.01).corrupt(0.01));
        let (down, up) = (pattern(1, 300_000), pattern(2, 100_000));
        futures::join!(
            check_transfer(&ends.server, &ends.client, &down),
            check_transfer(&ends.client, &ends.server, &up),
        );
    });
    sim.trace()
}

#[test]
fn a_seed_gives_the_same_simulation() {
    assert!(deterministic_tls());
    let first = simulate(1);
    assert_eq!(first, simulate(1));
    let other = simulate(2);
    assert_ne!(first.shape, other.shape);
    assert_ne!(first.content, other.content);
}

const CHILD: &str = "POLYQUIC_SIM_TEST_CHILD";

/// In another process hash tables, addresses in memory and the time of day differ.
#[test]
fn a_seed_gives_the_same_simulation_in_another_process() {
    let hash = simulate(5).to_string();
    if std::env::var_os(CHILD).is_some() {
        println!("trace {hash}");
        return;
    }
    let name = "replay::a_seed_gives_the_same_simulation_in_another_process";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    assert!(
        stdout.contains(&format!("trace {hash}")),
        "not {hash}: {stdout}"
    );
}

#[test]
fn one_host_with_the_same_name_and_seed_draws_the_same() {
    let ids = |seed| {
        polyquic_sim::run(seed, |host| async move {
            use polyquic_runtime::Runtime;
            (host.seed(), host.seed())
        })
    };
    assert_eq!(ids(1), ids(1));
    assert_ne!(ids(1), ids(2));
    assert_ne!(ids(1).0, ids(1).1);
}
