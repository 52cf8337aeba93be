//! `cargo xtask bench`: our executors against other stacks, side by side in one run.
//!
//! Absolute figures of a shared machine mean little, so the unit of measurement here is the
//! *round*: every subject once, one after the other, in an order that rotates. A ratio is taken
//! within a round and only then summarised. What the two processes of a measurement do is in the
//! package `polyquic-bench`; this module starts them ([`pair`]), turns what they report into
//! figures ([`metrics`]), and prints and writes them ([`report`]). What is made of written results
//! starts from the file ([`results`]): comparisons ([`compare`]), plots ([`plot`]) and the page
//! ([`page`]).

mod compare;
mod family;
mod machine;
mod metrics;
mod options;
mod page;
mod pair;
pub(crate) mod plot;
mod private;
mod publish;
mod report;
mod results;
mod targets;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command;

use self::{
    compare::Comparison,
    family::{build, program_of},
    options::{Action, Options},
    pair::{Measurement, Pair},
    report::{Case, Report},
    results::Results,
};

pub(crate) use self::{machine::describe as machine, page::check, report::figure};

/// What every ratio refers to.
const BASELINE: &str = "quinn-tokio";
/// What multi-threaded subjects are compared with in addition.
const BASELINE_MULTI: &str = "quinn-tokio-multi";

/// Whether a subject runs on several threads.
fn is_multi(subject: &str) -> bool {
    subject.contains("-multi")
}
/// How the names of our subjects begin.
const OURS_PREFIX: &str = "polyquic-";
/// A subject that failed so often in a row at one workload is not tried again there.
const FAILURES_BEFORE_GIVING_UP: usize = 2;

/// Runs the matrix, or the part of it that the arguments name, or makes something of results.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some(options) = Options::parse(arguments)? else {
        print!("{}", options::HELP);
        return Ok(());
    };
    match &options.action {
        Action::Measure => finish(&measure(&options)?),
        Action::Compare { old, new } => compare(&options, old, new.as_deref()),
        Action::Page(files) => page::write(&command::root()?, files),
        Action::Publish(parts) => publish(&options, parts),
    }
}

/// Prints what a change did.
fn compare(options: &Options, old: &Path, new: Option<&Path>) -> Result<()> {
    let old = Results::read(old)?;
    let mut report = None;
    let new = match new {
        Some(file) => Results::read(file)?,
        None => {
            let Some(measured) = measure(&options.like(&old)?)? else {
                return Ok(());
            };
            Results::parse("this run", &report.insert(measured).json())?
        }
    };
    let comparison = Comparison::of(&old, &new);
    print!("{}", comparison.table());
    if comparison.changes.is_empty() {
        bail!("the two have nothing in common");
    }
    if let (Some(limit), Some(worst)) = (options.fail_below, comparison.worst())
        && worst < limit
    {
        bail!("something got worse by a factor of {worst:.3}, which is below {limit}");
    }
    finish(&report)
}

/// Measures parts of the page and writes it.
fn publish(options: &Options, parts: &[String]) -> Result<()> {
    let root = command::root()?;
    fs::create_dir_all(root.join(page::DIRECTORY))?;
    let mut results = Vec::new();
    for part in publish::PARTS {
        if !parts.iter().any(|name| name == part.name) {
            continue;
        }
        eprintln!("\n{}", part.title);
        let mut of_part = options.part(part.arguments)?;
        let file = format!("{}/{}.json", page::DIRECTORY, part.name);
        of_part.json = Some(root.join(file));
        results.push(measure(&of_part)?);
    }
    if options.dry_run || options.print_commands {
        return Ok(());
    }
    page::write(&root, &[])?;
    // Last, so that what was measured is on the page whatever is missing.
    results.iter().try_for_each(finish)
}

/// Fails if something of ours is missing. That rivals are is only said.
fn finish(report: &Option<Report>) -> Result<()> {
    let ours: BTreeSet<_> = report
        .iter()
        .flat_map(Report::missing_subjects)
        .filter(|name| name.starts_with(OURS_PREFIX))
        .collect();
    if !ours.is_empty() {
        let ours: Vec<_> = ours.into_iter().collect();
        bail!(
            "not everything of ours could be measured: {}",
            ours.join(", ")
        );
    }
    Ok(())
}

