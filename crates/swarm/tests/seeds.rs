//! The same seeds each time, and the same from the same seed.

use std::process::Command;

use polyquic_swarm::{Coverage, Options, Plan, commit, run, run_seed};

#[path = "../src/heap.rs"]
mod heap;

/// Fixed seeds hold what they must, and put everything to the test that is counted.
#[test]
fn fixed_seeds_hold_what_they_must_and_try_everything() {
    let options = Options {
        live_bytes: Some(heap::live_bytes),
        ..Options::default()
    };
    let mut coverage = Coverage::default();
    for seed in 0..80 {
        let outcome = run_seed(seed, &options);
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}, commit {}: {:#?}\nreplay with: cargo xtask sim --seed {seed} --verbose",
            commit(),
            outcome.violations
        );
        coverage.add(&outcome.coverage);
    }
    for (what, count) in coverage.iter() {
        assert!(count > 0, "no {what} in these seeds");
    }
}

/// Seeds that found something once, by what they found; without what was added to plans since.
#[test]
fn seeds_that_found_bugs_find_none() {
    let found = [
        (27, "open_bi waited forever when 0-RTT was rejected"),
        (679, "a blocked write did not learn of a stop"),
        (704, "the same"),
        (741, "the same"),
        (763, "the same"),
        (
            966,
            "a rejected stream's drop took the waker of its successor",
        ),
        (
            206_956,
            "a damaged Retry was taken for the one that is followed",
        ),
        (
            204_418,
            "keys were updated before the handshake was confirmed",
        ),
        (208_618, "the same"),
        (
            101_612,
            "probe timeouts of the handshake delayed those after it",
        ),
        (201_495, "the same"),
        (
            2009,
            "what came from elsewhere counted for the handshake's address",
        ),
        (208_347, "the same"),
        (
            206_941,
            "the observer did not see what counts before an accept",
        ),
        (275, "the same"),
    ];
    for (seed, bug) in found {
        let violations = run(&Plan::basic(seed), &Options::default()).violations;
        assert!(
            violations.is_empty(),
            "seed {seed} ({bug}), commit {}: {violations:#?}",
            commit()
        );
    }
}

/// The same of what was found since.
#[test]
fn two_rebinds_at_once_both_end() {
    let violations = run_seed(500_977, &Options::default()).violations;
    assert!(violations.is_empty(), "{violations:#?}");
}

/// Two processes, whose hash tables and addresses differ, see the same bytes at the same times.
#[test]
fn two_processes_agree_on_a_seed() {
    for seed in ["3", "8", "21"] {
        let trace = || {
            let output = Command::new(env!("CARGO_BIN_EXE_polyquic-swarm"))
                .args(["--seed", seed])
                .output()
                .expect("it was built");
            let text = String::from_utf8(output.stdout).expect("it prints text");
            let last = text.lines().last().expect("it prints something").to_owned();
            assert!(last.starts_with("trace "), "{text}");
            last
        };
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}

/// Shapes and contents: the hash has both, and other seeds have others.
#[test]
fn other_seeds_have_other_traces() {
    let trace = |seed| run_seed(seed, &Options::default()).trace;
    let (one, two) = (trace(3), trace(8));
    assert_eq!(one, trace(3));
    let halves = |it: &str| -> Vec<String> { it.split(':').map(str::to_owned).collect() };
    let (one, two) = (halves(&one), halves(&two));
    assert_eq!(one.len(), 2, "shape and content: {one:?}");
    assert!(one[0] != two[0] && one[1] != two[1]);
}
