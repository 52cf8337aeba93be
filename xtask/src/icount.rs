//! `cargo xtask icount`: how many instructions a byte, a request and a handshake cost.
//!
//! Time on a shared machine moves by tens of percent; the number of instructions does not. The
//! program `bench-icount` steps two machines against each other in memory, and callgrind counts
//! what each side executes in the measured part alone (`--toggle-collect` on the two functions
//! that the program wraps it in). It is a figure for regressions: it knows nothing of caches,
//! system calls or waiting, so it says that something changed, not how much faster it got.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{bench, command};

const HELP: &str = "\
Counts the instructions of a byte, a request and a handshake between two machines in memory, with
callgrind; polyquic's core, and quinn-proto alone as the yardstick.

usage: cargo xtask icount [options]

  --json FILE      write the counts
  --compare FILE   show what has changed since FILE was written
  --check          compare with docs/benchmarks/icount.json and fail if a count of polyquic-core is
                   more than 2 % above it
  --update         count, and write docs/benchmarks/icount.json
";

/// The counts that `--check` compares with.
pub(crate) const BASELINE: &str = "docs/benchmarks/icount.json";
const OURS: &str = "polyquic-core";
const YARDSTICK: &str = "quinn-proto";
const STACKS: [&str; 2] = [OURS, YARDSTICK];
const WORKLOADS: [&str; 3] = ["transfer", "requests", "handshakes"];
const SIDES: [&str; 2] = ["client", "server"];
/// More than a count moves by itself (a tenth of that), less than anybody would notice.
const TOLERANCE: f64 = 0.02;

/// One count.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    workload: String,
    stack: String,
    side: String,
    /// What the count is divided by.
    operation: String,
    operations: u64,
    instructions: u64,
}

impl Row {
    fn per_operation(&self) -> f64 {
        self.instructions as f64 / self.operations as f64
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.workload, &self.stack, &self.side) == (&other.workload, &other.stack, &other.side)
    }
}

/// All counts, and what they depend on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Counts {
    machine: Value,
    rows: Vec<Row>,
}

/// Counts, prints, and compares if asked to.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let root = command::root()?;
    let (mut file, mut old, mut check) = (None, None, false);
    let mut arguments = arguments.iter();
    while let Some(name) = arguments.next() {
        let mut value = || {
            let value = arguments.next().map(PathBuf::from);
            value.with_context(|| format!("{name} needs a file"))
        };
        match &**name {
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(());
            }
            "--json" => file = Some(value()?),
            "--compare" => old = Some(value()?),
            "--check" => (old, check) = (Some(root.join(BASELINE)), true),
            "--update" => file = Some(root.join(BASELINE)),
            _ => bail!("no such option: {name}\n\n{HELP}"),
        }
    }
    // Before the minute that counting takes.
    let old = old.map(|file| Counts::read(&file)).transpose()?;
    let valgrind = valgrind()?;
    if check && let Some(old) = &old {
        comparable(&old.machine, &machine(&valgrind)?)?;
    }
    let counts = Counts::measure(&root, &valgrind)?;
    print!("{}", counts.table());
    if let Some(file) = file {
        bench::write(
            &file,
            &(serde_json::to_string_pretty(&counts.json())? + "\n"),
        )?;
        eprintln!("written to {}", file.display());
    }
    if let Some(old) = old {
        let (text, worse) = compare(&old, &counts);
        print!("{text}");
        if check && !worse.is_empty() {
            bail!(
                "more than {} % above {BASELINE}: {}; if that is wanted, `cargo xtask icount \
                 --update`",
                TOLERANCE * 100.0,
                worse.join("; ")
            );
        }
    }
    Ok(())
}

fn valgrind() -> Result<String> {
    let mut ask = Command::new("valgrind");
    ask.arg("--version");
    command::output(ask).context(
        "instructions are counted with valgrind's callgrind, which is not installed: \
         `apt-get install valgrind` on Debian and Ubuntu, `dnf install valgrind` on Fedora, or \
         https://valgrind.org",
    )
}

