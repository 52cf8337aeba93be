//! Connections in the making.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use polyquic_core::{ConnectionError, ConnectionId, ServerConfig};
use polyquic_endpoint as handles;

use crate::wait::{gave_up, try_wait};
use crate::{Connection, block_on};

/// Handshakes that [`IncomingConnections`] has under way at once. Each costs a look per wake-up.
const MAX_HANDSHAKES: usize = 1024;

/// With more handshakes than this, peers have to prove their address first: whoever forges addresses
/// then takes no place.
const MAX_UNPROVED_HANDSHAKES: usize = 64;

/// A peer's wish to connect, nothing having been spent on it yet.
///
/// Comes from [`Endpoint::accept`](crate::Endpoint::accept). Decide with one of the methods;
/// dropping it refuses. Servers with a thread per connection accept on that thread, so that a peer
/// that dawdles over its handshake delays nobody else.
#[derive(Debug)]
pub struct Incoming(pub(crate) handles::Incoming);

impl Incoming {
    /// Accept, blocking until the handshake is complete.
    ///
    /// # Errors
    ///
    /// The handshake failed, see [`connection_error`](crate::connection_error); when the peer goes
    /// silent, after the idle timeout of the transport configuration.
    pub fn accept(self) -> io::Result<Connection> {
        self.start()?.wait()
    }

    /// [`accept`](Self::accept) with a configuration for this connection only.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn accept_with(self, config: Arc<ServerConfig>) -> io::Result<Connection> {
        self.start_with(config)?.wait()
    }

    /// [`accept`](Self::accept), giving the peer up when the handshake takes longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when time ran out, else as [`accept`](Self::accept).
    pub fn accept_timeout(self, timeout: Duration) -> io::Result<Connection> {
        self.start()?.wait_or_give_up(timeout)
    }

    /// Accept without blocking; the handshake goes on by itself.
    ///
    /// # Errors
    ///
    /// The attempt was malformed, or is too old.
    pub fn start(self) -> io::Result<Connecting> {
        Ok(Connecting::new(self.0.accept()?))
    }

    /// [`start`](Self::start) with a configuration for this connection only.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_with(self, config: Arc<ServerConfig>) -> io::Result<Connecting> {
        Ok(Connecting::new(self.0.accept_with(config)?))
    }

    /// Refuse, telling the peer so. Does not block.
    pub fn refuse(self) {
        self.0.refuse();
    }

    /// Have the peer prove that it receives at its address, by connecting again with a token
    /// (RFC 9000 section 8.1.2): it comes back as another `Incoming`. Does not block.
    ///
    /// # Errors
    ///
    /// Gives the attempt back when it carries such a token already, see
    /// [`may_retry`](Self::may_retry).
    pub fn retry(self) -> Result<(), RetryError> {
        self.0
            .retry()
            .map_err(|error| RetryError(Box::new(Self(error.into_incoming()))))
    }

    /// Do not answer at all. Does not block.
    pub fn ignore(self) {
        self.0.ignore();
    }

    /// The local address that the peer sent to, where the platform tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.0.local_ip()
    }

    /// The peer's address, which may be forged unless
    /// [`remote_address_validated`](Self::remote_address_validated).
    pub fn remote_address(&self) -> SocketAddr {
        self.0.remote_address()
    }

    /// Whether the peer has proved that it receives at its address.
    pub fn remote_address_validated(&self) -> bool {
        self.0.remote_address_validated()
    }

    /// Whether [`retry`](Self::retry) is possible. Always so when the address is not validated.
    pub fn may_retry(&self) -> bool {
        self.0.may_retry()
    }

    /// The connection id that the client addressed its first packet to.
    pub fn orig_dst_cid(&self) -> ConnectionId {
        self.0.orig_dst_cid()
    }
}

/// [`Incoming::retry`] was called for an attempt that had been through that already.
#[derive(Debug)]
pub struct RetryError(Box<Incoming>);

impl RetryError {
    /// The attempt, to be decided upon otherwise.
    pub fn into_incoming(self) -> Incoming {
        *self.0
    }
}

impl std::fmt::Display for RetryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection attempt already carries a Retry token")
    }
}

impl std::error::Error for RetryError {}

/// A connection whose handshake is going on.
///
/// Comes from [`Endpoint::start_connect`](crate::Endpoint::start_connect) and [`Incoming::start`].
/// The handshake makes progress whether or not a thread waits for it. Dropping this abandons the
/// attempt.
#[must_use = "the connection is closed when this is dropped"]
#[derive(Debug)]
pub struct Connecting {
    /// `None` once the connection was handed out, or its failure was.
    inner: Option<handles::Connecting>,
}

impl Connecting {
    pub(crate) fn new(inner: handles::Connecting) -> Self {
        Self { inner: Some(inner) }
    }

    /// Block until the handshake is complete.
    ///
    /// # Errors
    ///
    /// Why it failed, see [`connection_error`](crate::connection_error); when the peer does not
    /// answer, after the idle timeout of the transport configuration.
    pub fn wait(mut self) -> io::Result<Connection> {
        self.wait_at_most(None)
    }

