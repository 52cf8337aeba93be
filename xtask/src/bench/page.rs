//! `docs/BENCHMARKS.md`, written from the files of results beside it.
//!
//! The page is a function of the files in `docs/benchmarks` and nothing else, so that
//! `cargo xtask tidy` can tell whether it was written from what is there.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::icount::{self, Counts};

use super::{
    BASELINE, BASELINE_MULTI, OURS_PREFIX,
    plot::{self, Bar, Kind, Panel},
    publish::PARTS,
    report::{Case, figure},
    results::{Results, Row},
    targets,
};

/// The page.
pub(super) const PAGE: &str = "docs/BENCHMARKS.md";
/// Where the results and the plots of the page are.
pub(super) const DIRECTORY: &str = "docs/benchmarks";
/// What people have to say about it.
const NOTES: &str = "docs/benchmarks/notes.md";
/// How names of files there begin that are another page's.
const OTHERS: &str = "congestion";
/// Before the names of the files, in the page's first line.
const MARK: &str = "<!-- cargo xtask bench --page ";

/// A file to be, relative to the workspace, and its contents.
pub(super) type Output = (String, String);

/// Writes the page from these files, or from all that there are.
pub(super) fn write(root: &Path, files: &[PathBuf]) -> Result<()> {
    let names = if files.is_empty() {
        all(root)?
    } else {
        files
            .iter()
            .map(|file| named(file))
            .collect::<Result<_>>()?
    };
    ensure!(!names.is_empty(), "there are no results in {DIRECTORY}");
    let outputs = render(root, &names)?;
    for (file, text) in &outputs {
        super::write(&root.join(file), text)?;
    }
    for stale in stale(root, &outputs)? {
        fs::remove_file(root.join(&stale))?;
        eprintln!("removed {stale}");
    }
    eprintln!("written: {PAGE} and {} plots", outputs.len() - 1);
    Ok(())
}

/// What is not as the results would have it: for `cargo xtask tidy`.
pub(crate) fn check(root: &Path) -> Result<Vec<(String, String)>> {
    let page = fs::read_to_string(root.join(PAGE)).with_context(|| PAGE.to_owned())?;
    let first = page.lines().next().unwrap_or_default();
    let Some(names) = first.strip_prefix(MARK) else {
        return Ok(vec![(
            PAGE.into(),
            "was not written by `cargo xtask bench --page`".into(),
        )]);
    };
    let names: Vec<_> = names
        .trim_end_matches("-->")
        .split_whitespace()
        .map(|file| named(Path::new(file)))
        .collect::<Result<_>>()?;
    let outputs = render(root, &names)?;
    let differs = |output: &&Output| {
        fs::read_to_string(root.join(&output.0)).ok().as_ref() != Some(&output.1)
    };
    let mut problems: Vec<_> = outputs
        .iter()
        .filter(differs)
        .map(|(file, _)| {
            let message = "is not what the results give; run `cargo xtask bench --page`";
            (file.clone(), message.to_owned())
        })
        .collect();
    for file in stale(root, &outputs)? {
        problems.push((file, "belongs to no results".into()));
    }
    Ok(problems)
}

/// A file's name without the extension, if it is where the page's results have to be.
fn named(file: &Path) -> Result<String> {
    let shown = file.to_string_lossy().replace('\\', "/");
    let name = shown.rsplit('/').next().unwrap_or_default();
    match name.strip_suffix(".json") {
        Some(stem) if shown == format!("{DIRECTORY}/{name}") => Ok(stem.to_owned()),
        _ => bail!("{shown}: the page is written from {DIRECTORY}/*.json only"),
    }
}

/// All files of results there are, those of known parts first.
fn all(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join(DIRECTORY))? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with(OTHERS) {
            continue;
        }
        let path = Path::new(DIRECTORY).join(name);
        if path.extension().is_some_and(|it| it == "json") && path != Path::new(icount::BASELINE) {
            names.push(named(&path)?);
        }
    }
    let position = |name: &String| {
        let known = PARTS.iter().position(|part| part.name == name);
        known.unwrap_or(PARTS.len())
    };
    names.sort_by_key(|name| (position(name), name.clone()));
    Ok(names)
}

