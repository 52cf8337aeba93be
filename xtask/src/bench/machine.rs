//! On what the figures were measured.

use std::{fs, process::Command, thread};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{command, metadata};

/// Packages whose version decides about the figures.
const PACKAGES: &[&str] = &[
    "async-io",
    "aws-lc-rs",
    "quinn",
    "quinn-proto",
    "quinn-udp",
    "ring",
    "rustls",
    "smol",
    "tokio",
];

/// The machine, the programs on it and the state of the sources.
pub(super) fn describe() -> Result<Value> {
    let ask = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(command::root()?);
        command::output(command)
    };
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        line.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
    };
    let versions: Vec<_> = metadata::everything()?
        .into_iter()
        .filter(|package| PACKAGES.contains(&&*package.name))
        .map(|package| format!("{} {}", package.name, package.version))
        .collect();
    let changed = ask("git", &["status", "--porcelain"]).is_ok_and(|status| !status.is_empty());
    let commit = ask("git", &["rev-parse", "--short", "HEAD"]).ok();
    Ok(json!({
        "date": ask("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).ok(),
        "processor": field(&file("/proc/cpuinfo"), "model name"),
        "processors": thread::available_parallelism().map(usize::from).ok(),
        "memory": field(&file("/proc/meminfo"), "MemTotal"),
        "kernel": file("/proc/sys/kernel/osrelease").trim(),
        // What else was going on: a figure above the two that we start means a busy machine.
        "load_before": file("/proc/loadavg").split(' ').take(2).collect::<Vec<_>>().join(" "),
        "rustc": ask("rustc", &["--version"]).ok(),
        "commit": commit.map(|commit| if changed { commit + " and changes" } else { commit }),
        "packages": versions.join(", "),
    }))
}
