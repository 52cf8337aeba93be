//! `cargo xtask fuzz`: libFuzzer on the targets of `crates/fuzz`; and `cargo xtask sanitize`.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, patience};

const HELP: &str = "\
Runs the fuzz targets of crates/fuzz with libFuzzer, which begins with crates/fuzz/corpus.

usage: cargo xtask fuzz [TARGET...] [options]

  --seconds N    how long each target runs; default 60
  --runs N       N inputs for each instead, the same ones each time
  --minimise     afterwards, keep in crates/fuzz/corpus the fewest inputs that cover as much
  --address      with AddressSanitizer; about half as fast
  --coverage     also print the share of edges that each target reached, and in the end the lines
                 that the replayed corpora reach; the latter needs rustc's LLVM (apt-get install llvm-22)
";

/// What is installed where there is none.
const CARGO_FUZZ: &str = "cargo-fuzz@0.13.2";

/// What a corpus may take in the repository, in bytes per target.
const MAX_CORPUS_BYTES: u64 = 110_000;

struct Options {
    targets: Vec<String>,
    seconds: u32,
    runs: Option<u32>,
    minimise: bool,
    address: bool,
    coverage: bool,
}

impl Options {
    fn parse(arguments: &[String], known: &[String]) -> Result<Self> {
        let mut options = Self {
            targets: Vec::new(),
            seconds: 60,
            runs: None,
            minimise: false,
            address: false,
            coverage: false,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seconds" => {
                    let seconds = arguments.next().context("--seconds needs a number")?;
                    options.seconds = seconds.parse().context("--seconds needs a number")?;
                }
                "--runs" => {
                    let runs = arguments.next().context("--runs needs a number")?;
                    options.runs = Some(runs.parse().context("--runs needs a number")?);
                }
                "--minimise" => options.minimise = true,
                "--address" => options.address = true,
                "--coverage" => options.coverage = true,
                name if known.iter().any(|it| it == name) => options.targets.push(name.to_owned()),
                other => bail!(
                    "no target or option {other:?}; targets: {}\n\n{HELP}",
                    known.join(" ")
                ),
            }
        }
        if options.targets.is_empty() {
            options.targets = known.to_vec();
        }
        Ok(options)
    }
}

/// Builds the targets and runs those that are named, or all.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if arguments.iter().any(|it| it == "--help" || it == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    let directory = command::root()?.join("crates/fuzz");
    let options = Options::parse(arguments, &targets(&directory)?)?;
    need_compiler()?;
    need_cargo_fuzz()?;
    build(&directory, options.address)?;
    println!();
    let mut failed = Vec::new();
    for target in &options.targets {
        match fuzz(&directory, target, &options) {
            Ok(found) => println!("{target:22} {found}"),
            Err(error) => {
                println!("{target:22} FAILED: {error:#}");
                failed.push(target.as_str());
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    if options.coverage {
        coverage()?;
    }
    Ok(())
}

/// The names of the harness's files.
fn targets(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory.join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem() {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn exists(program: &str) -> bool {
    let probe = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    probe.is_ok_and(|status| status.success())
}

fn need_compiler() -> Result<()> {
    // libFuzzer is C++, and built from source.
    ensure!(
        exists("c++") || exists("g++") || exists("clang++"),
        "libFuzzer needs a C++ compiler: apt-get install g++"
    );
    Ok(())
}

fn need_cargo_fuzz() -> Result<()> {
    let installed = command::cargo(&["fuzz", "--version"])?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !installed.success() {
        let install = ["install", CARGO_FUZZ, "--locked"];
        println!(
            "cargo-fuzz is not installed: cargo {} (half a minute)",
            install.join(" ")
        );
        patience::retry("cargo-fuzz", || command::run(command::cargo(&install)?))?;
    }
    Ok(())
}

/// Makes a compiler take the flags that only nightly ones do by themselves.
fn unlock(cargo: &mut Command) {
    // A nightly toolchain would mean to build everything that is cached for the other once more, and
    // adds nothing: so the one in use, with its own features unlocked.
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_INCREMENTAL", "0");
}

fn build(directory: &Path, address: bool) -> Result<()> {
    let mut cargo = command::cargo(&[
        "fuzz",
        "build",
        "--release",
        "--no-cfg-fuzzing",
        "--sanitizer",
    ])?;
    // Without `cfg(fuzzing)`, by which dependencies would change what they do.
    cargo
        .arg(if address { "address" } else { "none" })
        .current_dir(directory);
    unlock(&mut cargo);
    println!("$ {}", command::show(&cargo));
    let started = Instant::now();
    command::run(cargo)?;
    println!("built in {}", command::seconds(started.elapsed()));
    Ok(())
}

/// Where cargo-fuzz puts the programs.
fn program(directory: &Path, target: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory.join("fuzz/target"))?;
    let found = entries
        .filter_map(|entry| Some(entry.ok()?.path().join("release").join(target)))
        .find(|path| {
            path.is_file()
                && path
                    .components()
                    .any(|it| it.as_os_str().to_string_lossy().contains('-'))
        });
    found.with_context(|| format!("cargo-fuzz has not built {target}"))
}

/// What one run came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    executions: u64,
    per_second: u64,
    edges: u64,
    features: u64,
    inputs: usize,
    /// Edges that there are.
    total: u64,
    coverage: bool,
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            executions,
            per_second,
            edges,
            features,
            inputs,
            ..
        } = self;
        write!(
            f,
            "{executions:9} executions {per_second:7}/s {edges:6} edges {features:6} features {inputs:5} inputs"
        )?;
        if self.coverage && self.total > 0 {
            write!(
                f,
                "  {:.1} % of {} edges",
                *edges as f64 * 100.0 / self.total as f64,
                self.total
            )?;
        }
        Ok(())
    }
}

