//! Rules about `Cargo.toml`.

use crate::metadata::{Dependency, Package};

use super::Problem;

/// Which of ours each of ours may be built on. Tests may use more.
const ARROWS: &[(&str, &[&str])] = &[
    ("polyquic-core", &[]),
    ("polyquic-runtime", &[]),
    ("polyquic-endpoint", &["polyquic-core", "polyquic-runtime"]),
    ("polyquic-udp", &["polyquic-runtime"]),
    ("polyquic-smol", &["polyquic-runtime", "polyquic-udp"]),
    ("polyquic-tokio", &["polyquic-runtime", "polyquic-udp"]),
    ("polyquic-glommio", &["polyquic-runtime", "polyquic-udp"]),
    ("polyquic-sim", &["polyquic-runtime"]),
    ("polyquic-wasm", &["polyquic-runtime"]),
    // Its synchronous handles wrap those of the endpoint.
    (
        "polyquic-blocking",
        &[
            "polyquic-runtime",
            "polyquic-udp",
            "polyquic-core",
            "polyquic-endpoint",
        ],
    ),
    (
        "polyquic-testkit",
        &["polyquic-core", "polyquic-runtime", "polyquic-endpoint"],
    ),
    ("polyquic-wasi", &["polyquic", "polyquic-runtime"]),
    // It speaks the wire format by itself, and borrows TLS.
    ("polyquic-hostile", &["polyquic-core"]),
    (
        "polyquic",
        &[
            "polyquic-core",
            "polyquic-runtime",
            "polyquic-endpoint",
            "polyquic-udp",
            "polyquic-smol",
            "polyquic-tokio",
            "polyquic-blocking",
            "polyquic-glommio",
            "polyquic-sim",
            "polyquic-wasm",
        ],
    ),
    ("polyquic-swarm", &["polyquic"]),
    // Whoever uses the library sees the facade, like any other user.
    ("polyquic-cli", &["polyquic"]),
    ("polyquic-js", &["polyquic"]),
    // What reads input, wherever that is.
    (
        "polyquic-fuzz",
        &[
            "polyquic-core",
            "polyquic-runtime",
            "polyquic-endpoint",
            "polyquic-cli",
        ],
    ),
    // The machines alone are what `cargo xtask icount` counts the instructions of.
    ("polyquic-bench", &["polyquic", "polyquic-core"]),
    ("xtask", &[]),
];

/// Packages that must run on any executor, and so depend on none.
const WITHOUT_EXECUTOR: &[&str] = &["polyquic-core", "polyquic-runtime", "polyquic-endpoint"];

const EXECUTORS: &[&str] = &[
    "tokio",
    "smol",
    "async-executor",
    "async-io",
    "async-global-executor",
    "async-std",
    "glommio",
    "compio",
    "monoio",
];

/// Dependencies point the way that docs/ARCHITECTURE.md draws them.
pub(super) fn arrows(members: &[Package]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for member in members {
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == member.name) else {
            let message = format!(
                "{} is not in the table of arrows in xtask/src/tidy/manifests.rs",
                member.name
            );
            problems.push(Problem::new(&member.manifest, 0, message));
            continue;
        };
        for dependency in member
            .dependencies
            .iter()
            .filter(|it| it.kind.as_deref() != Some("dev"))
        {
            let ours = members.iter().any(|other| other.name == dependency.name);
            if ours && !allowed.contains(&&*dependency.name) {
                let message = format!("{} must not depend on {}", member.name, dependency.name);
                problems.push(Problem::new(&member.manifest, 0, message));
            }
            let executor = EXECUTORS.contains(&&*dependency.name);
            if executor
                && WITHOUT_EXECUTOR.contains(&&*member.name)
                && !only_traits(member, dependency)
            {
                let message = format!(
                    "{} runs on any executor, and so must not depend on {}",
                    member.name, dependency.name
                );
                problems.push(Problem::new(&member.manifest, 0, message));
            }
        }
    }
    problems
}

/// tokio without features has its I/O traits and nothing that runs; streams implement them for
/// those who ask.
fn only_traits(member: &Package, dependency: &Dependency) -> bool {
    member.name == "polyquic-endpoint"
        && dependency.name == "tokio"
        && dependency.optional
        && dependency.features.is_empty()
}

