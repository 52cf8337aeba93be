//! The endpoint for threads.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use polyquic_core::{
    ClientConfig, ConnectError, EndpointConfig, EndpointStats, ServerConfig, VarInt,
};
use polyquic_endpoint as handles;

use crate::wait::{connect_error, gave_up, wait};
use crate::{
    BlockingRuntime, Connecting, Connection, Incoming, IncomingConnections, ZeroRttAccepted,
    block_on,
};

/// A QUIC endpoint: one UDP socket, any number of connections, as client, server or both.
///
/// What `TcpListener` is to a server, and where clients [`connect`](Self::connect) from. Can be
/// cloned and used by any number of threads at once. One I/O thread moves its datagrams; it ends
/// when all handles and connections are gone.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: handles::Endpoint,
}

impl Endpoint {
    /// An endpoint that accepts connections at `addr`, and can make some as well.
    ///
    /// Of several addresses that `addr` resolves to, the first that can be bound is used. Port 0
    /// asks for any free one. `[::]` takes IPv4 too, where the platform has dual-stack sockets.
    ///
    /// # Errors
    ///
    /// The name cannot be resolved, or the socket cannot be bound: [`io::ErrorKind::AddrInUse`] when
    /// somebody else has the port.
    pub fn server(config: ServerConfig, addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::server_with_runtime(&BlockingRuntime::new()?, config, addr)
    }

    /// An endpoint for outgoing connections, bound to the local address `addr`: `0.0.0.0:0` for
    /// IPv4, `[::]:0` for IPv6 and, where the platform has dual-stack sockets, IPv4.
    ///
    /// # Errors
    ///
    /// As [`server`](Self::server).
    pub fn client(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::client_with_runtime(&BlockingRuntime::new()?, addr)
    }

    /// [`server`](Self::server) on the I/O thread of `rt`, which it shares with other endpoints.
    ///
    /// # Errors
    ///
    /// As [`server`](Self::server).
    pub fn server_with_runtime(
        rt: &BlockingRuntime,
        config: ServerConfig,
        addr: impl ToSocketAddrs,
    ) -> io::Result<Self> {
        each_addr(addr, |addr| {
            handles::Endpoint::server(rt, config.clone(), addr)
        })
        .map(Self::from)
    }

    /// [`client`](Self::client) on the I/O thread of `rt`, which it shares with other endpoints.
    ///
    /// # Errors
    ///
    /// As [`server`](Self::server).
    pub fn client_with_runtime(rt: &BlockingRuntime, addr: impl ToSocketAddrs) -> io::Result<Self> {
        each_addr(addr, |addr| handles::Endpoint::client(rt, addr)).map(Self::from)
    }

    /// An endpoint on a UDP socket of yours, with a configuration of its own; a server if there is
    /// a server configuration.
    ///
    /// # Errors
    ///
    /// The socket cannot be set up.
    pub fn with_runtime(
        rt: &BlockingRuntime,
        config: EndpointConfig,
        server_config: Option<ServerConfig>,
        socket: UdpSocket,
    ) -> io::Result<Self> {
        handles::Endpoint::new(rt, config, server_config, socket).map(Self::from)
    }

    // Shards

    /// How many shards this handle stands for, see [`polyquic_endpoint::Endpoint`]. A runtime made
    /// [with shards](BlockingRuntime::with_shards) gives its endpoints several.
    pub fn shards(&self) -> usize {
        self.inner.shards()
    }

    /// A handle that stands for one shard: it accepts, connects, counts and closes there only.
    /// `None` if there is no shard of this number; the first one is 0.
    pub fn shard(&self, index: usize) -> Option<Self> {
        self.inner.shard(index).map(Self::from)
    }

    // Accepting

    /// Block until the next connection attempt; `None` when the endpoint is closed.
    ///
    /// Nothing has been decided yet then: see [`Incoming`]. Several threads may accept at once. For
    /// complete connections, use [`incoming`](Self::incoming).
    pub fn accept(&self) -> Option<Incoming> {
        block_on(self.inner.accept()).map(Incoming)
    }

    /// [`accept`](Self::accept), blocking for `timeout` at most. No attempt is lost when time runs
    /// out.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out.
    pub fn accept_timeout(&self, timeout: Duration) -> io::Result<Option<Incoming>> {
        Ok(wait(self.inner.accept(), Some(timeout))?.map(Incoming))
    }