/// What the counts depend on besides the sources.
fn machine(valgrind: &str) -> Result<Value> {
    let all = bench::machine()?;
    let mut machine = json!({ "valgrind": valgrind });
    for name in ["processor", "kernel", "rustc", "packages", "date", "commit"] {
        machine[name] = all[name].clone();
    }
    Ok(machine)
}

/// Other compilers and other valgrinds count differently; to call that a regression, or the lack of
/// one, would be wrong.
fn comparable(old: &Value, new: &Value) -> Result<()> {
    for name in ["rustc", "valgrind", "processor"] {
        ensure!(
            old[name] == new[name],
            "{BASELINE} was counted with {name} {}, and this is {}: not comparable. Count both \
             revisions here, with --json and --compare",
            old[name],
            new[name],
        );
    }
    Ok(())
}

impl Counts {
    fn measure(root: &Path, valgrind: &str) -> Result<Self> {
        eprintln!("building bench-icount");
        command::run(command::cargo(&[
            "build",
            "--release",
            "--quiet",
            "--package",
            "polyquic-bench",
            "--no-default-features",
            "--features",
            "icount",
            "--bin",
            "bench-icount",
        ])?)?;
        let target = bench::target_directory()?;
        let program = target.join("release/bench-icount");
        let mut jobs = Vec::new();
        for workload in WORKLOADS {
            for stack in STACKS {
                for side in SIDES {
                    jobs.push((workload, stack, side));
                }
            }
        }
        let total = jobs.len();
        // Counts do not depend on what else the machine does.
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let queue = Mutex::new(jobs.into_iter().enumerate());
        let rows = Mutex::new(BTreeMap::new());
        let directory = root.join("target/icount");
        fs::create_dir_all(&directory)?;
        thread::scope(|scope| {
            let work = || -> Result<()> {
                loop {
                    let next = queue.lock().expect("no worker panics").next();
                    let Some((index, (workload, stack, side))) = next else {
                        return Ok(());
                    };
                    let row = count(&program, &directory, workload, stack, side)
                        .with_context(|| format!("{workload}, {stack}, {side}"))?;
                    eprintln!(
                        "[{}/{total}] {workload}, {stack}, {side}: {} per {}",
                        index + 1,
                        bench::figure(row.per_operation()),
                        row.operation
                    );
                    rows.lock().expect("no worker panics").insert(index, row);
                }
            };
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                thread.join().expect("no worker panics")?;
            }
            anyhow::Ok(())
        })?;
        let rows = rows.into_inner().expect("no worker panics");
        Ok(Self {
            machine: machine(valgrind)?,
            rows: rows.into_values().collect(),
        })
    }

    fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "workload": row.workload,
                "stack": row.stack,
                "side": row.side,
                "operation": row.operation,
                "operations": row.operations,
                "instructions": row.instructions,
                "per_operation": row.per_operation(),
            })
        });
        json!({ "machine": self.machine, "rows": rows.collect::<Vec<_>>() })
    }

    pub(crate) fn read(file: &Path) -> Result<Self> {
        let read = || {
            let json: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
            Self::parse(&json)
        };
        read().with_context(|| format!("{}", file.display()))
    }

    pub(crate) fn parse(json: &Value) -> Result<Self> {
        let rows = json["rows"].as_array().context("no rows")?;
        let rows = rows.iter().map(|row| {
            let text = |name: &str| {
                let text = row[name].as_str().map(str::to_owned);
                text.with_context(|| format!("a row without {name}"))
            };
            let number = |name: &str| {
                let number = row[name].as_u64().filter(|number| *number > 0);
                number.with_context(|| format!("a row without {name}"))
            };
            Ok(Row {
                workload: text("workload")?,
                stack: text("stack")?,
                side: text("side")?,
                operation: text("operation")?,
                operations: number("operations")?,
                instructions: number("instructions")?,
            })
        });
        Ok(Self {
            machine: json["machine"].clone(),
            rows: rows.collect::<Result<_>>()?,
        })
    }

    fn per_operation(&self, workload: &str, stack: &str, side: &str) -> Option<f64> {
        let same = |row: &&Row| row.workload == workload && row.stack == stack && row.side == side;
        self.rows.iter().find(same).map(Row::per_operation)
    }

    /// Workload, side, and the counts of both stacks, for tables; the last line of a workload is
    /// the sum of both sides.
    fn lines(&self) -> Vec<(String, f64, f64)> {
        let mut lines = Vec::new();
        for workload in WORKLOADS {
            let operation = self
                .rows
                .iter()
                .find(|row| row.workload == workload)
                .map_or("", |row| &row.operation);
            let mut sum = (0.0, 0.0);
            for side in SIDES {
                let of = |stack| self.per_operation(workload, stack, side);
                if let (Some(ours), Some(theirs)) = (of(OURS), of(YARDSTICK)) {
                    lines.push((format!("per {operation}, {side}"), ours, theirs));
                    sum = (sum.0 + ours, sum.1 + theirs);
                }
            }
            lines.push((format!("per {operation}, both"), sum.0, sum.1));
        }
        lines
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{:24}{OURS:>16}{YARDSTICK:>16}{:>8}\n",
            "instructions", "ratio"
        );
        for (name, ours, theirs) in self.lines() {
            text += &format!(
                "{name:24}{:>16}{:>16}{:>8.3}\n",
                bench::figure(ours),
                bench::figure(theirs),
                theirs / ours
            );
        }
        text + "\nA ratio above 1: fewer instructions than quinn-proto alone.\n"
    }

    /// The same for the page.
    pub(crate) fn markdown(&self) -> String {
        let mut text =
            format!("| Instructions | `{OURS}` | `{YARDSTICK}` | ratio |\n|---|---|---|---|\n");
        for (name, ours, theirs) in self.lines() {
            let (shown, yardstick) = (bench::figure(ours), bench::figure(theirs));
            text += &format!(
                "| {name} | {shown} | {yardstick} | **{:.3}** |\n",
                theirs / ours
            );
        }
        let fact = |name: &str| self.machine[name].as_str().unwrap_or("unknown");
        text + &format!(
            "\nCounted with {} on {} ({}), commit {}, {}.\n",
            fact("valgrind"),
            fact("processor"),
            fact("rustc"),
            fact("commit"),
            fact("date"),
        )
    }
}

