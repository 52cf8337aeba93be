//! The page of docs/browser: put together, tried in a real browser, and served to people.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{copy, npm, toolchain};
use crate::command;

/// Drives the browser in tests. It downloads none itself.
const PLAYWRIGHT: &str = "playwright-core@1.65.1";

/// What distributions call it.
const BROWSERS: &[&str] = &["chromium", "chromium-browser", "google-chrome"];

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Puts the page and the package next to each other, as a server would have them.
pub(super) fn site(root: &Path, package: &Path) -> Result<PathBuf> {
    let site = root.join("target/wasm/site");
    if site.exists() {
        fs::remove_dir_all(&site)?;
    }
    copy(&root.join("docs/browser"), &site)?;
    copy(package, &site.join("polyquic"))?;
    Ok(site)
}

/// Has `node` know the browser and what drives it; gets both if need be and `install` allows it.
pub(super) fn prepare(root: &Path, node: &mut Command, install: bool) -> Result<()> {
    node.env("POLYQUIC_CHROMIUM", browser(install)?)
        .env("POLYQUIC_PLAYWRIGHT", playwright(root, install)?);
    Ok(())
}

fn browser(install: bool) -> Result<PathBuf> {
    if let Some(named) = env::var_os("POLYQUIC_CHROMIUM") {
        return Ok(named.into());
    }
    if let Some(found) = in_path(BROWSERS) {
        return Ok(found);
    }
    if install && toolchain::can_apt() {
        toolchain::apt_install(&["chromium"])?;
    }
    in_path(BROWSERS).context(
        "there is no Chromium: apt-get install --no-install-recommends chromium, or name one in \
         POLYQUIC_CHROMIUM",
    )
}

fn in_path(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut candidates = env::split_paths(&path)
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)));
    candidates.find(|it| it.is_file())
}

fn playwright(root: &Path, install: bool) -> Result<PathBuf> {
    let modules = npm(&root.join("target/npm-tools"), PLAYWRIGHT, install)?;
    Ok(modules.join("playwright-core/index.mjs"))
}

/// Serves the page with servers for it to talk to, until the relay is ended.
pub(super) fn demo(root: &Path, program: &Path, site: &Path, listen: &str) -> Result<()> {
    let files = tempdir(root)?;
    let cas = ["perf-ca.pem", "files-ca.pem"].map(|name| files.join(name));
    let public = files.join("public");
    fs::create_dir_all(&public)?;
    fs::copy(root.join("README.md"), public.join("README.md"))?;
    let perf = Server::start(program, &["perf", "server"], &cas[0], None)?;
    let serve = Server::start(program, &["serve"], &cas[1], Some(&public))?;
    let mut ca = String::new();
    for file in &cas {
        ca += &fs::read_to_string(file)?;
    }
    let demo = serde_json::json!({
        "ca": ca,
        "servers": [
            { "name": "measurements", "url": format!("https://{}", perf.address) },
            { "name": "files", "url": format!("https://{}", serve.address) },
        ],
        "path": "/README.md",
    });
    fs::write(site.join("demo.json"), demo.to_string())?;

    println!("\nopen http://{listen}/index.html in a browser; ctrl-c ends it\n");
    let mut relay = Command::new(program);
    relay
        .args(["relay", "--listen", listen, "--files"])
        .arg(site);
    for server in [&perf, &serve] {
        relay.args(["--allow", &server.address]);
    }
    command::run(relay)
}

fn tempdir(root: &Path) -> Result<PathBuf> {
    let directory = root.join("target/wasm/demo");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// A command of the program that listens on a free port; killed when it is dropped.
pub(super) struct Server {
    child: Child,
    pub(super) address: String,
}

impl Server {
    pub(super) fn start(
        program: &Path,
        words: &[&str],
        ca: &Path,
        files: Option<&Path>,
    ) -> Result<Self> {
        // It is how we learn that it has started.
        let _ = fs::remove_file(ca);
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?.to_string();
        drop(socket);
        let mut command = Command::new(program);
        command.args(words).args(["--listen", &address, "--ca-out"]);
        command.arg(ca).args(files).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let started = Instant::now();
        while !ca.exists() {
            if let Some(status) = child.try_wait()? {
                bail!("{}: {status}", command::show(&command));
            }
            ensure!(started.elapsed() < START_LIMIT, "it does not start");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { child, address })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