/// Measures, writes and prints; `None` if only commands or the plan were asked for.
fn measure(options: &Options) -> Result<Option<Report>> {
    let root = command::root()?;
    let identity = root.join("target/bench-identity");
    let cases = options.cases();
    let plan = |subjects: usize| {
        let measurements: usize = cases
            .iter()
            .map(|case| options.rounds_of(&case.workload) * subjects)
            .sum();
        let time = command::seconds(options.estimate(subjects));
        format!(
            "{} cases, {subjects} subjects, {measurements} measurements: about {time} once built",
            cases.len()
        )
    };
    if options.dry_run {
        for case in &cases {
            println!("{case}");
        }
        println!("on {}", options.subjects.join(", "));
        println!("{}", plan(options.subjects.len()));
        return Ok(None);
    }
    let (programs, broken) = build(options)?;
    let pair_of = |subject: &str, case: &Case| {
        let program = programs.get(program_of(subject)?.program)?;
        Some(Pair::new(program, subject, case, options, &identity))
    };
    if options.print_commands {
        for case in &cases {
            for subject in &options.subjects {
                if let Some(pair) = pair_of(subject, case) {
                    println!("# {} {subject}\n{}\n", case.workload, pair.commands());
                }
            }
        }
        return Ok(None);
    }

    let mut report = Report::new(options, machine::describe()?);
    let started = Instant::now();
    for (subject, reason) in &broken {
        eprintln!("MISSING: {subject}: {reason}");
        report.missing(None, subject, reason);
    }
    let runnable: Vec<_> = options
        .subjects
        .iter()
        .filter(|subject| broken.iter().all(|(broken, _)| broken != *subject))
        .collect();
    eprintln!("{}", plan(runnable.len()));
    let total: usize = cases
        .iter()
        .map(|case| options.rounds_of(&case.workload) * runnable.len())
        .sum();
    let estimate = options.estimate(runnable.len());
    let mut expected = Duration::ZERO;
    let mut count = 0;
    for case in &cases {
        let rounds = options.rounds_of(&case.workload);
        let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
        for round in 0..rounds {
            for index in 0..runnable.len() {
                // Nobody profits from always running after the same neighbour.
                let subject = runnable[(index + round) % runnable.len()];
                let left = remaining(estimate, expected, started.elapsed());
                count += 1;
                expected += options.expected(&case.workload);
                let failed = failures.entry(subject).or_default();
                if *failed >= FAILURES_BEFORE_GIVING_UP {
                    continue;
                }
                eprint!(
                    "[{count}/{total}, {} left] {case}, round {} of {rounds}, {subject}: ",
                    command::seconds(left),
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
        // After every case, for a run that is not let finish.
        write_json(options, &report)?;
    }
    report.complete = true;
    write_json(options, &report)?;
    print!("{}", report.table());
    if let Some(file) = &options.json {
        eprintln!("written to {}", file.display());
    }
    eprintln!("measured for {}", command::seconds(started.elapsed()));
    Ok(Some(report))
}

/// How long the rest will take, if it goes on as it did so far.
fn remaining(estimate: Duration, expected: Duration, elapsed: Duration) -> Duration {
    let rest = estimate.saturating_sub(expected);
    // The first measurements say little.
    if expected < Duration::from_secs(5) {
        return rest;
    }
    rest.mul_f64(elapsed.as_secs_f64() / expected.as_secs_f64())
}

fn write_json(options: &Options, report: &Report) -> Result<()> {
    let Some(file) = &options.json else {
        return Ok(());
    };
    write(
        file,
        &(serde_json::to_string_pretty(&report.json())? + "\n"),
    )
}

/// Writes a file so that there is always a complete one, the old or the new.
pub(crate) fn write(file: &Path, text: &str) -> Result<()> {
    let write = || {
        let mut partial = file.as_os_str().to_owned();
        partial.push(".partial");
        fs::write(&partial, text)?;
        fs::rename(&partial, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = command::output(command::cargo(&[
        "metadata",
        "--format-version=1",
        "--no-deps",
    ])?)?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"].as_str();
    Ok(target.context("no target directory")?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_estimated_by_what_the_beginning_took() {
        let seconds = Duration::from_secs;
        assert_eq!(
            remaining(seconds(100), seconds(0), seconds(0)),
            seconds(100)
        );
        assert_eq!(
            remaining(seconds(100), seconds(50), seconds(100)),
            seconds(100)
        );
        assert_eq!(
            remaining(seconds(100), seconds(110), seconds(100)),
            seconds(0)
        );
    }
}
