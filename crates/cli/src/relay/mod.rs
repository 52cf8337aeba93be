//! `polyquic relay`: datagrams between WebSockets and UDP, for browsers.
//!
//! A client is one WebSocket, one UDP socket and one task (`pump`); `client` is how it gets there,
//! `http` what comes before. TCP and UDP are `async-io`'s, with its own thread, so that any executor
//! will do: the traits of polyquic know no TCP. `docs/RELAY.md` has the wire format.

mod allow;
pub(crate) mod args;
mod client;
mod end;
mod http;
mod limits;
mod pump;
mod udp;
mod webtransport;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_io::Async;
use futures::future::{Either, select, select_all};
use polyquic::crypto::rustls::QuicServerConfig;
use polyquic::{rustls, sleep, spawn, timeout};

use crate::certs::{Identity, load_identity};
use crate::exec::{self, App, Native};
use crate::failure::Failure;
use crate::out::{complain, say};
use crate::relay::allow::Allow;
use crate::relay::args::{LimitArgs, RelayArgs};
use crate::relay::end::Counters;
use crate::relay::limits::Registry;
use crate::sandbox::Sandbox;
use crate::signals::{self, Signals};
use crate::tls;

/// Default port, on this machine only: who relays for others should say so.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// TCP connections that are no clients: fetching files, shaking hands, or just there.
const MORE_CONNECTIONS: u32 = 128;
const MORE_CONNECTIONS_PER_ADDRESS: u32 = 32;

/// How long clients get to be told that the relay goes away: a little more than each of them.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);

/// How long no connection is accepted after that failed, as a machine without file descriptors has
/// none a moment later either.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all clients share.
pub(crate) struct Relay {
    allow: Allow,
    /// Any, if there is none.
    origins: Vec<String>,
    limits: LimitArgs,
    clients: Registry,
    connections: Registry,
    sandbox: Option<Arc<Sandbox>>,
    tls: Option<Arc<rustls::ServerConfig>>,
    quiet: bool,
    totals: Mutex<Totals>,
}

#[derive(Debug, Default)]
struct Totals {
    clients: u64,
    refused: u64,
    counters: Counters,
}

impl Relay {
    fn origin_allowed(&self, origin: &str) -> bool {
        self.origins.is_empty()
            || self
                .origins
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }

    fn with_totals<T>(&self, change: impl FnOnce(&mut Totals) -> T) -> T {
        change(&mut self.totals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, counters: &Counters) {
        self.with_totals(|totals| totals.counters.add(counters));
    }

    fn note_client(&self) {
        self.with_totals(|totals| totals.clients += 1);
    }
}

/// Run the command.
pub(crate) fn run(args: &RelayArgs) -> Result<(), Failure> {
    if args.allow.is_empty() {
        return Err(Failure::usage(
            "nothing may be reached through this relay: name targets with --allow HOST:PORT",
        ));
    }
    let sandbox = match &args.files {
        None => None,
        Some(dir) => {
            let sandbox = Sandbox::new(dir)
                .map_err(|e| Failure::io(format!("cannot serve {}", dir.display()), &e))?;
            Some(Arc::new(sandbox))
        }
    };
    let identity = match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => Some(load_identity(cert, key)?),
        _ => None,
    };
    let tls = identity.as_ref().map(tls::web_server).transpose()?;
    let quic = |identity: &Identity| tls::server(identity, webtransport::ALPN);
    let quic = identity.as_ref().map(quic).transpose()?;
    let limits = args.limits.clone();
    let (most, per_address) = (limits.max_clients, limits.max_clients_per_address);
    let relay = Relay {
        allow: Allow::new(&args.allow),
        origins: args.origin.clone(),
        clients: Registry::new(most, per_address),
        connections: Registry::new(
            most.saturating_add(MORE_CONNECTIONS),
            per_address.saturating_add(MORE_CONNECTIONS_PER_ADDRESS),
        ),
        limits,
        sandbox,
        tls,
        quiet: args.quiet,
        totals: Mutex::default(),
    };
    let listeners = listen(&args.listen)?;
    let signals = Signals::install().map_err(|e| Failure::io("cannot wait for signals", &e))?;
    let app = Serve {
        relay: Arc::new(relay),
        listeners,
        webtransport: args.webtransport.clone(),
        quic,
        signals,
    };
    exec::run(args.executor.executor, app)
}

