//! The sending half of a stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use polyquic_core::{self as core, ClosedStream, FinishError, StreamId, VarInt, Written};

use crate::connection::{ConnectionInner, ConnectionRef};
use crate::error::{StoppedError, WriteError, closed_stream};
use crate::wake::Ticket;

/// A stream, or half of one, that can be written to.
///
/// Call [`finish`](Self::finish) when everything was written. **A stream that is dropped before
/// that is reset** with code 0, so that the peer can tell an accident (an early return, a panic, a
/// cancelled task) from the end of the data. This differs from quinn, where dropping finishes the
/// stream and the peer takes a truncated one for complete.
///
/// # Cancel safety
///
/// [`write`](Self::write) and [`write_chunks`](Self::write_chunks) are cancel-safe: a future of
/// theirs that is dropped before it was ready has written nothing. The methods that write
/// everything are not: part of the data may have been written.
///
/// Whoever waits by [`poll_write`](Self::poll_write) while the stream is shared is woken by
/// [`finish`](Self::finish) and [`reset`](Self::reset), and gets [`WriteError::ClosedStream`].
#[derive(Debug)]
pub struct SendStream {
    conn: ConnectionRef,
    id: StreamId,
    is_0rtt: bool,
    progress: Progress,
    /// Whether a waker of ours may be registered.
    waiting: bool,
}

/// What this handle did to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// More may be written.
    Open,
    /// Counted in the connection's `finishing`, until it was delivered.
    Finished,
    Reset,
}

impl SendStream {
    pub(crate) fn new(conn: ConnectionRef, id: StreamId, is_0rtt: bool) -> Self {
        Self {
            conn,
            id,
            is_0rtt,
            progress: Progress::Open,
            waiting: false,
        }
    }

    /// Write some of `buf`, waiting until at least one byte is accepted; returns how many were.
    ///
    /// Waits while flow control or the send window leave no room. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The peer stopped the stream, the connection is lost, or the stream was finished or reset.
    pub async fn write(&mut self, buf: &[u8]) -> Result<usize, WriteError> {
        poll_fn(|cx| self.poll_write_with(cx, |stream| stream.write(buf))).await
    }

