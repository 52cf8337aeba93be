//! The project's commands: `cargo xtask test | ci | tidy | bench | icount | schedules | fuzz |
//! sanitize | sim | congestion | wasm | demo`.
//!
//! Everything that a contributor or a machine has to run is here rather than in shell scripts or
//! in one CI system's language, so that it is the same for both, and type-checked.

#![forbid(unsafe_code)]

mod bench;
mod ci;
mod command;
mod congestion;
mod demo;
mod fuzz;
mod icount;
mod metadata;
mod patience;
mod schedules;
mod sim;
mod test;
mod tidy;
mod wasm;

use std::{env, process::ExitCode};

use anyhow::{Result, bail};

const HELP: &str = "\
The project's commands.

usage: cargo xtask COMMAND

  test [FILTER]  run every test there is, or those whose name contains FILTER, and say what ran
  ci             everything that a change must pass: formatting, lints, docs, tidy, tests, demo
  tidy           the project's own rules: dependency arrows, purity of the core, docs, licences
  bench [...]    measure against other QUIC stacks; `cargo xtask bench --help` lists the options
  congestion     compare congestion controllers on simulated links; `--help` lists the options
  icount [...]   count the instructions of the protocol machines; needs valgrind
  fuzz [...]     run the fuzz targets of crates/fuzz; `cargo xtask fuzz --help` lists the options
  sanitize       the tests of the code that is unsafe, with AddressSanitizer
  demo [FILE]    move FILE between every pair of executors and print a table
  schedules [...] run the driver and its handles under many schedules of threads; --help
  wasm [--test]  build the JavaScript package with its WebAssembly module, and test it in Node
  sim [...]      random simulations; `--minutes M`, `--seed N` replays one, `--help` lists the options
";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    match run(&command, arguments.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        // The last line of the tests' report is for programs to read, and stays the last.
        Err(error) if command == "test" && error.is::<test::Failed>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, arguments: Vec<String>) -> Result<()> {
    match command {
        "test" => test::run(&arguments),
        "ci" => ci::run(&arguments),
        "tidy" => tidy::run(&arguments),
        "bench" => bench::run(&arguments),
        "fuzz" => fuzz::run(&arguments),
        "sanitize" => fuzz::sanitize(&arguments),
        "congestion" => congestion::run(&arguments),
        "icount" => icount::run(&arguments),
        "demo" => demo::run(&arguments),
        "schedules" => schedules::run(&arguments),
        "sim" => sim::run(&arguments),
        "wasm" => wasm::run(&arguments),
        "" | "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("no such command\n\n{HELP}"),
    }
}
