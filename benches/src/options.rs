//! The command line of a peer.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{settings::MAX_PACKET_BYTES, workload::Workload};

/// What a peer prints when asked how to use it.
pub const HELP: &str = "\
One side of a measurement; `cargo xtask bench` starts both and does the arithmetic. A relay is what
`loss` has between the two; a storm is started by the client of that workload.

usage: PEER server [--listen ADDRESS] [options]
       PEER client --connect ADDRESS [options]
       PEER relay --connect ADDRESS [--listen ADDRESS] [--seed N]
       PEER storm --connect ADDRESS --workload storm [options]
       PEER subjects

  --subject NAME        what to run it on; `subjects` lists them
  --workload NAME       what to do (default: download)
  --seconds N           how long to measure (default: 2)
  --warmup N            seconds before that (default: 0.3)
  --connections N       overrides the number of connections of `memory`, `idle`
  --workers N           threads of a multi-threaded executor (default: 2)
  --packet-size N       UDP payload of a full packet; max is 65507 (default: 1452)
  --provider NAME       aws-lc-rs or ring, with equal settings; or own-defaults, with what each
                        stack has by default (default: aws-lc-rs)
  --identity DIRECTORY  certificate and key, made on first use (default: target/bench-identity)
  --cores LIST          processors to run on, such as 0 or 0,1 (default: all)
  --seed N              decides which datagrams a relay loses (default: 0)
  --detached            do not read standard input; the client stops by itself, the server never
";

/// Which side this process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Waits for connections until it is told to stop.
    Server {
        /// Where it listens.
        listen: SocketAddr,
    },
    /// Connects, measures and exits.
    Client {
        /// Where the server listens.
        server: SocketAddr,
    },
    /// Passes datagrams on, but not all.
    Relay {
        /// Where it expects the client.
        listen: SocketAddr,
        /// Where the server listens.
        server: SocketAddr,
    },
    /// Connects again and again, measuring nothing.
    Storm {
        /// Where the server listens.
        server: SocketAddr,
    },
}

/// A parsed command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which side.
    pub role: Role,
    /// The stack and executor, such as `quinn-tokio`.
    pub subject: String,
    /// What to do.
    pub workload: Workload,
    /// How long to measure.
    pub duration: Duration,
    /// How long to run before measuring, for congestion windows, caches and buffers to settle.
    pub warmup: Duration,
    /// Threads of a multi-threaded executor.
    pub workers: usize,
    /// UDP payload of a full packet.
    pub packet_size: u16,
    /// The cryptography that rustls uses.
    pub provider: String,
    /// Where certificate and key lie.
    pub identity: PathBuf,
    /// Processors to run on; all if empty.
    pub cores: Vec<usize>,
    /// Decides which datagrams a relay loses.
    pub seed: u64,
    /// Whether to leave standard input alone.
    pub detached: bool,
}

impl Options {
    /// Reads a command line without the program's name.
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let role = arguments.next().unwrap_or_default();
        let mut listen = "127.0.0.1:0".parse().expect("an address");
        let mut server = None;
        let mut connections = None;
        let mut options = Self {
            role: Role::Server { listen },
            subject: String::new(),
            workload: "download".parse()?,
            duration: Duration::from_secs(2),
            warmup: Duration::from_millis(300),
            workers: 2,
            packet_size: 1452,
            provider: "aws-lc-rs".into(),
            identity: "target/bench-identity".into(),
            cores: Vec::new(),
            seed: 0,
            detached: false,
        };
        while let Some(name) = arguments.next() {
            if name == "--detached" {
                options.detached = true;
                continue;
            }
            let value = arguments
                .next()
                .with_context(|| format!("{name} needs a value"))?;
            (|| -> Result<()> {
                match &*name {
                    "--listen" => listen = value.parse()?,
                    "--connect" => server = Some(value.parse()?),
                    "--subject" => options.subject = value.clone(),
                    "--workload" => options.workload = value.parse()?,
                    "--seconds" => options.duration = Duration::try_from_secs_f64(value.parse()?)?,
                    "--warmup" => options.warmup = Duration::try_from_secs_f64(value.parse()?)?,
                    "--connections" => connections = Some(value.parse()?),
                    "--workers" => options.workers = value.parse()?,
                    "--packet-size" if value == "max" => options.packet_size = MAX_PACKET_BYTES,
                    "--packet-size" => options.packet_size = value.parse()?,
                    "--provider" => options.provider = value.clone(),
                    "--identity" => options.identity = value.clone().into(),
                    "--seed" => options.seed = value.parse()?,
                    "--cores" => {
                        options.cores =
                            value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                    }
                    _ => bail!("no such option"),
                }
                Ok(())
            })()
            .with_context(|| format!("{name} {value}"))?;
        }
        let server = server.context("--connect is needed");
        options.role = match &*role {
            "server" => Role::Server { listen },
            "client" => Role::Client { server: server? },
            "relay" => Role::Relay {
                listen,
                server: server?,
            },
            "storm" => Role::Storm { server: server? },
            _ => bail!("the first argument is server, client, relay, storm or subjects"),
        };
        if let (Some(count), Workload::Memory { connections } | Workload::Idle { connections }) =
            (connections, &mut options.workload)
        {
            *connections = count;
        }
        Ok(options)
    }

    /// Arguments by which another process of this program gets what matters to it.
    pub(crate) fn common_arguments(&self) -> Vec<String> {
        let cores: Vec<_> = self.cores.iter().map(ToString::to_string).collect();
        let mut arguments = vec![
            ("--subject", self.subject.clone()),
            ("--workload", self.workload.to_string()),
            ("--workers", self.workers.to_string()),
            ("--packet-size", self.packet_size.to_string()),
            ("--provider", self.provider.clone()),
            ("--identity", self.identity.to_string_lossy().into_owned()),
        ];
        if !cores.is_empty() {
            arguments.push(("--cores", cores.join(",")));
        }
        arguments
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect()
    }
}