/// Plots that no longer belong to anything.
fn stale(root: &Path, outputs: &[Output]) -> Result<Vec<String>> {
    let mut stale = Vec::new();
    for entry in fs::read_dir(root.join(DIRECTORY))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        let file = format!("{DIRECTORY}/{name}");
        if name.ends_with(".svg")
            && !name.starts_with(OTHERS)
            && outputs.iter().all(|(known, _)| *known != file)
        {
            stale.push(file);
        }
    }
    stale.sort();
    Ok(stale)
}

/// The page and its plots.
fn render(root: &Path, names: &[String]) -> Result<Vec<Output>> {
    let files: Vec<_> = names
        .iter()
        .map(|name| Results::read(&root.join(DIRECTORY).join(format!("{name}.json"))))
        .collect::<Result<_>>()?;
    let optional = |file: &str| match root.join(file) {
        path if path.exists() => Some(path),
        _ => None,
    };
    let counts = optional(icount::BASELINE).map(|file| Counts::read(&file));
    let notes = optional(NOTES).map(|file| fs::read_to_string(&file));
    Ok(outputs(
        &files,
        counts.transpose()?.as_ref(),
        &notes.transpose()?.unwrap_or_default(),
    ))
}

fn outputs(files: &[Results], counts: Option<&Counts>, notes: &str) -> Vec<Output> {
    let mut plots = Vec::new();
    let sections: Vec<_> = files.iter().map(|file| section(file, &mut plots)).collect();
    let named: Vec<_> = files
        .iter()
        .map(|file| format!("{DIRECTORY}/{}.json", file.name))
        .collect();
    let mut page = format!("{MARK}{} -->\n{INTRODUCTION}", named.join(" "));
    page += TARGETS;
    page += &targets::markdown(files);
    page += "\n## Runs\n\n";
    page += &runs(files);
    page += METHOD;
    for section in sections {
        page += &section;
    }
    if let Some(counts) = counts {
        page += "\n## Instructions\n\n";
        page += INSTRUCTIONS;
        page += &counts.markdown();
    }
    if !notes.is_empty() {
        page += &format!("\n{}\n", notes.trim());
    }
    let mut outputs = vec![(PAGE.to_owned(), page)];
    outputs.extend(plots);
    outputs
}

const INTRODUCTION: &str = "\
# Measured

What polyquic costs next to other QUIC stacks, side by side on one machine. This page is written by
`cargo xtask bench --page` from the files in [benchmarks](benchmarks); the last section is written by
hand. To reproduce all of it (results, plots and page; `cargo xtask bench --publish all --dry-run` says
how long it takes):

```console
$ cargo xtask icount --update && cargo xtask bench --publish all
```

**A ratio above 1 is better, whatever the metric.** A ratio is to `quinn-tokio` in the same rounds:
the median of the rounds' ratios, with the lowest and the highest in parentheses. For what runs on
several threads, the ratio to `quinn-tokio-multi` follows in them.
";

const TARGETS: &str = "
## Targets

Of the best adapter here, as ratios to quinn on tokio's current-thread runtime in the same rounds
unless said otherwise; and how close the tokio adapter on one thread is to it, of which 85 % is wanted.

";

const METHOD: &str = "
## Method

Two processes on loopback, server and client, pinned to processors of their own. Stacks take turns,
round by round, in an order that rotates; a ratio is taken within a round. CPU is user and system
time of one process over the measured interval (`getrusage`), so it holds on a busy machine better
than throughput does. On loopback there is no loss, no delay and no competing traffic: what is
measured is what the software costs. Single figures without their spread mean little: shared machines
drift by tens of percent within minutes.
";

