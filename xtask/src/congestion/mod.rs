//! `cargo xtask congestion`: congestion controllers on simulated links, and the page about them.
//!
//! The simulations are in `polyquic-bench`, which writes JSON ([`results`]); the page ([`page`]) and
//! its plots ([`plot`]) are a function of that file, so that `cargo xtask tidy` can tell whether they
//! were written from what is there.

mod page;
mod plot;
mod results;
mod text;

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{bench, command};

use self::results::Results;

/// The page.
const PAGE: &str = "docs/CONGESTION.md";
/// What it is made of.
const RESULTS: &str = "docs/benchmarks/congestion.json";
/// How names of its plots begin.
const PLOTS: &str = "docs/benchmarks/congestion-";

const HELP: &str = "\
Compare congestion controllers on simulated links.

usage: cargo xtask congestion [--quick] [--publish | --page]

  --quick    one seed instead of five
  --publish  write the results and the page: docs/benchmarks/congestion.json, docs/CONGESTION.md
  --page     write the page from the results there are
";

/// Simulates and prints, or writes the page.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (mut quick, mut publish, mut only_page) = (false, false, false);
    for argument in arguments {
        match &**argument {
            "--quick" => quick = true,
            "--publish" => publish = true,
            "--page" => only_page = true,
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(());
            }
            _ => bail!("no such option: {argument}\n\n{HELP}"),
        }
    }
    if quick && publish {
        bail!("the page has all seeds: --publish without --quick");
    }
    let root = command::root()?;
    if only_page {
        return write(&root);
    }
    command::run(command::cargo(&[
        "build",
        "--release",
        "--package",
        "polyquic-bench",
        "--bin",
        "bench-congestion",
        "--no-default-features",
        "--features",
        "congestion",
    ])?)?;
    let mut program = Command::new(bench::target_directory()?.join("release/bench-congestion"));
    if quick {
        program.arg("--quick");
    }
    if publish {
        program.arg(root.join(RESULTS));
    }
    command::run(program)?;
    if publish { write(&root) } else { Ok(()) }
}

/// Writes the page and its plots from the results.
fn write(root: &Path) -> Result<()> {
    let outputs = render(root)?;
    for (file, text) in &outputs {
        bench::write(&root.join(file), text)?;
    }
    eprintln!("written: {PAGE} and {} plots", outputs.len() - 1);
    Ok(())
}

/// What is not as the results would have it: for `cargo xtask tidy`.
pub(crate) fn check(root: &Path) -> Result<Vec<(String, String)>> {
    let outputs = render(root)?;
    let mut problems = Vec::new();
    for (file, text) in &outputs {
        if fs::read_to_string(root.join(file)).ok().as_ref() != Some(text) {
            let message = "is not what the results give; run `cargo xtask congestion --page`";
            problems.push((file.clone(), message.to_owned()));
        }
    }
    let directory = Path::new(RESULTS).parent().unwrap_or(Path::new(""));
    for entry in fs::read_dir(root.join(directory))? {
        let name = entry?.file_name();
        let file = format!("{}/{}", directory.display(), name.to_string_lossy());
        if file.starts_with(PLOTS) && outputs.iter().all(|(known, _)| *known != file) {
            problems.push((file, "belongs to no results".into()));
        }
    }
    Ok(problems)
}

fn render(root: &Path) -> Result<Vec<(String, String)>> {
    let file = root.join(RESULTS);
    let text = fs::read_to_string(&file).with_context(|| RESULTS.to_owned())?;
    page::outputs(&Results::parse(&text).with_context(|| RESULTS.to_owned())?)
}
