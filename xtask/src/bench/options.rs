//! The command line of `cargo xtask bench`.

use std::{
    collections::BTreeSet, iter::from_fn, path::PathBuf, str::FromStr, thread, time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    BASELINE, BASELINE_MULTI, OURS_PREFIX, family, machine, publish::PARTS, report::Case,
    results::Results,
};

pub(super) const HELP: &str = "\
Measures polyquic's executors against other QUIC stacks: one process for each side, pinned to
processors of its own, all subjects one after the other in every round.

usage: cargo xtask bench [options]
       cargo xtask bench --compare OLD.json [NEW.json] [options]
       cargo xtask bench --publish PARTS [options]
       cargo xtask bench --page [FILE.json ...]

What to measure; each LIST may be `all`:
  --executors LIST     of smol, smol-busy (looks for I/O before it sleeps), smol-multi,
                       smol-multi-shards (a socket for each worker), tokio, tokio-multi,
                       tokio-multi-shards, tokio-multi-handover (the same without the
                       kernel's steering), blocking, glommio and glommio-multi (Linux);
                       wasm-node (WebAssembly in Node), wasm-browser (a page in Chromium,
                       through the relay, to a server on blocking; --providers ring), which are
                       not in all; none for only rivals
                       (default: all)
  --rivals LIST        of quinn-tokio, quinn-tokio-multi, quinn-smol, quinn-smol-multi,
                       noq-tokio, s2n-quic, s2n-quic-s2ntls, compio-quic, msquic, tokio-quiche,
                       tls-tcp, bare-udp; see benches/rivals/README.md
                       (default: the first three; quinn-tokio is always measured)
  --workloads LIST     of download, upload (one stream), download-streams, upload-streams (16
                       streams), connections (50), requests, requests-connections (32), latency, handshakes, resumed,
                       zero-rtt, datagrams, memory, idle, loss, storm, storm-rsa
                       (default: download, upload, requests, latency, handshakes, memory)
  --providers LIST     of aws-lc-rs, ring (equal settings for all), own-defaults (each
                       stack as it comes, at one packet size) (default: aws-lc-rs)
  --packet-sizes LIST  UDP payload of a full packet, max for what loopback carries; all for
                       1200,1452,max (default: 1452)
  --all                the whole matrix: all of each of the above

How:
  --rounds N           (default: 5)
  --seconds N          how long to measure, after a short warm-up (default: 2)
  --workers N          threads of multi-threaded executors, ours and rivals' (default: 2)
  --server-cores LIST  processors of the server (default: 0)
  --client-cores LIST  processors of the client (default: 1)
  --quick              two short rounds, by default with two rivals: under two minutes once built

What becomes of it:
  --json FILE          write everything that was measured, after every case anew, so that a run
                       that is cut short loses no more than one case
  --dry-run            say what would be measured and about how long it takes
  --print-commands     print the two commands of each measurement instead, to run them by hand,
                       for instance under a profiler
  --compare OLD.json   what a change did: measures what OLD.json has (options narrow it down or
                       change how) and compares; with NEW.json measures nothing
  --fail-below R       with --compare: fail if a row got worse beyond the noise and by a factor
                       below R, such as 0.9
  --publish PARTS      measure parts of docs/BENCHMARKS.md anew (all, or of equal-settings,
                       own-defaults, packet-sizes, ring, rivals) and write the page
  --page [FILE ...]    write docs/BENCHMARKS.md and its plots from docs/benchmarks/*.json, or
                       from these of them

A ratio above 1 is better, whatever the metric; it is taken to quinn-tokio round by round.
";

const EXECUTORS: &[&str] = &[
    "smol",
    "smol-busy",
    "smol-multi",
    "smol-multi-shards",
    "tokio",
    "tokio-multi",
    "tokio-multi-shards",
    "tokio-multi-handover",
    "blocking",
    #[cfg(target_os = "linux")]
    "glommio",
    #[cfg(target_os = "linux")]
    "glommio-multi",
];
const RIVALS: &[&str] = &[BASELINE, BASELINE_MULTI, "quinn-smol", "quinn-smol-multi"];
const WORKLOADS: &[&str] = &[
    "download",
    "upload",
    "download-streams",
    "upload-streams",
    "connections",
    "requests",
    "requests-connections",
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
const PROVIDERS: &[&str] = &["aws-lc-rs", "ring", "own-defaults"];

/// With less time, one of each kind.
const QUICK_EXECUTORS: &[&str] = &["smol", "smol-multi", "tokio", "tokio-multi", "blocking"];
/// And the rivals that targets refer to.
const QUICK_RIVALS: &[&str] = &[BASELINE, BASELINE_MULTI];
/// For `--packet-sizes all`: what every path carries, what most do, and what loopback does.
const PACKET_SIZES: &str = "1200,1452,max";
/// What starting two processes, a handshake and ending them takes.
const OVERHEAD: Duration = Duration::from_millis(350);
/// More for workloads that set up two thousand connections.
const MANY_CONNECTIONS: Duration = Duration::from_secs(4);
/// For how long the workload `idle` measures at least.
const IDLE_AT_LEAST: Duration = Duration::from_secs(5);

/// What the results of a run are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Measure,
    /// With an old file, and with a new one instead of measuring.
    Compare {
        old: PathBuf,
        new: Option<PathBuf>,
    },
    /// Measure parts of the page.
    Publish(Vec<String>),
    /// Write the page from these files, or from all there are.
    Page(Vec<PathBuf>),
}

/// What to measure and how.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) action: Action,
    pub(super) subjects: Vec<String>,
    pub(super) workloads: Vec<String>,
    pub(super) providers: Vec<String>,
    pub(super) packet_sizes: Vec<u16>,
    /// Instead of all combinations of the three above: the cases of an earlier run.
    only_cases: Option<Vec<Case>>,
    pub(super) rounds: usize,
    pub(super) duration: Duration,
    pub(super) warmup: Duration,
    pub(super) workers: usize,
    pub(super) server_cores: String,
    pub(super) client_cores: String,
    pub(super) quick: bool,
    pub(super) json: Option<PathBuf>,
    pub(super) fail_below: Option<f64>,
    pub(super) dry_run: bool,
    pub(super) print_commands: bool,
    /// What was said explicitly, and so outweighs an earlier run.
    said: BTreeSet<String>,
}

impl Options {
    /// Reads the command line; `None` if it asks for help.
    pub(super) fn parse(arguments: &[String]) -> Result<Option<Self>> {
        let mut executors: Option<Vec<String>> = None;
        let mut rivals: Option<Vec<String>> = None;
        let (mut rounds, mut duration) = (None, None);
        let single_core = thread::available_parallelism().is_ok_and(|count| count.get() == 1);
        let mut options = Self {
            action: Action::Measure,
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
            only_cases: None,
            rounds: 5,
            duration: Duration::from_secs(2),
            warmup: Duration::from_millis(300),
            workers: 2,
            server_cores: "0".into(),
            client_cores: if single_core { "0" } else { "1" }.into(),
            quick: false,
            json: None,
            fail_below: None,
            dry_run: false,
            print_commands: false,
            said: BTreeSet::new(),
        };
        // `--all` is an abbreviation; what is said after it narrows it down again.
        let spelt_out: Vec<String> = arguments
            .iter()
            .flat_map(|argument| match &**argument {
                "--all" => [
                    "--executors",
                    "--rivals",
                    "--workloads",
                    "--providers",
                    "--packet-sizes",
                ]
                .into_iter()
                .flat_map(|name| [name.to_owned(), "all".to_owned()])
                .collect(),
                _ => vec![argument.clone()],
            })
            .collect();
        let mut arguments = spelt_out.iter().peekable();
        while let Some(name) = arguments.next() {
            options.said.insert(name.clone());
            match &**name {
                "--help" | "-h" => return Ok(None),
                "--quick" => {
                    options.quick = true;
                    continue;
                }
                "--dry-run" => {
                    options.dry_run = true;
                    continue;
                }
                "--print-commands" => {
                    options.print_commands = true;
                    continue;
                }
                "--page" => {
                    let files = from_fn(|| arguments.next_if(|it| !it.starts_with("--")));
                    options.action = Action::Page(files.map(PathBuf::from).collect());
                    continue;
                }
                _ => {}
            }
            let value = arguments
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            (|| -> Result<()> {
                match &**name {
                    "--executors" => {
                        executors = Some(match &**value {
                            "all" | "none" => names(value, EXECUTORS)?,
                            _ => names(value, &[EXECUTORS, family::JAVASCRIPT].concat())?,
                        });
                    }
                    "--rivals" => {
                        rivals = Some(names(value, &[RIVALS, family::OUTSIDE].concat())?);
                    }
                    "--workloads" => options.workloads = names(value, WORKLOADS)?,
                    "--providers" => options.providers = names(value, PROVIDERS)?,
                    "--packet-sizes" => options.packet_sizes = packet_sizes(value)?,
                    "--rounds" => rounds = Some(value.parse()?),
                    "--seconds" => duration = Some(Duration::try_from_secs_f64(value.parse()?)?),
                    "--workers" => options.workers = value.parse()?,
                    "--server-cores" => options.server_cores = cores(value)?,
                    "--client-cores" => options.client_cores = cores(value)?,
                    "--json" => options.json = Some(value.into()),
                    "--fail-below" => options.fail_below = Some(value.parse()?),
                    "--compare" => {
                        options.action = Action::Compare {
                            old: value.into(),
                            new: arguments
                                .next_if(|it| !it.starts_with("--"))
                                .map(PathBuf::from),
                        };
                    }
                    "--publish" => {
                        let known: Vec<_> = PARTS.iter().map(|part| part.name).collect();
                        options.action = Action::Publish(names(value, &known)?);
                    }
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
        if options.fail_below.is_some() && !matches!(options.action, Action::Compare { .. }) {
            bail!("--fail-below is for --compare");
        }

        let by_default = if options.quick {
            QUICK_RIVALS
        } else {
            &RIVALS[..3]
        };
        let rivals =
            rivals.unwrap_or_else(|| by_default.iter().map(|name| (*name).into()).collect());
        let by_default = if options.quick {
            QUICK_EXECUTORS
        } else {
            EXECUTORS
        };
        let executors =
            executors.unwrap_or_else(|| by_default.iter().map(|name| (*name).into()).collect());
        // The rival that all others are compared with comes first, wanted or not.
        options.subjects = vec![BASELINE.to_owned()];
        options
            .subjects
            .extend(rivals.into_iter().filter(|name| name != BASELINE));
        options
            .subjects
            .extend(executors.iter().map(|name| format!("{OURS_PREFIX}{name}")));
        Ok(Some(options))
    }

    /// The same as an earlier run, but for what was said explicitly.
    pub(super) fn like(&self, old: &Results) -> Result<Self> {
        let mut options = self.clone();
        let said = |name: &str| self.said.contains(name);
        let subjects = old.subjects.iter().filter(|subject| {
            let (list, is_wanted) = match subject.starts_with(OURS_PREFIX) {
                true => ("--executors", self.subjects.contains(subject)),
                false => ("--rivals", self.subjects.contains(subject)),
            };
            !said(list) || is_wanted
        });
        options.subjects = subjects.cloned().collect();
        let cases = old.cases.iter().filter(|case| {
            (!said("--workloads") || self.workloads.contains(&case.workload))
                && (!said("--providers") || self.providers.contains(&case.provider))
                && (!said("--packet-sizes") || self.packet_sizes.contains(&case.packet_size))
        });
        let cases: Vec<_> = cases.cloned().collect();
        if cases.is_empty() || options.subjects.is_empty() {
            bail!("nothing of {} is left to be measured", old.name);
        }
        // Decides what is built.
        options.providers = Vec::new();
        for case in &cases {
            if !options.providers.contains(&case.provider) {
                options.providers.push(case.provider.clone());
            }
        }
        options.only_cases = Some(cases);
        let number = |name: &str| {
            let number = old.conditions[name].as_f64();
            number.with_context(|| format!("{} does not say {name}", old.name))
        };
        let text = |name: &str| {
            let text = old.conditions[name].as_str().map(str::to_owned);
            text.with_context(|| format!("{} does not say {name}", old.name))
        };
        if !said("--rounds") && !self.quick {
            options.rounds = number("rounds")? as usize;
        }
        if !said("--seconds") && !self.quick {
            options.duration = Duration::try_from_secs_f64(number("seconds")?)?;
            options.warmup = Duration::try_from_secs_f64(number("warmup")?)?;
        }
        if !said("--workers") {
            options.workers = number("workers")? as usize;
        }
        if !said("--server-cores") {
            options.server_cores = text("server_cores")?;
        }
        if !said("--client-cores") {
            options.client_cores = text("client_cores")?;
        }
        Ok(options)
    }

    /// The same for a part of the page: its lists, with how to measure as it was said.
    pub(super) fn part(&self, arguments: &[&str]) -> Result<Self> {
        let arguments: Vec<_> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let part = Self::parse(&arguments)?.context("a part asks for help")?;
        let mut options = self.clone();
        options.action = Action::Measure;
        options.subjects = part.subjects;
        options.workloads = part.workloads;
        options.providers = part.providers;
        options.packet_sizes = part.packet_sizes;
        // Some parts are about processors. Who says other ones wants those.
        if part.said.contains("--server-cores") && !self.said.contains("--server-cores") {
            options.server_cores = part.server_cores;
        }
        if part.said.contains("--client-cores") && !self.said.contains("--client-cores") {
            options.client_cores = part.client_cores;
        }
        Ok(options)
    }

    /// Everything to be measured, in order; each is a table of its own.
    pub(super) fn cases(&self) -> Vec<Case> {
        if let Some(cases) = &self.only_cases {
            return cases.clone();
        }
        let mut cases = Vec::new();
        for workload in &self.workloads {
            for provider in &self.providers {
                for packet_size in &self.packet_sizes {
                    cases.push(Case {
                        workload: workload.clone(),
                        provider: provider.clone(),
                        packet_size: *packet_size,
                    });
                    // Its packet sizes are its own affair.
                    if provider == "own-defaults" {
                        break;
                    }
                }
            }
        }
        cases
    }

    /// How often a workload is measured: memory needs no second look when there is little time.
    pub(super) fn rounds_of(&self, workload: &str) -> usize {
        if self.quick && workload == "memory" {
            1
        } else {
            self.rounds
        }
    }

    /// About how long one measurement takes, before there is experience.
    pub(super) fn expected(&self, workload: &str) -> Duration {
        let measured = self.warmup + self.duration + OVERHEAD;
        match workload {
            "memory" => OVERHEAD + MANY_CONNECTIONS,
            // Its cost is small, and so measured for longer.
            "idle" => self.duration.max(IDLE_AT_LEAST) + OVERHEAD + MANY_CONNECTIONS,
            _ => measured,
        }
    }

    /// The same for everything, on so many subjects.
    pub(super) fn estimate(&self, subjects: usize) -> Duration {
        let cases = self.cases();
        let rounds = cases.iter().map(|case| {
            let rounds = self.rounds_of(&case.workload) * subjects;
            self.expected(&case.workload) * u32::try_from(rounds).unwrap_or(u32::MAX)
        });
        rounds.sum()
    }
}

fn names(list: &str, known: &[&str]) -> Result<Vec<String>> {
    let names: Vec<_> = match list {
        "none" => return Ok(Vec::new()),
        "all" => known.iter().map(|name| (*name).to_owned()).collect(),
        _ => list.split(',').map(|name| name.trim().to_owned()).collect(),
    };
    match names.iter().find(|name| !known.contains(&&***name)) {
        Some(unknown) => bail!("no {unknown:?}; there are {}", known.join(", ")),
        None => Ok(names),
    }
}

fn packet_sizes(list: &str) -> Result<Vec<u16>> {
    let list = if list == "all" { PACKET_SIZES } else { list };
    let sizes = list.split(',').map(|size| match size.trim() {
        "max" => machine::path_maximum(),
        number => Ok(number.parse()?),
    });
    sizes.collect()
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
    fn quick_takes_less_than_two_minutes() {
        let options = parse("--quick").unwrap().unwrap();
        assert!(options.estimate(options.subjects.len()) < Duration::from_secs(100));
        let all = parse("--all").unwrap().unwrap();
        assert!(all.estimate(all.subjects.len()) > Duration::from_secs(3600));
        assert!(all.packet_sizes.contains(&1200) && all.packet_sizes.len() == 3);
        assert_eq!(all.workloads, WORKLOADS);
        let narrowed = parse("--all --workloads memory").unwrap().unwrap();
        assert_eq!(narrowed.workloads, ["memory"]);
    }

    #[test]
    fn own_defaults_have_one_packet_size() {
        let line = "--providers all --packet-sizes 1200,1452 --workloads upload";
        let cases = parse(line).unwrap().unwrap().cases();
        assert_eq!(cases.len(), 5);
    }

    #[test]
    fn an_earlier_run_is_repeated_but_for_what_was_said() {
        let mut old = crate::bench::results::tests::example(1.5);
        old.conditions = serde_json::json!({
            "rounds": 7, "seconds": 0.5, "warmup": 0.1, "workers": 3,
            "server_cores": "2", "client_cores": "3",
        });
        let options = parse("--compare a.json --workloads latency --seconds 9 --executors smol");
        let options = options.unwrap().unwrap();
        assert_eq!(
            options.action,
            Action::Compare {
                old: "a.json".into(),
                new: None
            }
        );
        let options = options.like(&old).unwrap();
        assert_eq!(options.subjects, ["quinn-tokio", "polyquic-smol", "gone"]);
        let cases: Vec<_> = options.cases().iter().map(Case::to_string).collect();
        assert_eq!(cases, ["latency (aws-lc-rs, 1452 B)"]);
        assert_eq!((options.rounds, options.workers), (7, 3));
        assert_eq!((&*options.server_cores, &*options.client_cores), ("2", "3"));
        assert_eq!(options.duration, Duration::from_secs(9));
        let none = parse("--compare a.json --workloads upload")
            .unwrap()
            .unwrap();
        assert!(none.like(&old).is_err());
    }

    #[test]
    fn a_part_has_its_processors_unless_others_are_said() {
        let part = ["--server-cores", "0,1", "--executors", "smol"];
        let of = |line: &str| parse(line).unwrap().unwrap().part(&part).unwrap();
        assert_eq!(of("--publish ring").server_cores, "0,1");
        assert_eq!(of("--publish ring --server-cores 3").server_cores, "3");
    }

    #[test]
    fn what_runs_in_javascript_has_to_be_named() {
        let subjects = |line: &str| parse(line).unwrap().unwrap().subjects;
        assert!(!subjects("--executors all").contains(&"polyquic-wasm-node".into()));
        assert!(subjects("--executors smol,wasm-node").contains(&"polyquic-wasm-node".into()));
    }

    #[test]
    fn files_follow_their_options() {
        let action = |line: &str| parse(line).unwrap().unwrap().action;
        assert_eq!(action("--page"), Action::Page(vec![]));
        let two = Action::Page(vec!["a.json".into(), "b.json".into()]);
        assert_eq!(action("--page a.json b.json --quick"), two);
        let compare = Action::Compare {
            old: "a".into(),
            new: Some("b".into()),
        };
        assert_eq!(action("--compare a b --fail-below 0.9"), compare);
        assert_eq!(
            action("--publish ring,rivals"),
            Action::Publish(vec!["ring".into(), "rivals".into()])
        );
    }

    #[test]
    fn mistakes_are_reported() {
        for line in [
            "--executors smoll",
            "--rounds",
            "--rounds x",
            "--seconds -1",
            "--packet-sizes 1200,huge",
            "--publish everything",
            "--fail-below 0.9",
            "--compare",
            "--what 3",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("--help").unwrap().is_none());
    }
}