const INSTRUCTIONS: &str = "\
Two machines stepped against each other in memory: no sockets, no executor, virtual time, equal
settings (1452-byte packets, AES-256-GCM, Ed25519 certificate). callgrind counts what each side
executes after a warm-up; a download of 32 MiB, 10,000 requests of 128 bytes with answers of 1 KiB,
64 at a time, and 50 full handshakes with their closes. It says that something changed, not how much
faster it got: caches, system calls and waiting do not count. Under callgrind, AWS-LC sees the
processor that valgrind emulates, which may lack extensions (AVX-512, VAES, SHA) that the real one has,
so cryptography weighs more here than it does in time.

";

/// A table of what was run where.
fn runs(files: &[Results]) -> String {
    let mut text = String::new();
    let shown = |value: &Value| match value {
        Value::Null => "unknown".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // What is the same for all is said once.
    let mut facts: Vec<&str> = Vec::new();
    for file in files {
        for (name, _) in file.machine.as_object().into_iter().flatten() {
            if !facts.contains(&&**name) {
                facts.push(name);
            }
        }
    }
    let value = |file: &Results, name: &str| shown(&file.machine[name]);
    let differs = |name: &&&str| {
        let values: BTreeSet<_> = files.iter().map(|file| value(file, name)).collect();
        values.len() > 1
    };
    for name in facts.iter().filter(|name| !differs(name)) {
        let _ = writeln!(text, "- {}: {}", readable(name), value(&files[0], name));
    }
    let varying: Vec<_> = facts.iter().filter(differs).collect();
    text += "\n| Run |";
    for name in &varying {
        let _ = write!(text, " {} |", readable(name));
    }
    text += " rounds | seconds each | |\n|---|";
    text += &"---|".repeat(varying.len() + 3);
    text += "\n";
    for file in files {
        let _ = write!(text, "| [{0}](benchmarks/{0}.json) |", file.name);
        for name in &varying {
            let _ = write!(text, " {} |", value(file, name));
        }
        let _ = writeln!(
            text,
            " {} | {} | {} |",
            shown(&file.conditions["rounds"]),
            shown(&file.conditions["seconds"]),
            if file.complete { "" } else { "**cut short**" }
        );
    }
    text
}

/// Everything about one file.
fn section(file: &Results, plots: &mut Vec<Output>) -> String {
    let part = PARTS.iter().find(|part| part.name == file.name);
    let mut text = format!("\n## {}\n\n", part.map_or(&*file.name, |part| part.title));
    if let Some(part) = part {
        let _ = writeln!(text, "{}\n", part.text);
        let _ = writeln!(
            text,
            "Alone: `cargo xtask bench --publish {}`.\n",
            part.name
        );
    }
    if !file.complete {
        text += "**This run was cut short:** what follows is what it got to.\n\n";
    }
    text += &settings(file);
    if file.cases.len() > 1 && !file.rows.is_empty() {
        let map = format!("{DIRECTORY}/{}-map.svg", file.name);
        let _ = writeln!(
            text,
            "\n![Ratios to quinn-tokio of every subject in every workload](benchmarks/{}-map.svg)",
            file.name
        );
        plots.push((
            map,
            heatmap(file, part.map_or(&*file.name, |part| part.title)),
        ));
    }
    let mut workloads: Vec<&str> = Vec::new();
    for case in &file.cases {
        let measured = file.of_case(case).next().is_some();
        if measured && !workloads.contains(&&*case.workload) {
            workloads.push(&case.workload);
        }
    }
    for workload in workloads {
        let cases: Vec<_> = file
            .cases
            .iter()
            .filter(|case| case.workload == workload && file.of_case(case).next().is_some())
            .collect();
        let _ = writeln!(text, "\n### {}", describe(workload));
        for case in &cases {
            if cases.len() > 1 {
                let _ = writeln!(
                    text,
                    "\n{}, packets of {} bytes:",
                    case.provider, case.packet_size
                );
            }
            text += "\n";
            text += &table(file, case);
        }
        let name = format!("{}-{workload}.svg", file.name);
        let chart = chart(file, &cases);
        let _ = writeln!(
            text,
            "\n![{}: bars of the ratios to quinn-tokio](benchmarks/{name})",
            describe(workload)
        );
        plots.push((format!("{DIRECTORY}/{name}"), chart));
    }
    if !file.missing.is_empty() {
        text += "\n### Missing\n\n";
        for missing in &file.missing {
            let case = missing.case.as_ref();
            let _ = writeln!(
                text,
                "- `{}`, {}: {}",
                missing.subject,
                case.map_or("everything".into(), Case::to_string),
                // One line, and no markup.
                missing.reason.replace(['\n', '|', '<', '`'], " ")
            );
        }
    }
    text
}

/// What both sides were configured with: first what is common to all, then the differences.
fn settings(file: &Results) -> String {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let Some((_, first)) = file.settings.first() else {
        return String::new();
    };
    let names: BTreeSet<&str> = file
        .settings
        .iter()
        .flat_map(|(_, settings)| settings.as_object().into_iter().flatten())
        .map(|(name, _)| &**name)
        .collect();
    let is_common = |name: &&&str| {
        file.settings
            .iter()
            .all(|(_, settings)| settings[**name] == first[**name])
    };
    let listed = |settings: &Value, names: &[&&str]| {
        let pairs: Vec<_> = names
            .iter()
            .filter(|name| !settings[***name].is_null() && settings[***name] != "")
            .map(|name| format!("{}: {}", readable(name), shown(&settings[**name])))
            .collect();
        pairs.join("; ")
    };
    let common: Vec<_> = names.iter().filter(is_common).collect();
    let varying: Vec<_> = names.iter().filter(|name| !is_common(name)).collect();
    let mut text = format!(
        "Settings of both sides of every subject: {}.\n",
        listed(first, &common)
    );
    if varying.is_empty() {
        return text;
    }
    text += "\n";
    for (subjects, settings) in &file.settings {
        let subjects: Vec<_> = subjects.iter().map(|name| format!("`{name}`")).collect();
        let differences = listed(settings, &varying);
        let differences = match &*differences {
            "" => "nothing else".to_owned(),
            some => some.to_owned(),
        };
        let _ = writeln!(text, "- {}: {differences}", subjects.join(", "));
    }
    text
}

/// Subjects down, metrics across.
fn table(file: &Results, case: &Case) -> String {
    let metrics = file.metrics(case);
    let mut text = String::from("| |");
    for metric in &metrics {
        let _ = write!(text, " {}, {} |", readable(&metric.metric), metric.unit);
    }
    text += "\n|---|";
    text += &"---|".repeat(metrics.len());
    text += "\n";
    for subject in &file.subjects {
        let rows: Vec<_> = metrics
            .iter()
            .map(|metric| file.row(case, subject, &metric.metric))
            .collect();
        if rows.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "| `{subject}` |");
        for row in rows {
            let _ = write!(text, " {} |", row.map_or("–".into(), cell));
        }
        text += "\n";
    }
    text
}

