//! One connection: the machine, those who wait for it, and who keeps it alive.

mod connecting;
mod futures;
mod handle;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use polyquic_core::{
    self as core, ConnectionError, ConnectionHandle, Event, Instant, StreamEvent, StreamId, VarInt,
};
use rustc_hash::FxBuildHasher;

pub use connecting::{Connecting, ZeroRttAccepted};
pub use futures::{AcceptBi, AcceptUni, Closed, OpenBi, OpenUni, ReadDatagram, SendDatagramWait};
pub use handle::Connection;

use crate::shared::{LINGER, Shared, lock, wake_all};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::wake::{WakerSet, cause};

/// Keyed by stream ids, of which the peer can only have as many as we allow, in sequence: nothing
/// to be gained from collisions, so the fast hash will do.
type StreamMap<T> = HashMap<StreamId, T, FxBuildHasher>;

/// Shared by the driver and all handles of one connection.
pub(crate) struct ConnectionInner {
    pub(crate) state: Mutex<State>,
    pub(crate) endpoint: Arc<Shared>,
    pub(crate) handle: ConnectionHandle,
    /// Handles that applications hold; the connection is closed with the last one.
    handles: AtomicUsize,
}

pub(crate) struct State {
    pub(crate) machine: core::Connection,
    /// Whether this connection is in one of the driver's queues.
    pub(crate) dirty: bool,
    pub(crate) connected: bool,
    pub(crate) handshake_data_ready: bool,
    /// Why the connection ended, as the application sees it.
    pub(crate) error: Option<ConnectionError>,
    /// Closed by the application, but not yet on the wire.
    closing: Option<Closing>,
    /// Streams that were finished, and of which the peer has not acknowledged everything.
    pub(crate) finishing: usize,
    pub(crate) readers: StreamMap<Waker>,
    pub(crate) writers: StreamMap<Waker>,
    pub(crate) stopped: StreamMap<WakerSet>,
    pub(crate) waiting: Waiting,
}

/// Tasks waiting for the connection as a whole.
#[derive(Default)]
pub(crate) struct Waiting {
    pub(crate) handshake_data: WakerSet,
    pub(crate) connected: WakerSet,
    /// For streams to open, by [`Dir`](core::Dir).
    pub(crate) open: [WakerSet; 2],
    /// For streams to accept, by [`Dir`](core::Dir).
    pub(crate) accept: [WakerSet; 2],
    pub(crate) datagram_received: WakerSet,
    pub(crate) datagrams_unblocked: WakerSet,
    pub(crate) closed: WakerSet,
}

/// A close that waits for finished streams to be delivered.
struct Closing {
    error_code: VarInt,
    reason: Bytes,
    deadline: Instant,
}

impl ConnectionInner {
    /// The new connection counts as dirty: the caller queues it.
    pub(crate) fn new(
        endpoint: Arc<Shared>,
        handle: ConnectionHandle,
        machine: core::Connection,
    ) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                machine,
                dirty: true,
                connected: false,
                handshake_data_ready: false,
                error: None,
                closing: None,
                finishing: 0,
                readers: StreamMap::default(),
                writers: StreamMap::default(),
                stopped: StreamMap::default(),
                waiting: Waiting::default(),
            }),
            endpoint,
            handle,
            handles: AtomicUsize::new(0),
        })
    }

    /// Close on behalf of the application; finished streams are delivered first.
    pub(crate) fn close_gracefully(
        self: &Arc<Self>,
        error_code: VarInt,
        reason: Bytes,
        woken: &mut Vec<Waker>,
    ) {
        let now = self.endpoint.clock.now();
        let mut state = self.lock();
        if state.error.is_none() {
            let deadline = now + LINGER;
            state.closing = Some(Closing {
                error_code,
                reason,
                deadline,
            });
            state.terminate(ConnectionError::LocallyClosed, woken);
            state.touch();
        }
    }

    pub(crate) fn lock(self: &Arc<Self>) -> Locked<'_> {
        Locked {
            inner: self,
            guard: Some(lock(&self.state)),
            ring: false,
        }
    }
}

