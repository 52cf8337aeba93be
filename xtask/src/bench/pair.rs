//! One measurement: a server and a client, each a process of its own, and for some workloads a relay
//! between them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::command;

use super::{options::Options, report::Case};

/// How long a measurement may take beyond warm-up and measured interval: setting up two thousand
/// connections is the longest of it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest interval that the small cost of idle connections is measured over.
const MIN_IDLE_DURATION: Duration = Duration::from_secs(5);
/// What a process that failed wrote last is shown up to this length.
const ERROR_BYTES: usize = 600;
/// Where the printed commands let the server listen; measurements take any free port.
const PRINTED_ADDRESS: &str = "127.0.0.1:4433";
/// Where the printed relay expects the client.
const PRINTED_RELAY: &str = "127.0.0.1:4434";

/// The two processes of one measurement, not yet started.
pub(super) struct Pair {
    server: Vec<String>,
    client: Vec<String>,
    /// Where there is a relay. It runs on the processors of both, wherever there is room.
    relay: Option<Vec<String>>,
    program: String,
    workers: usize,
    limit: Duration,
}

impl Pair {
    pub(super) fn new(
        program: &Path,
        subject: &str,
        case: &Case,
        options: &Options,
        identity: &Path,
    ) -> Self {
        let common = |role: &str, cores: &str| -> Vec<String> {
            [
                role,
                "--subject",
                subject,
                "--workload",
                &case.workload,
                "--packet-size",
                &case.packet_size.to_string(),
                "--provider",
                &case.provider,
                "--workers",
                &options.workers.to_string(),
                "--cores",
                cores,
                "--identity",
                &identity.to_string_lossy(),
            ]
            .map(str::to_owned)
            .to_vec()
        };
        let mut client = common("client", &options.client_cores);
        let duration = match &*case.workload {
            "idle" => options.duration.max(MIN_IDLE_DURATION),
            _ => options.duration,
        };
        for (name, value) in [("--seconds", duration), ("--warmup", options.warmup)] {
            client.extend([name.to_owned(), value.as_secs_f64().to_string()]);
        }
        Self {
            server: common("server", &options.server_cores),
            client,
            relay: (case.workload == "loss").then(|| {
                let cores = format!("{},{}", options.server_cores, options.client_cores);
                common("relay", &cores)
            }),
            program: program.to_string_lossy().into_owned(),
            // smol's global executor takes the number of its threads from the environment.
            workers: if super::is_multi(subject) {
                options.workers
            } else {
                1
            },
            limit: options.warmup + duration + PATIENCE,
        }
    }

    /// The commands that do by hand what [`run`](Self::run) does.
    pub(super) fn commands(&self) -> String {
        let line = |arguments: &[String], extra: &[&str]| {
            let mut command = Command::new(&self.program);
            command.args(arguments).args(extra);
            let (shown, workers) = (command::show(&command), self.workers);
            let directory = Path::new(&self.program).parent().unwrap_or(Path::new(""));
            format!("SMOL_THREADS={workers} {}/{shown}", directory.display())
        };
        let server = line(&self.server, &["--detached", "--listen", PRINTED_ADDRESS]);
        let connect = ["--detached", "--connect", PRINTED_ADDRESS];
        let Some(relay) = &self.relay else {
            let client = line(&self.client, &connect);
            return format!("{server}\n{client}");
        };
        let relay = line(
            relay,
            &[&connect[..], &["--listen", PRINTED_RELAY]].concat(),
        );
        let client = line(&self.client, &["--detached", "--connect", PRINTED_RELAY]);
        format!("{server}\n{relay}\n{client}")
    }