impl Found {
    /// Take note of a line of libFuzzer's.
    fn line(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let numbers = |text: &str| text.parse().unwrap_or(0);
        while let Some(word) = words.next() {
            match word {
                "cov:" => self.edges = words.next().map_or(0, numbers),
                "ft:" => self.features = words.next().map_or(0, numbers),
                "stat::number_of_executed_units:" => {
                    self.executions = words.next().map_or(0, numbers);
                }
                "stat::average_exec_per_sec:" => self.per_second = words.next().map_or(0, numbers),
                _ => {}
            }
        }
        // INFO: Loaded 1 modules   (182737 inline 8-bit counters): …
        if let Some((before, _)) = line.split_once(" inline 8-bit counters") {
            self.total = before.rsplit('(').next().map_or(0, numbers);
        }
    }
}

fn fuzz(directory: &Path, target: &str, options: &Options) -> Result<Found> {
    let corpus = directory.join("corpus").join(target);
    let mut grown = directory.join("fuzz/corpus").join(target);
    if options.runs.is_some() {
        // What earlier runs found would lead elsewhere.
        grown = command::root()?.join("target/tmp/fuzz-runs").join(target);
        if grown.exists() {
            fs::remove_dir_all(&grown)?;
        }
    }
    let regressions = directory.join("regressions").join(target);
    for needed in [&corpus, &grown, &regressions] {
        fs::create_dir_all(needed)?;
    }
    let mut command = Command::new(program(directory, target)?);
    command
        .args([&grown, &corpus, &regressions])
        .args(match options.runs {
            Some(runs) => [format!("-runs={runs}"), "-seed=1".into()],
            None => [
                format!("-max_total_time={}", options.seconds),
                "-seed=0".into(),
            ],
        })
        .arg(format!("-artifact_prefix={}/", regressions.display()))
        .args([
            "-timeout=20",
            "-rss_limit_mb=3000",
            "-max_len=2048",
            "-print_final_stats=1",
        ])
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {target}"))?;
    let mut found = Found {
        coverage: options.coverage,
        ..Found::default()
    };
    let mut last = Vec::new();
    let mut reader = BufReader::new(child.stderr.take().context("it was piped")?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        found.line(&text);
        // What the panic says, and where the input is.
        if !text.starts_with('#') {
            last.push(text);
        }
        line.clear();
    }
    if !child.wait()?.success() {
        for text in last.iter().skip(last.len().saturating_sub(30)) {
            println!("  {text}");
        }
        bail!(
            "the input is in crates/fuzz/regressions/{target}; to replay:\n  cargo run -p polyquic-fuzz \
             --example replay {target} crates/fuzz/regressions/{target}/*"
        );
    }
    if options.minimise {
        minimise(directory, target, &corpus, &grown)?;
    }
    found.inputs = fs::read_dir(&grown)?.count() + fs::read_dir(&corpus)?.count();
    Ok(found)
}

/// Replaces what libFuzzer has found in the corpus by the fewest inputs that cover as much, and keeps
/// the seeds.
fn minimise(directory: &Path, target: &str, corpus: &Path, grown: &Path) -> Result<()> {
    let merged = directory
        .join("fuzz/corpus")
        .join(format!("{target}.merged"));
    if merged.exists() {
        fs::remove_dir_all(&merged)?;
    }
    fs::create_dir_all(&merged)?;
    let mut command = Command::new(program(directory, target)?);
    command
        .arg("-merge=1")
        .args([&merged, corpus, grown])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command::run(command)?;
    for entry in fs::read_dir(corpus)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("seed-") {
            fs::remove_file(entry.path())?;
        }
    }
    // The small ones first: they cover the most for their size.
    let mut files = Vec::new();
    for entry in fs::read_dir(&merged)? {
        let entry = entry?;
        files.push((entry.metadata()?.len(), entry.path()));
    }
    files.sort();
    let mut bytes = 0;
    for (length, path) in files {
        bytes += length;
        if bytes > MAX_CORPUS_BYTES {
            break;
        }
        let name = path.file_name().context("a file has a name")?;
        fs::copy(&path, corpus.join(name))?;
    }
    fs::remove_dir_all(merged)?;
    Ok(())
}

/// The major version of the LLVM in rustc.
fn llvm_version() -> Result<String> {
    let mut rustc = Command::new("rustc");
    rustc.arg("-vV");
    let text = command::output(rustc)?;
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next());
    Ok(major.context("rustc does not name its LLVM")?.to_owned())
}

