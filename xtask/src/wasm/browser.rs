//! The page of docs/browser: put together, tried in a real browser, and served to people.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{copy, npm, toolchain};
use crate::command;

/// What distributions call it.
const BROWSERS: &[&str] = &["chromium", "chromium-browser", "google-chrome"];

/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);

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
    let modules = npm(root, "playwright", install)?;
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
        let mut command = Command::new(program);
        command
            .args(words)
            .args(["--listen", "127.0.0.1:0", "--ca-out"])
            .arg(ca)
            .args(files)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let shown = command::show(&command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {shown}"))?;
        let mut server = Self {
            child,
            address: String::new(),
        };
        let output = server.child.stdout.take().context("it was piped")?;
        let (told, address) = mpsc::channel();
        thread::spawn(move || {
            // To the end, lest it waits for somebody to read.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(address) = listening(&line) {
                    let _ = told.send(address.to_owned());
                }
            }
        });
        server.address = match address.recv_timeout(START_LIMIT) {
            Ok(address) => address,
            Err(RecvTimeoutError::Timeout) => {
                bail!(
                    "{shown} does not listen after {}",
                    command::seconds(START_LIMIT)
                )
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("{shown} ended before it listened: {}", server.child.wait()?)
            }
        };
        Ok(server)
    }
}

/// Where a server listens, if `line` says so.
fn listening(line: &str) -> Option<&str> {
    line.strip_prefix("listening on ")?.split(' ').next()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_server_listens_is_read() {
        let line = "listening on 127.0.0.1:4433 (hq-interop, /files)";
        assert_eq!(listening(line), Some("127.0.0.1:4433"));
        assert_eq!(listening("something else"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_server_says_where_it_listens_and_may_go_on_talking() {
        let directory = command::root().unwrap().join("target/tmp/wasm-server");
        fs::create_dir_all(&directory).unwrap();
        let script = |name: &str, text: &str| {
            let file = directory.join(name);
            fs::write(&file, text).unwrap();
            file
        };
        let said = directory.join("said");
        let _ = fs::remove_file(&said);
        // More than what a pipe holds, and then a sign that it got so far.
        let talks = script(
            "talks",
            "echo first\necho 'listening on 127.0.0.1:7 (x)'\nseq 100000\necho done >said\nexec sleep 1000\n",
        );
        let shell = |script: &Path| {
            let script = format!("cd {}; exec sh {}", directory.display(), script.display());
            Server::start(Path::new("sh"), &["-c", &script], Path::new("ca"), None)
        };
        let server = shell(&talks).unwrap();
        assert_eq!(server.address, "127.0.0.1:7");
        while !said.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        let error = shell(&script("fails", "exit 3\n")).err().unwrap();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }
}
