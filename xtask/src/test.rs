//! `cargo xtask test`: every test there is, and a list of what ran.

use std::{
    fmt, fs,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{command, metadata};

/// A test that is silent for so long hangs. Compiling the slowest dependency takes less.
const SILENCE_LIMIT: Duration = Duration::from_secs(1200);

/// Features whose code the other features would otherwise be built beside, so that something
/// missing in one of them stays hidden: each is built alone.
const FACADE_COMBINATIONS: &[(&str, &str)] = &[
    ("smol,aws-lc-rs", "the default without its default features"),
    ("tokio,aws-lc-rs", "tokio alone"),
    (
        "blocking,ring",
        "no asynchronous executor, the other provider",
    ),
    #[cfg(target_os = "linux")]
    ("glommio,aws-lc-rs", "glommio alone"),
    ("sim,ring", "simulations without seeded cryptography"),
];

/// Runs the tests whose name contains the given filter, or all of them.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let filter = match arguments {
        [] => None,
        [filter] if !filter.starts_with('-') => Some(filter.as_str()),
        _ => bail!("usage: cargo xtask test [FILTER]"),
    };
    let mut report = Report::default();
    for step in steps(filter)? {
        report.run(&step)?;
    }
    report.print();
    match report.failed() {
        0 => Ok(()),
        count => Err(Failed(count).into()),
    }
}

/// Some tests failed; the report, which has been printed, says which.
#[derive(Debug)]
pub(crate) struct Failed(usize);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.0)
    }
}

impl std::error::Error for Failed {}

/// One call of cargo.
struct Step {
    why: &'static str,
    arguments: Vec<String>,
}

fn steps(filter: Option<&str>) -> Result<Vec<Step>> {
    let members = metadata::members()?;
    let text = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };

    let mut workspace = text(&["test", "--workspace", "--no-fail-fast"]);
    workspace.push("--features".into());
    workspace.push(all_features(&members));
    let mut steps = vec![Step {
        why: "unit, integration and documentation tests of every package, every feature on",
        arguments: workspace,
    }];

    let facade = members.iter().find(|package| package.name == "polyquic");
    let has = |feature: &str| {
        facade.is_some_and(|package| package.features.iter().any(|known| known == feature))
    };
    if has("tokio") && has("ring") {
        steps.push(Step {
            why: "the facade with another executor and the other provider, nothing else on",
            arguments: text(&[
                "test",
                "--package",
                "polyquic",
                "--no-fail-fast",
                "--no-default-features",
                "--features",
                "tokio,ring",
            ]),
        });
    }
    if let Some(filter) = filter {
        for step in &mut steps {
            step.arguments.push(filter.into());
        }
        // What follows compiles without running anything, and has no names to filter.
        return Ok(steps);
    }
    for (features, why) in FACADE_COMBINATIONS {
        if features.split(',').all(has) {
            steps.push(Step {
                why,
                arguments: text(&[
                    "check",
                    "--package",
                    "polyquic",
                    "--no-default-features",
                    "--features",
                    features,
                ]),
            });
        }
    }
    Ok(steps)
}

/// Every feature of every library here, as `package/feature`. The rivals of the benchmarks stay
/// out: whether they build is their affair.
pub(crate) fn all_features(members: &[metadata::Package]) -> String {
    let features: Vec<_> = members
        .iter()
        .filter(|package| package.name != "polyquic-bench")
        .flat_map(|package| {
            let features = package
                .features
                .iter()
                .filter(|feature| *feature != "default")
                // An error anywhere else.
                .filter(|feature| *feature != "glommio" || cfg!(target_os = "linux"));
            features.map(|feature| format!("{}/{feature}", package.name))
        })
        .collect();
    features.join(",")
}

/// What one test program said at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    what: String,
    passed: usize,
    failed: usize,
    skipped: usize,
}

#[derive(Default)]
struct Report {
    sections: Vec<Section>,
}

struct Section {
    command: String,
    why: &'static str,
    took: Duration,
    outcomes: Vec<Outcome>,
    failures: Vec<String>,
    /// What went wrong besides a failing test, such as code that does not compile.
    error: Option<String>,
}

