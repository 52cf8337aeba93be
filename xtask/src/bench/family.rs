//! Which program serves which subjects, and how it is built.
//!
//! quinn is a program of `polyquic-bench`, like ours. Every other rival is a package of the
//! workspace in `benches/rivals`, which has a lock file of its own: what the rivals depend on is
//! neither built nor checked with this project.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{command, wasm};

use super::options::Options;

/// So much of the end of what a failed build wrote is shown as the reason.
const ERROR_LINES: usize = 8;

/// Subjects that are in [`FAMILIES`] and not in the workspace itself.
pub(super) const OUTSIDE: &[&str] = &[
    "noq-tokio",
    "s2n-quic",
    "s2n-quic-s2ntls",
    "compio-quic",
    "msquic",
    "tokio-quiche",
    "tls-tcp",
    "bare-udp",
];

/// Ours in JavaScript. Their program lists them, too.
pub(super) const JAVASCRIPT: &[&str] = &["wasm-node", "wasm-browser"];

/// A program, and how the names of its subjects begin.
pub(super) struct Family {
    prefix: &'static str,
    pub(super) program: &'static str,
    source: Source,
}

/// Where a program comes from.
#[derive(Clone, Copy)]
enum Source {
    /// The package `polyquic-bench`, with this feature.
    Bench { feature: &'static str },
    /// The package of the program's name in the workspace `benches/rivals`.
    Rivals {
        /// Whether it has a feature `ring` for the other cryptography provider.
        ring: bool,
    },
    /// `benches/js`, with the package for JavaScript and the native program.
    JavaScript,
}

const FAMILIES: &[Family] = &[
    // Before the other whose names begin like these.
    Family {
        prefix: "polyquic-wasm-",
        program: "bench-javascript",
        source: Source::JavaScript,
    },
    Family {
        prefix: "polyquic-",
        program: "bench-polyquic",
        source: Source::Bench {
            feature: "polyquic",
        },
    },
    Family {
        prefix: "quinn-",
        program: "bench-quinn",
        source: Source::Bench { feature: "quinn" },
    },
    Family {
        prefix: "noq-",
        program: "rival-noq",
        source: Source::Rivals { ring: true },
    },
    Family {
        prefix: "s2n-quic",
        program: "rival-s2n-quic",
        source: Source::Rivals { ring: false },
    },
    Family {
        prefix: "compio-quic",
        program: "rival-compio-quic",
        source: Source::Rivals { ring: true },
    },
    Family {
        prefix: "msquic",
        program: "rival-msquic",
        source: Source::Rivals { ring: false },
    },
    Family {
        prefix: "tokio-quiche",
        program: "rival-tokio-quiche",
        source: Source::Rivals { ring: false },
    },
    Family {
        prefix: "tls-tcp",
        program: "rival-tls-tcp",
        source: Source::Rivals { ring: true },
    },
    Family {
        prefix: "bare-udp",
        program: "rival-bare-udp",
        source: Source::Rivals { ring: false },
    },
];

/// The program of a subject.
pub(super) fn program_of(subject: &str) -> Option<&'static Family> {
    FAMILIES
        .iter()
        .find(|family| subject.starts_with(family.prefix))
}

