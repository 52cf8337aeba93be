//! From a URL to a connection.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::{BoxFuture, Shared};
use futures::stream::FuturesUnordered;
use polyquic::{
    ClientConfig, ConnectError, Connection, ConnectionError, Endpoint, offload, sleep, timeout,
};

use crate::exec::Native;
use crate::failure::{Failure, connection_reason, io_reason};
use crate::server;
use crate::url::Url;

/// Head start that each address gets over the next (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Whether the server took the 0-RTT data; known once the handshake is over.
pub(crate) type EarlyOutcome = Shared<BoxFuture<'static, bool>>;

/// A connection, and how it came about.
pub(crate) struct Connected {
    pub(crate) connection: Connection,
    /// From the first packet to the end of the handshake; none yet when 0-RTT made it unnecessary
    /// to wait.
    pub(crate) handshake: Option<Duration>,
    /// Present if requests may go out before the handshake is over.
    pub(crate) early: Option<EarlyOutcome>,
}

/// Makes the configuration of a connection.
///
/// Called for each attempt, because a qlog file belongs to one attempt.
pub(crate) trait ConfigFactory: Fn() -> ClientConfig + Send + Sync {}

impl<F: Fn() -> ClientConfig + Send + Sync> ConfigFactory for F {}

/// Connects; owns a socket per address family.
pub(crate) struct Dialer<R> {
    rt: R,
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
}

impl<R: Native> Dialer<R> {
    /// Open sockets for those families among `addresses`.
    pub(crate) fn new(rt: R, addresses: &[SocketAddr]) -> Result<Self, Failure> {
        let open = |local: SocketAddr| {
            Endpoint::client(&rt, local).map_err(|e| Failure::io("cannot open a UDP socket", &e))
        };
        let v4 = addresses
            .iter()
            .any(SocketAddr::is_ipv4)
            .then(|| open((Ipv4Addr::UNSPECIFIED, 0).into()))
            .transpose();
        let v6 = addresses
            .iter()
            .any(SocketAddr::is_ipv6)
            .then(|| open((Ipv6Addr::UNSPECIFIED, 0).into()))
            .transpose();
        // A name often has an IPv6 address on machines without IPv6: one family is enough.
        let (v4, v6) = match (v4, v6) {
            (Err(error), Ok(None) | Err(_)) | (Ok(None), Err(error)) => return Err(error),
            (v4, v6) => (v4.unwrap_or(None), v6.unwrap_or(None)),
        };
        Ok(Self { rt, v4, v6 })
    }

    fn endpoint(&self, address: SocketAddr) -> Option<&Endpoint> {
        if address.is_ipv4() {
            self.v4.as_ref()
        } else {
            self.v6.as_ref()
        }
    }

