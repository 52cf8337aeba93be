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

use crate::shared::{EndpointRef, Rebind, Shared, State, dated, wake_all};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::wake::{Ticket, WakerSet, cause};
use crate::{Connecting, Driver, EndpointBuilder, Incoming};

/// A QUIC endpoint: any number of connections on one address, as client, server or both.
///
/// Making one starts its driver on the executor that is passed in; the handle itself has no
/// executor in its type, is `Send + Sync`, and can be cloned and used anywhere. The driver ends when
/// all handles and connections are gone.
///
/// # Shards
///
/// An endpoint may have several [shards](EndpointBuilder::shards): sockets on the same address, each
/// with a driver and connections of its own, so that it can use several cores. A connection stays with
/// its shard for life. This handle stands for all of them, and [`shard`](Self::shard) gives one for a
/// single shard. If a shard is lost (its driver panics, its socket fails), its connections are, and the
/// others go on; they also take over what peers send to it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    group: Arc<Group>,
    default_client_config: Option<ClientConfig>,
}

/// The shards that a handle stands for, at least one.
#[derive(Debug)]
struct Group {
    shards: Box<[EndpointRef]>,
    /// Where to connect or accept next.
    next: AtomicUsize,
}

impl Group {
    /// The shard to begin with: another one each time.
    fn turn(&self) -> usize {
        match self.shards.len() {
            1 => 0,
            count => self.next.fetch_add(1, Ordering::Relaxed) % count,
        }
    }
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
        Self::builder().bind(rt, addr)
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
        Self::builder().server_config(config).bind(rt, addr)
    }

    /// An endpoint with settings of its own.
    pub fn builder() -> EndpointBuilder {
        EndpointBuilder::default()
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
        mut config: EndpointConfig,
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
        if let Some(seed) = rt.seed() {
            config.seed_if_none(seed);
        }
        let clock = rt.clock();
        let server_config = server_config.map(|config| Arc::new(dated(config, &clock)));
        let core = core::Endpoint::new(&config, server_config, traits);
        let shared = Shared::new(core, local_addr, clock, Arc::default(), None);
        // Counted before the driver runs: it ends when there is no handle.
        let endpoint = Self::of(vec![EndpointRef::new(shared.clone())]);
        rt.spawn(Driver::new(rt.clone(), socket, shared));
        Ok(endpoint)
    }

    pub(crate) fn of(shards: Vec<EndpointRef>) -> Self {
        Self {
            group: Arc::new(Group {
                shards: shards.into(),
                next: AtomicUsize::new(0),
            }),
            default_client_config: None,
        }
    }

    /// How many shards this handle stands for, lost ones included.
    pub fn shards(&self) -> usize {
        self.group.shards.len()
    }

    /// A handle that stands for one shard: it accepts, connects, counts and closes there only.
    /// `None` if there is no shard of this number; the first one is 0.
    ///
    /// With [`spawn_on_shards`](crate::spawn_on_shards), connections stay on one core from the
    /// kernel to the application.
    pub fn shard(&self, index: usize) -> Option<Self> {
        let shard = self.group.shards.get(index)?;
        Some(Self {
            default_client_config: self.default_client_config.clone(),
            ..Self::of(vec![shard.clone()])
        })
    }

    /// Whether the operating system delivers datagrams to the shard that their connection id names
    /// (always true of an endpoint with a single one). Where it does not, they are handed over.
    pub fn is_steered_by_kernel(&self) -> bool {
        let place = &self.group.shards[0].place;
        place.as_ref().is_none_or(|place| place.siblings.steered())
    }

    /// Wait for the next connection attempt; `None` when the endpoint is closed. Cancel-safe.
    pub fn accept(&self) -> Accept<'_> {
        Accept {
            group: &self.group,
            ticket: Ticket::default(),
            more_tickets: Vec::new(),
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
        let (later, first) = self.group.shards.split_at(self.group.turn());
        for shard in first.iter().chain(later) {
            let shared = shard.shared();
            let mut state = shared.lock();
            if state.driver_lost || state.closing.is_some() {
                continue;
            }
            let now = shared.clock.now();
            let (handle, machine) = state.core.connect(now, config, addr, server_name)?;
            let connecting = Connecting::new(state.insert(shared, handle, machine));
            drop(state);
            shared.signal.raise(cause::HANDLE);
            return Ok(connecting);
        }
        Err(ConnectError::EndpointStopping)
    }

    /// Replace the configuration for connections to be accepted from now on, for example to renew
    /// certificates.
    ///
    /// With `None`, attempts to connect are not answered any more, and time out. To tell peers at
    /// once, keep accepting and [`refuse`](Incoming::refuse) them, or [`close`](Self::close).
    pub fn set_server_config(&self, config: Option<ServerConfig>) {
        let clock = &self.group.shards[0].shared().clock;
        let config = config.map(|config| Arc::new(dated(config, clock)));
        for shard in &self.group.shards {
            shard.lock().core.set_server_config(config.clone());
        }
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.group.shards[0].lock().local_addr)
    }

    /// Connections that are open or have not been forgotten yet.
    pub fn open_connections(&self) -> usize {
        let shards = self.group.shards.iter();
        shards.map(|it| it.lock().core.open_connections()).sum()
    }

    /// Counters, of all shards together.
    pub fn stats(&self) -> EndpointStats {
        let mut sum = EndpointStats::default();
        for shard in &self.group.shards {
            sum += shard.lock().core.stats();
        }
        sum
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
    /// The socket is not bound, the driver is gone, or the endpoint has several shards, which need a
    /// socket each: use [`rebind_addr`](Self::rebind_addr) for these.
    pub fn rebind(&self, socket: std::net::UdpSocket) -> io::Result<()> {
        socket.local_addr()?;
        match &*self.group.shards {
            [only] if only.place.is_none() => only.start_rebind(Rebind::Socket(socket)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "an endpoint with several shards needs several sockets: use `rebind_addr`",
            )),
        }
    }

    /// Move all connections to a new socket, to be bound to `addr`, or to one for each shard; returns
    /// its address.
    ///
    /// Not cancel-safe: the change may happen all the same.
    ///
    /// # Errors
    ///
    /// The socket cannot be bound (the old one is kept), the driver is gone, or this is a handle to
    /// one shard of several, which move together.
    pub async fn rebind_addr(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
        let shards = &self.group.shards;
        let alive = |shard: &&EndpointRef| !shard.lock().driver_lost;
        let first = shards.iter().find(alive).unwrap_or(&shards[0]);
        match &first.place {
            None => first.start_rebind(Rebind::Address(addr))?,
            Some(place) if usize::from(place.siblings.count()) == shards.len() => {
                let all = shards.iter().map(|it| it.shared().clone()).collect();
                first.start_rebind(Rebind::Group(addr, all))?;
            }
            Some(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "the shards of an endpoint share an address: rebind all of them",
                ));
            }
        }
        // The first one binds for all, and the others follow.
        let addr = rebound(first).await?;
        for shard in shards.iter().filter(alive) {
            if !Arc::ptr_eq(shard.shared(), first.shared()) {
                rebound(shard).await?;
            }
        }
        Ok(addr)
    }

    /// Close all connections and accept no more.
    ///
    /// What was written to streams that were [finished](crate::SendStream::finish) is delivered
    /// first, for up to three seconds, unlike with quinn; every operation of this side fails at
    /// once. Use [`wait_idle`](Self::wait_idle) to give this time before the process ends.
    pub fn close(&self, error_code: VarInt, reason: &[u8]) {
        let reason = Bytes::copy_from_slice(reason);
        let mut woken = Vec::new();
        for shard in &self.group.shards {
            shard.close(error_code, &reason, &mut woken);
        }
        wake_all(&mut woken);
    }

    /// Wait until there are no connections, closed ones included (these linger for three probe
    /// timeouts, RFC 9000 section 10.2, so that the peer hears of the close). Cancel-safe.
    ///
    /// Closes nothing by itself.
    pub async fn wait_idle(&self) {
        let shards = &self.group.shards;
        // New ones may come to a shard while another is waited for.
        while !shards.iter().all(|shard| shard.lock().is_idle()) {
            for shard in shards {
                WaitFor {
                    endpoint: shard,
                    ticket: Ticket::default(),
                    set: |state| &mut state.idle,
                    done: |state| state.is_idle().then_some(()),
                }
                .await;
            }
        }
    }
}