    /// Block until the handshake is complete, or until `timeout` has passed.
    ///
    /// The attempt is not abandoned when time runs out: wait again, or drop it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out, [`io::ErrorKind::NotConnected`] after the
    /// outcome was handed out, else as [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Connection> {
        self.wait_at_most(Some(timeout))
    }

    /// Wait, and abandon the attempt when time runs out.
    pub(crate) fn wait_or_give_up(mut self, timeout: Duration) -> io::Result<Connection> {
        match self.wait_timeout(timeout) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(gave_up()),
            result => result,
        }
    }

    fn wait_at_most(&mut self, timeout: Option<Duration>) -> io::Result<Connection> {
        let Some(connecting) = &mut self.inner else {
            return Err(handed_out());
        };
        let result = try_wait(connecting, timeout);
        // Only time running out leaves something to wait for.
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.inner = None;
        }
        result.map(Connection::from)
    }

    /// Use the connection before the handshake is complete: 0-RTT on clients, 0.5-RTT on servers.
    /// Does not block.
    ///
    /// On a client this succeeds when keys of an earlier connection to this server are at hand; it
    /// gives `self` back otherwise. The server may still reject the data: [`ZeroRttAccepted`] tells,
    /// and if so, streams opened before that fail. On a server it always succeeds.
    ///
    /// # Security
    ///
    /// 0-RTT data can be replayed by an attacker (RFC 9001 section 9.2): send only what may be acted
    /// upon twice. 0.5-RTT data is sent before the client has been authenticated.
    ///
    /// # Errors
    ///
    /// `self`, when 0-RTT is not possible.
    pub fn into_0rtt(self) -> Result<(Connection, ZeroRttAccepted), Self> {
        let Some(connecting) = self.inner else {
            return Err(self);
        };
        match connecting.into_0rtt() {
            Ok((connection, accepted)) => Ok((connection.into(), ZeroRttAccepted(accepted))),
            Err(connecting) => Err(Self::new(connecting)),
        }
    }

    /// Block until it is known what was negotiated.
    ///
    /// With rustls (the default) the value is a
    /// [`crypto::rustls::HandshakeData`](polyquic_core::crypto::rustls::HandshakeData): the ALPN
    /// protocol, and on servers the name that the client asked for.
    ///
    /// # Errors
    ///
    /// Why the handshake failed before that.
    pub fn handshake_data(&mut self) -> io::Result<Box<dyn Any>> {
        match &mut self.inner {
            Some(connecting) => Ok(block_on(connecting.handshake_data())?),
            None => Err(handed_out()),
        }
    }

    /// The local address at which the peer's first datagram arrived (servers, where the platform
    /// tells).
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.inner.as_ref()?.local_ip()
    }

    /// The peer's address; `None` after the connection was handed out.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        Some(self.inner.as_ref()?.remote_address())
    }
}

fn handed_out() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the outcome of this handshake was handed out already",
    )
}

/// Tells whether 0-RTT data was accepted.
#[derive(Debug)]
pub struct ZeroRttAccepted(handles::ZeroRttAccepted);

impl ZeroRttAccepted {
    /// Block until the handshake is complete, and tell. Always true on servers; false when the
    /// handshake failed.
    pub fn wait(self) -> bool {
        block_on(self.0)
    }
}

/// Iterator over connections whose handshake is complete, as they complete.
///
/// Comes from [`Endpoint::incoming`](crate::Endpoint::incoming), which says more.
#[derive(Debug)]
pub struct IncomingConnections<'a> {
    endpoint: &'a handles::Endpoint,
    handshakes: Vec<handles::Connecting>,
}

impl<'a> IncomingConnections<'a> {
    pub(crate) fn new(endpoint: &'a handles::Endpoint) -> Self {
        Self {
            endpoint,
            handshakes: Vec::new(),
        }
    }

    fn begin(&mut self, incoming: handles::Incoming) {
        let crowded = self.handshakes.len() >= MAX_UNPROVED_HANDSHAKES;
        if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
            // Cannot fail, having asked.
            let _ = incoming.retry();
            return;
        }
        match incoming.accept() {
            Ok(connecting) => self.handshakes.push(connecting),
            Err(error) => failed(&error),
        }
    }

    /// The next connection, if its handshake is complete. `accept` is kept over a wait, because
    /// dropping it ends its place among those who wait.
    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        accept: &mut handles::Accept<'a>,
    ) -> Poll<Option<Connection>> {
        loop {
            let mut open = true;
            while open && self.handshakes.len() < MAX_HANDSHAKES {
                match Pin::new(&mut *accept).poll(cx) {
                    Poll::Pending => break,
                    Poll::Ready(None) => open = false,
                    Poll::Ready(Some(incoming)) => {
                        *accept = self.endpoint.accept();
                        self.begin(incoming);
                    }
                }
            }
            let before = self.handshakes.len();
            let mut index = 0;
            while index < self.handshakes.len() {
                match Pin::new(&mut self.handshakes[index]).poll(cx) {
                    Poll::Pending => index += 1,
                    Poll::Ready(result) => {
                        drop(self.handshakes.swap_remove(index));
                        match result {
                            Ok(connection) => return Poll::Ready(Some(connection.into())),
                            Err(error) => failed(&error),
                        }
                    }
                }
            }
            if !open && self.handshakes.is_empty() {
                return Poll::Ready(None);
            }
            // Places became free after it was found that there is none: look again for attempts.
            if before < MAX_HANDSHAKES || self.handshakes.len() == before {
                return Poll::Pending;
            }
        }
    }
}

impl Iterator for IncomingConnections<'_> {
    type Item = Connection;

    fn next(&mut self) -> Option<Connection> {
        let mut accept = self.endpoint.accept();
        block_on(poll_fn(|cx| self.poll_next(cx, &mut accept)))
    }
}

/// A peer's failure is not the server's: not worth more than a line for who looks for it.
fn failed(error: &ConnectionError) {
    tracing::debug!(%error, "a handshake failed");
}
