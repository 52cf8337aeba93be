//! What the driver and the handles of one endpoint have in common.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{
    self as core, ConnectionError, ConnectionHandle, ServerConfig, TimeSource, Transmit,
    TransportError, TransportErrorCode, VarInt,
};
use polyquic_runtime::{Clock, SystemTime};

use crate::connection::ConnectionInner;
use crate::shards::Place;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::wake::{Signal, WakerSet, cause};

/// Most stateless answers (Retry, Version Negotiation, refusals, resets) that wait to be sent. A
/// peer that gets none tries again.
const MAX_RESPONSES: usize = 256;

/// How long [`Endpoint::close`](crate::Endpoint::close) waits for what was finished to arrive.
pub(crate) const LINGER: Duration = Duration::from_secs(3);

/// Shared by the driver of an endpoint and all handles to it.
///
/// Locks are taken in this order: `state`, then a connection's, then `dirty`. Wakers are woken
/// while none is held.
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// Connections that handles gave work to.
    dirty: Mutex<Vec<Arc<ConnectionInner>>>,
    pub(crate) signal: Arc<Signal>,
    pub(crate) clock: Clock,
    /// `None` when the endpoint has one shard.
    pub(crate) place: Option<Place>,
    /// Handles that can make or accept connections; the driver ends when they and the connections
    /// are gone.
    handles: AtomicUsize,
}

pub(crate) struct State {
    pub(crate) core: core::Endpoint,
    /// By [`ConnectionHandle`]. Holes are connections that were drained.
    pub(crate) connections: Vec<Option<Arc<ConnectionInner>>>,
    open: usize,
    pub(crate) incoming: VecDeque<core::Incoming>,
    pub(crate) responses: VecDeque<(Transmit, Vec<u8>)>,
    pub(crate) accepting: WakerSet,
    pub(crate) idle: WakerSet,
    /// Set by `close`.
    pub(crate) closing: Option<(VarInt, Bytes)>,
    /// Set when the driver is gone, in whatever way.
    pub(crate) driver_lost: bool,
    pub(crate) local_addr: SocketAddr,
    pub(crate) rebind: Option<Rebind>,
    pub(crate) rebind_result: Option<io::Result<()>>,
    pub(crate) rebinding: WakerSet,
}

/// What to change to.
pub(crate) enum Rebind {
    Socket(std::net::UdpSocket),
    Address(SocketAddr),
    /// To be bound by this shard for all.
    Group(SocketAddr, Vec<Arc<Shared>>),
}

/// Tokens expire by the calendar that goes with `clock`, if it has one.
pub(crate) fn dated(mut config: ServerConfig, clock: &Clock) -> ServerConfig {
    struct Calendar(Clock);

    impl TimeSource for Calendar {
        fn now(&self) -> SystemTime {
            self.0.calendar().expect("looked at before")
        }
    }

    if clock.calendar().is_some() {
        config.time_source_if_none(Arc::new(Calendar(clock.clone())));
    }
    config
}

impl Shared {
    pub(crate) fn new(
        core: core::Endpoint,
        local_addr: SocketAddr,
        clock: Clock,
        signal: Arc<Signal>,
        place: Option<Place>,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                core,
                connections: Vec::new(),
                open: 0,
                incoming: VecDeque::new(),
                responses: VecDeque::new(),
                accepting: WakerSet::default(),
                idle: WakerSet::default(),
                closing: None,
                driver_lost: false,
                local_addr,
                rebind: None,
                rebind_result: None,
                rebinding: WakerSet::default(),
            }),
            dirty: Mutex::new(Vec::new()),
            signal,
            clock,
            place,
            handles: AtomicUsize::new(0),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Put a connection into the dirty queue; the caller has set its flag and rings the bell.
    pub(crate) fn push_dirty(&self, connection: Arc<ConnectionInner>) {
        lock(&self.dirty).push(connection);
    }

    /// Take what is in the dirty queue.
    pub(crate) fn drain_dirty(&self, into: &mut VecDeque<Arc<ConnectionInner>>) {
        into.extend(lock(&self.dirty).drain(..));
    }

    /// Close all connections of this shard and accept no more, see
    /// [`Endpoint::close`](crate::Endpoint::close).
    pub(crate) fn close(&self, error_code: VarInt, reason: &Bytes, woken: &mut Vec<Waker>) {
        let connections: Vec<_> = {
            let mut state = self.lock();
            // From here on there are no new ones.
            state.closing = Some((error_code, reason.clone()));
            for incoming in std::mem::take(&mut state.incoming) {
                let mut response = Vec::new();
                let transmit = state.core.refuse(incoming, &mut response);
                state.respond(transmit, response);
            }
            state.accepting.drain(woken);
            state.connections().cloned().collect()
        };
        for connection in connections {
            connection.close_gracefully(error_code, reason.clone(), woken);
        }
        self.signal.raise(cause::HANDLE);
    }

    /// Have the driver change its socket.
    pub(crate) fn start_rebind(&self, rebind: Rebind) -> io::Result<()> {
        {
            let mut state = self.lock();
            if state.driver_lost {
                return Err(io::Error::other("the endpoint's driver is gone"));
            }
            state.rebind_result = None;
            state.rebind = Some(rebind);
        }
        self.signal.raise(cause::HANDLE);
        Ok(())
    }

    /// The driver is gone, as planned or not: fail everything that waits, and have other shards look
    /// after what still comes.
    pub(crate) fn driver_gone(&self, planned: bool, woken: &mut Vec<Waker>) {
        let mut state = self.lock();
        state.driver_lost(woken);
        if !planned {
            state.core.stats_mut().shards_lost += 1;
        }
        drop(state);
        if let Some(place) = &self.place {
            place.leave();
        }
    }

    pub(crate) fn has_handles(&self) -> bool {
        self.handles.load(Ordering::Acquire) > 0
    }
}

