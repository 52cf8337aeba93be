//! The command line of `cargo xtask bench`.

use std::{path::PathBuf, str::FromStr, thread, time::Duration};

use anyhow::{Context, Result, bail};

use super::{BASELINE, BASELINE_MULTI, family};

pub(super) const HELP: &str = "\
Measures polyquic's executors against other QUIC stacks: one process for each side, pinned to
processors of its own, all subjects one after the other in every round.

usage: cargo xtask bench [options]

  --executors LIST     of smol, smol-multi, tokio, tokio-multi, blocking; none for only rivals
                       (default: all)
  --rivals LIST        of quinn-tokio, quinn-tokio-multi, quinn-smol, quinn-smol-multi,
                       noq-tokio, s2n-quic, s2n-quic-s2ntls, compio-quic, msquic, tokio-quiche,
                       tls-tcp, bare-udp; see benches/rivals/README.md
                       (default: the first three; quinn-tokio is always measured)
  --workloads LIST     of download, upload (one stream), download-streams, upload-streams (16
                       streams), connections (50), requests, latency, handshakes, resumed,
                       zero-rtt, datagrams, memory, idle, loss, storm, storm-rsa
                       (default: download, upload, requests, latency, handshakes, memory)
  --providers LIST     of aws-lc-rs, ring (equal settings for all), own-defaults (each
                       stack as it comes) (default: aws-lc-rs)
  --packet-sizes LIST  UDP payload of a full packet; max is 65507 (default: 1452)
  --rounds N           (default: 5)
  --seconds N          how long to measure, after a short warm-up (default: 2)
  --workers N          threads of multi-threaded executors, ours and rivals' (default: 2)
  --server-cores LIST  processors of the server (default: 0)
  --client-cores LIST  processors of the client (default: 1)
  --quick              fewer and shorter rounds, under two minutes once built
  --json FILE          write everything that was measured
  --print-commands     print the two commands of each measurement instead, to run them by hand,
                       for instance under a profiler

A ratio above 1 is better, whatever the metric; it is taken to quinn-tokio round by round.
";

const EXECUTORS: &[&str] = &["smol", "smol-multi", "tokio", "tokio-multi", "blocking"];
const RIVALS: &[&str] = &[BASELINE, BASELINE_MULTI, "quinn-smol", "quinn-smol-multi"];
const WORKLOADS: &[&str] = &[
    "download",
    "upload",
    "download-streams",
    "upload-streams",
    "connections",
    "requests",
    "latency",
    "handshakes",
    "resumed",
    "zero-rtt",
    "datagrams",
    "memory",
    "idle",
    "loss",
    "storm",
    "storm-rsa",
];
/// The largest UDP payload over IPv4, which loopback takes in one piece.
const MAX_PACKET_SIZE: &str = "65507";
const PROVIDERS: &[&str] = &["aws-lc-rs", "ring", "own-defaults"];

/// What to measure and how.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) subjects: Vec<String>,
    pub(super) workloads: Vec<String>,
    pub(super) providers: Vec<String>,
    pub(super) packet_sizes: Vec<u16>,
    pub(super) rounds: usize,
    pub(super) duration: Duration,
    pub(super) warmup: Duration,
    pub(super) workers: usize,
    pub(super) server_cores: String,
    pub(super) client_cores: String,
    pub(super) quick: bool,
    pub(super) json: Option<PathBuf>,
    pub(super) print_commands: bool,
}

