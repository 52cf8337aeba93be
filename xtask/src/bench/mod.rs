//! `cargo xtask bench`: our executors against other stacks, side by side in one run.
//!
//! Absolute figures of a shared machine mean little, so the unit of measurement here is the
//! *round*: every subject once, one after the other, in an order that rotates. A ratio is taken
//! within a round and only then summarised. What the two processes of a measurement do is in the
//! package `polyquic-bench`; this module starts them ([`pair`]), turns what they report into
//! figures ([`metrics`]) and prints ([`report`]).

mod family;
mod machine;
mod metrics;
mod options;
mod pair;
mod report;

use std::{collections::BTreeMap, fs, time::Instant};

use anyhow::{Context, Result, bail};

use crate::command;

use self::{
    family::{build, program_of},
    options::Options,
    pair::{Measurement, Pair},
    report::{Case, Report},
};

/// What every ratio refers to.
const BASELINE: &str = "quinn-tokio";
/// What multi-threaded subjects are compared with in addition.
const BASELINE_MULTI: &str = "quinn-tokio-multi";
/// A subject that failed so often in a row at one workload is not tried again there.
const FAILURES_BEFORE_GIVING_UP: usize = 2;

/// Runs the matrix, or the part of it that the arguments name.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some(options) = Options::parse(arguments)? else {
        print!("{}", options::HELP);
        return Ok(());
    };
    let root = command::root()?;
    let identity = root.join("target/bench-identity");
    let (programs, broken) = build(&options)?;
    let pair_of = |subject: &str, case: &Case| {
        let program = programs.get(program_of(subject)?.program)?;
        Some(Pair::new(program, subject, case, &options, &identity))
    };
    if options.print_commands {
        for case in cases(&options) {
            for subject in &options.subjects {
                if let Some(pair) = pair_of(subject, &case) {
                    println!("# {} {subject}\n{}\n", case.workload, pair.commands());
                }
            }
        }
        return Ok(());
    }

    let mut report = Report::new(&options, machine::describe()?);
    let started = Instant::now();
    for (subject, reason) in &broken {
        report.missing(None, subject, reason);
    }
    let cases = cases(&options);
    let runnable: Vec<_> = options
        .subjects
        .iter()
        .filter(|subject| broken.iter().all(|(broken, _)| broken != *subject))
        .collect();
    let total: usize = cases
        .iter()
        .map(|case| options.rounds_of(&case.workload) * runnable.len())
        .sum();
    let mut count = 0;
    for case in &cases {
        let rounds = options.rounds_of(&case.workload);
        let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
        for round in 0..rounds {
            for index in 0..runnable.len() {
                // Nobody profits from always running after the same neighbour.
                let subject = runnable[(index + round) % runnable.len()];
                count += 1;
                let failed = failures.entry(subject).or_default();
                if *failed >= FAILURES_BEFORE_GIVING_UP {
                    continue;
                }
                eprint!(
                    "[{count}/{total}] {case}, round {} of {rounds}, {subject}: ",
                    round + 1
                );
                let pair = pair_of(subject, case).context("a subject without a program")?;
                let measured = pair.run(round).and_then(|measurement: Measurement| {
                    Ok((measurement.metrics(case)?, measurement.settings))
                });
                match measured {
                    Ok((metrics, settings)) => {
                        *failed = 0;
                        report.settings(subject, &settings);
                        if let Some((metric, value)) = metrics.first() {
                            eprintln!("{} {}", report::figure(*value), metric.unit);
                        }
                        report.add(case, subject, round, metrics);
                    }
                    Err(error) => {
                        *failed += 1;
                        let reason = format!("{error:#}");
                        eprintln!("FAILED: {reason}");
                        report.missing(Some(case), subject, &reason);
                    }
                }
            }
        }
    }

    print!("{}", report.table());
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report.json())? + "\n";
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("written to {}", file.display());
    }
    eprintln!("measured for {}", command::seconds(started.elapsed()));
    let ours: Vec<_> = report
        .missing_subjects()
        .filter(|name| name.starts_with("polyquic-"))
        .collect();
    if !ours.is_empty() {
        bail!(
            "not everything of ours could be measured: {}",
            ours.join(", ")
        );
    }
    Ok(())
}

/// Everything to be measured, in order; each is a table of its own.
fn cases(options: &Options) -> Vec<Case> {
    let mut cases = Vec::new();
    for workload in &options.workloads {
        for provider in &options.providers {
            for packet_size in &options.packet_sizes {
                cases.push(Case {
                    workload: workload.clone(),
                    provider: provider.clone(),
                    packet_size: *packet_size,
                });
            }
        }
    }
    cases
}