    /// Write all of `buf`. Not cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn write_all(&mut self, mut buf: &[u8]) -> Result<(), WriteError> {
        while !buf.is_empty() {
            let written = self.write(buf).await?;
            buf = &buf[written..];
        }
        Ok(())
    }

    /// Write some of `bufs` without copying, waiting until at least one byte is accepted.
    ///
    /// Chunks that were written are empty afterwards; one that was written in part holds the rest.
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn write_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Written, WriteError> {
        poll_fn(|cx| self.poll_write_with(cx, |stream| stream.write_chunks(bufs))).await
    }

    /// Write all of `buf` without copying. Not cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn write_chunk(&mut self, buf: Bytes) -> Result<(), WriteError> {
        self.write_all_chunks(&mut [buf]).await
    }

    /// Write all of `bufs` without copying, leaving them empty. Not cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub async fn write_all_chunks(&mut self, mut bufs: &mut [Bytes]) -> Result<(), WriteError> {
        while !bufs.is_empty() {
            let written = self.write_chunks(bufs).await?;
            bufs = &mut bufs[written.chunks..];
        }
        Ok(())
    }

    /// Write some of `buf`, or register for the time when there is room.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize, WriteError>> {
        self.get_mut()
            .poll_write_with(cx, |stream| stream.write(buf))
    }

    fn poll_write_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(&mut core::SendStream<'_>) -> Result<T, core::WriteError>,
    ) -> Poll<Result<T, WriteError>> {
        let mut state = self.conn.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            return Poll::Ready(Err(WriteError::ZeroRttRejected));
        }
        if let Some(error) = &state.error {
            return Poll::Ready(Err(WriteError::ConnectionLost(error.clone())));
        }
        match write(&mut state.machine.send_stream(self.id)) {
            Ok(written) => {
                state.touch();
                Poll::Ready(Ok(written))
            }
            Err(core::WriteError::Blocked) => {
                // The machine looks at the send window before it looks at the stream. What a stopped
                // stream has buffered may be all of that window, and never be sent.
                if let Ok(Some(code)) = state.machine.send_stream(self.id).stopped() {
                    return Poll::Ready(Err(WriteError::Stopped(code)));
                }
                state.writers.insert(self.id, cx.waker().clone());
                // The peer may have to be told that we are blocked (RFC 9000 section 4.1).
                state.touch();
                self.waiting = true;
                Poll::Pending
            }
            Err(core::WriteError::Stopped(code)) => Poll::Ready(Err(WriteError::Stopped(code))),
            Err(core::WriteError::ClosedStream) => Poll::Ready(Err(WriteError::ClosedStream)),
        }
    }

    /// Tell the peer that nothing more will be written. What was written is delivered.
    ///
    /// To wait until the peer has all of it, use [`stopped`](Self::stopped).
    ///
    /// # Errors
    ///
    /// The stream was finished or reset before; harmless. Or it was opened in 0-RTT, which the server
    /// rejected. A stream that the peer stopped is no error here.
    pub fn finish(&mut self) -> Result<(), ClosedStream> {
        let mut state = self.conn.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            // Another stream may have this id by now.
            return Err(ClosedStream::default());
        }
        match state.machine.send_stream(self.id).finish() {
            Ok(()) => {
                state.touch();
                state.finishing += 1;
                self.progress = Progress::Finished;
                let waiting = std::mem::take(&mut self.waiting);
                let writer = waiting.then(|| state.writers.remove(&self.id)).flatten();
                drop(state);
                writer.into_iter().for_each(Waker::wake);
                Ok(())
            }
            Err(FinishError::Stopped(_)) => Ok(()),
            Err(FinishError::ClosedStream) => Err(ClosedStream::default()),
        }
    }

    /// Give the stream up with a code for the peer's application (RFC 9000 section 3.5). What was
    /// not sent yet is dropped, what was lost is not sent again.
    ///
    /// # Errors
    ///
    /// The stream was reset before, or everything was delivered; harmless.
    pub fn reset(&mut self, error_code: VarInt) -> Result<(), ClosedStream> {
        let mut state = self.conn.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            return Ok(());
        }
        state.machine.send_stream(self.id).reset(error_code)?;
        state.touch();
        if self.progress == Progress::Finished {
            // It was not delivered yet, or the reset would have failed, and now never will be.
            state.finishing = state.finishing.saturating_sub(1);
        }
        self.progress = Progress::Reset;
        let waiting = std::mem::take(&mut self.waiting);
        let writer = waiting.then(|| state.writers.remove(&self.id)).flatten();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Wait until the peer stops the stream, or has acknowledged everything after
    /// [`finish`](Self::finish).
    ///
    /// `Some` is the code with which the peer stopped it. `None` means that everything arrived at
    /// the peer's QUIC stack (its application may not have read it yet), or that the stream was
    /// reset here. Cancel-safe. The future does not borrow the stream, and does not keep the
    /// connection open.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub fn stopped(
        &self,
    ) -> impl Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync + 'static {
        Stopped {
            inner: self.conn.inner().clone(),
            id: self.id,
            is_0rtt: self.is_0rtt,
            ticket: Ticket::default(),
        }
    }

    /// Send this stream's data before that of streams with a lower priority. Default: 0.
    ///
    /// # Errors
    ///
    /// The stream is closed.
    pub fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        let mut state = self.conn.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            return Err(ClosedStream::default());
        }
        state.machine.send_stream(self.id).set_priority(priority)
    }

    /// The stream's priority.
    ///
    /// # Errors
    ///
    /// The stream is closed.
    pub fn priority(&self) -> Result<i32, ClosedStream> {
        let mut state = self.conn.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            return Err(ClosedStream::default());
        }
        state.machine.send_stream(self.id).priority()
    }

    /// The stream's id (RFC 9000 section 2.1).
    pub fn id(&self) -> StreamId {
        self.id
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        let mut state = self.conn.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            // Another stream may have this id by now, and a waker under it.
            return;
        }
        if self.waiting {
            state.writers.remove(&self.id);
        }
        // On a connection that is being closed, too, as long as it waits for what was finished.
        if self.progress != Progress::Open || state.machine.is_closed() {
            return;
        }
        let mut stream = state.machine.send_stream(self.id);
        // The peer that stopped a stream gets its own code back (RFC 9000 section 3.5).
        let code = stream.stopped().ok().flatten().unwrap_or_default();
        if stream.reset(code).is_ok() {
            state.touch();
        }
    }
}

struct Stopped {
    inner: std::sync::Arc<ConnectionInner>,
    id: StreamId,
    is_0rtt: bool,
    ticket: Ticket,
}

impl Future for Stopped {
    type Output = Result<Option<VarInt>, StoppedError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.inner.lock();
        if this.is_0rtt && state.zero_rtt_rejected() {
            return Poll::Ready(Err(StoppedError::ZeroRttRejected));
        }
        match state.machine.send_stream(this.id).stopped() {
            Err(ClosedStream { .. }) => return Poll::Ready(Ok(None)),
            Ok(Some(code)) => return Poll::Ready(Ok(Some(code))),
            Ok(None) => {}
        }
        if let Some(error) = &state.error {
            return Poll::Ready(Err(error.clone().into()));
        }
        state
            .stopped
            .entry(this.id)
            .or_default()
            .register(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if !self.ticket.is_registered() {
            return;
        }
        let mut state = self.inner.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            // Another stream may have this id by now, and a waker in the same place.
            return;
        }
        if let Some(set) = state.stopped.get_mut(&self.id) {
            set.deregister(&mut self.ticket);
        }
    }
}

impl futures_io::AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Self::poll_write(self, cx, buf).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Finishes the stream; does not wait for its delivery.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().finish().map_err(closed_stream))
    }
}

#[cfg(feature = "tokio-io")]
impl tokio::io::AsyncWrite for SendStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Self::poll_write(self, cx, buf).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Finishes the stream; does not wait for its delivery.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().finish().map_err(closed_stream))
    }
}