fn listen(addresses: &[SocketAddr]) -> Result<Vec<Async<TcpListener>>, Failure> {
    let default = [DEFAULT_LISTEN];
    let addresses = if addresses.is_empty() {
        &default
    } else {
        addresses
    };
    let open = |address: &SocketAddr| {
        TcpListener::bind(address)
            .and_then(Async::new)
            .map_err(|e| Failure::io(format!("cannot listen on {address}"), &e))
    };
    addresses.iter().map(open).collect()
}

struct Serve {
    relay: Arc<Relay>,
    listeners: Vec<Async<TcpListener>>,
    webtransport: Vec<SocketAddr>,
    /// There if those are.
    quic: Option<Arc<QuicServerConfig>>,
    signals: Signals,
}

impl App for Serve {
    type Output = ();

    async fn run<R: Native>(self, rt: R) -> Result<Self::Output, Failure> {
        for listener in &self.listeners {
            self.announce(listener);
        }
        let mut endpoints = Vec::new();
        for (address, quic) in self.webtransport.iter().zip(self.quic.iter().cycle()) {
            let endpoint = webtransport::bind(&rt, quic.clone(), &self.relay.limits, *address)?;
            if let Ok(address) = endpoint.local_addr() {
                say!(
                    "listening on {address} (relay, https://{address}/udp?target=HOST:PORT, WebTransport)"
                );
            }
            spawn(
                &rt,
                webtransport::accept(rt.clone(), self.relay.clone(), endpoint.clone()),
            );
            endpoints.push(endpoint);
        }
        let accepting = self
            .listeners
            .iter()
            .map(|listener| Box::pin(accept(&rt, &self.relay, listener)));
        let accepting = select_all(accepting);
        let signal = match select(pin!(self.signals.nth(1)), accepting).await {
            Either::Left((signal, _)) => signal,
            Either::Right(((never, _, _), _)) => match never {},
        };
        // Closed by now would be better, but whoever connects meanwhile is told as well.
        self.relay.clients.leave();
        let told = pin!(timeout(&rt, LEAVE_LIMIT, self.relay.clients.empty()));
        // A second signal: at once.
        select(told, pin!(self.signals.nth(2))).await;
        for endpoint in &endpoints {
            endpoint.close(0u32.into(), b"");
        }
        if !self.relay.quiet {
            self.relay.with_totals(|totals| {
                say!(
                    "{}: relayed for {} clients: {}; {} connections refused",
                    signals::name(signal),
                    totals.clients,
                    totals.counters,
                    totals.refused
                );
            });
        }
        Ok(())
    }
}

impl Serve {
    fn announce(&self, listener: &Async<TcpListener>) {
        let Ok(address) = listener.get_ref().local_addr() else {
            return;
        };
        let scheme = if self.relay.tls.is_some() {
            "wss"
        } else {
            "ws"
        };
        let files = match &self.relay.sandbox {
            Some(sandbox) => format!(", files of {}", sandbox.root().display()),
            None => String::new(),
        };
        say!("listening on {address} (relay, {scheme}://{address}/udp?target=HOST:PORT{files})");
    }
}

/// Accept connections forever.
async fn accept<R: Native>(
    rt: &R,
    relay: &Arc<Relay>,
    listener: &Async<TcpListener>,
) -> std::convert::Infallible {
    let mut complained = false;
    loop {
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // One that went away before it was accepted is not worth a word.
                if error.kind() != std::io::ErrorKind::ConnectionAborted && !complained {
                    complain!("cannot accept connections: {error}");
                    complained = true;
                }
                sleep(rt, ACCEPT_PAUSE).await;
                continue;
            }
        };
        complained = false;
        match relay.connections.enter(peer.ip()) {
            Ok(entered) => spawn(
                rt,
                client::serve(rt.clone(), relay.clone(), tcp, peer, entered),
            ),
            // Nothing is said: a flood would be answered by one.
            Err(_) => relay.with_totals(|totals| totals.refused += 1),
        }
    }
}
