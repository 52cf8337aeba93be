//! On what the figures were measured.

use std::{fs, process::Command, thread};

use anyhow::{Context, Result};
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
pub(crate) fn describe() -> Result<Value> {
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
        "memory": field(&file("/proc/meminfo"), "MemTotal").map(|total| gibibytes(&total)),
        "kernel": kernel(&file("/proc/sys/kernel/osrelease")),
        // What else was going on: a figure above the two that we start means a busy machine.
        "load_before": file("/proc/loadavg").split(' ').take(2).collect::<Vec<_>>().join(" "),
        "rustc": ask("rustc", &["--version"]).ok(),
        "commit": commit.map(|commit| if changed { commit + " and changes" } else { commit }),
        "packages": versions.join(", "),
    }))
}

/// `16384000 kB` for a reader.
fn gibibytes(total: &str) -> String {
    match total.strip_suffix(" kB").map(str::parse::<f64>) {
        Some(Ok(kibibytes)) => format!("{:.1} GiB", kibibytes / f64::from(1 << 20)),
        _ => total.to_owned(),
    }
}

/// The kernel's version without the name of whoever built it, which says nothing to others.
fn kernel(release: &str) -> String {
    let version = release.trim().split('-').next().unwrap_or_default();
    format!("Linux {version}")
}

/// The largest UDP payload that loopback carries in one packet, over IPv4.
pub(super) fn path_maximum() -> Result<u16> {
    const MTU: &str = "/sys/class/net/lo/mtu";
    let mtu: u32 = fs::read_to_string(MTU)
        .with_context(|| format!("{MTU}, for the packet size `max`"))?
        .trim()
        .parse()?;
    Ok(payload(mtu))
}

/// What IP and UDP leave of an MTU; an IP packet has at most 65,535 bytes.
fn payload(mtu: u32) -> u16 {
    const HEADERS: u16 = 20 + 8;
    u16::try_from(mtu)
        .unwrap_or(u16::MAX)
        .saturating_sub(HEADERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_maximum_is_what_headers_leave() {
        assert_eq!(payload(1_500), 1_472);
        assert_eq!(payload(65_536), 65_507);
    }

    #[test]
    fn memory_is_readable() {
        assert_eq!(gibibytes("24684092 kB"), "23.5 GiB");
        assert_eq!(gibibytes("much"), "much");
    }

    #[test]
    fn kernels_are_named_by_their_version() {
        assert_eq!(kernel("6.1.0-13-amd64\n"), "Linux 6.1.0");
    }
}