/// Counts one side of one workload.
fn count(program: &Path, directory: &Path, workload: &str, stack: &str, side: &str) -> Result<Row> {
    let out = directory.join(format!("{workload}-{stack}-{side}.callgrind"));
    // One of an earlier run must not be taken for this one's.
    let _ = fs::remove_file(&out);
    let mut run = Command::new("valgrind");
    run.args(["--quiet", "--tool=callgrind", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=*measured_{side}*"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args([stack, workload]);
    let done: Value = serde_json::from_str(&command::output(run)?)?;
    let instructions = total(&fs::read_to_string(&out)?)?;
    ensure!(
        instructions > 0,
        "callgrind has seen no measured_{side} in the program"
    );
    Ok(Row {
        workload: workload.into(),
        stack: stack.into(),
        side: side.into(),
        operation: done["operation"].as_str().context("no operation")?.into(),
        operations: done["operations"].as_u64().context("no operations")?,
        instructions,
    })
}

/// The sum in callgrind's file.
fn total(text: &str) -> Result<u64> {
    let event = text.lines().find_map(|line| line.strip_prefix("events: "));
    ensure!(
        event == Some("Ir"),
        "instructions were not what was counted"
    );
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.context("callgrind wrote no total")?.trim().parse()?)
}

/// What has changed, and which counts of ours went up by more than is tolerated.
fn compare(old: &Counts, new: &Counts) -> (String, Vec<String>) {
    let mut text = format!(
        "\n{:12}{:16}{:8}{:>16}{:>16}{:>9}\n",
        "", "", "", "before", "after", "change"
    );
    let mut worse = Vec::new();
    for after in &new.rows {
        let Some(before) = old.rows.iter().find(|row| row.is_same(after)) else {
            text += &format!(
                "{:12}{:16}{:8}was not counted before\n",
                after.workload, after.stack, after.side
            );
            continue;
        };
        let change = after.per_operation() / before.per_operation() - 1.0;
        let verdict = if change > TOLERANCE {
            "  WORSE"
        } else if change < -TOLERANCE {
            "  better"
        } else {
            ""
        };
        text += &format!(
            "{:12}{:16}{:8}{:>16}{:>16}{:>+8.2} %{verdict}\n",
            after.workload,
            after.stack,
            after.side,
            bench::figure(before.per_operation()),
            bench::figure(after.per_operation()),
            change * 100.0
        );
        if change > TOLERANCE && after.stack == OURS {
            worse.push(format!(
                "{}, {}: {:+.1} %",
                after.workload,
                after.side,
                change * 100.0
            ));
        }
    }
    for before in &old.rows {
        if !new.rows.iter().any(|row| row.is_same(before)) {
            worse.push(format!("{}, {} is gone", before.workload, before.side));
        }
    }
    (text, worse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(handshake: u64) -> Counts {
        let mut rows = Vec::new();
        for workload in WORKLOADS {
            for stack in STACKS {
                for side in SIDES {
                    rows.push(Row {
                        workload: workload.into(),
                        stack: stack.into(),
                        side: side.into(),
                        operation: "thing".into(),
                        operations: 50,
                        instructions: if workload == "handshakes" && stack == OURS {
                            handshake
                        } else {
                            100_000
                        },
                    });
                }
            }
        }
        let machine = json!({ "rustc": "1", "valgrind": "3", "processor": "p" });
        Counts { machine, rows }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let counts = counts(90_000);
        assert_eq!(Counts::parse(&counts.json()).unwrap(), counts);
        assert!(Counts::parse(&json!({ "rows": [{}] })).is_err());
    }

    #[test]
    fn two_percent_are_tolerated_and_more_are_not() {
        assert_eq!(compare(&counts(100_000), &counts(101_900)).1, [""; 0]);
        assert_eq!(
            compare(&counts(100_000), &counts(103_000)).1,
            ["handshakes, client: +3.0 %", "handshakes, server: +3.0 %"]
        );
        assert!(
            compare(&counts(100_000), &counts(90_000))
                .0
                .contains("better")
        );
    }

    #[test]
    fn a_count_that_is_gone_is_not_a_pass() {
        let mut new = counts(1);
        new.rows.retain(|row| row.workload != "transfer");
        assert_eq!(compare(&counts(1), &new).1.len(), 4);
    }

    #[test]
    fn other_compilers_are_not_compared() {
        let old = counts(1).machine;
        assert!(comparable(&old, &old).is_ok());
        let mut new = old.clone();
        new["rustc"] = "2".into();
        assert!(comparable(&old, &new).is_err());
    }

    #[test]
    fn tables_have_both_sides_and_their_sum() {
        let (table, page) = (counts(50_000).table(), counts(50_000).markdown());
        assert!(table.contains("per thing, both"), "{table}");
        assert!(
            page.contains("| per thing, both | 2,000 | 4,000 | **2.000** |"),
            "{page}"
        );
    }

    #[test]
    fn callgrinds_total_is_found() {
        assert_eq!(total("events: Ir\nfn=x\ntotals: 12\n").unwrap(), 12);
        assert!(total("events: Ir\n").is_err());
        assert!(total("events: Dr\ntotals: 12\n").is_err());
    }
}
