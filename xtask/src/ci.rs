//! `cargo xtask ci`: everything that a change must pass, with the reason of each check.

use std::{
    env, fs,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{command, demo, fuzz, metadata, schedules, sim, test, tidy, wasm};

/// Enough to leave the first congestion window behind on every pair of executors.
const DEMO_FILE_BYTES: usize = 4 << 20;

/// For each target: enough to see that it runs. Finding things takes longer, and is no reason to
/// refuse a change that has nothing to do with them.
const FUZZ_RUNS: &str = "5000";

/// Packages that are used without the rest of the workspace, and must not live on features that
/// only the rest turns on.
const ALONE: &[&str] = &[
    "polyquic-core",
    "polyquic-runtime",
    "polyquic-endpoint",
    "polyquic",
];

struct Check {
    name: &'static str,
    why: &'static str,
    run: fn() -> Result<()>,
}

/// Ordered so that what is quick, and what reuses the work of the step before, comes first.
const CHECKS: &[Check] = &[
    Check {
        name: "fmt",
        why: "nobody discusses layout",
        run: || cargo(&["fmt", "--all", "--check"], &[]),
    },
    Check {
        name: "tidy",
        why: "the design's rules hold: arrows, a pure core, documented members, licences",
        run: || tidy::run(&[]),
    },
    Check {
        name: "clippy",
        why: "no warning anywhere, every feature on",
        run: clippy,
    },
    Check {
        name: "clippy, alone",
        why: "the packages others build on compile with the features they ask for themselves",
        run: clippy_alone,
    },
    Check {
        name: "doc",
        why: "every link in the documentation leads somewhere",
        run: doc,
    },
    Check {
        name: "test",
        why: "the README's test command",
        run: || test::run(&[]),
    },
    Check {
        name: "schedules",
        why: "no wake-up is lost between driver and handles, in whatever order threads run",
        run: || schedules::run(&[]),
    },
    Check {
        name: "fuzz",
        why: "every fuzz target builds, and finds nothing in its corpus and what is near to it",
        run: || fuzz::run(&["--runs".into(), FUZZ_RUNS.into()]),
    },
    Check {
        name: "sanitize",
        why: "AddressSanitizer has nothing to say about the code that is unsafe",
        run: || fuzz::sanitize(&[]),
    },
    Check {
        name: "demo",
        why: "the README's first command moves a file between every pair of executors",
        run: demonstrate,
    },
    Check {
        name: "wasm",
        why: "the JavaScript package talks to itself and to every executor, in Node and in a browser; WASI too",
        run: || wasm::run(&["--test".into()]),
    },
    Check {
        name: "sim",
        why: "a thousand random simulations, always the same, hold what they must",
        run: || sim::run(&["--seeds".into(), "0..1000".into()]),
    },
];

/// Runs all checks, or those named, and reports on all of them even when one fails.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if let Some(unknown) = arguments
        .iter()
        .find(|name| CHECKS.iter().all(|check| check.name != **name))
    {
        let known: Vec<_> = CHECKS.iter().map(|check| check.name).collect();
        bail!("no check {unknown:?}; there are: {}", known.join("; "));
    }
    let mut results: Vec<(&Check, Duration, Option<String>)> = Vec::new();
    for check in CHECKS {
        if !arguments.is_empty() && !arguments.iter().any(|name| name == check.name) {
            continue;
        }
        println!("\n=== {}: {}", check.name, check.why);
        let started = Instant::now();
        let error = (check.run)().err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            println!("=== {} FAILED: {error}", check.name);
        }
        results.push((check, started.elapsed(), error));
    }

    println!("\nChecks:");
    for (check, took, error) in &results {
        let verdict = if error.is_none() { "ok" } else { "FAILED" };
        println!(
            "  {verdict:6} {:14} {:>12}  {}",
            check.name,
            command::seconds(*took),
            check.why
        );
    }
    let failed: Vec<_> = results
        .iter()
        .filter(|(_, _, error)| error.is_some())
        .collect();
    for (check, _, error) in &failed {
        println!(
            "\n{} failed: {}",
            check.name,
            error.as_deref().unwrap_or_default()
        );
    }
    if !failed.is_empty() {
        bail!("{} of {} checks failed", failed.len(), results.len());
    }
    Ok(())
}

fn cargo(arguments: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let mut command = command::cargo(arguments)?;
    command.envs(environment.iter().copied());
    println!("$ {}", command::show(&command));
    command::run(command)
}

fn clippy() -> Result<()> {
    let features = test::all_features(&metadata::members()?);
    cargo(
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--features",
            &features,
            "--",
            "-D",
            "warnings",
        ],
        &[],
    )
}

fn clippy_alone() -> Result<()> {
    let members = metadata::members()?;
    for package in ALONE
        .iter()
        .filter(|name| members.iter().any(|it| it.name == **name))
    {
        cargo(
            &["clippy", "--package", package, "--", "-D", "warnings"],
            &[],
        )?;
    }
    Ok(())
}

fn doc() -> Result<()> {
    // Libraries only: programs document themselves with --help, which is not Markdown, and the
    // program's pages would overwrite those of the library of the same name.
    let features = test::all_features(&metadata::members()?);
    let arguments = [
        "doc",
        "--workspace",
        "--lib",
        "--no-deps",
        "--features",
        &features,
    ];
    cargo(&arguments, &[("RUSTDOCFLAGS", "-D warnings")])
}

fn demonstrate() -> Result<()> {
    let file = env::temp_dir().join(format!("polyquic-demo-{}", std::process::id()));
    // Not all equal, so that a block in the wrong place is noticed.
    let contents: Vec<u8> = (0..DEMO_FILE_BYTES as u32)
        .map(|i| (i ^ (i >> 7)) as u8)
        .collect();
    fs::write(&file, contents)?;
    let result = demo::run(&[file.to_string_lossy().into_owned()]);
    fs::remove_file(file)?;
    result
}