impl State {
    /// Pass the machine's events on to those who wait for them.
    pub(crate) fn handle_events(&mut self, woken: &mut Vec<Waker>) {
        while let Some(event) = self.machine.poll() {
            match event {
                Event::HandshakeDataReady => {
                    self.handshake_data_ready = true;
                    self.waiting.handshake_data.drain(woken);
                }
                Event::Connected => {
                    self.connected = true;
                    self.waiting.connected.drain(woken);
                    // The peer's limits are those of this handshake now, not those remembered for
                    // 0-RTT; and streams that were rejected count no more. The machine says nothing.
                    for set in &mut self.waiting.open {
                        set.drain(woken);
                    }
                    if self.machine.side().is_client() && !self.machine.accepted_0rtt() {
                        // Whoever uses a stream that was opened in 0-RTT learns that it is void,
                        // and those are all there are so far.
                        self.wake_streams(woken);
                        self.finishing = 0;
                    }
                }
                Event::ConnectionLost { reason } => self.terminate(reason, woken),
                Event::Stream(StreamEvent::Opened { dir }) => {
                    self.waiting.accept[dir as usize].drain(woken);
                }
                Event::Stream(StreamEvent::Readable { id }) => {
                    woken.extend(self.readers.remove(&id));
                }
                Event::Stream(StreamEvent::Writable { id }) => {
                    woken.extend(self.writers.remove(&id));
                }
                Event::Stream(StreamEvent::Available { dir }) => {
                    self.waiting.open[dir as usize].drain(woken);
                }
                Event::Stream(StreamEvent::Finished { id }) => {
                    debug_assert!(self.finishing > 0, "delivered what nobody finished");
                    self.finishing = self.finishing.saturating_sub(1);
                    self.wake_stopped(id, woken);
                }
                Event::Stream(StreamEvent::Stopped { id, .. }) => {
                    self.wake_stopped(id, woken);
                    woken.extend(self.writers.remove(&id));
                }
                Event::DatagramReceived => self.waiting.datagram_received.drain(woken),
                Event::DatagramsUnblocked => self.waiting.datagrams_unblocked.drain(woken),
            }
        }
    }

    /// The connection ended for the application: everything that waits returns.
    pub(crate) fn terminate(&mut self, reason: ConnectionError, woken: &mut Vec<Waker>) {
        if self.error.is_none() {
            self.error = Some(reason);
        }
        self.wake_streams(woken);
        let waiting = &mut self.waiting;
        waiting.handshake_data.drain(woken);
        waiting.connected.drain(woken);
        for set in waiting.open.iter_mut().chain(&mut waiting.accept) {
            set.drain(woken);
        }
        waiting.datagram_received.drain(woken);
        waiting.datagrams_unblocked.drain(woken);
        waiting.closed.drain(woken);
    }

    /// Do what [`ConnectionInner::close_gracefully`] put off, once it may be done.
    pub(crate) fn advance_close(&mut self, now: Instant) {
        let Some(closing) = &self.closing else { return };
        if self.machine.is_closed() {
            self.closing = None;
            return;
        }
        if self.finishing == 0 || self.machine.is_handshaking() || now >= closing.deadline {
            let Closing {
                error_code, reason, ..
            } = self.closing.take().expect("just seen");
            self.machine.close(now, error_code, reason);
        }
    }

    /// When this connection wants to be looked at again.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        let machine = self.machine.poll_timeout();
        match &self.closing {
            Some(closing) => Some(machine.map_or(closing.deadline, |at| at.min(closing.deadline))),
            None => machine,
        }
    }

    /// Whether streams opened in 0-RTT are still good.
    pub(crate) fn zero_rtt_rejected(&self) -> bool {
        let machine = &self.machine;
        machine.side().is_client() && !machine.is_handshaking() && !machine.accepted_0rtt()
    }

    fn wake_stopped(&mut self, id: StreamId, woken: &mut Vec<Waker>) {
        if let Some(mut set) = self.stopped.remove(&id) {
            set.drain(woken);
        }
    }

    fn wake_streams(&mut self, woken: &mut Vec<Waker>) {
        woken.extend(self.readers.drain().map(|(_, waker)| waker));
        woken.extend(self.writers.drain().map(|(_, waker)| waker));
        for (_, mut set) in self.stopped.drain() {
            set.drain(woken);
        }
    }
}

/// A locked connection. Rings the driver's bell on release if [`touch`](Self::touch)ed, after the
/// lock is gone: otherwise the driver might run into it on another core.
pub(crate) struct Locked<'a> {
    inner: &'a Arc<ConnectionInner>,
    guard: Option<MutexGuard<'a, State>>,
    ring: bool,
}

impl Locked<'_> {
    /// Note that the machine has something new for the driver.
    pub(crate) fn touch(&mut self) {
        if !self.dirty {
            self.dirty = true;
            self.inner.endpoint.push_dirty(self.inner.clone());
            self.ring = true;
        }
    }
}

impl std::ops::Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.guard.as_ref().expect("taken only on drop")
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.guard.as_mut().expect("taken only on drop")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.guard = None;
        if self.ring {
            self.inner.endpoint.signal.raise(cause::HANDLE);
        }
    }
}

/// A counted reference from a handle that keeps the connection open.
pub(crate) struct ConnectionRef(Arc<ConnectionInner>);

impl ConnectionRef {
    pub(crate) fn new(inner: Arc<ConnectionInner>) -> Self {
        inner.handles.fetch_add(1, Ordering::Relaxed);
        Self(inner)
    }

    pub(crate) fn inner(&self) -> &Arc<ConnectionInner> {
        &self.0
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        self.0.lock()
    }

    /// A number that no other living connection of this process has.
    pub(crate) fn stable_id(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }
}

impl Clone for ConnectionRef {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl Drop for ConnectionRef {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            let mut woken = Vec::new();
            self.0
                .close_gracefully(VarInt::from_u32(0), Bytes::new(), &mut woken);
            wake_all(&mut woken);
        }
    }
}

impl fmt::Debug for ConnectionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionRef")
            .field(&self.0.handle.0)
            .finish()
    }
}
