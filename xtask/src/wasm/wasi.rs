//! The same stack on WASI 0.2: a client in Node, which fetches from the native program.

use std::{env, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{PROFILE, browser::Server, npm, toolchain};
use crate::{command, patience};

const TARGET: &str = "wasm32-wasip2";

const EXECUTORS: &[&str] = &[
    "smol",
    "smol-multi",
    "tokio",
    "blocking",
    #[cfg(target_os = "linux")]
    "glommio",
];

/// How long a client may take, for which the runtime first compiles it: some seconds.
const CLIENT_LIMIT: Duration = Duration::from_secs(180);

/// More than what one flow control window holds.
const FILE_BYTES: usize = 3_000_000;

/// Builds the client and has it fetch a file from `program` on every executor.
pub(super) fn test(root: &Path, target: &Path, program: &Path, install: bool) -> Result<()> {
    // Debian has neither its standard library nor the linker that makes components.
    if !toolchain::has_target(TARGET) {
        ensure!(
            install,
            "the client on WASI cannot be built: rustup target add {TARGET}"
        );
        toolchain::add_target(TARGET).with_context(|| {
            format!("the client on WASI cannot be built: rustup target add {TARGET}")
        })?;
    }
    let directory = target.join("wasm");
    let mut cargo = command::cargo(&["build", "--locked", "--package", "polyquic-wasi"])?;
    cargo
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(&directory);
    if env::var_os("CC_wasm32_wasip2").is_none() {
        let other = env::var_os("CC_wasm32_unknown_unknown");
        cargo.env("CC_wasm32_wasip2", other.unwrap_or("clang".into()));
    }
    command::run(cargo)?;
    let client = directory
        .join(TARGET)
        .join(PROFILE)
        .join("polyquic-wasi.wasm");
    // Runs components in Node, with sockets.
    let modules = npm(root, "jco", install)?;
    let runtime = modules.join(".bin/jco");

    let files = target.join("wasm/wasi-files");
    fs::create_dir_all(&files)?;
    // No two parts of it are equal.
    let words =
        (0..FILE_BYTES as u32 / 4).flat_map(|it| it.wrapping_mul(2_654_435_761).to_le_bytes());
    let file: Vec<u8> = words.collect();
    fs::write(files.join("file.bin"), &file)?;
    let ca = target.join("wasm/wasi-ca.pem");
    let got = target.join("wasm/wasi-got.bin");
    for executor in EXECUTORS {
        let server = Server::start(
            program,
            &["serve", "--executor", executor],
            &ca,
            Some(&files),
        )?;
        let trusted = fs::read_to_string(&ca)?;
        let get = |path: &str| {
            let mut run = Command::new(&runtime);
            run.current_dir(root).arg("run").arg(&client);
            run.arg(&server.address).arg(&trusted).arg(path);
            // A file, as the runtime ends before a pipe has taken everything.
            run.stdout(fs::File::create(&got)?);
            let (status, said) = patience::errors_within(run, CLIENT_LIMIT)
                .with_context(|| format!("a client on WASI fetches {path} from {executor}"))?;
            Ok::<_, anyhow::Error>((status, said, fs::read(&got)?))
        };
        let (status, said, bytes) = get("/file.bin")?;
        ensure!(
            status.success() && bytes == file,
            "a client on WASI got {} bytes of {FILE_BYTES} from {executor}: {status}\n{said}",
            bytes.len(),
        );
        println!("a client on WASI has fetched {FILE_BYTES} bytes from {executor}");
        let (status, said, _) = get("/missing")?;
        ensure!(
            !status.success() && said.contains("reset"),
            "there is no such file on {executor}, but: {status}\n{said}"
        );
    }
    Ok(())
}
