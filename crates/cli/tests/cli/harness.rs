//! Starts the program, with a limit on everything, and leaves no process behind.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Nothing in these tests takes longer on a machine that is merely slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Every executor that the default features offer.
pub(crate) const EXECUTORS: &[&str] = &[
    "smol",
    "smol-multi",
    "tokio",
    "blocking",
    #[cfg(target_os = "linux")]
    "glommio",
];

/// The program with `args`, not yet started.
pub(crate) fn program<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polyquic"));
    // What the developer exported must not change the outcome.
    command
        .args(args)
        .env_remove("SSLKEYLOGFILE")
        .env_remove("RUST_LOG");
    command.stdin(Stdio::null());
    command
}

/// How a finished program ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Finished {
    #[track_caller]
    pub(crate) fn expect(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {self:#?}");
        }
        if code != 0 {
            // One line for a person, not a dump.
            let last = self.stderr.lines().last().unwrap_or_default();
            assert!(last.starts_with("polyquic: ") || code == 2, "{self:#?}");
            assert!(!self.stderr.contains("panicked"), "{self:#?}");
        }
        self
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.expect(0, &[])
    }
}

/// A running program; killed when dropped.
pub(crate) struct Running {
    child: Child,
    started: Instant,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self {
            child,
            started: Instant::now(),
            stdout,
            stderr,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The next line on standard output.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        match self.stdout.recv_timeout(LIMIT) {
            Ok(line) => line,
            Err(_) => {
                let _ = self.child.kill();
                panic!(
                    "no line; standard error: {:#?}",
                    self.stderr.iter().collect::<Vec<_>>()
                );
            }
        }
    }

    /// The next line on standard error, which [`finish`](Self::finish) then lacks.
    #[track_caller]
    pub(crate) fn error_line(&mut self) -> String {
        let line = self.stderr.recv_timeout(LIMIT);
        line.unwrap_or_else(|_| panic!("nothing on standard error"))
    }

    /// Send a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args(["-s", name, &self.id().to_string()])
            .status()
            .expect("kill is installed");
        assert!(status.success());
    }

    /// Wait for the end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let status = self.wait();
        // The readers end with the pipes; what was read before counts.
        let collect =
            |lines: &Receiver<String>| lines.iter().map(|line| line + "\n").collect::<String>();
        Finished {
            code: status.code(),
            stdout: collect(&self.stdout),
            stderr: collect(&self.stderr),
            took: self.started.elapsed(),
        }
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let said: Vec<_> = self.stderr.iter().collect();
                panic!("still running after {LIMIT:?}; standard error: {said:#?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Run to the end.
#[track_caller]
pub(crate) fn run<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Finished {
    Running::start(program(args)).finish()
}

/// A directory with something to serve, a place to save into, and perhaps a server.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("www")).unwrap();
        std::fs::create_dir(dir.path().join("out")).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Make a file to serve; its content depends on its name.
    pub(crate) fn file(&self, name: &str, length: usize) -> Vec<u8> {
        let seed = name
            .bytes()
            .fold(7u64, |a, b| a.wrapping_mul(31).wrapping_add(b.into()));
        let content: Vec<u8> = (0..length as u64)
            .map(|n| ((n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        std::fs::write(self.path("www").join(name), &content).unwrap();
        content
    }

    /// Make a file of zeros that takes no space.
    pub(crate) fn sparse_file(&self, name: &str, length: u64) {
        let file = std::fs::File::create(self.path("www").join(name)).unwrap();
        file.set_len(length).unwrap();
    }

    /// A certificate for `name` and its key, as `NAME.crt` and `NAME.key`.
    pub(crate) fn certificate(&self, file: &str, name: &str) {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        std::fs::write(self.path(&format!("{file}.crt")), made.cert.pem()).unwrap();
        std::fs::write(
            self.path(&format!("{file}.key")),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
    }

    /// `serve` on a free port of 127.0.0.1, with a development certificate.
    pub(crate) fn serve(&self, more: &[&str]) -> Server {
        self.serve_on("127.0.0.1:0", more)
    }

    pub(crate) fn serve_on(&self, listen: &str, more: &[&str]) -> Server {
        let (www, ca) = (self.arg("www"), self.arg("ca.pem"));
        let mut args = vec!["serve", &www, "--listen", listen];
        if !more.contains(&"--cert") {
            args.extend(["--ca-out", &ca]);
        }
        args.extend(more);
        Server::start(program(&args))
    }

    /// `get` of `paths` from `server` into `out`.
    pub(crate) fn get(&self, server: &Server, paths: &[&str], more: &[&str]) -> Finished {
        self.start_get(server, paths, more).finish()
    }

    pub(crate) fn start_get(&self, server: &Server, paths: &[&str], more: &[&str]) -> Running {
        let urls: Vec<_> = paths.iter().map(|path| server.url(path)).collect();
        let (out, ca) = (self.arg("out"), self.arg("ca.pem"));
        let mut args = vec!["get", "-o", &out];
        if !more.contains(&"--ca") && !more.contains(&"--insecure") {
            args.extend(["--ca", &ca]);
        }
        args.extend(urls.iter().map(String::as_str));
        args.extend(more);
        Running::start(program(&args))
    }

    /// The names in a directory of the fixture.
    pub(crate) fn names(&self, dir: &str) -> Vec<String> {
        names(&self.path(dir))
    }

    /// Wait until a download into `out` has written something under its temporary name.
    #[track_caller]
    pub(crate) fn wait_for_partial(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let entries = std::fs::read_dir(self.path("out")).unwrap();
            // A file may vanish between being listed and being looked at.
            let sizes = entries
                .filter_map(|e| e.ok()?.metadata().ok())
                .map(|m| m.len());
            if sizes.into_iter().any(|size| size > 0) {
                return;
            }
            assert!(Instant::now() < deadline, "nothing arrives");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A running server, and where it listens.
pub(crate) struct Server {
    pub(crate) process: Running,
    pub(crate) address: std::net::SocketAddr,
}

impl Server {
    pub(crate) fn start(command: Command) -> Self {
        let mut process = Running::start(command);
        let line = process.line();
        let address = line
            .strip_prefix("listening on ")
            .and_then(|rest| rest.split(' ').next())
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("no address in {line:?}"));
        Self { process, address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// Memory of the process, in KiB; Linux only.
    pub(crate) fn resident_kib(&self) -> Option<u64> {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse().ok()
    }
}

/// A number from the relay's line about a client: that before `words`.
#[track_caller]
pub(crate) fn number(line: &str, words: &str) -> u64 {
    let before = line.split(words).next().unwrap();
    let digits = before.trim_end().rsplit(' ').next().unwrap();
    let found = line.contains(words).then(|| digits.parse().ok()).flatten();
    found.unwrap_or_else(|| panic!("no number before {words:?} in {line:?}"))
}