/// Programs by name, and subjects that have none with the reason.
pub(super) type Built = (BTreeMap<&'static str, PathBuf>, Vec<(String, String)>);

/// Builds the programs that the subjects need, and no other.
pub(super) fn build(options: &Options) -> Result<Built> {
    let mut programs = BTreeMap::new();
    let mut broken = Vec::new();
    let metadata = command::output(command::cargo(&[
        "metadata",
        "--format-version=1",
        "--no-deps",
    ])?)?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let target = metadata["target_directory"]
        .as_str()
        .context("no target directory")?;
    let ring = options.providers.iter().any(|provider| provider == "ring");
    for family in FAMILIES {
        let subjects: Vec<_> = options
            .subjects
            .iter()
            .filter(|name| program_of(name).is_some_and(|it| it.program == family.program))
            .collect();
        if subjects.is_empty() {
            continue;
        }
        eprintln!("building {}", family.program);
        let result = family.build(Path::new(target), ring).and_then(|program| {
            let mut list = Command::new(&program);
            list.arg("subjects");
            Ok((program, command::output(list)?))
        });
        match result {
            Ok((program, known)) => {
                for name in subjects {
                    if !known.lines().any(|line| line == name) {
                        broken.push((name.clone(), format!("{} does not have it", family.program)));
                    }
                }
                programs.insert(family.program, program);
            }
            Err(error) => {
                let reason = format!("does not build: {error:#}");
                eprintln!("{reason}");
                broken.extend(
                    subjects
                        .into_iter()
                        .map(|name| (name.clone(), reason.clone())),
                );
            }
        }
    }
    Ok((programs, broken))
}

impl Family {
    /// Builds the program: where it lies.
    fn build(&self, target: &Path, ring: bool) -> Result<PathBuf> {
        let suffix = env::consts::EXE_SUFFIX;
        // Each alone, so that none gets features of a shared dependency that another asked for.
        let mut cargo = command::cargo(&["build", "--release", "--quiet", "--bin", self.program])?;
        let directory = match self.source {
            Source::Bench { feature } => {
                cargo.args([
                    "--package",
                    "polyquic-bench",
                    "--no-default-features",
                    "--features",
                    feature,
                ]);
                if ring {
                    cargo.args(["--features", "ring"]);
                }
                target.to_owned()
            }
            Source::Rivals { ring: has_ring } => {
                let directory = target.join("rivals");
                cargo
                    .args(["--manifest-path", "benches/rivals/Cargo.toml"])
                    .args(["--package", self.program, "--target-dir"])
                    .arg(&directory);
                if ring && has_ring {
                    cargo.args(["--features", "ring"]);
                }
                directory
            }
            Source::JavaScript => return javascript(target),
        };
        succeed(cargo)?;
        Ok(directory
            .join("release")
            .join(format!("{}{suffix}", self.program)))
    }
}

/// Builds what runs in Node and in a browser, and what those talk to.
fn javascript(target: &Path) -> Result<PathBuf> {
    let native = program_of("polyquic-blocking").context("no family")?;
    // WebAssembly has no other provider than ring.
    let native = native.build(target, true)?;
    succeed(command::cargo(&[
        "build",
        "--release",
        "--quiet",
        "--package",
        "polyquic-cli",
    ])?)?;
    let suffix = env::consts::EXE_SUFFIX;
    let program = target.join(format!("release/polyquic{suffix}"));
    wasm::peer(
        &command::root()?,
        &[("POLYQUIC_NATIVE", &native), ("POLYQUIC_PROGRAM", &program)],
    )
}

/// Runs a build; an error has the end of what it wrote, which is where the reason is.
fn succeed(mut build: Command) -> Result<()> {
    let output = build
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo")?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{}: {}",
        output.status,
        end_of(&String::from_utf8_lossy(&output.stderr))
    )
}

/// The last lines that say something.
fn end_of(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(ERROR_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rival_outside_has_a_program_of_its_workspace() {
        for subject in OUTSIDE {
            let family = program_of(subject).expect(subject);
            assert!(matches!(family.source, Source::Rivals { .. }), "{subject}");
        }
        assert_eq!(program_of("quinn-tokio").unwrap().program, "bench-quinn");
        assert_eq!(
            program_of("polyquic-tokio").unwrap().program,
            "bench-polyquic"
        );
        for name in JAVASCRIPT {
            let family = program_of(&format!("polyquic-{name}")).expect(name);
            assert!(matches!(family.source, Source::JavaScript), "{name}");
        }
        assert!(program_of("s2n").is_none());
    }

    #[test]
    fn the_reason_is_at_the_end() {
        let text: String = (0..20).map(|line| format!("  line {line}\n\n")).collect();
        let end = end_of(&text);
        assert_eq!(end.lines().count(), ERROR_LINES);
        assert!(end.ends_with("line 19"), "{end}");
        assert_eq!(end_of("error: no\n"), "error: no");
        assert_eq!(end_of(""), "");
    }
}
