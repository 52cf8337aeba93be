//! A connection of msquic's: what its callback says, and what may be asked of it.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use anyhow::{Result, anyhow};
use msquic::{
    ConnectionEvent, ConnectionRef, ConnectionShutdownFlags, Status, StreamOpenFlags,
    StreamStartFlags, ffi::QUIC_STATISTICS_V2,
};
use polyquic_bench::stack;

use crate::{
    HEADER_BYTES,
    stream::{Incoming, Outgoing, Stream, halves},
};

/// What the callback and the application share.
#[derive(Default)]
pub(crate) struct Inner {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` before it is opened and after its last event.
    handle: Option<Arc<msquic::Connection>>,
    connected: bool,
    /// Why there will be nothing more.
    closed: Option<String>,
    streams: VecDeque<Arc<Stream>>,
    waiting: Vec<Waker>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it what it is about, before the first event.
    pub(crate) fn open(&self, handle: msquic::Connection) {
        self.state().handle = Some(Arc::new(handle));
    }

    /// Tells the application that there will be no connection.
    pub(crate) fn fail(&self, reason: String) {
        let mut state = self.state();
        state.closed = Some(reason);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The handle, for a call: never with the state locked, as a call may call back.
    pub(crate) fn handle(&self) -> Result<Arc<msquic::Connection>> {
        let handle = self.state().handle.clone();
        handle.ok_or_else(|| anyhow!("the connection is closed"))
    }

    /// What msquic has counted: waits for its thread, unless this is it. `None` once it is closed.
    fn statistics(&self) -> Option<QUIC_STATISTICS_V2> {
        self.handle().ok()?.get_stats_v2().ok()
    }

    /// What the connection calls back; its last event frees the caller, so nothing follows this.
    pub(crate) fn event(&self, event: ConnectionEvent<'_>) -> Result<(), Status> {
        let mut state = self.state();
        let mut last = None;
        match event {
            ConnectionEvent::Connected { .. } => state.connected = true,
            ConnectionEvent::PeerStreamStarted { stream, .. } => {
                state.streams.push_back(Stream::accepted(&stream));
            }
            ConnectionEvent::ShutdownInitiatedByTransport { status, .. } => {
                state.closed = Some(format!("the connection is lost: {status}"));
            }
            ConnectionEvent::ShutdownInitiatedByPeer { error_code } => {
                state.closed = Some(format!("the peer closed the connection ({error_code})"));
            }
            ConnectionEvent::ShutdownComplete { .. } => {
                state
                    .closed
                    .get_or_insert_with(|| "the connection is closed".into());
                last = state.handle.take();
            }
            _ => return Ok(()),
        }
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
        drop(last);
        Ok(())
    }

    /// Waits for what `ready` finds.
    async fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        poll_fn(|context| {
            let mut state = self.state();
            if let Some(found) = ready(&mut state) {
                return Poll::Ready(Ok(found));
            }
            if let Some(reason) = &state.closed {
                return Poll::Ready(Err(anyhow!("{reason}")));
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// The callback of a connection.
pub(crate) fn callback(
    inner: &Arc<Inner>,
) -> impl FnMut(ConnectionRef, ConnectionEvent<'_>) -> Result<(), Status> + 'static {
    let inner = inner.clone();
    // The clone is there after the last event, which frees this closure.
    move |_, event| inner.clone().event(event)
}

/// The application's handle.
#[derive(Clone)]
pub(crate) struct Connection(Arc<Shutdown>);

/// Closes the connection when the application no longer has it.
struct Shutdown(Arc<Inner>);

impl Drop for Shutdown {
    fn drop(&mut self) {
        close(&self.0);
    }
}

fn close(inner: &Inner) {
    if let Ok(handle) = inner.handle() {
        handle.shutdown(ConnectionShutdownFlags::NONE, 0);
    }
}

impl Connection {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self(Arc::new(Shutdown(inner)))
    }

    /// Waits for the end of the handshake.
    pub(crate) async fn connected(self) -> Result<Self> {
        let inner = &self.0.0;
        inner.wait(|state| state.connected.then_some(())).await?;
        Ok(self)
    }
}

impl stack::Connection for Connection {
    type SendStream = Outgoing;
    type RecvStream = Incoming;

    const TELLS_PACKET_SIZE: bool = true;
    const COUNTS_PACKETS: bool = true;

    async fn open_bi(&self) -> Result<(Outgoing, Incoming)> {
        let stream = Arc::new(Stream::default());
        let callback = Stream::callback(&stream);
        let connection = self.0.0.handle()?;
        stream.open(msquic::Stream::open(
            &connection,
            StreamOpenFlags::NONE,
            callback,
        )?);
        stream.handle()?.start(StreamStartFlags::SHUTDOWN_ON_FAIL)?;
        Ok(halves(stream))
    }

    async fn accept_bi(&self) -> Result<(Outgoing, Incoming)> {
        let inner = &self.0.0;
        let stream = inner.wait(|state| state.streams.pop_front()).await?;
        Ok(halves(stream))
    }

    fn packet_size(&self) -> Option<u64> {
        let mtu = self.0.0.statistics()?.SendPathMtu;
        Some(mtu.checked_sub(HEADER_BYTES)?.into())
    }

    /// QUIC packets, as it does not count datagrams; keep-alives are one in each.
    fn packets_sent(&self) -> Option<u64> {
        Some(self.0.0.statistics()?.SendTotalPackets)
    }

    fn close(&self) {
        close(&self.0.0);
    }

    async fn closed(&self) {
        // Its error is what is waited for.
        let _ = self.0.0.wait(|_| None::<()>).await;
    }
}
