//! What `docs/CONGESTION.md` says is what the code does.

#![cfg(feature = "congestion")]

use std::{fs, path::Path};

use polyquic_bench::congestion::{
    Controller,
    jobs::{self, Job},
    network::Network,
    transfer::Transfer,
};
use serde_json::Value;

/// Results may be off by so much before the page has to be written anew. For the same code they are
/// exact; but one packet more or less somewhere, which does not change what the page says, may be one
/// loss more or less, and that is a few percent.
const TOLERANCE: f64 = 0.05;

fn published() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks/congestion.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// The figure of the first seed.
fn figure_of(published: &Value, job: &Job, name: &str) -> f64 {
    let controllers: Vec<_> = job.controllers.iter().map(|it| it.name()).collect();
    let record = published["records"].as_array().unwrap().iter().find(|it| {
        it["group"] == job.group
            && it["scenario"] == *job.scenario
            && it["controllers"] == Value::from(controllers.clone())
    });
    let record = record.unwrap_or_else(|| panic!("nothing of {} {}", job.group, job.scenario));
    record["metrics"][name][0].as_f64().unwrap()
}

/// On links that lose nothing by chance.
#[test]
fn downloads_take_as_long_as_the_page_says() {
    let published = published();
    assert_eq!(published["seeds"][0], jobs::SEEDS[0]);
    let mut compared = 0;
    for job in jobs::of(jobs::SEEDS[0]) {
        let clean = ["dsl", "dsl-codel", "satellite", "shallow"].contains(&&*job.scenario);
        let small = job.transfer.bytes.is_some();
        if !clean || !small || job.controllers.contains(&Controller::Bbr) {
            continue;
        }
        let (figures, _) = job.run();
        for (name, value) in figures {
            let expected = figure_of(&published, &job, name);
            assert!(
                (value - expected).abs() <= expected * TOLERANCE,
                "{name} of {:?} on {}: {value}, the page says {expected}; if that is meant, run \
                 `cargo xtask congestion --publish`",
                job.controllers,
                job.scenario
            );
            compared += 1;
        }
    }
    assert_eq!(compared, 4 * 2 * 3);
}

#[test]
fn cubic_and_newreno_follow_from_the_seed() {
    for controller in [Controller::Cubic, Controller::NewReno] {
        let run = |seed| {
            let network = Network::named("wifi").unwrap();
            let mut transfer = Transfer::single(seed, network, controller);
            transfer.bytes = Some(2_000_000);
            transfer.run()
        };
        let (first, again, other) = (run(7), run(7), run(8));
        assert_eq!(first.trace, again.trace);
        assert_eq!(first.flows[0].received, again.flows[0].received);
        assert_eq!(first.flows[0].windows, again.flows[0].windows);
        assert_eq!(first.flows[0].lost, again.flows[0].lost);
        assert_ne!(first.trace, other.trace);
    }
}
