//! Rules about documentation, and about any text that others will read.

use std::path::{Component, Path, PathBuf};

use crate::metadata::Package;

use super::Problem;

/// First directories of paths that exist on one machine and nowhere else.
const MACHINE_DIRECTORIES: &[&str] = &["home", "root", "work", "farm"];

/// The map of the workspace has every place on it.
pub(super) fn names_every_member(
    file: &str,
    text: Option<&str>,
    members: &[Package],
) -> Vec<Problem> {
    let Some(text) = text else {
        return vec![Problem::new(
            file,
            0,
            "there is none, and the rules refer to it",
        )];
    };
    let mut problems = Vec::new();
    for member in members {
        let directory = member.manifest.trim_end_matches("/Cargo.toml");
        if !text.contains(&format!("`{directory}`")) && !text.contains(&format!("`{directory}/`")) {
            problems.push(Problem::new(
                file,
                0,
                format!("does not name `{directory}`"),
            ));
        }
    }
    problems
}

/// Nobody else has the directories of the machine on which something was written.
pub(super) fn machine_paths(file: &str, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for directory in MACHINE_DIRECTORIES {
            let path = format!("/{directory}/");
            let absolute = |position: usize| {
                let before = line[..position].chars().next_back();
                before.is_none_or(|it| it != '.' && !it.is_ascii_alphanumeric() && it != '_')
            };
            if line
                .match_indices(&path)
                .any(|(position, _)| absolute(position))
            {
                problems.push(Problem::new(
                    file,
                    number + 1,
                    format!("{path} is a path of one machine"),
                ));
            }
        }
    }
    problems
}

/// Links within the repository lead to something. `exists` is asked about paths relative to the
/// repository.
pub(super) fn links(file: &str, text: &str, exists: &dyn Fn(&Path) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut in_code = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in targets(line) {
            let path = target.split(['#', '?']).next().unwrap_or_default();
            if path.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let found = match resolve(file, path) {
                Some(path) => exists(&path),
                None => false,
            };
            if !found {
                problems.push(Problem::new(
                    file,
                    number + 1,
                    format!("{target} leads nowhere"),
                ));
            }
        }
    }
    problems
}

/// What the links of one line lead to: `[text](target)` and `[label]: target`.
fn targets(line: &str) -> Vec<&str> {
    // What is between backquotes is an example.
    let mut targets = Vec::new();
    let mut from = 0;
    while let Some(found) = line[from..].find("](") {
        let start = from + found + 2;
        let end = line[start..]
            .find([')', ' '])
            .map_or(line.len(), |length| start + length);
        if line[..start].matches('`').count().is_multiple_of(2) {
            targets.push(line[start..end].trim_matches(['<', '>']));
        }
        from = end;
    }
    if let Some((_, target)) = line
        .strip_prefix('[')
        .and_then(|line| line.split_once("]: "))
    {
        targets.extend(target.split_whitespace().next());
    }
    targets
}

/// A link in `file` relative to the repository; `None` if it leaves it.
fn resolve(file: &str, link: &str) -> Option<PathBuf> {
    let mut path = match link.strip_prefix('/') {
        Some(_) => PathBuf::new(),
        None => Path::new(file).parent()?.to_owned(),
    };
    for component in Path::new(link.trim_start_matches('/')).components() {
        match component {
            Component::ParentDir => path = path.pop().then_some(path)?,
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(problems: &[Problem]) -> Vec<usize> {
        problems.iter().map(|problem| problem.line).collect()
    }

    #[test]
    fn a_member_missing_from_the_map_is_found() {
        let member = |directory: &str| Package {
            manifest: format!("{directory}/Cargo.toml"),
            ..Package::default()
        };
        let members = [member("crates/core"), member("xtask")];
        assert_eq!(
            names_every_member("A.md", Some("`crates/core`, `xtask/`"), &members),
            []
        );
        assert_eq!(
            names_every_member("A.md", Some("`crates/core`, xtask"), &members).len(),
            1
        );
        assert_eq!(names_every_member("A.md", None, &members).len(), 1);
    }

    #[test]
    fn a_machines_path_is_found() {
        for directory in MACHINE_DIRECTORIES {
            let text = format!(
                "fine\nsee /{directory}/x\n~/{directory}/y\n../{directory}/z a/{directory}/z"
            );
            // The third line has a tilde before the path, which does not make it everybody's.
            assert_eq!(lines(&machine_paths("a.md", &text)), [2, 3], "{text}");
        }
    }

    #[test]
    fn a_link_to_nowhere_is_found() {
        let text = "[a](b.md) and [c](../d.md#e)\n[f](https://example.org/g) [h](#i)\n\
                    `[j](k)` [l](missing.md \"title\")\n```\n[m](n)\n```\n[o]: missing.md\n[p](../../q)\n";
        let exists = |path: &Path| path == Path::new("docs/b.md") || path == Path::new("d.md");
        assert_eq!(lines(&links("docs/a.md", text, &exists)), [3, 7, 8]);
    }
}
