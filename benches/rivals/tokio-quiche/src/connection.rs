//! Streams as futures, on top of the callbacks that tokio-quiche offers.
//!
//! It has no streams of its own beyond HTTP/3: an application over QUIC is an object that its
//! worker calls with the connection in hand, before packets go out and after they came in. The one
//! here moves data between the connection and queues, and wakes whoever waits for them.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use anyhow::{Result, anyhow, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use polyquic_bench::{settings::STREAM_RECEIVE_WINDOW_BYTES, stack};
use tokio::sync::Notify;
use tokio_quiche::{
    ApplicationOverQuic, QuicResult,
    metrics::Metrics,
    quic::{HandshakeInfo, QuicheConnection},
    quiche,
};

/// Read from quiche at a time, and at most kept here: beyond that the window stays closed.
const CHUNK_BYTES: usize = 64 << 10;

/// What the worker and the application share.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Told when the application wants something of the worker.
    wanted: Notify,
}

#[derive(Default)]
struct State {
    established: bool,
    close_wanted: bool,
    closed: bool,
    streams: HashMap<u64, Stream>,
    /// Started by the peer, and not yet accepted.
    arrived: VecDeque<u64>,
    /// With something to be done by the worker.
    dirty: VecDeque<u64>,
    /// How many this side has started.
    opened: u64,
    waiting: Vec<Waker>,
    /// `None` before the worker has looked.
    packet_size: Option<u64>,
}