impl Section {
    fn failed(&self) -> usize {
        let tests: usize = self.outcomes.iter().map(|outcome| outcome.failed).sum();
        // Never a failure without a number: cargo failed, so something did.
        tests.max(usize::from(self.error.is_some()))
    }
}

impl Report {
    fn run(&mut self, step: &Step) -> Result<()> {
        let words: Vec<_> = step.arguments.iter().map(String::as_str).collect();
        let mut cargo = command::cargo(&words)?;
        if io::stdout().is_terminal() {
            cargo.env("CARGO_TERM_COLOR", "always");
        }
        let shown = command::show(&cargo);
        println!("\n$ {shown}\n  {}", step.why);
        let started = Instant::now();
        let (parser, error) = watch(cargo)?;
        self.sections.push(Section {
            command: shown,
            why: step.why,
            took: started.elapsed(),
            outcomes: parser.outcomes,
            failures: parser.failures,
            error,
        });
        Ok(())
    }

    fn sum(&self, count: impl Fn(&Outcome) -> usize) -> usize {
        self.sections
            .iter()
            .flat_map(|section| &section.outcomes)
            .map(count)
            .sum()
    }

    fn failed(&self) -> usize {
        self.sections.iter().map(Section::failed).sum()
    }

    fn print(&self) {
        println!("\nWhat ran:");
        for section in &self.sections {
            println!("\n$ {}", section.command);
            println!("  {} ({})", section.why, command::seconds(section.took));
            for outcome in &section.outcomes {
                if outcome.passed + outcome.failed + outcome.skipped > 0 {
                    println!(
                        "  {:6} passed {:4} failed {:4} skipped  {}",
                        outcome.passed, outcome.failed, outcome.skipped, outcome.what
                    );
                }
            }
            for failure in &section.failures {
                println!("  FAILED {failure}");
            }
            match &section.error {
                Some(error) => println!("  FAILED {error}"),
                None if section.outcomes.is_empty() => println!("  builds"),
                None => {}
            }
        }
        let (passed, skipped) = (self.sum(|it| it.passed), self.sum(|it| it.skipped));
        let skipped = if skipped > 0 {
            format!(", {skipped} skipped")
        } else {
            String::new()
        };
        println!("\n{passed} passed, {} failed{skipped}", self.failed());
    }
}

/// Runs cargo, shows and reads what it prints, and ends it when it hangs.
fn watch(mut cargo: Command) -> Result<(Parser, Option<String>)> {
    // One pipe for both, because cargo names a test program on one and the program answers on
    // the other, and only their order says which belongs to which.
    let (reader, writer) = io::pipe()?;
    cargo
        .stdout(Stdio::from(writer.try_clone()?))
        .stderr(Stdio::from(writer));
    let mut child = cargo.spawn().context("cannot start cargo")?;
    // It holds our copies of the pipe's writing end, which must close with the child's.
    drop(cargo);

    let heard = Arc::new(Mutex::new(Instant::now()));
    let done = Arc::new(AtomicBool::new(false));
    let hung = Arc::new(AtomicBool::new(false));
    let watchdog = thread::spawn({
        let (heard, done, hung, pid) = (heard.clone(), done.clone(), hung.clone(), child.id());
        move || {
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(500));
                let last = *heard.lock().unwrap_or_else(|poison| poison.into_inner());
                if last.elapsed() > SILENCE_LIMIT && !done.load(Ordering::Relaxed) {
                    hung.store(true, Ordering::Relaxed);
                    end_tree(pid);
                    return;
                }
            }
        }
    });

    let mut parser = Parser::default();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        *heard.lock().unwrap_or_else(|poison| poison.into_inner()) = Instant::now();
        io::stdout().lock().write_all(&line)?;
        parser.line(&strip_colours(&String::from_utf8_lossy(&line)));
        line.clear();
    }
    let status = child.wait()?;
    done.store(true, Ordering::Relaxed);
    // Not joined: it may be asleep, and has nothing more to do.
    drop(watchdog);

    let error = if hung.load(Ordering::Relaxed) {
        let (silent, what) = (command::seconds(SILENCE_LIMIT), &parser.running);
        Some(format!(
            "nothing was heard for {silent} and it was ended: {what}"
        ))
    } else if status.success() {
        None
    } else if parser.outcomes.iter().any(|outcome| outcome.failed > 0) {
        Some("see above".into())
    } else {
        Some(format!(
            "{status}: it did not compile, or a test program crashed ({})",
            parser.running
        ))
    };
    Ok((parser, error))
}