fn cell(row: &Row) -> String {
    let absolute = row.absolute;
    match row.ratio {
        Some(ratio) if row.subject != BASELINE => {
            let multi = match row.ratio_multi {
                Some(multi) if row.subject != BASELINE_MULTI => {
                    format!("; to multi {:.2}", multi.median)
                }
                _ => String::new(),
            };
            format!(
                "{}, **{:.2}** ({:.2}–{:.2}{multi})",
                figure(absolute.median),
                ratio.median,
                ratio.min,
                ratio.max
            )
        }
        _ => format!(
            "{} ({}–{})",
            figure(absolute.median),
            figure(absolute.min),
            figure(absolute.max)
        ),
    }
}

fn kind(subject: &str) -> Kind {
    if subject == BASELINE {
        Kind::Baseline
    } else if subject.starts_with(OURS_PREFIX) {
        Kind::Ours
    } else {
        Kind::Rival
    }
}

/// Ours first, each in the order of the run.
fn ordered(file: &Results) -> Vec<&str> {
    let mut subjects: Vec<_> = file.subjects.iter().map(String::as_str).collect();
    subjects.sort_by_key(|subject| match kind(subject) {
        Kind::Ours => 0,
        Kind::Baseline => 1,
        Kind::Rival => 2,
    });
    subjects
}

