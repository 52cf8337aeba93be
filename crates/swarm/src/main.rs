//! `polyquic-swarm`: see `cargo xtask sim`.

#![deny(unsafe_code)]

#[allow(unsafe_code)] // To count what is allocated.
mod heap;
mod many;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use polyquic_swarm::{Options, Plan, Plant, commit, run, shrink};

use many::Settings;

const HELP: &str = "\
Random simulations of polyquic, each from a seed, and what must hold in all of them.

usage: cargo xtask sim [OPTIONS]

  --minutes M    random seeds on all cores for M minutes (default: 1)
  --seeds A..B   these seeds, on all cores
  --seed N       one seed: prints its plan in words, and the trace's hash as its last line
  --verbose      with --seed: what happens, in virtual time
  --capture DIR  with --seed: what hosts send and receive, as DIR/seed-N.pcapng
  --shrink N     the smallest part of the plan of seed N that still fails
  --threads T    instead of one per core
  --limit S      how many real seconds a seed may take before it counts as hanging (default: 600)
  --plant FAULT  plant a fault, which must be found: see `Plant`
";

#[derive(Default)]
struct Arguments {
    minutes: Option<f64>,
    seeds: Option<(u64, u64)>,
    seed: Option<u64>,
    shrink: Option<u64>,
    verbose: bool,
    capture: Option<PathBuf>,
    threads: Option<usize>,
    limit: Option<u64>,
    plant: Option<Plant>,
}

fn parse() -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("not a number: {text}"));
        match word.as_str() {
            "--minutes" => {
                let text = value()?;
                let minutes: f64 = text.parse().map_err(|_| format!("not a number: {text}"))?;
                if !(minutes > 0.0 && minutes < 1e6) {
                    return Err(format!("not a time: {text}"));
                }
                arguments.minutes = Some(minutes);
            }
            "--seeds" => {
                let text = value()?;
                let (from, to) = text.split_once("..").ok_or("--seeds takes A..B")?;
                arguments.seeds = Some((number(from.into())?, number(to.into())?));
            }
            "--seed" => arguments.seed = Some(number(value()?)?),
            "--shrink" => arguments.shrink = Some(number(value()?)?),
            "--threads" => arguments.threads = Some(number(value()?)?.max(1) as usize),
            "--capture" => arguments.capture = Some(value()?.into()),
            "--limit" => arguments.limit = Some(number(value()?)?),
            "--plant" => arguments.plant = Some(value()?.parse()?),
            "--verbose" => arguments.verbose = true,
            "--help" | "-h" => {
                print!("{HELP}");
                std::process::exit(0);
            }
            _ => return Err(format!("no such option: {word}\n\n{HELP}")),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let threads = arguments
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let settings = Settings {
        threads,
        limit: Duration::from_secs(arguments.limit.unwrap_or(600)),
        options: Options {
            live_bytes: Some(heap::live_bytes),
            plant: arguments.plant,
            ..Options::default()
        },
    };
    if let Some(seed) = arguments.shrink {
        let plan = shrink(&Plan::new(seed), |line| println!("{line}"));
        print!("{plan}");
        let options = Options {
            verbose: true,
            ..settings.options
        };
        return verdict(&run(&plan, &options).violations);
    }
    if let Some(seed) = arguments.seed {
        return many::watched(seed, settings.limit, || one(seed, &arguments, &settings));
    }
    let passed = match arguments.seeds {
        Some((from, to)) => many::range(from, to, &settings),
        None => {
            let minutes = arguments.minutes.unwrap_or(1.0);
            many::random(Duration::from_secs_f64(minutes * 60.0), &settings)
        }
    };
    ExitCode::from(u8::from(!passed))
}

fn one(seed: u64, arguments: &Arguments, settings: &Settings) -> ExitCode {
    println!("commit {}", commit());
    let plan = match std::panic::catch_unwind(|| Plan::new(seed)) {
        Ok(plan) => plan,
        Err(_) => return verdict(&["panics: while planning".into()]),
    };
    print!("{plan}");
    let capture = arguments.capture.as_ref();
    let capture = capture.map(|folder| folder.join(format!("seed-{seed}.pcapng")));
    let options = Options {
        verbose: arguments.verbose,
        capture: capture.as_deref(),
        ..settings.options
    };
    let outcome = run(&plan, &options);
    println!(
        "{} connections ({} timed out), {} halves of streams, {} bytes, {} packets, {} polls, {} \
         operations, {:?} of virtual time, {} timeouts for a reason, heap at most {} kB",
        outcome.connections,
        outcome.timed_out,
        outcome.halves,
        outcome.bytes,
        outcome.packets,
        outcome.polls,
        outcome.operations,
        outcome.elapsed,
        outcome.excused,
        outcome.peak >> 10,
    );
    let verdict = verdict(&outcome.violations);
    println!("trace {}", outcome.trace);
    verdict
}

fn verdict(violations: &[String]) -> ExitCode {
    for violation in violations {
        println!("violated: {violation}");
    }
    ExitCode::from(u8::from(!violations.is_empty()))
}