impl State {
    /// Register a connection that `core` just made.
    pub(crate) fn insert(
        &mut self,
        shared: &Arc<Shared>,
        handle: ConnectionHandle,
        connection: core::Connection,
    ) -> Arc<ConnectionInner> {
        let inner = ConnectionInner::new(shared.clone(), handle, connection);
        if handle.0 >= self.connections.len() {
            self.connections.resize_with(handle.0 + 1, || None);
        }
        debug_assert!(self.connections[handle.0].is_none(), "handle used twice");
        self.connections[handle.0] = Some(inner.clone());
        self.open += 1;
        shared.push_dirty(inner.clone());
        inner
    }

    pub(crate) fn connection(&self, handle: ConnectionHandle) -> Option<&Arc<ConnectionInner>> {
        self.connections.get(handle.0)?.as_ref()
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = &Arc<ConnectionInner>> {
        self.connections.iter().flatten()
    }

    /// Forget a drained connection.
    pub(crate) fn remove(&mut self, handle: ConnectionHandle, woken: &mut Vec<Waker>) {
        if let Some(slot) = self.connections.get_mut(handle.0)
            && slot.take().is_some()
        {
            self.open -= 1;
            if self.open == 0 {
                self.idle.drain(woken);
            }
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.open == 0
    }

    /// Queue a stateless answer for the driver to send.
    pub(crate) fn respond(&mut self, transmit: Transmit, mut data: Vec<u8>) {
        respond(&mut self.core, &mut self.responses, transmit, &mut data);
    }

    /// The driver is gone: fail everything that waits.
    pub(crate) fn driver_lost(&mut self, woken: &mut Vec<Waker>) {
        self.driver_lost = true;
        for incoming in self.incoming.drain(..) {
            self.core.ignore(incoming);
        }
        for connection in std::mem::take(&mut self.connections).into_iter().flatten() {
            let mut state = lock(&connection.state);
            // Nobody looks at the queues any more.
            state.dirty = true;
            if state.error.is_none() {
                state.terminate(driver_lost_error(), woken);
            }
        }
        self.open = 0;
        self.responses.clear();
        self.accepting.drain(woken);
        self.idle.drain(woken);
        if self.rebind.take().is_some() {
            self.rebind_result = Some(Err(io::Error::other("the endpoint's driver is gone")));
        }
        self.rebinding.drain(woken);
    }
}

/// Queue the stateless answer in `data` for the driver to send, leaving `data` empty.
pub(crate) fn respond(
    core: &mut core::Endpoint,
    responses: &mut VecDeque<(Transmit, Vec<u8>)>,
    transmit: Transmit,
    data: &mut Vec<u8>,
) {
    let mut data = std::mem::take(data);
    if responses.len() >= MAX_RESPONSES {
        core.stats_mut().responses_dropped += 1;
        return;
    }
    data.truncate(transmit.size);
    responses.push_back((transmit, data));
}

/// What connections report when the executor dropped their driver.
fn driver_lost_error() -> ConnectionError {
    ConnectionError::TransportError(TransportError {
        code: TransportErrorCode::INTERNAL_ERROR,
        frame: None,
        reason: "the endpoint's driver is gone: its executor was shut down, or its socket failed"
            .into(),
    })
}

/// Lock, ignoring poison: whoever panicked has reported it, and the driver's drop guard has failed
/// every connection. Other connections' handles should see errors, not panics.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counted reference from a handle that keeps the endpoint alive.
pub(crate) struct EndpointRef(Arc<Shared>);

impl EndpointRef {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        shared.handles.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl std::fmt::Debug for EndpointRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EndpointRef")
    }
}

impl Clone for EndpointRef {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Drop for EndpointRef {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The driver may be the only one left, and should end then.
            self.0.signal.raise(cause::HANDLE);
        }
    }
}

impl std::ops::Deref for EndpointRef {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// Wake tasks, no lock being held.
pub(crate) fn wake_all(woken: &mut Vec<Waker>) {
    for waker in woken.drain(..) {
        waker.wake();
    }
}
