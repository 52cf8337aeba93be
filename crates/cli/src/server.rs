//! What `serve`, `perf server` and `demo` have in common: listening, accepting, shutting down.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{Either, join_all, select};
use polyquic::{
    Connection, Endpoint, Incoming, ServerConfig, Task, VarInt, spawn, spawn_on_shards, timeout,
};

use crate::args::ServerArgs;
use crate::certs::{Identity, development_identity, load_identity};
use crate::exec::Native;
use crate::failure::Failure;
use crate::gate::Gate;
use crate::out::{complain, say};
use crate::signals::{self, Signals};
use crate::tls;
use crate::transport::TransportFactory;

/// Default port: 443 needs privileges.
const DEFAULT_PORT: u16 = 4433;

/// How long closing may take: long enough for the library to deliver what was finished (three
/// seconds) and for the peers to hear of it.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// How long closing may take once it is in vain to be polite.
const ABORT_LIMIT: Duration = Duration::from_millis(500);

/// A server that is ready to be started on an executor.
#[derive(Clone)]
pub(crate) struct ServerSetup {
    config: ServerConfig,
    transport: TransportFactory,
    listen: Vec<SocketAddr>,
    /// Nobody asked for these addresses: one that this machine does not have may be left out.
    listen_by_default: bool,
    retry: bool,
    /// Of each endpoint; by default what the executor says.
    shards: Option<u16>,
    live: Live,
}

/// The connections that are being served, to be closed at once if need be.
#[derive(Debug, Clone, Default)]
struct Live(Arc<Mutex<HashMap<usize, Connection>>>);

impl Live {
    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, connection: &Connection) -> LiveGuard {
        let id = connection.stable_id();
        self.lock().insert(id, connection.clone());
        LiveGuard {
            live: self.clone(),
            id,
        }
    }

    /// Close all of them, without waiting for anything to be delivered.
    fn abort(&self, reason: &[u8]) {
        for connection in self.lock().values() {
            connection.close(VarInt::from_u32(0), reason);
        }
    }
}

struct LiveGuard {
    live: Live,
    id: usize,
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.live.lock().remove(&self.id);
    }
}

impl ServerSetup {
    /// Read files and check everything that can be checked before a socket is opened.
    pub(crate) fn new(args: &ServerArgs, alpn: &[u8], max_streams: u32) -> Result<Self, Failure> {
        let listen_by_default = args.listen.is_empty();
        let listen = if listen_by_default {
            vec![(Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into()]
        } else {
            args.listen.clone()
        };
        let identity = match (&args.cert, &args.key) {
            (Some(cert), Some(key)) => load_identity(cert, key)?,
            _ => development_identity(&listen, &args.name)?,
        };
        if let (Some(path), Some(pem)) = (&args.ca_out, &identity.dev_ca_pem) {
            write_ca(path, pem)?;
        }
        let transport = TransportFactory::new(&args.transport, max_streams)?;
        let mut setup = Self::with_identity(&identity, alpn, transport, listen)?;
        setup.listen_by_default = listen_by_default;
        setup.retry = args.retry;
        setup.shards = args.shards;
        Ok(setup)
    }

    /// A server that presents `identity`.
    pub(crate) fn with_identity(
        identity: &Identity,
        alpn: &[u8],
        transport: TransportFactory,
        listen: Vec<SocketAddr>,
    ) -> Result<Self, Failure> {
        let mut config = ServerConfig::with_crypto(tls::server(identity, alpn)?);
        config.transport_config(transport.shared());
        Ok(Self {
            config,
            transport,
            listen,
            listen_by_default: false,
            retry: false,
            shards: None,
            live: Live::default(),
        })
    }

    /// Open the sockets.
    pub(crate) fn listen<R: Native>(&self, rt: &R) -> Result<Vec<Endpoint>, Failure> {
        let bind = |address| {
            let mut builder = Endpoint::builder().server_config(self.config.clone());
            if let Some(shards) = self.shards {
                builder = builder.shards(shards.into());
            }
            builder.bind(rt, address)
        };
        let mut endpoints = Vec::new();
        for address in &self.listen {
            let mut result = bind(*address);
            if self.listen_by_default && result.as_ref().is_err_and(no_such_family) {
                result = bind((Ipv4Addr::UNSPECIFIED, address.port()).into());
            }
            endpoints
                .push(result.map_err(|e| Failure::io(format!("cannot listen on {address}"), &e))?);
        }
        Ok(endpoints)
    }

    /// Accept connections in the background until the endpoint is closed, each with a task of its
    /// own, where its shard lives.
    pub(crate) fn start<R, H, F>(
        &self,
        rt: &R,
        endpoint: &Endpoint,
        gate: &Gate,
        handler: H,
    ) -> Result<(), Failure>
    where
        R: Native,
        H: Fn(Connection) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (setup, gate) = (self.clone(), gate.clone());
        spawn_on_shards(rt, endpoint, move |rt, shard| -> Task {
            let (setup, gate, handler) = (setup.clone(), gate.clone(), handler.clone());
            Box::pin(setup.accept(rt, shard, gate, handler))
        })
        .map_err(|e| Failure::io("cannot start to accept connections", &e))
    }

