//! Starting other programs.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// The list of all features is longer than everything that one wants to know about a command.
const LONGEST_WORD_SHOWN: usize = 60;

/// The directory of the workspace, wherever the caller is.
pub(crate) fn root() -> Result<PathBuf> {
    // Set by `cargo run`; the fallback serves a binary that is started by hand.
    if let Some(manifest) = env::var_os("CARGO_MANIFEST_DIR") {
        let root = Path::new(&manifest)
            .parent()
            .context("xtask has no parent directory")?;
        return Ok(root.to_owned());
    }
    let here = env::current_dir()?;
    here.ancestors()
        .find(|directory| directory.join("xtask/Cargo.toml").exists())
        .map(Path::to_owned)
        .context("not inside the workspace")
}

/// `cargo` in the workspace's directory.
pub(crate) fn cargo(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(arguments)
        .current_dir(root()?)
        .stdin(Stdio::null());
    // What cargo told us about this package is not meant for the packages it builds next.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Runs a command with its output going where ours goes; an error unless it succeeds.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let shown = name(&command);
    let status = command
        .status()
        .with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// What a command prints, without the last line break; an error unless it succeeds.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let shown = name(&command);
    let output = command
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}\n{}", output.status, errors.trim_end());
    }
    let text = String::from_utf8(output.stdout).with_context(|| format!("{shown}: not UTF-8"))?;
    Ok(text.trim_end().to_owned())
}

/// A command as one would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let mut shown = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        shown.push(' ');
        if argument.is_empty() || argument.contains([' ', '"', '*']) {
            shown.push_str(&format!("'{argument}'"));
        } else {
            shown.push_str(&argument);
        }
    }
    shown
}

/// A command in a message about it: what is longer than a path or two is not repeated.
pub(crate) fn name(command: &Command) -> String {
    let words: Vec<_> = show(command)
        .split(' ')
        .map(|word| match word.char_indices().nth(LONGEST_WORD_SHOWN) {
            Some((end, _)) => format!("{}…", &word[..end]),
            None => word.to_owned(),
        })
        .collect();
    words.join(" ")
}

/// A duration for a reader.
pub(crate) fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        whole => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

/// Files that git tracks or would track, relative to the workspace, sorted.
pub(crate) fn tracked_files() -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(root()?).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "-z",
    ]);
    let listed = output(git)?;
    let mut files: Vec<PathBuf> = listed
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(Into::into)
        .collect();
    let root = root()?;
    // A file that was deleted but not yet committed is listed too.
    files.retain(|file| fs::symlink_metadata(root.join(file)).is_ok_and(|it| it.is_file()));
    files.sort();
    files.dedup();
    Ok(files)
}