#[derive(Default)]
struct Stream {
    dirty: bool,
    received: VecDeque<Bytes>,
    /// quiche may have more, which is left there until this has been taken.
    held: bool,
    /// All that there will ever be has been received.
    ended: bool,
    receive_failed: bool,
    sending: VecDeque<Bytes>,
    sending_bytes: usize,
    finish: bool,
    /// The end has been given to quiche.
    finished: bool,
    send_failed: bool,
    receiver: Option<Waker>,
    sender: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        poll_fn(|context| {
            let mut state = self.state();
            if let Some(found) = ready(&mut state) {
                return Poll::Ready(Ok(found));
            }
            if state.closed {
                return Poll::Ready(Err(anyhow!("the connection is closed")));
            }
            state.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Changes a stream and lets the worker look at it.
    fn touch(&self, id: u64, change: impl FnOnce(&mut Stream)) {
        let mut state = self.state();
        let Some(stream) = state.streams.get_mut(&id) else {
            return;
        };
        change(stream);
        if !std::mem::replace(&mut stream.dirty, true) {
            state.dirty.push_back(id);
        }
        drop(state);
        self.wanted.notify_one();
    }
}

/// The worker's side.
pub(crate) struct Application(pub(crate) Arc<Shared>);

impl Application {
    fn receive(state: &mut State, qconn: &mut QuicheConnection, id: u64) {
        let Some(stream) = state.streams.get_mut(&id) else {
            return;
        };
        if stream.ended || stream.receiver_gone {
            return;
        }
        let mut kept: usize = stream.received.iter().map(Bytes::len).sum();
        while qconn.stream_readable(id) {
            if kept >= CHUNK_BYTES {
                stream.held = true;
                break;
            }
            let length = qconn.stream_readable_len(id, CHUNK_BYTES);
            // Room for a byte lets the end of a stream be read that has no data left.
            let mut buffer = BytesMut::with_capacity(length.max(1)).limit(length.max(1));
            match qconn.stream_recv_buf(id, &mut buffer) {
                Ok((_, ended)) => {
                    let buffer = buffer.into_inner();
                    let count = buffer.len();
                    kept += count;
                    if count > 0 {
                        stream.received.push_back(buffer.freeze());
                    }
                    stream.ended |= ended;
                    if ended {
                        break;
                    }
                }
                Err(quiche::Error::Done) => break,
                Err(_) => {
                    stream.receive_failed = true;
                    break;
                }
            }
        }
        if let Some(waker) = stream.receiver.take() {
            waker.wake();
        }
    }

    /// Gives quiche what it takes; whether there is more.
    fn send(stream: &mut Stream, qconn: &mut QuicheConnection, id: u64) -> bool {
        while let Some(chunk) = stream.sending.pop_front() {
            let (length, last) = (chunk.len(), stream.finish && stream.sending.is_empty());
            let (taken, rest) = match qconn.stream_send_zc(id, chunk.clone(), last) {
                Ok(result) => result,
                // Until the peer allows more data, or more streams.
                Err(quiche::Error::Done | quiche::Error::StreamLimit) => (0, Some(chunk)),
                Err(_) => {
                    stream.send_failed = true;
                    stream.sending.clear();
                    break;
                }
            };
            stream.sending_bytes -= taken;
            if let Some(rest) = rest.filter(|rest| taken < length && !rest.is_empty()) {
                stream.sending.push_front(rest);
                break;
            }
            stream.finished |= last;
        }
        if stream.finish
            && !stream.finished
            && !stream.send_failed
            && stream.sending.is_empty()
            && qconn.stream_send(id, &[], true).is_ok()
        {
            stream.finished = true;
        }
        if stream.sending_bytes < STREAM_RECEIVE_WINDOW_BYTES as usize || stream.send_failed {
            if let Some(waker) = stream.sender.take() {
                waker.wake();
            }
        }
        !stream.sending.is_empty() || (stream.finish && !stream.finished && !stream.send_failed)
    }

    fn work(state: &mut State, qconn: &mut QuicheConnection) {
        for id in qconn.readable() {
            let opened_by_peer = (id & 1 == 0) == qconn.is_server();
            if opened_by_peer && !state.streams.contains_key(&id) {
                state.streams.insert(id, Stream::default());
                state.arrived.push_back(id);
                state.waiting.drain(..).for_each(Waker::wake);
            }
            Self::receive(state, qconn, id);
        }
        for _ in 0..state.dirty.len() {
            let Some(id) = state.dirty.pop_front() else {
                break;
            };
            Self::receive(state, qconn, id);
            let Some(stream) = state.streams.get_mut(&id) else {
                continue;
            };
            stream.dirty = Self::send(stream, qconn, id);
            if stream.dirty {
                state.dirty.push_back(id);
                continue;
            }
            if stream.receiver_gone && !stream.ended {
                // An error says that it is over already.
                let _ = qconn.stream_shutdown(id, quiche::Shutdown::Read, 0);
                stream.ended = true;
            }
            if stream.sender_gone && !stream.finished {
                let _ = qconn.stream_shutdown(id, quiche::Shutdown::Write, 0);
                stream.finished = true;
            }
            if stream.receiver_gone && stream.sender_gone {
                state.streams.remove(&id);
            }
        }
    }
}

impl ApplicationOverQuic for Application {
    fn on_conn_established(
        &mut self,
        _qconn: &mut QuicheConnection,
        _info: &HandshakeInfo,
    ) -> QuicResult<()> {
        let mut state = self.0.state();
        state.established = true;
        state.waiting.drain(..).for_each(Waker::wake);
        Ok(())
    }

    fn should_act(&self) -> bool {
        true
    }

    async fn wait_for_data(&mut self, _qconn: &mut QuicheConnection) -> QuicResult<()> {
        self.0.wanted.notified().await;
        Ok(())
    }

    fn process_reads(&mut self, _qconn: &mut QuicheConnection) -> QuicResult<()> {
        // `process_writes` follows always, and does both.
        Ok(())
    }

    fn process_writes(&mut self, qconn: &mut QuicheConnection) -> QuicResult<()> {
        let mut state = self.0.state();
        Self::work(&mut state, qconn);
        state.packet_size = Some(qconn.max_send_udp_payload_size() as u64);
        if std::mem::take(&mut state.close_wanted) {
            // An error says that it is closed already.
            let _ = qconn.close(true, 0, &[]);
        }
        Ok(())
    }

    fn on_conn_close<M: Metrics>(
        &mut self,
        _qconn: &mut QuicheConnection,
        _metrics: &M,
        _result: &QuicResult<()>,
    ) {
        self.0.lost();
    }
}

impl Drop for Application {
    /// Also when the handshake fails.
    fn drop(&mut self) {
        self.0.lost();
    }
}

impl Shared {
    fn lost(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiting.drain(..).for_each(Waker::wake);
        for stream in state.streams.values_mut() {
            stream.receive_failed = true;
            stream.send_failed = true;
            let waiting = [stream.receiver.take(), stream.sender.take()];
            waiting.into_iter().flatten().for_each(Waker::wake);
        }
    }
}

/// The application's side.
#[derive(Clone)]
pub(crate) struct Connection(Arc<CloseOnDrop>);

struct CloseOnDrop {
    shared: Arc<Shared>,
    is_server: bool,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn close(&self) {
        self.state().close_wanted = true;
        self.wanted.notify_one();
    }
}

impl Connection {
    pub(crate) async fn established(shared: Arc<Shared>, is_server: bool) -> Result<Self> {
        shared.wait(|state| state.established.then_some(())).await?;
        Ok(Self(Arc::new(CloseOnDrop { shared, is_server })))
    }

    fn halves(&self, id: u64) -> (SendStream, RecvStream) {
        let shared = &self.0.shared;
        (
            SendStream(id, shared.clone()),
            RecvStream(id, shared.clone()),
        )
    }
}

impl stack::Connection for Connection {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    const TELLS_PACKET_SIZE: bool = true;

    /// quiche has no such call: a stream begins with its first data, which waits until the peer
    /// allows another stream.
    async fn open_bi(&self) -> Result<(SendStream, RecvStream)> {
        let mut state = self.0.shared.state();
        ensure!(!state.closed, "the connection is closed");
        let id = state.opened * 4 + u64::from(self.0.is_server);
        state.opened += 1;
        state.streams.insert(id, Stream::default());
        drop(state);
        Ok(self.halves(id))
    }

    async fn accept_bi(&self) -> Result<(SendStream, RecvStream)> {
        let id = self
            .0
            .shared
            .wait(|state| state.arrived.pop_front())
            .await?;
        Ok(self.halves(id))
    }

    fn packet_size(&self) -> Option<u64> {
        self.0.shared.state().packet_size
    }

    fn close(&self) {
        self.0.shared.close();
    }

    async fn closed(&self) {
        // Its error is what is waited for.
        let _ = self.0.shared.wait(|_| None::<()>).await;
    }
}

pub(crate) struct SendStream(u64, Arc<Shared>);

impl stack::SendStream for SendStream {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<()> {
        let Self(id, shared) = self;
        poll_fn(|context| {
            let mut state = shared.state();
            let closed = state.closed;
            match state.streams.get_mut(id) {
                Some(stream) if !stream.send_failed && !closed => {
                    if stream.sending_bytes < STREAM_RECEIVE_WINDOW_BYTES as usize {
                        return Poll::Ready(Ok(()));
                    }
                    stream.sender = Some(context.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(Err(anyhow!("the stream is lost"))),
            }
        })
        .await?;
        shared.touch(*id, |stream| {
            stream.sending_bytes += chunk.len();
            stream.sending.push_back(chunk);
        });
        Ok(())
    }

    async fn write_all(&mut self, data: &[u8]) -> Result<()> {
        self.write_chunk(Bytes::copy_from_slice(data)).await
    }

    fn finish(&mut self) -> Result<()> {
        self.1.touch(self.0, |stream| stream.finish = true);
        Ok(())
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.1.touch(self.0, |stream| {
            stream.sender_gone = true;
            stream.sender = None;
        });
    }
}

pub(crate) struct RecvStream(u64, Arc<Shared>);

impl stack::RecvStream for RecvStream {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        let Self(id, shared) = self;
        let chunk = poll_fn(|context| {
            let mut state = shared.state();
            let Some(stream) = state.streams.get_mut(id) else {
                return Poll::Ready(Err(anyhow!("the stream is lost")));
            };
            if let Some(chunk) = stream.received.pop_front() {
                let more = stream.received.is_empty() && std::mem::take(&mut stream.held);
                return Poll::Ready(Ok(Some((chunk, more))));
            }
            if stream.ended {
                return Poll::Ready(Ok(None));
            }
            if stream.receive_failed {
                return Poll::Ready(Err(anyhow!("the stream is lost")));
            }
            stream.receiver = Some(context.waker().clone());
            Poll::Pending
        })
        .await?;
        Ok(chunk.map(|(chunk, more)| {
            if more {
                shared.touch(*id, |_| {});
            }
            chunk
        }))
    }

    async fn read_to_end(&mut self, limit_bytes: usize) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        while let Some(chunk) = self.read_chunk().await? {
            ensure!(
                data.len() + chunk.len() <= limit_bytes,
                "more than asked for"
            );
            data.extend_from_slice(&chunk);
        }
        Ok(data)
    }

    fn stop(&mut self) {
        self.1.touch(self.0, |stream| stream.receiver_gone = true);
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.1.touch(self.0, |stream| {
            stream.receiver_gone = true;
            stream.receiver = None;
        });
    }
}
