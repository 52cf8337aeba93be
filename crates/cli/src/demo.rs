//! `polyquic demo`: a file between every pair of executors, in a table.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use futures::channel::oneshot;
use polyquic::{ClientConfig, Connection};
use sha2::{Digest, Sha256};

use crate::args::{CongestionControl, DemoArgs, TransportArgs};
use crate::certs::{Identity, development_identity};
use crate::connect::{Dialer, resolve};
use crate::exec::{self, App, ExecutorKind, Native};
use crate::failure::Failure;
use crate::gate::Gate;
use crate::get::{Target, download};
use crate::hq;
use crate::out::say;
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::serve::{Files, MAX_STREAMS, MAX_TRANSFERS};
use crate::server::{self, ServerSetup};
use crate::stats::{bit_rate, bytes, ms, rate};
use crate::table::Columns;
use crate::tls::{ClientTls, Trust};
use crate::transport::TransportFactory;
use crate::url::Url;

/// Size of the file that is made up if none is given.
const GENERATED_BYTES: u64 = 64 << 20;

/// How long a handshake on the loopback interface may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What the copy is called.
const COPY: &str = "copy";

const COLUMNS: Columns<'_> = Columns(&[
    ("server", 10, false),
    ("client", 10, false),
    ("throughput", 12, true),
    ("handshake", 10, true),
    ("lost", 5, true),
    ("result", 6, false),
]);

/// Run the command.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let kinds = if args.executor.is_empty() {
        ExecutorKind::value_variants().to_vec()
    } else {
        let mut kinds = args.executor.clone();
        // Named twice is meant once.
        let mut seen = Vec::new();
        kinds.retain(|kind| {
            !seen.contains(kind) && {
                seen.push(*kind);
                true
            }
        });
        kinds
    };
    let scratch = tempfile::Builder::new()
        .prefix("polyquic-demo-")
        .tempdir()
        .map_err(|e| Failure::io("cannot make a temporary directory", &e))?;
    let demo = Demo::prepare(args, scratch.path())?;
    say!(
        "{} ({}), SHA-256 {}, over UDP on 127.0.0.1 with TLS 1.3\n",
        demo.shown,
        bytes(demo.length),
        hex(&demo.sha256)
    );
    say!("{}", COLUMNS.header());
    let mut failed = 0;
    for server in &kinds {
        for client in &kinds {
            let (cells, ok) = demo.cell(*server, *client);
            say!("{}", COLUMNS.row(&cells));
            failed += usize::from(!ok);
        }
    }
    let total = kinds.len() * kinds.len();
    say!("\n{} of {total} transfers arrived intact", total - failed);
    if failed == 0 {
        Ok(())
    } else {
        Err(Failure::transfer(format!(
            "{failed} of {total} transfers failed"
        )))
    }
}

/// What all cells have in common.
struct Demo {
    /// How the file is called in the output.
    shown: String,
    length: u64,
    sha256: [u8; 32],
    sandbox: Arc<Sandbox>,
    /// The path to request.
    path: String,
    copies: PathBuf,
    identity: Identity,
    trust: Trust,
    transport: TransportArgs,
    time_limit: Duration,
}

impl Demo {
    fn prepare(args: &DemoArgs, scratch: &Path) -> Result<Self, Failure> {
        let (source, shown) = match &args.file {
            Some(file) => (file.clone(), file.display().to_string()),
            None => {
                let made = scratch.join("random");
                generate(&made, GENERATED_BYTES)
                    .map_err(|e| Failure::io(format!("cannot write {}", made.display()), &e))?;
                (made, "random bytes".into())
            }
        };
        let cannot_read = |e: io::Error| Failure::io(format!("cannot read {shown}"), &e);
        let source = source.canonicalize().map_err(cannot_read)?;
        if !source.is_file() {
            return Err(Failure::local(format!(
                "cannot read {shown}: not a regular file"
            )));
        }
        let (length, sha256) = hash(&source).map_err(cannot_read)?;
        let name = source.file_name().and_then(|name| name.to_str());
        let (Some(dir), Some(name)) = (source.parent(), name) else {
            return Err(Failure::usage(format!(
                "{shown}: the file name is not UTF-8"
            )));
        };
        let sandbox = Sandbox::new(dir).map_err(cannot_read)?;
        let path = format!("/{}", percent_encode(name));
        sandbox
            .open(&path)
            .map_err(|refusal| Failure::usage(format!("{shown} cannot be served: {refusal}")))?;
        let identity = development_identity(&[(Ipv4Addr::LOCALHOST, 0).into()], &[])?;
        let ca = scratch.join("ca.pem");
        std::fs::write(&ca, identity.dev_ca_pem.as_deref().unwrap_or_default())
            .map_err(|e| Failure::io(format!("cannot write {}", ca.display()), &e))?;
        Ok(Self {
            shown,
            length,
            sha256,
            sandbox: Arc::new(sandbox),
            path,
            copies: scratch.to_owned(),
            identity,
            trust: Trust::ca_file(&ca)?,
            transport: TransportArgs {
                cc: CongestionControl::default(),
                idle_timeout: Duration::from_secs(10),
                #[cfg(feature = "qlog")]
                qlog_dir: None,
            },
            time_limit: args.time_limit,
        })
    }

