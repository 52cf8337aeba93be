//! Everything follows from the seed.

use std::time::Duration;

use polyquic_endpoint::Endpoint;
use polyquic_sim::{Link, NatConfig, Queue, Sim, TraceHash, deterministic_tls};
use polyquic_testkit::tools::{check_transfer, pattern};

use super::millis;
use super::quic::{configs, connect};
use super::seeds::{child, is_child};

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

/// Whether what `simulate` makes is the same in another process, where hash tables, addresses in memory
/// and the time of day differ. `name` is that of the test.
fn replays(name: &str, simulate: impl Fn() -> TraceHash) {
    let hash = simulate();
    if is_child() {
        println!("trace {hash}");
        return;
    }
    let output = child(name).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}");
    assert!(
        stdout.contains(&format!("trace {hash}")),
        "not {hash}: {stdout}"
    );
}

#[test]
fn a_seed_gives_the_same_simulation_in_another_process() {
    let name = "replay::a_seed_gives_the_same_simulation_in_another_process";
    replays(name, || simulate(5));
}

/// Their keys for tokens are drawn when they are made, and a server sends tokens by itself.
#[test]
fn configurations_may_be_made_before_a_run() {
    replays("replay::configurations_may_be_made_before_a_run", || {
        let sim = Sim::new(6);
        let (client, server) = (sim.host("client"), sim.host("server"));
        let (server_config, client_config) = configs(|_| {});
        // One that ends meanwhile changes nothing.
        drop(Sim::new(7));
        let listening = Endpoint::server(&server, server_config, server.addr(443)).unwrap();
        sim.run(async {
            let endpoint = Endpoint::client(&client, client.addr(0)).unwrap();
            let connecting = endpoint
                .connect_with(client_config, server.addr(443), "localhost")
                .unwrap();
            let accepting = async { listening.accept().await.unwrap().await };
            let (ours, theirs) = futures::join!(connecting, accepting);
            check_transfer(&ours.unwrap(), &theirs.unwrap(), b"with tokens").await;
        });
        sim.trace()
    });
}

/// As random numbers, queues and clocks are integers, or floating-point operations that IEEE 754 makes
/// exact, this is the same on every machine. A simulation with connections need not be: CUBIC takes
/// cube roots, whose last bit is the mathematical library's.
///
/// It changes when the model does, or when the generator of `rand` does.
#[test]
fn the_network_is_the_same_on_every_machine() {
    let sim = Sim::new(2026);
    let nat = sim.nat("nat", NatConfig::default(), Link::lte());
    let client = sim.host_below("client", &nat, Link::wifi().corrupt(0.1).duplicate(0.1));
    let queue = Queue::codel(50_000, millis(5), millis(100));
    let server = sim.host_with(
        "server",
        Link::new()
            .bandwidth(1_000_000)
            .queue(queue)
            .loss(0.05)
            .disorder(millis(7))
            .reorder(0.1, millis(3)),
    );
    client.set_timer_slack(millis(2));
    client.set_clock_rate(77);
    let sender = client.udp(client.addr(1)).unwrap();
    let receiver = server.udp(server.addr(1)).unwrap();
    let dst = server.addr(1);
    let timer = client.clone();
    client.spawn(async move {
        for number in 0..500u32 {
            sender
                .send_to(&number.to_le_bytes().repeat(200), dst)
                .unwrap();
            polyquic_endpoint::sleep(&timer, millis(4)).await;
        }
    });
    let answers = sim.run(async {
        let mut answers = 0;
        let end = sim.elapsed() + Duration::from_secs(10);
        while sim.elapsed() < end {
            match receiver.try_recv() {
                Some(it) => {
                    receiver.send_to(&it.payload[..100], it.src).unwrap();
                    answers += 1;
                }
                None => sim.sleep(millis(1)).await,
            }
        }
        answers
    });
    assert!(answers > 200, "{answers} arrived");
    assert_eq!(sim.trace().to_string(), "5a9b41e21ba8ee3a:6c35b4efdd5a12a8");
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
