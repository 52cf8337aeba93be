//! `cargo xtask schedules`: the driver and the handles under a checker of schedules.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::command;

/// Enough to find what was planted, and over in seconds.
const ITERATIONS: &str = "400";

const HELP: &str = "\
usage: cargo xtask schedules [--iterations N] [--seed N] [--replay FILE] [MODEL]

Runs the models of crates/endpoint/tests/schedules, each under N schedules (default: 400). When one
fails, its schedule is kept in a file; --replay runs MODEL once more in exactly that way.
";

/// Builds in a directory of its own, as another `--cfg` would have everything built anew.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (mut iterations, mut seed, mut replay) = (ITERATIONS.to_owned(), "1".to_owned(), None);
    let mut model = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || rest.next().cloned().context("an option lacks its value");
        match argument.as_str() {
            "--iterations" => iterations = value()?,
            "--seed" => seed = value()?,
            "--replay" => replay = Some(value()?),
            "--help" => {
                print!("{HELP}");
                return Ok(());
            }
            option if option.starts_with('-') => bail!("no option {option}\n\n{HELP}"),
            name => model = Some(name.to_owned()),
        }
    }
    for number in [&iterations, &seed] {
        number
            .parse::<u64>()
            .with_context(|| format!("{number} is no number"))?;
    }
    if replay.is_some() && model.is_none() {
        bail!("which model? A schedule fits one only\n\n{HELP}");
    }

    let failures = command::root()?.join("target/schedules/failures");
    fs::create_dir_all(&failures)?;
    let before = kept(&failures)?;
    let mut cargo = command::cargo(&[
        "test",
        "--quiet",
        "--target-dir",
        "target/schedules",
        "--package",
        "polyquic-endpoint",
        "--no-default-features",
        "--features",
        "ring",
        "--test",
        "schedules",
        "--",
        "--nocapture",
    ])?;
    cargo.args(model);
    let flags = env::var("RUSTFLAGS").unwrap_or_default();
    cargo
        .env("RUSTFLAGS", format!("{flags} --cfg polyquic_shuttle"))
        .env("POLYQUIC_SCHEDULES", iterations)
        .env("POLYQUIC_SCHEDULES_SEED", seed)
        .env("POLYQUIC_SCHEDULES_DIR", &failures);
    if let Some(file) = replay {
        let file = fs::canonicalize(&file).with_context(|| format!("cannot read {file}"))?;
        cargo.env("POLYQUIC_SCHEDULES_REPLAY", file);
    }
    println!("$ {}", command::show(&cargo));
    let result = command::run(cargo);
    for file in kept(&failures)?.iter().filter(|it| !before.contains(it)) {
        println!("{file}:\n{}", fs::read_to_string(file)?);
        println!(
            "To replay: cargo xtask schedules --replay {file} MODEL (the one that failed above)"
        );
    }
    result
}

/// Files with schedules that failed.
fn kept(directory: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        files.push(entry?.path().display().to_string());
    }
    files.sort();
    Ok(files)
}
