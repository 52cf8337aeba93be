//! What the programs in `src/bin` have in common.

use std::{env, fs, process::ExitCode, sync::Arc};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::{Pid, setsid},
};
use serde_json::{Value, json};

use crate::{
    client,
    options::{HELP, Options, Role},
    probe::{Probe, emit},
    relay, server,
    settings::Settings,
    stack::{Connection, Endpoint, Stack},
    storm,
    workload::Workload,
};

/// As a nice value; enough to win against builds, and not the highest, which a machine may need.
const GROUP_PRIORITY: &str = "-15";
/// For a process that shares a processor with one that measures and must not be in its way, but
/// still has to get on in spite of what else runs on the machine. A third of the other's weight.
const BACKGROUND_PRIORITY: &str = "-10";

/// A process that is about to play its part.
#[derive(Clone)]
pub struct Peer {
    /// What it was asked to do.
    pub options: Arc<Options>,
    settings: Settings,
    scheduling: &'static str,
    probe: Arc<Probe>,
}

impl Peer {
    /// The application, to be driven by the executor that belongs to `stack`.
    pub async fn run<S: Stack>(self, stack: S) -> Result<()> {
        match self.options.role {
            Role::Server { listen } => {
                let mut settings = self.settings.describe();
                stack.correct(&self.settings, &mut settings);
                describe_checks::<<S::Endpoint as Endpoint>::Connection>(
                    &self.settings,
                    &mut settings,
                );
                settings["scheduling"] = self.scheduling.into();
                settings["differs_by"] = S::DIFFERS_BY.into();
                server::run(
                    stack,
                    &self.options,
                    &self.settings,
                    settings,
                    self.probe,
                    listen,
                )
                .await
            }
            Role::Client { server } => {
                client::run(stack, &self.options, &self.settings, self.probe, server).await
            }
            Role::Storm { server } => {
                let Workload::Storm { rate, .. } = self.options.workload else {
                    bail!("{} has no storm", self.options.workload);
                };
                storm::run(stack, &self.settings, self.probe, server, rate).await
            }
            Role::Relay { .. } => bail!("a relay runs on no stack"),
        }
    }
}

/// Says which checks of a measurement there are, as a stack without the figure passes them unseen.
fn describe_checks<C: Connection>(settings: &Settings, described: &mut Value) {
    let check = |possible: bool| match possible {
        true => "on",
        false => "not possible with this stack's API",
    };
    if !settings.own_defaults {
        described["packet_size_check"] = check(C::TELLS_PACKET_SIZE).into();
    }
    if settings.keep_alive.is_some() {
        described["keep_alive_check"] = check(C::COUNTS_PACKETS).into();
    }
}

/// Starts an executor and drives the application on it.
pub type Start = fn(Peer) -> Result<()>;

/// The whole of a peer's `main`: `subjects` are the names it answers to.
pub fn main(subjects: &[(&str, Start)]) -> ExitCode {
    let mut arguments = env::args().skip(1).peekable();
    match arguments.peek().map(String::as_str) {
        Some("subjects") => {
            subjects.iter().for_each(|(name, _)| println!("{name}"));
            return ExitCode::SUCCESS;
        }
        Some("--help" | "-h" | "help") => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    match Options::parse(arguments).and_then(|options| start(subjects, options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            emit("failed", json!({ "error": format!("{error:#}") }));
            ExitCode::FAILURE
        }
    }
}

fn start(subjects: &[(&str, Start)], options: Options) -> Result<()> {
    // Before any thread exists, so that all of them inherit it.
    pin(&options.cores).context("--cores")?;
    let priority = match options.role {
        Role::Storm { .. } => BACKGROUND_PRIORITY,
        _ => GROUP_PRIORITY,
    };
    let scheduling = if set_priority(priority) {
        "raised priority"
    } else {
        "ordinary priority"
    };
    let settings = Settings::load(
        &options.identity,
        &options.provider,
        options.packet_size,
        options.workload,
    )?;
    let probe = Probe::new();
    if options.detached {
        probe.without_driver();
    } else {
        probe.listen_to_driver();
    }
    if let Role::Relay { listen, server } = options.role {
        return relay::run(&settings, &probe, listen, server, options.seed);
    }
    let (_, start) = subjects
        .iter()
        .find(|(name, _)| *name == options.subject)
        .with_context(|| format!("this program has no subject {:?}", options.subject))?;
    start(Peer {
        options: Arc::new(options),
        settings,
        scheduling,
        probe,
    })
}

fn pin(cores: &[usize]) -> Result<()> {
    if cores.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Makes what else happens on this machine matter less, where that is permitted.
///
/// A session of its own is a scheduling group of its own on Linux. Within a group with others,
/// a process with two threads would get twice the share of one with a single thread, and on a
/// busy machine that would decide the comparison.
fn set_priority(nice: &str) -> bool {
    // Fails for the leader of a session, which has one already.
    let _ = setsid();
    fs::write("/proc/self/autogroup", nice).is_ok()
}
