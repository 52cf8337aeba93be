//! Simulates congestion controllers and writes what `cargo xtask congestion` makes a page of.
//!
//! `bench-congestion [--quick] [--only TEXT] [FILE]`: one seed instead of all, only the jobs in whose
//! group or scenario TEXT occurs, and the file to write instead of printing a summary.

#![forbid(unsafe_code)]

use std::{env, fs, process::ExitCode, time::Instant};

use anyhow::{Result, bail};
use polyquic_bench::congestion::jobs::{self, Job};
use serde_json::Value;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-congestion: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let (mut quick, mut only, mut file) = (false, None, None);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--quick" => quick = true,
            "--only" => only = arguments.next(),
            option if option.starts_with('-') => bail!("no such option: {option}"),
            _ => file = Some(argument),
        }
    }
    let seeds = if quick {
        &jobs::SEEDS[..1]
    } else {
        jobs::SEEDS
    };
    let mut jobs = jobs::all(seeds);
    if let Some(text) = only {
        jobs.retain(|job| format!("{} {}", job.group, job.scenario).contains(&text));
    }
    let (total, started) = (jobs.len(), Instant::now());
    let results = jobs::results(&jobs, &|done, job: &Job| {
        let elapsed = started.elapsed().as_secs_f64();
        let left = elapsed / done as f64 * (total - done) as f64;
        eprintln!(
            "[{done}/{total}, {left:.0} s left] {} {}, seed {}",
            job.group, job.scenario, job.transfer.seed
        );
    });
    match file {
        Some(file) => fs::write(file, lines(&results))?,
        None => summarize(&results),
    }
    eprintln!("simulated for {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// JSON with a record a line, so that changes can be read.
fn lines(results: &Value) -> String {
    let mut text = String::from("{");
    let fields = results.as_object().into_iter().flatten();
    for (index, (name, value)) in fields.enumerate() {
        let comma = if index == 0 { "" } else { "," };
        text += &format!("{comma}\n\"{name}\": ");
        match value.as_array() {
            Some(items) if items.iter().any(Value::is_object) => {
                let items: Vec<_> = items.iter().map(Value::to_string).collect();
                text += &format!("[\n{}\n]", items.join(",\n"));
            }
            _ => text += &value.to_string(),
        }
    }
    text + "\n}\n"
}

fn summarize(results: &Value) {
    for record in results["records"].as_array().into_iter().flatten() {
        println!(
            "{} {} {} {}",
            record["group"], record["scenario"], record["controllers"], record["metrics"]
        );
    }
}
