//! What cargo knows about the workspace.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;

/// The members of the workspace, without their dependencies' manifests.
pub(crate) fn members() -> Result<Vec<Package>> {
    let text = command::output(command::cargo(&[
        "metadata",
        "--format-version=1",
        "--no-deps",
    ])?)?;
    packages(&serde_json::from_str(&text)?)
}

/// Every package that a build on this machine can contain.
pub(crate) fn everything() -> Result<Vec<Package>> {
    let rustc = command::output({
        let mut rustc = std::process::Command::new("rustc");
        rustc.arg("-vV");
        rustc
    })?;
    let host = rustc
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not name its host")?
        .to_owned();
    // Without the filter cargo would download every other platform's packages first.
    let text = command::output(command::cargo(&[
        "metadata",
        "--format-version=1",
        "--filter-platform",
        &host,
    ])?)?;
    packages(&serde_json::from_str(&text)?)
}

/// The parts of a package's manifest that somebody here asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: Option<String>,
    pub(crate) license: Option<String>,
    /// Whether it is one of ours.
    pub(crate) member: bool,
    /// Absolute.
    pub(crate) manifest: String,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) features: Vec<String>,
    /// Root files of libraries and programs, absolute.
    pub(crate) roots: Vec<String>,
}

/// One line of a manifest's dependencies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` is what cargo calls a normal dependency.
    pub(crate) kind: Option<String>,
    pub(crate) optional: bool,
    pub(crate) features: Vec<String>,
}

pub(crate) fn packages(metadata: &Value) -> Result<Vec<Package>> {
    let members = &metadata["workspace_members"];
    let listed = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let mut packages: Vec<_> = listed.iter().map(|value| package(value, members)).collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

fn package(value: &Value, members: &Value) -> Package {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(text)
            .collect()
    };
    Package {
        name: text(&value["name"]).unwrap_or_default(),
        version: text(&value["version"]).unwrap_or_default(),
        description: text(&value["description"]),
        license: text(&value["license"]),
        member: members
            .as_array()
            .is_some_and(|ids| ids.contains(&value["id"])),
        manifest: text(&value["manifest_path"]).unwrap_or_default(),
        dependencies: value["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|dependency| Dependency {
                name: text(&dependency["name"]).unwrap_or_default(),
                kind: text(&dependency["kind"]),
                optional: dependency["optional"].as_bool().unwrap_or(false),
                features: texts(&dependency["features"]),
            })
            .collect(),
        features: value["features"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect(),
        roots: value["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|target| {
                texts(&target["kind"])
                    .iter()
                    .any(|kind| kind.ends_with("lib") || kind == "bin" || kind == "proc-macro")
            })
            .filter_map(|target| text(&target["src_path"]))
            .collect(),
    }
}
