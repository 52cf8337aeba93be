//! The handle to an endpoint.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use polyquic_core::{
    self as core, ClientConfig, ConnectError, EndpointConfig, EndpointStats, ServerConfig,
    SocketTraits, VarInt,
};
use polyquic_runtime::{DatagramSocket, Runtime, Spawn};

use crate::shared::{EndpointRef, Rebind, Shared, State, wake_all};
use crate::wake::{Ticket, WakerSet, cause};
use crate::{Connecting, Driver, Incoming};

/// A QUIC endpoint: one socket, any number of connections, as client, server or both.
///
/// Making one starts its driver on the executor that is passed in; the handle itself has no
/// executor in its type, is `Send + Sync`, and can be cloned and used anywhere. The driver ends when
/// all handles and connections are gone.
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: EndpointRef,
    default_client_config: Option<ClientConfig>,
}

impl Endpoint {
    /// An endpoint for outgoing connections, bound to `addr`.
    ///
    /// `addr` is local: `0.0.0.0:0` for IPv4, `[::]:0` for IPv6 and, where the platform has
    /// dual-stack sockets, IPv4.
    ///
    /// # Errors
    ///
    /// The socket cannot be bound.
    pub fn client<R>(rt: &R, addr: SocketAddr) -> io::Result<Self>
    where
        R: Runtime + Spawn<Driver<R>>,
    {
        Self::with_socket(rt, EndpointConfig::default(), None, rt.bind(addr)?)
    }

    /// An endpoint that accepts connections at `addr`, and can make some as well.
    ///
    /// # Errors
    ///
    /// The socket cannot be bound: [`io::ErrorKind::AddrInUse`] when somebody else has the port.
    pub fn server<R>(rt: &R, config: ServerConfig, addr: SocketAddr) -> io::Result<Self>
    where
        R: Runtime + Spawn<Driver<R>>,
    {
        Self::with_socket(rt, EndpointConfig::default(), Some(config), rt.bind(addr)?)
    }

    /// An endpoint on a UDP socket of the standard library, with a configuration of its own.
    ///
    /// # Errors
    ///
    /// The socket cannot be set up, or the runtime has no UDP.
    pub fn new<R>(
        rt: &R,
        config: EndpointConfig,
        server_config: Option<ServerConfig>,
        socket: std::net::UdpSocket,
    ) -> io::Result<Self>
    where
        R: Runtime + Spawn<Driver<R>>,
    {
        Self::with_socket(rt, config, server_config, rt.adopt(socket)?)
    }

    /// An endpoint on a socket of the runtime.
    ///
    /// # Errors
    ///
    /// The socket does not know its address.
    pub fn with_socket<R>(
        rt: &R,
        config: EndpointConfig,
        server_config: Option<ServerConfig>,
        socket: R::Socket,
    ) -> io::Result<Self>
    where
        R: Runtime + Spawn<Driver<R>>,
    {
        let local_addr = socket.local_addr()?;
        let traits = SocketTraits {
            ipv6: local_addr.is_ipv6(),
            may_fragment: socket.capabilities().may_fragment,
        };
        let core = core::Endpoint::new(&config, server_config.map(Arc::new), traits);
        let shared = Shared::new(core, local_addr, rt.clock());
        // Counted before the driver runs: it ends when there is no handle.
        let inner = EndpointRef::new(shared.clone());
        rt.spawn(Driver::new(rt.clone(), socket, shared));
        Ok(Self {
            inner,
            default_client_config: None,
        })
    }

