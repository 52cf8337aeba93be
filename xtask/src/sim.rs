//! `cargo xtask sim`: the swarm of random simulations (`crates/swarm`), in release.

use anyhow::Result;

use crate::command;

/// Builds the swarm and hands it all arguments.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut cargo = vec![
        "run",
        "--release",
        "--quiet",
        "--package",
        "polyquic-swarm",
        "--",
    ];
    cargo.extend(arguments.iter().map(String::as_str));
    command::run(command::cargo(&cargo)?)
}