    /// Starts all, measures, and ends all. Chance, where there is any, is the same for all subjects
    /// in a round.
    pub(super) fn run(&self, round: usize) -> Result<Measurement> {
        let deadline = Instant::now() + self.limit;
        let (sender, receiver) = mpsc::channel();
        let mut server = Peer::start(self, "server", &self.server, &[], sender.clone())?;
        let mut client: Option<Peer> = None;
        let mut relay: Option<Peer> = None;
        let start_client = |address: &str| {
            let arguments = ["--connect", address];
            Peer::start(self, "client", &self.client, &arguments, sender.clone())
        };
        let mut seen = Seen::default();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let (who, line) = match receiver.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no result within {}", command::seconds(self.limit))
                }
                Err(RecvTimeoutError::Disconnected) => bail!("both processes are gone"),
            };
            let Some(line) = line else {
                let gone = match who {
                    "server" => Some(&mut server),
                    "relay" => relay.as_mut(),
                    _ => client.as_mut(),
                };
                bail!(
                    "the {who} {}",
                    gone.map_or_else(String::new, Peer::last_words)
                );
            };
            let message: Value = serde_json::from_str(&line)
                .with_context(|| format!("the {who} printed {line:?}"))?;
            let snapshot = || Snapshot::parse(&message["snapshot"]);
            match (who, message["event"].as_str().unwrap_or_default()) {
                ("server", "ready") => {
                    let address = message["address"].as_str().context("no address")?;
                    seen.settings = message["settings"].clone();
                    match &self.relay {
                        Some(arguments) => {
                            let seed = round.to_string();
                            let extra = ["--connect", address, "--seed", &seed];
                            relay = Some(Peer::start(
                                self,
                                "relay",
                                arguments,
                                &extra,
                                sender.clone(),
                            )?);
                        }
                        None => client = Some(start_client(address)?),
                    }
                }
                ("relay", "ready") => {
                    let address = message["address"].as_str().context("no address")?;
                    seen.settings["network"] = message["settings"].clone();
                    client = Some(start_client(address)?);
                }
                // The server is looked at as soon as the client says that it is time.
                ("client", "begin") => {
                    seen.client.0 = Some(snapshot()?);
                    server.say("snapshot")?;
                    if let Some(relay) = &mut relay {
                        relay.say("snapshot")?;
                    }
                }
                ("client", "end") => {
                    seen.client.1 = Some(snapshot()?);
                    match &mut relay {
                        // The server follows, as its answer ends the measurement.
                        Some(relay) => relay.say("snapshot")?,
                        None => server.say("snapshot")?,
                    }
                }
                ("relay", "snapshot") if seen.relay.0.is_none() => {
                    seen.relay.0 = Some(snapshot()?);
                }
                ("relay", "snapshot") => {
                    seen.relay.1 = Some(snapshot()?);
                    server.say("snapshot")?;
                }
                ("server", "snapshot") if seen.server.0.is_none() => {
                    seen.server.0 = Some(snapshot()?);
                }
                ("server", "snapshot") => {
                    seen.server.1 = Some(snapshot()?);
                    if let Some(client) = &mut client {
                        client.say("stop")?;
                    }
                }
                ("client", "done") => return seen.finish(message),
                (_, "failed") => {
                    bail!("{who}: {}", message["error"].as_str().unwrap_or_default())
                }
                (_, other) => bail!("the {who} said {other:?} unexpectedly"),
            }
        }
    }
}

/// What has been heard so far: begin and end of each side.
#[derive(Default)]
struct Seen {
    settings: Value,
    relay: (Option<Snapshot>, Option<Snapshot>),
    server: (Option<Snapshot>, Option<Snapshot>),
    client: (Option<Snapshot>, Option<Snapshot>),
}

impl Seen {
    fn finish(self, done: Value) -> Result<Measurement> {
        let interval = |side: (Option<Snapshot>, Option<Snapshot>)| {
            let (begin, end) = side.0.zip(side.1).context("the client ended too early")?;
            let interval = begin.until(&end);
            ensure!(interval.elapsed > 0.0, "an interval of no length");
            Ok(interval)
        };
        Ok(Measurement {
            settings: self.settings,
            server: interval(self.server)?,
            client: interval(self.client)?,
            relay: match self.relay {
                (None, None) => None,
                relay => Some(interval(relay)?),
            },
            done,
        })
    }
}