/// Each member says in one line what it is for, in its own manifest and in the workspace's.
pub(super) fn purposes(members: &[Package], workspace: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for member in members {
        let description = member.description.as_deref().unwrap_or_default().trim();
        if description.is_empty() || description.contains('\n') {
            problems.push(Problem::new(
                &member.manifest,
                0,
                "`description` must say in one line what it is for",
            ));
        }
    }
    let lines: Vec<_> = workspace.lines().map(str::trim).collect();
    let list = |line: &&str| line.starts_with("members");
    let start = lines
        .iter()
        .position(list)
        .map_or(lines.len(), |start| start + 1);
    let mut described = false;
    for (number, line) in lines.iter().enumerate().skip(start) {
        if line.starts_with('#') {
            described = true;
        } else if line.starts_with(']') {
            break;
        } else if line.starts_with('"') && !described {
            let message = format!("no comment says what {} is for", line.trim_end_matches(','));
            problems.push(Problem::new("Cargo.toml", number + 1, message));
        } else if line.is_empty() {
            // A comment speaks for the members up to the next empty line or comment.
            described = false;
        }
    }
    problems
}

/// The lints that every member inherits include documentation.
pub(super) fn workspace_lints(manifest: &str) -> Vec<Problem> {
    let rust = section(manifest, "workspace.lints.rust");
    if rust.iter().any(|line| line.starts_with("missing_docs")) {
        return Vec::new();
    }
    vec![Problem::new(
        "Cargo.toml",
        0,
        "[workspace.lints.rust] must turn on missing_docs",
    )]
}

/// What each member's manifest must contain.
pub(super) fn member(file: &str, manifest: &str) -> Vec<Problem> {
    let inherits = section(manifest, "lints")
        .iter()
        .any(|line| line.replace(' ', "") == "workspace=true");
    if inherits
        || manifest
            .lines()
            .any(|line| line.replace(' ', "") == "lints.workspace=true")
    {
        return Vec::new();
    }
    vec![Problem::new(
        file,
        0,
        "must have `[lints] workspace = true`, or its public items may go undocumented",
    )]
}

/// The lines of one section of a manifest.
pub(super) fn section<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    let heading = format!("[{name}]");
    manifest
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        Package {
            name: name.into(),
            description: Some("For tests".into()),
            manifest: format!("{name}/Cargo.toml"),
            dependencies: dependencies
                .iter()
                .map(|(name, kind)| Dependency {
                    name: (*name).into(),
                    kind: kind.map(str::to_owned),
                    ..Dependency::default()
                })
                .collect(),
            ..Package::default()
        }
    }

    fn messages(problems: &[Problem]) -> Vec<&str> {
        problems.iter().map(|problem| &*problem.message).collect()
    }

    #[test]
    fn an_arrow_the_wrong_way_is_found() {
        let members = [
            package(
                "polyquic-core",
                &[("polyquic-endpoint", None), ("bytes", None)],
            ),
            package(
                "polyquic-endpoint",
                &[("polyquic-core", None), ("polyquic-testkit", Some("dev"))],
            ),
            package("polyquic-testkit", &[]),
        ];
        assert_eq!(
            messages(&arrows(&members)),
            ["polyquic-core must not depend on polyquic-endpoint"]
        );
    }

    #[test]
    fn a_member_without_a_rule_is_found() {
        assert!(
            messages(&arrows(&[package("newcomer", &[])]))[0]
                .contains("newcomer is not in the table")
        );
    }

    #[test]
    fn an_executor_below_the_adapters_is_found() {
        let runtime = package(
            "polyquic-runtime",
            &[("async-executor", None), ("smol", Some("dev"))],
        );
        assert_eq!(
            messages(&arrows(&[runtime])),
            ["polyquic-runtime runs on any executor, and so must not depend on async-executor"]
        );
        let mut endpoint = package("polyquic-endpoint", &[("tokio", None)]);
        assert_eq!(arrows(&[endpoint.clone()]).len(), 1);
        endpoint.dependencies[0].optional = true;
        assert_eq!(arrows(&[endpoint.clone()]), []);
        endpoint.dependencies[0].features.push("rt".into());
        assert_eq!(arrows(&[endpoint]).len(), 1);
    }

    #[test]
    fn a_missing_purpose_is_found() {
        let mut silent = package("xtask", &[]);
        silent.description = None;
        let workspace =
            "[workspace]\nmembers = [\n  # Why.\n  \"a\",\n  \"b\",\n\n  \"c\",\n]\n\"d\"\n";
        let problems = purposes(&[silent], workspace);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert_eq!(problems[0].file, "xtask/Cargo.toml");
        assert_eq!((&*problems[1].file, problems[1].line), ("Cargo.toml", 7));
    }

    #[test]
    fn missing_lints_are_found() {
        assert_eq!(
            workspace_lints("[workspace.lints.rust]\nmissing_docs = \"warn\"\n"),
            []
        );
        assert_eq!(
            workspace_lints("[workspace.lints.clippy]\nmissing_docs = \"warn\"\n").len(),
            1
        );
        assert_eq!(
            member("Cargo.toml", "[package]\n[lints]\nworkspace = true\n"),
            []
        );
        assert_eq!(member("Cargo.toml", "[package]\n[lints.rust]\n").len(), 1);
    }
}
