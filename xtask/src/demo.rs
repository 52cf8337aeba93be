//! `cargo xtask demo`: the program's own demonstration, in release mode.

use anyhow::Result;

use crate::command;

/// Runs the demonstration, with the file to move if one is named.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut cargo = command::cargo(&[
        "run",
        "--release",
        "--package",
        "polyquic-cli",
        "--",
        "demo",
    ])?;
    cargo.args(arguments);
    command::run(cargo)
}
