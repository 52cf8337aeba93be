//! The `polyquic` program: serve and get files over QUIC, measure, and try every executor.
//!
//! A library only so that what reads input can be fuzzed as it is shipped (`fuzzing`); there is
//! nothing in it for other programs.
//!
//! Reading order: `args` is the command line; each command has a module of its name; `exec`
//! starts the executor that was asked for, and is the only place that names one. What several
//! commands share: `server` and `connect` (both ends of a connection), `tls`, `certs` and
//! `sessions` (trust), `reload` (new certificates while serving), `files` and `sandbox` (the disk), `failure` (exit codes).

#![forbid(unsafe_code)]

mod args;
mod certs;
mod connect;
mod demo;
mod exec;
mod failure;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod get;
mod hq;
mod out;
mod perf;
mod ping;
mod progress;
mod relay;
mod reload;
mod sandbox;
mod serve;
mod server;
mod sessions;
mod signals;
mod stats;
mod table;
mod tls;
mod transport;
mod url;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::out::complain;

/// The whole program: reads the command line, runs the command, says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .with_writer(std::io::stderr)
        .init();
    let result = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Get(args) => get::run(args),
        Command::Ping(args) => ping::run(args),
        Command::Perf(command) => perf::run(command),
        Command::Relay(args) => relay::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain!("{failure}");
            ExitCode::from(failure.exit.code())
        }
    }
}
