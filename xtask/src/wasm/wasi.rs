//! The same stack on WASI 0.2: a client in Node, which fetches from the native program.

use std::{fs, io, path::Path, process::Command};

use anyhow::{Result, ensure};

use super::{PROFILE, browser::Server, npm, toolchain};
use crate::command;

const TARGET: &str = "wasm32-wasip2";

/// Runs WASI components in Node, with sockets.
const RUNTIME: &str = "@bytecodealliance/jco@1.35.0";

const EXECUTORS: &[&str] = &["smol", "tokio", "blocking", "glommio"];

/// More than what one flow control window holds.
const FILE_BYTES: usize = 3_000_000;

/// Builds the client and has it fetch a file from `program` on every executor.
pub(super) fn test(root: &Path, target: &Path, program: &Path, install: bool) -> Result<()> {
    if !toolchain::has_target(TARGET) && install {
        toolchain::add_target(TARGET);
    }
    // Debian has neither its standard library nor the linker that makes components.
    ensure!(
        toolchain::has_target(TARGET),
        "the client on WASI cannot be built: rustup target add {TARGET}"
    );
    let directory = target.join("wasm");
    let mut cargo = command::cargo(&["build", "--locked", "--package", "polyquic-wasi"])?;
    cargo
        .args(["--profile", PROFILE, "--target", TARGET, "--target-dir"])
        .arg(&directory)
        .env("CC_wasm32_wasip2", "clang");
    command::run(cargo)?;
    let client = directory
        .join(TARGET)
        .join(PROFILE)
        .join("polyquic-wasi.wasm");
    let modules = npm(&target.join("wasi-tools"), RUNTIME, install)?;
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
            let output = run.output()?;
            Ok::<_, io::Error>((output, fs::read(&got)?))
        };
        let (output, bytes) = get("/file.bin")?;
        ensure!(
            output.status.success() && bytes == file,
            "a client on WASI got {} bytes of {FILE_BYTES} from {executor}: {}\n{}",
            bytes.len(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        println!("a client on WASI has fetched {FILE_BYTES} bytes from {executor}");
        let (missing, _) = get("/missing")?;
        let said = String::from_utf8_lossy(&missing.stderr);
        ensure!(
            !missing.status.success() && said.contains("reset"),
            "there is no such file on {executor}, but: {}\n{said}",
            missing.status
        );
    }
    Ok(())
}
