//! `polyquic-swarm`: see `cargo xtask sim`.

#![forbid(unsafe_code)]

mod many;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use polyquic_swarm::{Plan, run, shrink};

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
    if let Some(seed) = arguments.shrink {
        let plan = shrink(&Plan::new(seed), |line| println!("{line}"));
        print!("{plan}");
        return verdict(&run(&plan, true, None).violations);
    }
    if let Some(seed) = arguments.seed {
        return one(seed, &arguments);
    }
    let threads = arguments
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let passed = match arguments.seeds {
        Some((from, to)) => many::range(from, to, threads),
        None => {
            let minutes = arguments.minutes.unwrap_or(1.0);
            many::random(Duration::from_secs_f64(minutes * 60.0), threads)
        }
    };
    ExitCode::from(u8::from(!passed))
}

fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    let plan = Plan::new(seed);
    print!("{plan}");
    let capture = arguments.capture.as_ref();
    let capture = capture.map(|folder| folder.join(format!("seed-{seed}.pcapng")));
    let outcome = run(&plan, arguments.verbose, capture.as_deref());
    println!(
        "{} connections ({} timed out), {} halves of streams, {} bytes, {} packets, {} polls, {} \
         operations, {:?} of virtual time, {} known faults",
        outcome.connections,
        outcome.timed_out,
        outcome.halves,
        outcome.bytes,
        outcome.packets,
        outcome.polls,
        outcome.operations,
        outcome.elapsed,
        outcome.known,
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