/// Ends a process and everything that it started, the youngest first.
fn end_tree(pid: u32) {
    let children =
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
    {
        end_tree(child);
    }
    // Nothing is left to do for a process that cannot be ended.
    let _ = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .status();
}

/// Reads what `cargo test` prints.
#[derive(Default)]
struct Parser {
    running: String,
    outcomes: Vec<Outcome>,
    failures: Vec<String>,
}

impl Parser {
    fn line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(program) = line.strip_prefix("Running ") {
            self.running = program_name(program);
        } else if let Some(package) = line.strip_prefix("Doc-tests ") {
            self.running = format!("{package} (documentation)");
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let count = |word: &str| {
                let mut words = result.split([' ', ';']).filter(|part| !part.is_empty());
                let mut before = words.next()?;
                for part in words {
                    if part == word {
                        return before.parse().ok();
                    }
                    before = part;
                }
                None
            };
            self.outcomes.push(Outcome {
                what: self.running.clone(),
                passed: count("passed").unwrap_or(0),
                failed: count("failed").unwrap_or(0),
                skipped: count("ignored").unwrap_or(0),
            });
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|line| line.strip_suffix(" ... FAILED"))
        {
            self.failures.push(format!("{name} in {}", self.running));
        }
    }
}

/// `unittests src/lib.rs (target/debug/deps/polyquic_core-0123)` as `polyquic_core: src/lib.rs`.
fn program_name(program: &str) -> String {
    let (source, path) = program.split_once(" (").unwrap_or((program, ""));
    let source = source.trim_start_matches("unittests ");
    let file = path
        .trim_end_matches(')')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    match file.rsplit_once('-') {
        Some((package, _hash)) => format!("{package}: {source}"),
        None => source.to_owned(),
    }
}

/// The text without terminal escapes such as those for colours.
fn strip_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // An escape ends with its first letter.
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Parser {
        let mut parser = Parser::default();
        text.lines()
            .for_each(|line| parser.line(&strip_colours(line)));
        parser
    }

    #[test]
    fn counts_are_read_per_program() {
        let parser = parse(
            "\u{1b}[1m\u{1b}[32m     Running\u{1b}[0m unittests src/lib.rs (target/debug/deps/core-1a2b)\n\
             test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s\n\
             \x20    Running tests/all.rs (target/debug/deps/all-3c4d)\n\
             test a::b ... FAILED\n\
             test result: \u{1b}[31mFAILED\u{1b}[0m. 3 passed; 1 failed; 0 ignored; 0 measured\n\
             \x20  Doc-tests core\n\
             test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        let outcome = |what: &str, passed, failed, skipped| Outcome {
            what: what.into(),
            passed,
            failed,
            skipped,
        };
        assert_eq!(
            parser.outcomes,
            [
                outcome("core: src/lib.rs", 12, 0, 1),
                outcome("all: tests/all.rs", 3, 1, 0),
                outcome("core (documentation)", 7, 0, 0),
            ]
        );
        assert_eq!(parser.failures, ["a::b in all: tests/all.rs"]);
    }

    #[test]
    fn cargo_failing_is_a_failure_even_without_a_failed_test() {
        let mut section = Section {
            command: String::new(),
            why: "",
            took: Duration::ZERO,
            outcomes: Vec::new(),
            failures: Vec::new(),
            error: Some("does not compile".into()),
        };
        assert_eq!(section.failed(), 1);
        section.outcomes.push(Outcome {
            failed: 3,
            ..Outcome::default()
        });
        assert_eq!(section.failed(), 3);
    }
}
