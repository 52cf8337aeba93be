//! `cargo xtask tidy`: the rules of this project that no compiler knows.
//!
//! Each rule is a function from text to [`Problem`]s, so that its tests can show that it fails
//! when it should; this file only reads files and prints.

mod licences;
mod manifests;
mod prose;
mod rust;
mod sources;

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{bench, command, congestion, metadata};

/// Something that breaks a rule, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    file: String,
    /// From 1; 0 if the whole file is meant.
    line: usize,
    message: String,
}

impl Problem {
    fn new(file: &str, line: usize, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message),
            line => write!(f, "{}:{line}: {}", self.file, self.message),
        }
    }
}

/// Checks every rule and prints what breaks one.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    if !arguments.is_empty() {
        bail!("usage: cargo xtask tidy");
    }
    let root = command::root()?;
    let tree = Tree::read(&root)?;
    let members = relative(metadata::members()?, &root)?;
    let mut problems = Vec::new();
    let mut warnings = Vec::new();

    problems.extend(manifests::arrows(&members));
    let manifest = tree.text("Cargo.toml")?;
    problems.extend(manifests::purposes(&members, manifest));
    problems.extend(manifests::workspace_lints(manifest));
    for member in &members {
        problems.extend(manifests::member(
            &member.manifest,
            tree.text(&member.manifest)?,
        ));
        for crate_root in &member.roots {
            problems.extend(sources::forbids_unsafe(
                &member.name,
                crate_root,
                tree.text(crate_root)?,
            ));
        }
        let directory = member.manifest.trim_end_matches("Cargo.toml");
        let files: Vec<_> = tree.rust_files(directory).collect();
        problems.extend(sources::purity(&member.name, &files));
    }
    for (file, text) in tree.rust_files("") {
        problems.extend(sources::unsafe_is_justified(file, text));
        warnings.extend(sources::length(file, text));
    }
    problems.extend(prose::names_every_member(
        "docs/ARCHITECTURE.md",
        tree.texts
            .iter()
            .find(|(file, _)| file == "docs/ARCHITECTURE.md")
            .map(|(_, text)| &**text),
        &members,
    ));
    for (file, text) in &tree.texts {
        problems.extend(prose::machine_paths(file, text));
        if file.ends_with(".md") {
            problems.extend(prose::links(file, text, &|target| tree.exists(target)));
        }
    }
    let mut pages = bench::check(&root)?;
    pages.extend(congestion::check(&root)?);
    problems.extend(
        pages
            .into_iter()
            .map(|(file, it)| Problem::new(&file, 0, it)),
    );
    problems.extend(licences::check(
        "deny.toml",
        tree.text("deny.toml")?,
        &metadata::everything()?,
    ));

    problems.sort();
    problems.dedup();
    for warning in &warnings {
        println!("warning: {warning}");
    }
    for problem in &problems {
        println!("error: {problem}");
    }
    match problems.len() {
        0 => {
            println!(
                "tidy: {} files and {} members follow the rules",
                tree.texts.len(),
                members.len()
            );
            Ok(())
        }
        count => bail!("{count} problems"),
    }
}

/// What git would put into a fresh clone.
struct Tree {
    files: BTreeSet<PathBuf>,
    texts: Vec<(String, String)>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let files = command::tracked_files()?;
        let mut texts = Vec::new();
        for file in &files {
            // What is not UTF-8 is a test vector or a picture, and has no lines to complain about.
            if let Ok(text) = String::from_utf8(fs::read(root.join(file))?) {
                texts.push((file.to_string_lossy().replace('\\', "/"), text));
            }
        }
        Ok(Self {
            files: files.into_iter().collect(),
            texts,
        })
    }

    fn text(&self, wanted: &str) -> Result<&str> {
        let found = self.texts.iter().find(|(file, _)| file == wanted);
        found
            .map(|(_, text)| &**text)
            .with_context(|| format!("there is no {wanted}"))
    }

    fn rust_files<'a>(&'a self, directory: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let directory = directory.to_owned();
        self.texts
            .iter()
            .map(|(file, text)| (&**file, &**text))
            .filter(move |(file, _)| file.ends_with(".rs") && file.starts_with(&directory))
    }

    /// Whether a fresh clone has this file or directory.
    fn exists(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.files.iter().any(|file| file.starts_with(path))
    }
}

/// The members with their files relative to the workspace.
fn relative(mut members: Vec<metadata::Package>, root: &Path) -> Result<Vec<metadata::Package>> {
    let shorten = |path: &str| -> Result<String> {
        let path = Path::new(path).strip_prefix(root)?;
        Ok(path.to_string_lossy().replace('\\', "/"))
    };
    for member in &mut members {
        member.manifest = shorten(&member.manifest)?;
        for crate_root in &mut member.roots {
            *crate_root = shorten(crate_root)?;
        }
    }
    Ok(members)
}