    async fn accept<R, H, F>(self, rt: R, endpoint: Endpoint, gate: Gate, handler: H)
    where
        R: Native,
        H: Fn(Connection) -> F + Clone + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        while let Some(incoming) = endpoint.accept().await {
            if gate.draining() {
                incoming.refuse();
                continue;
            }
            if self.retry && !incoming.remote_address_validated() {
                // Fails only when there was a retry already, which `validated` excludes.
                let _ = incoming.retry();
                continue;
            }
            let peer = incoming.remote_address();
            let (handler, live) = (handler.clone(), self.live.clone());
            match self.accept_one(incoming) {
                Ok(connecting) => spawn(&rt, async move {
                    // Answer 0-RTT requests before the handshake is over; for a server this never
                    // fails. A handshake that does shows up as the end of the connection.
                    let connection = match connecting.into_0rtt() {
                        Ok((connection, _)) => connection,
                        Err(connecting) => match connecting.await {
                            Ok(connection) => connection,
                            Err(error) => {
                                tracing::info!(%peer, "handshake failed: {error}");
                                return;
                            }
                        },
                    };
                    let _live = live.enter(&connection);
                    handler(connection).await;
                }),
                Err(error) => tracing::info!(%peer, "handshake failed: {error}"),
            }
        }
    }

    fn accept_one(
        &self,
        incoming: Incoming,
    ) -> Result<polyquic::Connecting, polyquic::ConnectionError> {
        if !self.transport.per_connection() {
            return incoming.accept();
        }
        let mut config = self.config.clone();
        config.transport_config(
            self.transport
                .one(&format!("server-{}", incoming.orig_dst_cid())),
        );
        incoming.accept_with(Arc::new(config))
    }
}

/// Whether an address family is missing on this machine, as opposed to a port being taken.
fn no_such_family(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.kind() == io::ErrorKind::Unsupported
        // EAFNOSUPPORT has no kind of its own.
        || cfg!(target_os = "linux") && error.raw_os_error() == Some(97)
}

fn write_ca(path: &Path, pem: &str) -> Result<(), Failure> {
    let fail = |e: &io::Error| Failure::io(format!("cannot write the CA to {}", path.display()), e);
    // Whole or not at all: a client that waits for the file must not see half of it.
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
    let mut file =
        tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new("."))).map_err(|e| fail(&e))?;
    io::Write::write_all(&mut file, pem.as_bytes()).map_err(|e| fail(&e))?;
    #[cfg(unix)]
    {
        // A certificate is public, and the client may be somebody else.
        use std::os::unix::fs::PermissionsExt;
        let public = std::fs::Permissions::from_mode(0o644);
        file.as_file()
            .set_permissions(public)
            .map_err(|e| fail(&e))?;
    }
    file.persist(path).map_err(|e| fail(&e.error))?;
    Ok(())
}

/// Say where the server listens: on standard output, for people and scripts that wait for it.
pub(crate) fn announce(endpoints: &[Endpoint], what: &str) {
    for endpoint in endpoints {
        let Ok(address) = endpoint.local_addr() else {
            continue;
        };
        let shards = match (endpoint.shards(), endpoint.is_steered_by_kernel()) {
            (1, _) => String::new(),
            (count, true) => format!(", {count} shards"),
            (count, false) => format!(", {count} shards that hand over to each other"),
        };
        say!("listening on {address} ({what}{shards})");
    }
}

/// Serve until a signal, then drain: stop accepting, wait for open transfers, close.
pub(crate) async fn until_signal<R: Native>(
    rt: &R,
    setup: &ServerSetup,
    endpoints: &[Endpoint],
    gate: &Gate,
    signals: &Signals,
    drain_timeout: Duration,
) -> Result<(), Failure> {
    let signal = signals.nth(1).await;
    // From now on new connections are refused; who asked is told at once and can go elsewhere.
    gate.drain();
    let open = gate.open();
    if open > 0 {
        complain!(
            "{}: finishing {open} open transfer{} (at most {} s; a second signal closes at once)",
            signals::name(signal),
            if open == 1 { "" } else { "s" },
            drain_timeout.as_secs_f64(),
        );
    }
    let drained = {
        let empty = pin!(timeout(rt, drain_timeout, gate.empty()));
        let second = pin!(signals.nth(2));
        match select(empty, second).await {
            Either::Left((Ok(()), _)) => Ok(()),
            Either::Left((Err(_), _)) => Err("the drain timeout passed"),
            Either::Right(_) => Err("a second signal arrived"),
        }
    };
    const REASON: &[u8] = b"server is shutting down";
    let Err(why) = drained else {
        close(rt, endpoints, REASON).await;
        report_steering(endpoints);
        return Ok(());
    };
    let cut_off = gate.open();
    setup.live.abort(REASON);
    for endpoint in endpoints {
        endpoint.close(VarInt::from_u32(0), REASON);
    }
    let idle = join_all(endpoints.iter().map(|e| e.wait_idle()));
    let _ = timeout(rt, ABORT_LIMIT, idle).await;
    report_steering(endpoints);
    Err(Failure::transfer(format!(
        "{why}: {cut_off} open transfer{} cut off",
        if cut_off == 1 { " was" } else { "s were" }
    )))
}

/// Say how datagrams found their shards, where there are several.
fn report_steering(endpoints: &[Endpoint]) {
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.shards() > 1) {
        let stats = endpoint.stats();
        complain!(
            "{} datagrams arrived at their shard, {} were handed over, {} dropped; {} shards lost",
            stats.datagrams_steered,
            stats.datagrams_handed_over,
            stats.hand_overs_dropped,
            stats.shards_lost,
        );
    }
}

/// Close all connections and wait until the peers know, within limits.
pub(crate) async fn close<R: Native>(rt: &R, endpoints: &[Endpoint], reason: &[u8]) {
    for endpoint in endpoints {
        endpoint.close(VarInt::from_u32(0), reason);
    }
    let idle = join_all(endpoints.iter().map(|e| e.wait_idle()));
    // A peer that has vanished is no reason to stay.
    let _ = timeout(rt, CLOSE_LIMIT, idle).await;
}