/// A tool of LLVM that reads what rustc writes.
fn llvm(tool: &str, version: &str) -> Result<String> {
    let candidates = [
        format!("{tool}-{version}"),
        format!("/usr/lib/llvm-{version}/bin/{tool}"),
        tool.to_owned(),
    ];
    for candidate in candidates {
        let said = Command::new(&candidate).arg("--version").output();
        let said = said.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
        if said.is_ok_and(|text| text.contains(&format!("version {version}."))) {
            return Ok(candidate);
        }
    }
    bail!(
        "there is no {tool} of LLVM {version}, which rustc is built on: apt-get install llvm-{version}"
    )
}

/// The lines that the corpora reach when they are replayed.
fn coverage() -> Result<()> {
    let version = llvm_version()?;
    let (profdata, cov) = (
        llvm("llvm-profdata", &version)?,
        llvm("llvm-cov", &version)?,
    );
    let target = command::root()?.join("target/coverage");
    let (raw, merged) = (
        target.join("replay.profraw"),
        target.join("replay.profdata"),
    );
    fs::create_dir_all(&target)?;
    let cargo = |arguments: &[&str]| -> Result<Command> {
        let mut cargo =
            command::cargo(&["test", "--package", "polyquic-fuzz", "--test", "replay"])?;
        cargo
            .args(arguments)
            .arg("--target-dir")
            .arg(&target)
            .env("RUSTFLAGS", "-Cinstrument-coverage")
            .env("CARGO_INCREMENTAL", "0")
            .env("LLVM_PROFILE_FILE", &raw);
        Ok(cargo)
    };
    let built = command::output(cargo(&["--no-run", "--message-format=json"])?)?;
    let program = built
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(str::to_owned))
        .next_back()
        .context("cargo names no test program")?;
    command::run(cargo(&["--quiet"])?)?;
    let mut merge = Command::new(profdata);
    merge
        .args(["merge", "--sparse", "-o"])
        .arg(&merged)
        .arg(&raw);
    command::run(merge)?;
    let mut export = Command::new(cov);
    export
        .args(["export", "--summary-only", "--instr-profile"])
        .arg(&merged)
        .arg(program);
    let report: serde_json::Value = serde_json::from_str(&command::output(export)?)?;
    println!("\nLines that the corpora reach (tests within the files are not built in):");
    for part in [
        "crates/core/src",
        "crates/endpoint/src",
        "crates/cli/src",
        "quinn-proto",
    ] {
        let (mut count, mut covered) = (0, 0);
        for file in report["data"][0]["files"].as_array().into_iter().flatten() {
            if file["filename"]
                .as_str()
                .is_some_and(|name| name.contains(part))
            {
                let lines = &file["summary"]["lines"];
                count += lines["count"].as_u64().unwrap_or(0);
                covered += lines["covered"].as_u64().unwrap_or(0);
            }
        }
        if count > 0 {
            println!(
                "  {part:22} {covered:6} of {count:6}, {:.1} %",
                covered as f64 * 100.0 / count as f64
            );
        }
    }
    Ok(())
}

/// The tests of the crate that has most of the `unsafe` code, with AddressSanitizer and
/// LeakSanitizer.
pub(crate) fn sanitize(arguments: &[String]) -> Result<()> {
    ensure!(arguments.is_empty(), "usage: cargo xtask sanitize");
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the sanitizers are set up for Linux on x86-64"
    );
    let mut cargo = command::cargo(&[
        "test",
        "--package",
        "polyquic-udp",
        "--lib",
        "--tests",
        // Without a target, build scripts would be built with it, too.
        "--target",
        "x86_64-unknown-linux-gnu",
        // Not to throw away what is built for everything else.
        "--target-dir",
        "target/sanitize",
    ])?;
    cargo.env("RUSTFLAGS", "-Zsanitizer=address");
    unlock(&mut cargo);
    println!("$ RUSTFLAGS=-Zsanitizer=address {}", command::show(&cargo));
    command::run(cargo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_read() {
        let mut found = Found::default();
        for line in [
            "INFO: Loaded 1 modules   (182737 inline 8-bit counters): 182737 [0x1, 0x2),",
            "#4902\tNEW    cov: 4099 ft: 9741 corp: 790/276Kb lim: 957 exec/s: 408 rss: 34Mb",
            "stat::number_of_executed_units: 5000",
            "stat::average_exec_per_sec:     410",
        ] {
            found.line(line);
        }
        let expected = Found {
            executions: 5000,
            per_second: 410,
            edges: 4099,
            features: 9741,
            total: 182_737,
            ..Found::default()
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn targets_and_options_are_told_apart() {
        let known = ["a".to_owned(), "b".to_owned()];
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let options = Options::parse(&words("b --seconds 5 --minimise"), &known).unwrap();
        assert_eq!(
            (options.targets, options.seconds, options.minimise),
            (vec!["b".to_owned()], 5, true)
        );
        assert_eq!(Options::parse(&[], &known).unwrap().targets, known);
        assert!(Options::parse(&words("c"), &known).is_err());
        assert!(Options::parse(&words("--seconds"), &known).is_err());
    }
}