    /// The row of one pair, and whether it is as it should be.
    fn cell(&self, server: ExecutorKind, client: ExecutorKind) -> (Vec<String>, bool) {
        let mut cells = vec![server.name().into(), client.name().into()];
        match self.transfer(server, client) {
            Ok(outcome) => {
                let speed = bit_rate(rate(self.length, outcome.elapsed));
                let handshake = format!("{:.2} ms", ms(outcome.handshake));
                cells.extend([speed, handshake, outcome.lost.to_string(), "ok".into()]);
                (cells, true)
            }
            Err(failure) => {
                let none = || "-".to_owned();
                cells.extend([none(), none(), none(), format!("FAILED: {failure}")]);
                (cells, false)
            }
        }
    }

    /// Start both sides on threads of their own, and watch them with a time limit: an executor
    /// that hangs must not hang the demo.
    fn transfer(&self, server: ExecutorKind, client: ExecutorKind) -> Result<Outcome, Failure> {
        let deadline = Instant::now() + self.time_limit;
        let transport = TransportFactory::new(&self.transport, MAX_STREAMS)?;
        let listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
        let setup = ServerSetup::with_identity(&self.identity, hq::ALPN, transport, listen)?;
        let (address_sender, address) = channel();
        let (stop, stopped) = oneshot::channel();
        let server_app = ServerApp {
            setup,
            sandbox: self.sandbox.clone(),
            address: address_sender,
            stopped,
        };
        let lost_by_server = start("server", server, server_app)?;
        let address = match wait(&address, deadline, "the server") {
            Ok(address) => address,
            // It did not get as far as listening, and knows why.
            Err(failure) => {
                return Err(wait(&lost_by_server, deadline, "the server")?
                    .err()
                    .unwrap_or(failure));
            }
        };

        let mut tls = ClientTls::new(&self.trust, polyquic::crypto_provider(), &[hq::ALPN])?;
        // Each cell shows a full handshake.
        tls.config.resumption = polyquic::rustls::client::Resumption::disabled();
        let mut config = ClientConfig::new(tls.quic()?);
        config.transport_config(TransportFactory::new(&self.transport, 0)?.shared());
        let client_app = ClientApp {
            url: Url {
                host: "localhost".into(),
                port: address.port(),
                path: self.path.clone(),
            },
            address,
            config,
            dir: self.copies.clone(),
        };
        let client = start("client", client, client_app)?;
        let outcome = wait(&client, deadline, "the client")?;
        // The server counts what it lost, and is stopped either way.
        let _ = stop.send(());
        let mut outcome = outcome?;
        outcome.lost += wait(&lost_by_server, deadline, "the server")??;

        let copy = self.copies.join(COPY);
        let cannot_read = |e: io::Error| Failure::io("cannot read the copy", &e);
        let (length, sha256) = hash(&copy).map_err(cannot_read)?;
        std::fs::remove_file(&copy).map_err(cannot_read)?;
        if sha256 != self.sha256 {
            return Err(Failure::transfer(format!(
                "the copy differs ({length} of {} bytes)",
                self.length
            )));
        }
        Ok(outcome)
    }
}

/// Run `app` on a thread and an executor of its own.
fn start<A: App>(
    name: &str,
    kind: ExecutorKind,
    app: A,
) -> Result<Receiver<Result<A::Output, Failure>>, Failure> {
    let (sender, receiver) = channel();
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            // Nobody listening any more means that the time limit has passed.
            let _ = sender.send(exec::run(kind, app));
        })
        .map_err(|e| Failure::io("cannot start a thread", &e))?;
    Ok(receiver)
}