/// Wait for the outcome of a rebind that was started.
async fn rebound(shard: &EndpointRef) -> io::Result<SocketAddr> {
    WaitFor {
        endpoint: shard,
        ticket: Ticket::default(),
        set: |state| &mut state.rebinding,
        done: |state| {
            // It stays, for whoever else waits for it.
            Some(match state.rebind_result.as_ref()? {
                Ok(()) => Ok(state.local_addr),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            })
        },
    }
    .await
}

/// Future of [`Endpoint::accept`].
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Accept<'a> {
    group: &'a Group,
    /// For the first shard.
    ticket: Ticket,
    /// For the others.
    more_tickets: Vec<Ticket>,
}

impl Future for Accept<'_> {
    type Output = Option<Incoming>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let shards = &this.group.shards;
        this.more_tickets
            .resize_with(shards.len() - 1, Ticket::default);
        let first = this.group.turn();
        let mut open = false;
        for index in (first..shards.len()).chain(0..first) {
            let shard = &shards[index];
            let mut state = shard.lock();
            if let Some(incoming) = state.incoming.pop_front() {
                drop(state);
                return Poll::Ready(Some(Incoming::new(incoming, shard.clone())));
            }
            if !state.driver_lost && state.closing.is_none() {
                let ticket = match index {
                    0 => &mut this.ticket,
                    _ => &mut this.more_tickets[index - 1],
                };
                state.accepting.register(ticket, cx.waker());
                open = true;
            }
        }
        match open {
            true => Poll::Pending,
            false => Poll::Ready(None),
        }
    }
}

impl Drop for Accept<'_> {
    fn drop(&mut self) {
        let tickets = std::iter::once(&mut self.ticket).chain(&mut self.more_tickets);
        for (shard, ticket) in self.group.shards.iter().zip(tickets) {
            if ticket.is_registered() {
                shard.lock().accepting.deregister(ticket);
            }
        }
    }
}

/// Waits until `done` has a result.
struct WaitFor<'a, T> {
    endpoint: &'a EndpointRef,
    ticket: Ticket,
    set: fn(&mut State) -> &mut WakerSet,
    done: fn(&mut State) -> Option<T>,
}

impl<T> Future for WaitFor<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let mut state = this.endpoint.lock();
        if let Some(result) = (this.done)(&mut state) {
            return Poll::Ready(result);
        }
        (this.set)(&mut state).register(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl<T> Drop for WaitFor<'_, T> {
    fn drop(&mut self) {
        if self.ticket.is_registered() {
            (self.set)(&mut self.endpoint.lock()).deregister(&mut self.ticket);
        }
    }
}
