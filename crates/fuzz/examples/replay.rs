//! Runs a target on the files that are given: `replay TARGET FILE...`.

#![forbid(unsafe_code)]

use std::{env, fs, io};

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let target = polyquic_fuzz::TARGETS
        .iter()
        .find(|(known, _)| *known == name);
    let (_, target) = target.ok_or_else(|| io::Error::other(format!("no target {name:?}")))?;
    for file in arguments {
        target(&fs::read(&file)?);
        println!("{file}: nothing is wrong");
    }
    Ok(())
}