    /// Connect to one of `addresses`, the first that answers.
    ///
    /// Later addresses are tried while the earlier ones are still being waited for. The handshake
    /// time is that of the attempt that made it.
    pub(crate) async fn dial(
        &self,
        url: &Url,
        addresses: &[SocketAddr],
        config: &dyn ConfigFactory,
        limit: Duration,
    ) -> Result<Connected, Failure> {
        let mut attempts: FuturesUnordered<_> = addresses
            .iter()
            .enumerate()
            .map(|(n, address)| self.attempt(url, *address, config, STAGGER * n as u32))
            .collect();
        let race = async {
            let mut first_error = None;
            while let Some(result) = attempts.next().await {
                match result {
                    Ok(connected) => return Ok(connected),
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                }
            }
            Err(first_error.unwrap_or_else(|| "no address to connect to".into()))
        };
        match timeout(&self.rt, limit, race).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(reason)) => Err(cannot_connect(url, &reason)),
            Err(_) => Err(cannot_connect(
                url,
                &format!("no answer within {} s", limit.as_secs_f64()),
            )),
        }
    }

    async fn attempt(
        &self,
        url: &Url,
        address: SocketAddr,
        config: &dyn ConfigFactory,
        delay: Duration,
    ) -> Result<Connected, String> {
        if !delay.is_zero() {
            sleep(&self.rt, delay).await;
        }
        let endpoint = self
            .endpoint(address)
            .ok_or("no socket for this kind of address")?;
        let start = Instant::now();
        let connecting = endpoint
            .connect_with(config(), address, &url.host)
            .map_err(|e| connect_reason(&e))?;
        let connection = connecting.await.map_err(|e| handshake_reason(&e))?;
        Ok(Connected {
            connection,
            handshake: Some(start.elapsed()),
            early: None,
        })
    }

    /// Connect to `address`, and be ready for requests at once if a session can be resumed.
    pub(crate) async fn dial_early(
        &self,
        url: &Url,
        address: SocketAddr,
        config: &dyn ConfigFactory,
        limit: Duration,
    ) -> Result<Connected, Failure> {
        let endpoint = self
            .endpoint(address)
            .ok_or_else(|| cannot_connect(url, "no socket for this kind of address"))?;
        let start = Instant::now();
        let connecting = endpoint
            .connect_with(config(), address, &url.host)
            .map_err(|e| cannot_connect(url, &connect_reason(&e)))?;
        match connecting.into_0rtt() {
            Ok((connection, accepted)) => {
                let early: BoxFuture<'static, bool> = Box::pin(accepted);
                Ok(Connected {
                    connection,
                    handshake: None,
                    early: Some(futures::FutureExt::shared(early)),
                })
            }
            Err(connecting) => match timeout(&self.rt, limit, connecting).await {
                Ok(Ok(connection)) => Ok(Connected {
                    connection,
                    handshake: Some(start.elapsed()),
                    early: None,
                }),
                Ok(Err(error)) => Err(cannot_connect(url, &handshake_reason(&error))),
                Err(_) => Err(cannot_connect(
                    url,
                    &format!("no answer within {} s", limit.as_secs_f64()),
                )),
            },
        }
    }

    /// The sockets.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.v4.iter().chain(&self.v6).cloned().collect()
    }

    /// Close all connections and wait until the peers know, within limits.
    pub(crate) async fn close(self) {
        server::close(&self.rt, &self.endpoints(), b"done").await;
    }
}

/// The addresses of the URL's host, in the system's order of preference.
pub(crate) async fn resolve<R: Native>(
    rt: &R,
    url: &Url,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Failure> {
    let (host, port) = (url.host.clone(), url.port);
    // The system's resolver blocks, for as long as it likes.
    let lookup = offload(rt, move || {
        (host.as_str(), port)
            .to_socket_addrs()
            .map(Iterator::collect::<Vec<_>>)
    });
    let fail = |reason: &str| {
        Failure::connect(format!(
            "cannot resolve the host name {}: {reason}",
            url.host
        ))
    };
    let lookup = async { lookup.await? };
    match timeout(rt, limit, lookup).await {
        Ok(Ok(addresses)) if addresses.is_empty() => Err(fail("it has no address")),
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => {
            let reason = io_reason(&error);
            Err(fail(reason.trim_start_matches(
                "failed to lookup address information: ",
            )))
        }
        Err(_) => Err(fail("no answer in time")),
    }
}

/// Resolve and connect, with one limit for both.
pub(crate) async fn connect<R: Native>(
    rt: &R,
    url: &Url,
    config: &dyn ConfigFactory,
    limit: Duration,
) -> Result<(Dialer<R>, Connected), Failure> {
    let start = Instant::now();
    let addresses = resolve(rt, url, limit).await?;
    let dialer = Dialer::new(rt.clone(), &addresses)?;
    let rest = limit.saturating_sub(start.elapsed());
    let connected = dialer.dial(url, &addresses, config, rest).await?;
    Ok((dialer, connected))
}

fn cannot_connect(url: &Url, reason: &str) -> Failure {
    Failure::connect(format!("cannot connect to {}: {reason}", url.authority()))
}

fn connect_reason(error: &ConnectError) -> String {
    match error {
        ConnectError::InvalidServerName(name) => format!("{name:?} is not a host name"),
        other => other.to_string(),
    }
}

fn handshake_reason(error: &ConnectionError) -> String {
    match error {
        // During a handshake there was no word from the peer at all.
        ConnectionError::TimedOut => "no answer (idle timeout)".into(),
        other => connection_reason(other),
    }
}