/// What both sides did during the measured interval.
pub(super) struct Measurement {
    pub(super) settings: Value,
    pub(super) server: Snapshot,
    pub(super) client: Snapshot,
    /// What was between them, counting what it received as begun and what it passed on as operations.
    pub(super) relay: Option<Snapshot>,
    /// What the client computed itself, such as percentiles.
    pub(super) done: Value,
}

/// A process at one moment, or what changed between two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Snapshot {
    /// Seconds.
    pub(super) elapsed: f64,
    /// Seconds in user mode and in the kernel.
    pub(super) cpu: f64,
    pub(super) bytes: f64,
    pub(super) begun: f64,
    pub(super) operations: f64,
    pub(super) resident_bytes: f64,
    /// UDP payload of full packets, where the stack tells; as it is at the end.
    pub(super) packet_size: Option<u64>,
}

impl Snapshot {
    fn parse(value: &Value) -> Result<Self> {
        let number = |name: &str| {
            value[name]
                .as_f64()
                .with_context(|| format!("a snapshot without {name}"))
        };
        Ok(Self {
            elapsed: number("elapsed")?,
            cpu: number("user")? + number("system")?,
            bytes: number("bytes")?,
            // Not known to programs that need it for no workload.
            begun: value["begun"].as_f64().unwrap_or_default(),
            operations: number("operations")?,
            resident_bytes: number("resident")?,
            packet_size: value["packet_size"].as_u64(),
        })
    }

    fn until(&self, end: &Self) -> Self {
        Self {
            elapsed: end.elapsed - self.elapsed,
            cpu: end.cpu - self.cpu,
            bytes: end.bytes - self.bytes,
            begun: end.begun - self.begun,
            operations: end.operations - self.operations,
            resident_bytes: end.resident_bytes - self.resident_bytes,
            packet_size: end.packet_size,
        }
    }
}

/// A running process. It ends with this value, and also when we are killed, since its standard
/// input ends then.
struct Peer {
    child: Child,
    stdin: ChildStdin,
    errors: Option<thread::JoinHandle<String>>,
}

/// Who said something; `None` means that it has closed its standard output.
type Line = (&'static str, Option<String>);

impl Peer {
    fn start(
        pair: &Pair,
        role: &'static str,
        arguments: &[String],
        extra: &[&str],
        lines: mpsc::Sender<Line>,
    ) -> Result<Self> {
        let mut child = Command::new(&pair.program)
            .args(arguments)
            .args(extra)
            .env("SMOL_THREADS", pair.workers.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {role}"))?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut stderr = child.stderr.take().context("no standard error")?;
        // All three end when the process does.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if lines.send((role, Some(line))).is_err() {
                    return;
                }
            }
            let _ = lines.send((role, None));
        });
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Ok(Self {
            child,
            stdin,
            errors: Some(errors),
        })
    }

    fn say(&mut self, word: &str) -> Result<()> {
        writeln!(self.stdin, "{word}").context("a process no longer listens")
    }

    /// How it ended and what it said last, for somebody who wants to know why.
    fn last_words(&mut self) -> String {
        // It has closed its output, and so is ending or hangs.
        let _ = self.child.kill();
        let status = self
            .child
            .wait()
            .map_or_else(|error| error.to_string(), |it| it.to_string());
        let errors = self
            .errors
            .take()
            .and_then(|errors| errors.join().ok())
            .unwrap_or_default();
        let errors = errors.trim();
        let mut start = errors.len().saturating_sub(ERROR_BYTES);
        while !errors.is_char_boundary(start) {
            start += 1;
        }
        format!("ended ({status}): {}", &errors[start..])
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
