//! What `cargo xtask icount` counts instructions of: two machines stepped against each other in
//! memory, without sockets, executor or waiting.
//!
//! Time is virtual and everything that this program can seed is seeded, so two runs execute nearly
//! the same instructions. What cannot be seeded is TLS' own randomness; everything of it that has a
//! length has a fixed one (an Ed25519 certificate, made from a fixed key), and the handshakes
//! average over what is left, such as the rejection sampling in ML-KEM.
//!
//! Only what a side does inside [`measured_client`] or [`measured_server`] is to be counted:
//! callgrind is told to collect between entry and return of one of the two. Certificates, the
//! warm-up and the "network" between the sides, which copies each datagram once, are outside.

#![forbid(unsafe_code)]

mod app;
mod stack;
mod tls;

use std::{env, hint::black_box, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::json;

use app::Workload;

const HELP: &str = "\
Steps two machines against each other in memory; `cargo xtask icount` runs it under callgrind.

usage: bench-icount STACK WORKLOAD

  STACK     polyquic-core or quinn-proto
  WORKLOAD  transfer, requests or handshakes
";

/// The functions whose instructions are counted; xtask asks for their names.
const MEASURED: [&str; 2] = ["measured_client", "measured_server"];

/// Runs `step` where callgrind collects for the client.
#[inline(never)]
fn measured_client<T>(step: impl FnOnce() -> T) -> T {
    // Makes the two functions differ, which identical ones might not at link time.
    black_box(MEASURED[0].len());
    let result = step();
    black_box(1);
    result
}

/// Runs `step` where callgrind collects for the server.
#[inline(never)]
fn measured_server<T>(step: impl FnOnce() -> T) -> T {
    black_box(MEASURED[1].len());
    let result = step();
    black_box(2);
    result
}

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let [stack, workload] = arguments else {
        bail!("two arguments are needed\n\n{HELP}");
    };
    let workload: Workload = workload.parse()?;
    let done = match &**stack {
        "polyquic-core" => stack::ours::run(workload),
        "quinn-proto" => stack::bare::run(workload),
        other => bail!("no stack {other:?}\n\n{HELP}"),
    }
    .with_context(|| format!("{workload:?} on {stack}"))?;
    // For the driver, which divides, and for whoever wonders why a count has changed.
    println!(
        "{}",
        json!({
            "operations": done.operations,
            "operation": workload.operation(),
            "datagrams_up": done.datagrams_up,
            "datagrams_down": done.datagrams_down,
            "virtual_ms": done.virtual_time.as_secs_f64() * 1e3,
        })
    );
    Ok(())
}