/// The bars of a workload: of its first metric and of the server's processor time, or of the first
/// metric alone in each of several cases.
fn chart(file: &Results, cases: &[&Case]) -> String {
    let mut panels = Vec::new();
    for case in cases {
        let metrics = file.metrics(case);
        let cpu = metrics
            .iter()
            .skip(1)
            .find(|row| row.metric.starts_with("server_cpu"))
            .filter(|_| cases.len() == 1);
        for metric in metrics.first().into_iter().chain(cpu) {
            let bars = ordered(file).into_iter().filter_map(|subject| {
                let row = file.row(case, subject, &metric.metric)?;
                Some(Bar {
                    label: subject.to_owned(),
                    kind: kind(subject),
                    ratio: row.ratio?,
                    figure: format!("{} {}", figure(row.absolute.median), row.unit),
                })
            });
            let title = readable(&metric.metric);
            panels.push(Panel {
                title: match cases.len() {
                    1 => title,
                    _ => format!("{title}, {}, {} bytes", case.provider, case.packet_size),
                },
                bars: bars.collect(),
            });
        }
    }
    panels.retain(|panel| !panel.bars.is_empty());
    plot::bars(&describe(&cases[0].workload), &panels)
}

fn heatmap(file: &Results, title: &str) -> String {
    let cases: Vec<_> = file
        .cases
        .iter()
        .filter(|case| file.of_case(case).next().is_some())
        .collect();
    let differ = |field: fn(&Case) -> String| {
        let values: BTreeSet<_> = cases.iter().map(|case| field(case)).collect();
        values.len() > 1
    };
    let providers = differ(|case| case.provider.clone());
    let sizes = differ(|case| case.packet_size.to_string());
    let columns: Vec<_> = cases
        .iter()
        .map(|case| {
            let mut label = case.workload.clone();
            if providers {
                label += &format!(" {}", case.provider);
            }
            if sizes {
                label += &format!(" {}", case.packet_size);
            }
            label
        })
        .collect();
    let rows: Vec<_> = ordered(file)
        .into_iter()
        .filter(|subject| *subject != BASELINE)
        .map(|subject| {
            let cells = cases.iter().map(|case| {
                let first = file.metrics(case).first().map(|row| row.metric.clone())?;
                Some(file.row(case, subject, &first)?.ratio?.median)
            });
            (subject.to_owned(), kind(subject), cells.collect::<Vec<_>>())
        })
        .filter(|(_, _, cells)| cells.iter().any(Option::is_some))
        .collect();
    plot::heatmap(title, &columns, &rows)
}

/// A workload for somebody who reads it for the first time.
fn describe(workload: &str) -> String {
    let known = match workload {
        "download" => "Download, one stream",
        "upload" => "Upload, one stream",
        "download-streams" => "Download, 16 streams",
        "upload-streams" => "Upload, 16 streams",
        "connections" => "Download, 50 connections",
        "requests" => "Requests, 64 at a time (128 bytes, answered by 1 KiB)",
        "requests-connections" => "Requests, 64 at a time on 32 connections",
        "latency" => "Ping-pong (64 bytes)",
        "handshakes" => "Full handshakes, 16 at a time",
        "resumed" => "Resumed handshakes",
        "zero-rtt" => "0-RTT",
        "memory" => "Memory of an idle connection",
        "idle" => "Processor time of 2,000 idle connections with keep-alive",
        "datagrams" => "Datagrams, from client to server",
        "loss" => "Download at 1 % loss",
        "storm" => "Ping-pong during a storm of handshakes",
        "storm-rsa" => "Ping-pong during a storm of handshakes signed with RSA-4096",
        other => return other.to_owned(),
    };
    known.to_owned()
}