    /// Iterate over connections to this endpoint, like `TcpListener::incoming`.
    ///
    /// `next` blocks until some connection's handshake is complete, and returns `None` when the
    /// endpoint is closed. Up to 1024 handshakes go on at once, so that a slow peer holds up nobody
    /// (from 64 on, new peers have to prove their address by a Retry first); those that fail are
    /// skipped. What arrives while no thread is in `next` waits. Dropping the iterator abandons the
    /// handshakes it has begun: keep it for as long as the server runs.
    ///
    /// To see every attempt, with the choice to refuse it or to ask for a proof of the peer's
    /// address, use [`accept`](Self::accept).
    pub fn incoming(&self) -> IncomingConnections<'_> {
        IncomingConnections::new(&self.inner)
    }

    // Connecting

    /// Set the configuration that [`connect`](Self::connect) uses on this handle and on clones made
    /// of it later.
    pub fn set_default_client_config(&mut self, config: ClientConfig) {
        self.inner.set_default_client_config(config);
    }

    /// Connect to `addr`, whose certificate must be valid for `server_name`, blocking until the
    /// handshake is complete.
    ///
    /// As in `TcpStream::connect`, all addresses that `addr` resolves to are tried in turn.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for bad parameters and when there is no default client
    /// configuration; else why the last attempt failed, see
    /// [`connection_error`](crate::connection_error). A peer that does not answer at all is given up
    /// after the idle timeout of the transport configuration (30 seconds by default) with
    /// [`io::ErrorKind::TimedOut`].
    pub fn connect(&self, addr: impl ToSocketAddrs, server_name: &str) -> io::Result<Connection> {
        each_addr(addr, |addr| self.start(None, addr, server_name)?.wait())
    }

    /// [`connect`](Self::connect) with a configuration for this connection only.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_with(
        &self,
        config: ClientConfig,
        addr: impl ToSocketAddrs,
        server_name: &str,
    ) -> io::Result<Connection> {
        each_addr(addr, |addr| {
            self.start(Some(config.clone()), addr, server_name)?.wait()
        })
    }

    /// [`connect`](Self::connect), giving up when it takes longer than `timeout` in all. The time
    /// that the resolution of a name takes is not limited.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`] when time ran out, else as [`connect`](Self::connect).
    pub fn connect_timeout(
        &self,
        addr: impl ToSocketAddrs,
        server_name: &str,
        timeout: Duration,
    ) -> io::Result<Connection> {
        let start = Instant::now();
        each_addr(addr, |addr| {
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(gave_up());
            }
            self.start(None, addr, server_name)?.wait_or_give_up(left)
        })
    }

    /// Connect and use the connection before its handshake is complete (0-RTT), if keys of an
    /// earlier connection to this server are at hand; else like [`connect`](Self::connect).
    ///
    /// Blocks only in the second case, in which there is no [`ZeroRttAccepted`]. In the first case
    /// the server may still reject what was sent: then streams opened before that fail, and what
    /// they carried has to be sent again. Sessions are remembered by the client configuration: use
    /// the same one.
    ///
    /// # Security
    ///
    /// 0-RTT data can be replayed by an attacker (RFC 9001 section 9.2): send only what may be acted
    /// upon twice.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_0rtt(
        &self,
        addr: impl ToSocketAddrs,
        server_name: &str,
    ) -> io::Result<(Connection, Option<ZeroRttAccepted>)> {
        each_addr(addr, |addr| {
            match self.start(None, addr, server_name)?.into_0rtt() {
                Ok((connection, accepted)) => Ok((connection, Some(accepted))),
                Err(connecting) => Ok((connecting.wait()?, None)),
            }
        })
    }

    /// Start to connect to `addr` without blocking: to wait with a timeout, for 0-RTT, or to make
    /// several connections at once.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for bad parameters and when there is no default client
    /// configuration. What the network or the peer cause comes out of [`Connecting`].
    pub fn start_connect(&self, addr: SocketAddr, server_name: &str) -> io::Result<Connecting> {
        self.start(None, addr, server_name)
    }

    /// [`start_connect`](Self::start_connect) with a configuration for this connection only.
    ///
    /// # Errors
    ///
    /// As [`start_connect`](Self::start_connect).
    pub fn start_connect_with(
        &self,
        config: ClientConfig,
        addr: SocketAddr,
        server_name: &str,
    ) -> io::Result<Connecting> {
        self.start(Some(config), addr, server_name)
    }

    fn start(
        &self,
        config: Option<ClientConfig>,
        addr: SocketAddr,
        server_name: &str,
    ) -> io::Result<Connecting> {
        match config {
            Some(config) => self.inner.connect_with(config, addr, server_name),
            None => self.inner.connect(addr, server_name),
        }
        .map(Connecting::new)
        .map_err(connect_error)
    }

    // The endpoint as a whole

    /// Replace the configuration for connections to be accepted from now on, for example to renew
    /// certificates; `None` refuses them all.
    pub fn set_server_config(&self, config: Option<ServerConfig>) {
        self.inner.set_server_config(config);
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// Connections that are open or have not been forgotten yet.
    pub fn open_connections(&self) -> usize {
        self.inner.open_connections()
    }

    /// Counters.
    pub fn stats(&self) -> EndpointStats {
        self.inner.stats()
    }

    /// Move all connections to another UDP socket (RFC 9000 section 9): clients keep their
    /// connections, as long as their servers allow migration. Does not block.
    ///
    /// Should the socket turn out to be unusable, the old one is kept, which
    /// [`EndpointStats::rebind_failures`] counts.
    ///
    /// # Errors
    ///
    /// The socket is not bound, or the endpoint is gone.
    pub fn rebind(&self, socket: UdpSocket) -> io::Result<()> {
        self.inner.rebind(socket)
    }

    /// Move all connections to a new socket, to be bound to `addr`; blocks until that is done, and
    /// returns the new address.
    ///
    /// # Errors
    ///
    /// The socket cannot be bound (the old one is kept), or the endpoint is gone.
    pub fn rebind_addr(&self, addr: impl ToSocketAddrs) -> io::Result<SocketAddr> {
        each_addr(addr, |addr| block_on(self.inner.rebind_addr(addr)))
    }

    /// Close all connections and accept no more. Does not block.
    ///
    /// What was written to streams that were [finished](crate::SendStream::finish) is delivered
    /// first, for up to three seconds; every operation of this side fails at once. Use
    /// [`wait_idle`](Self::wait_idle) to give this time before the process ends.
    pub fn close(&self, error_code: VarInt, reason: &[u8]) {
        self.inner.close(error_code, reason);
    }

    /// Block until there are no connections, closed ones included (these linger for three probe
    /// timeouts, RFC 9000 section 10.2, so that the peer hears of the close).
    ///
    /// Closes nothing by itself: call [`close`](Self::close) first. A process that ends without this
    /// may take with it what its I/O thread has not sent yet.
    pub fn wait_idle(&self) {
        block_on(self.inner.wait_idle());
    }

    /// [`wait_idle`](Self::wait_idle), blocking for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out.
    pub fn wait_idle_timeout(&self, timeout: Duration) -> io::Result<()> {
        wait(self.inner.wait_idle(), Some(timeout))
    }
}

/// The same endpoint for threads, whatever drives it.
impl From<handles::Endpoint> for Endpoint {
    fn from(inner: handles::Endpoint) -> Self {
        Self { inner }
    }
}

/// The same endpoint for asynchronous code.
impl From<Endpoint> for handles::Endpoint {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.inner
    }
}

/// Try each address until one works, like `std::net`.
fn each_addr<T>(
    addr: impl ToSocketAddrs,
    mut attempt: impl FnMut(SocketAddr) -> io::Result<T>,
) -> io::Result<T> {
    let mut last = None;
    for addr in addr.to_socket_addrs()? {
        match attempt(addr) {
            Ok(value) => return Ok(value),
            // A name's IPv6 address, when this socket is for IPv4: says nothing if another address
            // was tried.
            Err(error) if last.is_some() && is_wrong_family(&error) => {}
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "could not resolve to any addresses",
        )
    }))
}

fn is_wrong_family(error: &io::Error) -> bool {
    error
        .get_ref()
        .and_then(|error| error.downcast_ref())
        .is_some_and(|error| matches!(error, ConnectError::InvalidRemoteAddress(_)))
}
