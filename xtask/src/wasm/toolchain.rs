//! Which compiler builds for WebAssembly here, and how to get one.

use std::{
    env, fmt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{command, patience};

pub(super) const TARGET: &str = "wasm32-unknown-unknown";

/// What Debian calls the compiler with the sources of its standard library, and what links and
/// compiles the C of ring.
const PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev",
    "rust-web-src",
    "clang",
    "lld",
];

/// Where Debian puts them, whatever rustup puts before it in the path.
const DEBIAN: &str = "/usr/bin";

/// How long rustup may take to download the target: some 30 MB.
const RUSTUP_LIMIT: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Toolchain {
    /// The one that builds everything else, which has the target.
    Ours,
    /// Debian's, which builds the standard library along with the rest.
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "the toolchain of the workspace",
            Self::Debian => "Debian's toolchain, and its standard library from source",
        })
    }
}

/// The toolchain to use; gets one if need be and `install` allows it.
pub(super) fn find(install: bool) -> Result<Toolchain> {
    if let Some(toolchain) = present() {
        return Ok(toolchain);
    }
    let mut failures = String::new();
    let mut note = |done: Result<()>| {
        if let Err(error) = done {
            failures += &format!("\n{error:#}");
        }
        present()
    };
    if install
        && !has_target(TARGET)
        && let Some(toolchain) = note(add_target(TARGET))
    {
        return Ok(toolchain);
    }
    if install && can_apt() {
        // With the target, all that can be missing is what compiles the C.
        let packages = if has_target(TARGET) {
            &["clang"]
        } else {
            PACKAGES
        };
        if let Some(toolchain) = note(apt_install(packages)) {
            return Ok(toolchain);
        }
    }
    bail!(
        "nothing here compiles for {TARGET}. Either\n\n    rustup target add {TARGET}\n\n\
         and clang (for the C in ring), or on Debian\n\n    \
         apt-get install --no-install-recommends {}\n{failures}",
        PACKAGES.join(" ")
    )
}

fn present() -> Option<Toolchain> {
    if !starts("clang") && env::var_os("CC_wasm32_unknown_unknown").is_none() {
        return None;
    }
    if has_target(TARGET) {
        return Some(Toolchain::Ours);
    }
    let cargo = Path::new(DEBIAN).join("cargo").exists();
    (cargo && debian_has_sources() && starts("wasm-ld")).then_some(Toolchain::Debian)
}

/// Whether the workspace's toolchain has the standard library for `target`.
pub(super) fn has_target(target: &str) -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]);
    command::output(rustc).is_ok_and(|directory| Path::new(&directory).exists())
}

fn debian_has_sources() -> bool {
    let mut rustc = Command::new(Path::new(DEBIAN).join("rustc"));
    rustc.args(["--print", "sysroot"]);
    command::output(rustc).is_ok_and(|root| {
        Path::new(&root)
            .join("lib/rustlib/src/rust/library/std")
            .exists()
    })
}

/// Asks rustup for `target`, unless it is there. A machine without a way to its servers may have it wait
/// for them forever.
pub(super) fn add_target(target: &str) -> Result<()> {
    ensure!(
        starts("rustup"),
        "the target {target} is missing, and so is rustup, which would add it"
    );
    patience::retry(&format!("the target {target}"), || {
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", target]);
        patience::run_within(rustup, RUSTUP_LIMIT)
    })?;
    ensure!(
        has_target(target),
        "rustup has added {target}, but not to the toolchain that is in use"
    );
    Ok(())
}

pub(super) fn can_apt() -> bool {
    is_root() && starts("apt-get")
}

pub(super) fn apt_install(packages: &[&str]) -> Result<()> {
    patience::retry("packages of the system", || {
        // What is listed from before may do.
        let _ = apt(&["update"]);
        let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
        arguments.extend(packages);
        apt(&arguments)
    })
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut apt = Command::new("apt-get");
    // Somebody else may be installing something.
    apt.args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    println!("$ {}", command::show(&apt));
    command::run(apt).context("apt-get")
}

fn is_root() -> bool {
    let mut id = Command::new("id");
    id.arg("-u");
    command::output(id).is_ok_and(|it| it == "0")
}

fn starts(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Toolchain {
    /// `cargo build` for the target.
    pub(super) fn cargo(self) -> Result<Command> {
        let build = ["build", "--locked", "--target", TARGET];
        let mut cargo = match self {
            Self::Ours => command::cargo(&build)?,
            Self::Debian => {
                let mut ours = command::cargo(&[])?;
                // Told by rustup's cargo to use rustup's compiler, it would.
                for name in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
                    ours.env_remove(name);
                }
                let mut cargo = Command::new(Path::new(DEBIAN).join("cargo"));
                for (name, value) in ours.get_envs() {
                    match value {
                        Some(value) => cargo.env(name, value),
                        None => cargo.env_remove(name),
                    };
                }
                cargo
                    .args(build)
                    .args(["-Zbuild-std=std,panic_abort"])
                    .current_dir(command::root()?)
                    .env("RUSTC", Path::new(DEBIAN).join("rustc"))
                    // Building the standard library is an unstable feature.
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld");
                cargo
            }
        };
        if env::var_os("CC_wasm32_unknown_unknown").is_none() {
            cargo.env("CC_wasm32_unknown_unknown", "clang");
        }
        Ok(cargo)
    }
}