/// A field's name for a reader.
pub(super) fn readable(name: &str) -> String {
    name.replace('_', " ").replace("cpu", "CPU")
}

#[cfg(test)]
mod tests {
    use super::super::{
        plot::tests::assert_well_formed,
        results::tests::{example, example_json},
    };
    use super::*;

    #[test]
    fn the_page_has_the_figures_the_settings_and_the_plots() {
        let outputs = outputs(&[example(1.5)], None, "## By hand\n\nA profile.\n");
        let (file, page) = &outputs[0];
        assert_eq!(file, PAGE);
        for expected in [
            "<!-- cargo xtask bench --page docs/benchmarks/example.json -->\n# Measured",
            "| `polyquic-smol` | 12.0, **1.50** (1.46–1.54) |",
            "| `quinn-tokio` | 8.00 (7.60–8.40) |",
            "| `polyquic-tokio-multi` | 10.8, **1.35** (1.31–1.39; to multi 2.70) |",
            "- processor: one & only",
            "Settings of both sides of every subject: tls: t.",
            "- `polyquic-smol`: differs by: d",
            "- `gone`, everything: does not build",
            "benchmarks/example-download.svg",
            "benchmarks/example-map.svg",
            "## By hand\n\nA profile.",
        ] {
            assert!(page.contains(expected), "{expected} in\n{page}");
        }
        assert_eq!(outputs.len(), 4, "a map and two charts");
        for (file, svg) in &outputs[1..] {
            assert_well_formed(svg);
            assert!(page.contains(file.trim_start_matches("docs/")), "{file}");
        }
        let (_, map) = &outputs[1];
        assert!(map.contains(">1.50</text>") && map.contains(">1.35</text>"));
    }

    #[test]
    fn a_run_that_was_cut_short_says_so() {
        let mut cut = example(1.5);
        cut.complete = false;
        assert!(outputs(&[cut], None, "")[0].1.contains("cut short"));
    }

    #[test]
    fn results_lie_beside_the_page() {
        assert_eq!(named(Path::new("docs/benchmarks/a.json")).unwrap(), "a");
        for elsewhere in ["a.json", "/tmp/a.json", "docs/benchmarks/a.txt"] {
            assert!(named(Path::new(elsewhere)).is_err(), "{elsewhere}");
        }
    }

    #[test]
    fn a_page_that_is_not_what_the_results_give_is_found() {
        let root = std::env::temp_dir().join(format!("polyquic-page-{}", std::process::id()));
        fs::create_dir_all(root.join(DIRECTORY)).unwrap();
        let json = |name: &str, speed| {
            let file = root.join(DIRECTORY).join(name);
            fs::write(file, example_json(speed).to_string()).unwrap();
        };
        let problems = || -> Vec<_> {
            let problems = check(&root).unwrap();
            problems.into_iter().map(|(file, _)| file).collect()
        };
        json("a.json", 1.5);
        fs::write(root.join(PAGE), "# By hand\n").unwrap();
        assert_eq!(problems(), [PAGE]);

        write(&root, &[]).unwrap();
        assert_eq!(problems(), [""; 0]);

        json("a.json", 1.6);
        let plots = ["a-map.svg", "a-download.svg", "a-latency.svg"];
        let plots = plots.map(|name| format!("{DIRECTORY}/{name}"));
        assert_eq!(problems(), [&[PAGE.to_owned()], &plots[..]].concat());

        // Under another name the old plots are nobody's, and writing the page removes them.
        json("b.json", 1.6);
        write(&root, &[Path::new(DIRECTORY).join("b.json")]).unwrap();
        assert_eq!(problems(), [""; 0]);
        assert!(!root.join(&plots[0]).exists());
        fs::remove_dir_all(&root).unwrap();
    }
}