impl Options {
    /// Reads the command line; `None` if it asks for help.
    pub(super) fn parse(arguments: &[String]) -> Result<Option<Self>> {
        let mut executors: Vec<String> = EXECUTORS.iter().map(|name| (*name).into()).collect();
        let mut rivals: Vec<String> = RIVALS[..3].iter().map(|name| (*name).into()).collect();
        let (mut rounds, mut duration) = (None, None);
        let single_core = thread::available_parallelism().is_ok_and(|count| count.get() == 1);
        let mut options = Self {
            subjects: Vec::new(),
            workloads: [
                "download",
                "upload",
                "requests",
                "latency",
                "handshakes",
                "memory",
            ]
            .map(str::to_owned)
            .to_vec(),
            providers: vec!["aws-lc-rs".into()],
            packet_sizes: vec![1452],
            rounds: 5,
            duration: Duration::from_secs(2),
            warmup: Duration::from_millis(300),
            workers: 2,
            server_cores: "0".into(),
            client_cores: if single_core { "0" } else { "1" }.into(),
            quick: false,
            json: None,
            print_commands: false,
        };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            match &**name {
                "--help" | "-h" => return Ok(None),
                "--quick" => {
                    options.quick = true;
                    continue;
                }
                "--print-commands" => {
                    options.print_commands = true;
                    continue;
                }
                _ => {}
            }
            let value = arguments
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            (|| -> Result<()> {
                match &**name {
                    "--executors" => executors = names(value, EXECUTORS)?,
                    "--rivals" => rivals = names(value, &[RIVALS, family::OUTSIDE].concat())?,
                    "--workloads" => options.workloads = names(value, WORKLOADS)?,
                    "--providers" => options.providers = names(value, PROVIDERS)?,
                    "--packet-sizes" => {
                        options.packet_sizes = numbers(&value.replace("max", MAX_PACKET_SIZE))?;
                    }
                    "--rounds" => rounds = Some(value.parse()?),
                    "--seconds" => duration = Some(Duration::try_from_secs_f64(value.parse()?)?),
                    "--workers" => options.workers = value.parse()?,
                    "--server-cores" => options.server_cores = cores(value)?,
                    "--client-cores" => options.client_cores = cores(value)?,
                    "--json" => options.json = Some(value.into()),
                    _ => bail!("no such option; see --help"),
                }
                Ok(())
            })()
            .with_context(|| format!("{name} {value}"))?;
        }
        if options.quick {
            options.rounds = 2;
            options.duration = Duration::from_millis(400);
            options.warmup = Duration::from_millis(100);
        }
        options.rounds = rounds.unwrap_or(options.rounds).max(1);
        options.duration = duration.unwrap_or(options.duration);

        // The rival that all others are compared with comes first, wanted or not.
        options.subjects = vec![BASELINE.to_owned()];
        options
            .subjects
            .extend(rivals.into_iter().filter(|name| name != BASELINE));
        options
            .subjects
            .extend(executors.iter().map(|name| format!("polyquic-{name}")));
        Ok(Some(options))
    }

    /// How often a workload is measured: memory needs no second look when there is little time.
    pub(super) fn rounds_of(&self, workload: &str) -> usize {
        if self.quick && workload == "memory" {
            1
        } else {
            self.rounds
        }
    }
}

fn names(list: &str, known: &[&str]) -> Result<Vec<String>> {
    if list == "none" {
        return Ok(Vec::new());
    }
    let names: Vec<_> = list.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().find(|name| !known.contains(&&***name)) {
        Some(unknown) => bail!("no {unknown:?}; there are {}", known.join(", ")),
        None => Ok(names),
    }
}

fn numbers<T: FromStr>(list: &str) -> Result<Vec<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    Ok(list
        .split(',')
        .map(|number| number.trim().parse())
        .collect::<Result<_, _>>()?)
}

fn cores(list: &str) -> Result<String> {
    numbers::<usize>(list)?;
    Ok(list.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>> {
        Options::parse(
            &line
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_baseline_is_always_a_subject() {
        let options = parse("--executors tokio --rivals none").unwrap().unwrap();
        assert_eq!(options.subjects, ["quinn-tokio", "polyquic-tokio"]);
        let options = parse("--executors none").unwrap().unwrap();
        assert_eq!(
            options.subjects,
            ["quinn-tokio", "quinn-tokio-multi", "quinn-smol"]
        );
    }

    #[test]
    fn what_is_said_outweighs_quick() {
        let options = parse("--rounds 7 --quick").unwrap().unwrap();
        assert_eq!((options.rounds, options.rounds_of("memory")), (7, 1));
        assert!(options.duration < Duration::from_secs(1));
    }

    #[test]
    fn mistakes_are_reported() {
        for line in [
            "--executors smoll",
            "--rounds",
            "--rounds x",
            "--seconds -1",
            "--what 3",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("--help").unwrap().is_none());
    }
}