    /// Wait for the next connection attempt; `None` when the endpoint is closed. Cancel-safe.
    pub fn accept(&self) -> Accept<'_> {
        Accept {
            endpoint: &self.inner,
            ticket: Ticket::default(),
        }
    }

    /// Set the configuration that [`connect`](Self::connect) uses on this handle and on clones made
    /// of it later.
    pub fn set_default_client_config(&mut self, config: ClientConfig) {
        self.default_client_config = Some(config);
    }

    /// Connect to `addr`, whose certificate must be valid for `server_name`.
    ///
    /// # Errors
    ///
    /// Immediately for bad parameters, see [`ConnectError`]; what the network or the peer cause
    /// comes out of the returned future.
    pub fn connect(&self, addr: SocketAddr, server_name: &str) -> Result<Connecting, ConnectError> {
        let config = self
            .default_client_config
            .clone()
            .ok_or(ConnectError::NoDefaultClientConfig)?;
        self.connect_with(config, addr, server_name)
    }

    /// [`connect`](Self::connect) with a configuration for this connection only.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub fn connect_with(
        &self,
        config: ClientConfig,
        addr: SocketAddr,
        server_name: &str,
    ) -> Result<Connecting, ConnectError> {
        let shared = self.inner.shared();
        let mut state = shared.lock();
        if state.driver_lost || state.closing.is_some() {
            return Err(ConnectError::EndpointStopping);
        }
        let (handle, machine) =
            state
                .core
                .connect(shared.clock.now(), config, addr, server_name)?;
        let connecting = Connecting::new(state.insert(shared, handle, machine));
        drop(state);
        shared.signal.raise(cause::HANDLE);
        Ok(connecting)
    }

    /// Replace the configuration for connections to be accepted from now on, for example to renew
    /// certificates.
    ///
    /// With `None`, attempts to connect are not answered any more, and time out. To tell peers at
    /// once, keep accepting and [`refuse`](Incoming::refuse) them, or [`close`](Self::close).
    pub fn set_server_config(&self, config: Option<ServerConfig>) {
        self.inner
            .lock()
            .core
            .set_server_config(config.map(Arc::new));
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.inner.lock().local_addr)
    }

    /// Connections that are open or have not been forgotten yet.
    pub fn open_connections(&self) -> usize {
        self.inner.lock().core.open_connections()
    }

    /// Counters.
    pub fn stats(&self) -> EndpointStats {
        self.inner.lock().core.stats()
    }

    /// Move all connections to another UDP socket (RFC 9000 section 9): clients keep their
    /// connections, as long as their servers allow migration.
    ///
    /// The driver changes sockets when it runs next. Should that fail, it keeps the old one and
    /// counts it in [`EndpointStats::rebind_failures`]; to wait for the outcome, use
    /// [`rebind_addr`](Self::rebind_addr).
    ///
    /// # Errors
    ///
    /// The socket is not bound, or the driver is gone.
    pub fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<()> {
        socket.local_addr()?;
        self.start_rebind(Rebind::Socket(socket))
    }

    /// Move all connections to a new socket, to be bound to `addr`; returns its address.
    ///
    /// Not cancel-safe: the change may happen all the same.
    ///
    /// # Errors
    ///
    /// The socket cannot be bound (the old one is kept), or the driver is gone.
    pub async fn rebind_addr(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
        self.start_rebind(Rebind::Address(addr))?;
        let mut ticket = Ticket::default();
        std::future::poll_fn(|cx| {
            let mut state = self.inner.lock();
            match state.rebind_result.take() {
                Some(Ok(())) => Poll::Ready(Ok(state.local_addr)),
                Some(Err(error)) => Poll::Ready(Err(error)),
                None => {
                    state.rebinding.register(&mut ticket, cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn start_rebind(&self, rebind: Rebind) -> io::Result<()> {
        {
            let mut state = self.inner.lock();
            if state.driver_lost {
                return Err(io::Error::other("the endpoint's driver is gone"));
            }
            state.rebind_result = None;
            state.rebind = Some(rebind);
        }
        self.inner.signal.raise(cause::HANDLE);
        Ok(())
    }

    /// Close all connections and accept no more.
    ///
    /// What was written to streams that were [finished](crate::SendStream::finish) is delivered
    /// first, for up to three seconds, unlike with quinn; every operation of this side fails at
    /// once. Use [`wait_idle`](Self::wait_idle) to give this time before the process ends.
    pub fn close(&self, error_code: VarInt, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        let mut woken = Vec::new();
        let connections: Vec<_> = {
            let mut state = self.inner.lock();
            // From here on there are no new ones.
            state.closing = Some((error_code, reason.clone()));
            for incoming in std::mem::take(&mut state.incoming) {
                let mut response = Vec::new();
                let transmit = state.core.refuse(incoming, &mut response);
                state.respond(transmit, response);
            }
            state.accepting.drain(&mut woken);
            state.connections().cloned().collect()
        };
        for connection in connections {
            connection.close_gracefully(error_code, reason.clone(), &mut woken);
        }
        self.inner.signal.raise(cause::HANDLE);
        wake_all(&mut woken);
    }

    /// Wait until there are no connections, closed ones included (these linger for three probe
    /// timeouts, RFC 9000 section 10.2, so that the peer hears of the close). Cancel-safe.
    ///
    /// Closes nothing by itself.
    pub async fn wait_idle(&self) {
        WaitFor {
            endpoint: &self.inner,
            ticket: Ticket::default(),
            set: |state| &mut state.idle,
            done: |state| state.is_idle(),
        }
        .await;
    }
}

/// Future of [`Endpoint::accept`].
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Accept<'a> {
    endpoint: &'a EndpointRef,
    ticket: Ticket,
}

impl Future for Accept<'_> {
    type Output = Option<Incoming>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.endpoint.lock();
        if let Some(incoming) = state.incoming.pop_front() {
            drop(state);
            return Poll::Ready(Some(Incoming::new(incoming, this.endpoint.clone())));
        }
        if state.driver_lost || state.closing.is_some() {
            return Poll::Ready(None);
        }
        state.accepting.register(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl Drop for Accept<'_> {
    fn drop(&mut self) {
        if self.ticket.is_registered() {
            self.endpoint.lock().accepting.deregister(&mut self.ticket);
        }
    }
}

struct WaitFor<'a> {
    endpoint: &'a EndpointRef,
    ticket: Ticket,
    set: fn(&mut State) -> &mut WakerSet,
    done: fn(&State) -> bool,
}

impl Future for WaitFor<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.endpoint.lock();
        if (this.done)(&state) {
            return Poll::Ready(());
        }
        (this.set)(&mut state).register(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl Drop for WaitFor<'_> {
    fn drop(&mut self) {
        if self.ticket.is_registered() {
            (self.set)(&mut self.endpoint.lock()).deregister(&mut self.ticket);
        }
    }
}
