//! `polyquic relay`: datagrams between WebSockets and UDP, for browsers.
//!
//! A client is one WebSocket, one UDP socket and one task (`pump`); `client` is how it gets there,
//! `http` what comes before. TCP and UDP are `async-io`'s, with its own thread, so that any executor
//! will do: the traits of polyquic know no TCP. `docs/RELAY.md` has the wire format.

pub(crate) mod allow;
pub(crate) mod args;
mod client;
mod end;
pub(crate) mod http;
mod limits;
mod lookup;
mod pump;
mod udp;
mod webtransport;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_io::Async;
use futures::FutureExt;
use futures::future::{Either, select, select_all};
use polyquic::crypto::rustls::QuicServerConfig;
use polyquic::{Endpoint, rustls, sleep, spawn, timeout};

use crate::certs::{Identity, load_identity};
use crate::exec::{self, App, Native};
use crate::failure::Failure;
use crate::out::{complain, say};
use crate::relay::allow::Allow;
use crate::relay::args::{LimitArgs, RelayArgs};
use crate::relay::end::Counters;
use crate::relay::limits::Registry;
use crate::relay::lookup::Lookups;
use crate::sandbox::Sandbox;
use crate::signals::{self, Signals};
use crate::tls;

/// Default port, on this machine only: who relays for others should say so.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// TCP connections that are no clients: fetching files, shaking hands, or just there.
const MORE_CONNECTIONS: u32 = 128;
const MORE_CONNECTIONS_PER_ADDRESS: u32 = 32;

/// How long clients get to be told that the relay goes away: a little more than each of them has to hear it
/// and to answer.
const LEAVE_LIMIT: Duration = Duration::from_secs(12);

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
    lookups: Lookups,
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

    /// Whether a request for a file is for this machine, or for a site whose pages may use the relay: for
    /// there may be a server in front that speaks for it.
    fn is_here(&self, hosts: &[String]) -> bool {
        let of_site = |host: &str| {
            let sites = self.origins.iter().filter_map(|it| it.split_once("://"));
            sites
                .into_iter()
                .any(|(_, site)| http::name_of(site) == http::name_of(host))
        };
        !hosts.is_empty()
            && hosts
                .iter()
                .all(|host| http::is_loopback(host) || of_site(host))
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
        lookups: Lookups::new(),
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
            endpoints.push(endpoint);
        }
        self.serve(&rt, &endpoints).await
    }
}

impl Serve {
    /// Accept clients until a signal comes, and tell them; or until a door is lost, which is an error.
    async fn serve<R: Native>(&self, rt: &R, endpoints: &[Endpoint]) -> Result<(), Failure> {
        let listening = self.listeners.iter().map(|listener| {
            let accepting = accept(rt, &self.relay, listener);
            async { match accepting.await {} }.boxed()
        });
        let open = endpoints
            .iter()
            .map(|endpoint| webtransport::accept(rt, &self.relay, endpoint).boxed());
        let accepting = select_all(listening.chain(open));
        let ended = match select(pin!(self.signals.nth(1)), accepting).await {
            Either::Left((signal, _)) => Ok(signal),
            // Without that door it would be half a relay, and nobody would look.
            Either::Right((((), door, _), _)) => {
                let address = endpoints
                    .get(door.saturating_sub(self.listeners.len()))
                    .and_then(|endpoint| endpoint.local_addr().ok());
                let address = address.map_or_else(String::new, |address| format!(" on {address}"));
                Err(Failure::local(format!(
                    "no more WebTransport{address}: its socket failed"
                )))
            }
        };
        // Closed by now would be better, but whoever connects meanwhile is told as well.
        self.relay.clients.leave();
        let told = pin!(timeout(rt, LEAVE_LIMIT, self.relay.clients.empty()));
        // One signal more: at once.
        let signals = if ended.is_ok() { 2 } else { 1 };
        select(told, pin!(self.signals.nth(signals))).await;
        for endpoint in endpoints {
            endpoint.close(0u32.into(), b"");
        }
        if !self.relay.quiet {
            let reason = ended.as_ref().map_or("failed", |it| signals::name(*it));
            self.relay.with_totals(|totals| {
                say!(
                    "{reason}: relayed for {} clients: {}; {} connections refused",
                    totals.clients,
                    totals.counters,
                    totals.refused
                );
            });
        }
        ended.map(drop)
    }

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
    let address = listener.get_ref().local_addr();
    let on_loopback = address.is_ok_and(|it| it.ip().to_canonical().is_loopback());
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
                client::serve(rt.clone(), relay.clone(), tcp, peer, on_loopback, entered),
            ),
            // Nothing is said: a flood would be answered by one.
            Err(_) => relay.with_totals(|totals| totals.refused += 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> Relay {
        Relay {
            allow: Allow::new(&[]),
            origins: vec!["https://Site.example:8443".into(), "null".into()],
            clients: Registry::new(1, 1),
            connections: Registry::new(1, 1),
            lookups: Lookups::new(),
            limits: LimitArgs {
                max_clients: 1,
                max_clients_per_address: 1,
                rate: None,
                datagram_rate: None,
                max_bytes: None,
                idle: Duration::from_secs(60),
                max_queue: 64 << 10,
            },
            sandbox: None,
            tls: None,
            quiet: true,
            totals: Mutex::default(),
        }
    }

    #[test]
    fn files_are_for_this_machine_and_the_sites_of_the_relay() {
        let relay = relay();
        let here = |hosts: &[&str]| {
            let hosts: Vec<_> = hosts.iter().map(|it| (*it).to_owned()).collect();
            relay.is_here(&hosts)
        };
        for hosts in [
            &["localhost:8080"][..],
            &["[::1]"],
            &["site.example"],
            &["SITE.example:1"],
        ] {
            assert!(here(hosts), "{hosts:?}");
        }
        for hosts in [
            &[][..],
            &["other.example"],
            &["null"],
            &["localhost", "other.example"],
        ] {
            assert!(!here(hosts), "{hosts:?}");
        }
    }

    /// A relay with an endpoint that accepts nothing any more.
    struct HalfDead;

    impl App for HalfDead {
        type Output = Failure;

        async fn run<R: Native>(self, rt: R) -> Result<Failure, Failure> {
            let serve = Serve {
                relay: Arc::new(relay()),
                listeners: listen(&["127.0.0.1:0".parse().expect("an address")])?,
                webtransport: Vec::new(),
                quic: None,
                signals: Signals::default(),
            };
            let endpoint = Endpoint::client(&rt, "127.0.0.1:0".parse().expect("an address"))
                .map_err(|e| Failure::io("cannot bind", &e))?;
            // As when its socket fails.
            endpoint.close(0u32.into(), b"");
            Ok(serve.serve(&rt, &[endpoint]).await.expect_err("it ended"))
        }
    }

    #[test]
    fn a_relay_that_lost_a_door_ends_with_an_error() {
        use clap::ValueEnum;
        for kind in exec::ExecutorKind::value_variants() {
            let failure = exec::run(*kind, HalfDead).unwrap();
            assert_eq!(failure.exit, crate::failure::Exit::Local);
            assert!(failure.to_string().contains("WebTransport"), "{failure}");
        }
    }
}