fn wait<T>(receiver: &Receiver<T>, deadline: Instant, who: &str) -> Result<T, Failure> {
    let rest = deadline.saturating_duration_since(Instant::now());
    receiver.recv_timeout(rest).map_err(|error| match error {
        RecvTimeoutError::Timeout => Failure::transfer(format!("{who} took too long")),
        RecvTimeoutError::Disconnected => Failure::transfer(format!("{who} ended unexpectedly")),
    })
}

/// How one transfer went.
struct Outcome {
    handshake: Duration,
    elapsed: Duration,
    lost: u64,
}

struct ServerApp {
    setup: ServerSetup,
    sandbox: Arc<Sandbox>,
    address: Sender<SocketAddr>,
    stopped: oneshot::Receiver<()>,
}

impl App for ServerApp {
    /// Packets lost.
    type Output = u64;

    async fn run<R: Native>(self, rt: R) -> Result<Self::Output, Failure> {
        let endpoints = self.setup.listen(&rt)?;
        let endpoint = &endpoints[0];
        let local = endpoint
            .local_addr()
            .map_err(|e| Failure::io("cannot tell the server's address", &e))?;
        let gate = Gate::new(MAX_TRANSFERS);
        let files = Files::new(rt.clone(), self.sandbox, gate.clone());
        let connections = Arc::new(Mutex::new(Vec::<Connection>::new()));
        let seen = connections.clone();
        let handler = move |connection: Connection| {
            seen.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(connection.clone());
            files.clone().serve(connection)
        };
        self.setup.start(&rt, endpoint, &gate, handler)?;
        let _ = self.address.send(local);
        // An error means that the demo gave up.
        let _ = self.stopped.await;
        let lost = connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .map(|connection| connection.stats().path.lost_packets)
            .sum();
        server::close(&rt, &endpoints, b"the demo is over").await;
        Ok(lost)
    }
}

struct ClientApp {
    url: Url,
    address: SocketAddr,
    config: ClientConfig,
    dir: PathBuf,
}

impl App for ClientApp {
    type Output = Outcome;

    async fn run<R: Native>(self, rt: R) -> Result<Self::Output, Failure> {
        // The server is on 127.0.0.1; what `localhost` is to this system does not matter.
        let addresses = match resolve(&rt, &self.url, CONNECT_LIMIT).await {
            Ok(addresses) if addresses == [self.address] => addresses,
            _ => vec![self.address],
        };
        let dialer = Dialer::new(rt.clone(), &addresses)?;
        let config = || self.config.clone();
        let connected = dialer
            .dial(&self.url, &addresses, &config, CONNECT_LIMIT)
            .await?;
        let connection = &connected.connection;
        let target = Target {
            dir: self.dir,
            name: COPY.into(),
            durable: false,
        };
        let progress = Progress::start(false, 1);
        let start = Instant::now();
        download(&rt, connection, None, &self.url.path, &target, &progress).await?;
        let elapsed = start.elapsed();
        let lost = connection.stats().path.lost_packets;
        let handshake = connected.handshake.unwrap_or_default();
        dialer.close().await;
        Ok(Outcome {
            handshake,
            elapsed,
            lost,
        })
    }
}

/// Write `length` bytes in which nothing repeats.
fn generate(path: &Path, length: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for n in 0..length / 8 {
        // SplitMix64: every number is different, and looks random.
        let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        file.write_all(&(z ^ (z >> 31)).to_le_bytes())?;
    }
    file.flush()
}

/// Length and SHA-256 of a file.
fn hash(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((length, hasher.finalize().into())),
            n => {
                length += n as u64;
                hasher.update(&buffer[..n]);
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file name as part of a path in a URL.
fn percent_encode(name: &str) -> String {
    name.bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_what_they_should_be() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let (length, sha256) = hash(file.path()).unwrap();
        assert_eq!(length, 3);
        assert!(
            hex(&sha256).starts_with("ba7816bf8f01cfea"),
            "FIPS 180-4 appendix"
        );
    }

    #[test]
    fn any_file_name_survives_the_url() {
        for name in ["plain.bin", "a b", "ä?#%2f", "100%"] {
            let url: Url = format!("hq://h/{}", percent_encode(name)).parse().unwrap();
            assert_eq!(url.file_name().as_deref(), Some(name));
        }
    }
}
