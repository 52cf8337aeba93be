//! The receiving half of a stream.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
#[cfg(feature = "tokio-io")]
use std::task::ready;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use polyquic_core::{self as core, Chunk, Chunks, ClosedStream, StreamId, VarInt};

use crate::connection::ConnectionRef;
use crate::error::{ReadError, ReadExactError, ReadToEndError, ResetError};

/// A stream, or half of one, that can be read from.
///
/// The end of the data (`None`) is only reported when the peer finished the stream; a peer that
/// gave up shows as [`ReadError::Reset`]. Dropping a stream that was not read to its end tells the
/// peer to stop sending, with code 0.
///
/// # Cancel safety
///
/// [`read`](Self::read), [`read_chunk`](Self::read_chunk), [`read_chunks`](Self::read_chunks) and
/// [`received_reset`](Self::received_reset) are cancel-safe: a future of theirs that is dropped
/// before it was ready has taken nothing. [`read_exact`](Self::read_exact) and
/// [`read_to_end`](Self::read_to_end) are not: what they have read so far is lost.
#[derive(Debug)]
pub struct RecvStream {
    conn: ConnectionRef,
    id: StreamId,
    is_0rtt: bool,
    /// Nothing more will come: read to the end, reset seen, or stopped.
    ended: bool,
    /// Stopped by this handle: reading is an error, lest it look like the end of the data.
    stopped: bool,
    /// Read from out of order before.
    unordered: bool,
    /// The machine has been told of that.
    switched: bool,
    /// A reset that came along with data and is reported next.
    reset: Option<VarInt>,
    /// Whether a waker of ours may be registered.
    waiting: bool,
}

impl RecvStream {
    pub(crate) fn new(conn: ConnectionRef, id: StreamId, is_0rtt: bool) -> Self {
        Self {
            conn,
            id,
            is_0rtt,
            ended: false,
            stopped: false,
            unordered: false,
            switched: false,
            reset: None,
            waiting: false,
        }
    }

    /// Read into `buf`, waiting until there is something; returns how many bytes, or `None` at the
    /// end of the stream. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The peer reset the stream, the connection is lost, or the stream was stopped.
    pub async fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, ReadError> {
        poll_fn(|cx| self.poll_read_slice(cx, buf)).await
    }

    /// Fill `buf`. Not cancel-safe.
    ///
    /// # Errors
    ///
    /// [`ReadExactError::FinishedEarly`] when the stream ends before that, else as
    /// [`read`](Self::read).
    pub async fn read_exact(&mut self, buf: &mut [u8]) -> Result<(), ReadExactError> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read(&mut buf[filled..]).await? {
                Some(read) => filled += read,
                None => return Err(ReadExactError::FinishedEarly(filled)),
            }
        }
        Ok(())
    }

    /// Read into `buf`, or register for the time when there is something; 0 at the end.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, ReadError>> {
        self.poll_read_slice(cx, buf)
            .map_ok(|read| read.unwrap_or(0))
    }

    /// Take the next chunk of at most `max_length` bytes without copying; `None` at the end.
    /// Cancel-safe.
    ///
    /// With `ordered` false, chunks come as they arrived; [`Chunk::offset`] tells where they belong.
    /// After that, ordered reads of this stream fail.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn read_chunk(
        &mut self,
        max_length: usize,
        ordered: bool,
    ) -> Result<Option<Chunk>, ReadError> {
        poll_fn(|cx| self.poll_read_chunk(cx, max_length, ordered)).await
    }

    /// Take the next chunks without copying, as many as there are and fit into `bufs`; returns how
    /// many, or `None` at the end. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub async fn read_chunks(&mut self, bufs: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        poll_fn(|cx| self.poll_read_chunks(cx, bufs)).await
    }

    /// Read everything up to the end of the stream, at most `size_limit` bytes. Not cancel-safe.
    ///
    /// # Errors
    ///
    /// [`ReadToEndError::TooLong`] when there is more, else as [`read`](Self::read).
    pub async fn read_to_end(&mut self, size_limit: usize) -> Result<Vec<u8>, ReadToEndError> {
        let mut start = Vec::new();
        // In order for a start, all that there is at a time: most messages end here, and reading out
        // of order costs the machine a list of what was read.
        while !self.unordered && start.len() < READ_TO_END_ORDERED_BYTES {
            let limit = size_limit - start.len();
            match poll_fn(|cx| self.poll_append(cx, &mut start, limit)).await? {
                Some(Append::Within) => {}
                Some(Append::TooLong) => return Err(ReadToEndError::TooLong),
                None => return Ok(start),
            }
        }
        // Then out of order, so that one lost packet does not hold up flow control for the rest.
        let mut rest = Assembly::after(start);
        while let Some(chunk) = self.read_chunk(usize::MAX, false).await? {
            rest.push(chunk, size_limit)?;
        }
        Ok(rest.finish())
    }

    /// Tell the peer to stop sending, with a code for its application (RFC 9000 section 3.5), and
    /// drop what was not read. Whoever waits by [`poll_read`](Self::poll_read) while the stream is
    /// shared is woken, and gets [`ReadError::ClosedStream`].
    ///
    /// # Errors
    ///
    /// The stream has ended already; harmless.
    pub fn stop(&mut self, error_code: VarInt) -> Result<(), ClosedStream> {
        let mut state = self.conn.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            return Ok(());
        }
        state.machine.stop_stream(self.id, error_code)?;
        state.touch();
        self.ended = true;
        self.stopped = true;
        let waiting = std::mem::take(&mut self.waiting);
        let reader = waiting.then(|| state.readers.remove(&self.id)).flatten();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Wait until the peer resets the stream; `None` when it ended otherwise. Data that was not
    /// read is not lost by waiting. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub async fn received_reset(&mut self) -> Result<Option<VarInt>, ResetError> {
        poll_fn(|cx| {
            let mut state = self.conn.lock();
            if self.is_0rtt && state.zero_rtt_rejected() {
                return Poll::Ready(Err(ResetError::ZeroRttRejected));
            }
            if let Some(code) = self.reset {
                return Poll::Ready(Ok(Some(code)));
            }
            match state.machine.recv_stream(self.id).received_reset() {
                Err(ClosedStream { .. }) => Poll::Ready(Ok(None)),
                Ok(Some(code)) => {
                    // That freed the stream: the peer may be allowed another one.
                    state.touch();
                    self.reset = Some(code);
                    Poll::Ready(Ok(Some(code)))
                }
                Ok(None) => {
                    if let Some(error) = &state.error {
                        return Poll::Ready(Err(error.clone().into()));
                    }
                    // A reset wakes readers, as it ends their wait too.
                    state.readers.insert(self.id, cx.waker().clone());
                    self.waiting = true;
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Whether the stream was opened before the handshake was complete, so that what is read from it
    /// may have been replayed.
    pub fn is_0rtt(&self) -> bool {
        self.is_0rtt
    }

    /// The stream's id (RFC 9000 section 2.1).
    pub fn id(&self) -> StreamId {
        self.id
    }

    fn poll_read_slice(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<Option<usize>, ReadError>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(Some(0)));
        }
        self.poll_read_with(cx, true, |chunks| {
            let mut filled = 0;
            while filled < buf.len() {
                match chunks.next(buf.len() - filled) {
                    Ok(Some(chunk)) => {
                        buf[filled..][..chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                        filled += chunk.bytes.len();
                    }
                    end => return Outcome::new((filled > 0).then_some(filled), end.err()),
                }
            }
            Outcome::Read(filled)
        })
    }

    fn poll_read_chunk(
        &mut self,
        cx: &mut Context<'_>,
        max_length: usize,
        ordered: bool,
    ) -> Poll<Result<Option<Chunk>, ReadError>> {
        let next = |chunks: &mut Chunks<'_>| match chunks.next(max_length) {
            Ok(Some(chunk)) => Outcome::Read(chunk),
            end => Outcome::new(None, end.err()),
        };
        if !ordered && !self.switched {
            // First whatever comes in order. When it switches, quinn-proto hands out again what it
            // has received twice and of which the first copy was read.
            self.unordered = false;
            let polled = self.poll_read_with(cx, true, next);
            self.unordered = true;
            if polled.is_ready() {
                return polled;
            }
            self.switched = true;
        }
        self.poll_read_with(cx, ordered, next)
    }

    /// Append what there is to `whole`, in order, at most `limit` bytes; `None` at the end.
    fn poll_append(
        &mut self,
        cx: &mut Context<'_>,
        whole: &mut Vec<u8>,
        limit: usize,
    ) -> Poll<Result<Option<Append>, ReadError>> {
        self.poll_read_with(cx, true, |chunks| {
            let mut left = limit;
            loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) if chunk.bytes.len() > left => {
                        return Outcome::Read(Append::TooLong);
                    }
                    Ok(Some(chunk)) => {
                        if whole.is_empty() {
                            // A short message in two packets is then allocated once.
                            let first = chunk.bytes.len();
                            whole.reserve_exact(limit.min(READ_TO_END_FIRST_BYTES).max(first));
                        }
                        left -= chunk.bytes.len();
                        whole.extend_from_slice(&chunk.bytes);
                    }
                    end => {
                        return Outcome::new((left < limit).then_some(Append::Within), end.err());
                    }
                }
            }
        })
    }

    fn poll_read_chunks(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, ReadError>> {
        if bufs.is_empty() {
            return Poll::Ready(Ok(Some(0)));
        }
        self.poll_read_with(cx, true, |chunks| {
            let mut read = 0;
            while read < bufs.len() {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => {
                        bufs[read] = chunk.bytes;
                        read += 1;
                    }
                    end => return Outcome::new((read > 0).then_some(read), end.err()),
                }
            }
            Outcome::Read(read)
        })
    }

    /// Common to all ways of reading. `read` takes what it wants and says how that ended.
    fn poll_read_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        ordered: bool,
        read: impl FnOnce(&mut Chunks<'_>) -> Outcome<T>,
    ) -> Poll<Result<Option<T>, ReadError>> {
        if self.stopped {
            return Poll::Ready(Err(ReadError::ClosedStream));
        }
        if let Some(code) = self.reset {
            self.ended = true;
            return Poll::Ready(Err(ReadError::Reset(code)));
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let mut state = self.conn.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            return Poll::Ready(Err(ReadError::ZeroRttRejected));
        }
        // Asked here, because the machine would forget the stream.
        if ordered && self.unordered {
            return Poll::Ready(Err(ReadError::IllegalOrderedRead));
        }
        self.unordered |= !ordered;
        // What arrived before the connection ended can still be read.
        let mut stream = state.machine.recv_stream(self.id);
        let mut chunks = stream.read(ordered)?;
        let outcome = read(&mut chunks);
        if chunks.finalize().should_transmit() {
            state.touch();
        }
        match outcome {
            Outcome::Read(value) => Poll::Ready(Ok(Some(value))),
            Outcome::End(value) => {
                self.ended = true;
                Poll::Ready(Ok(value))
            }
            Outcome::Reset(value, code) => {
                self.reset = Some(code);
                match value {
                    Some(value) => Poll::Ready(Ok(Some(value))),
                    None => {
                        self.ended = true;
                        Poll::Ready(Err(ReadError::Reset(code)))
                    }
                }
            }
            Outcome::Blocked => {
                if let Some(error) = &state.error {
                    return Poll::Ready(Err(ReadError::ConnectionLost(error.clone())));
                }
                state.readers.insert(self.id, cx.waker().clone());
                self.waiting = true;
                Poll::Pending
            }
        }
    }
}

/// What [`RecvStream::read_to_end`] reads in order before it turns to whatever comes.
const READ_TO_END_ORDERED_BYTES: usize = 64 << 10;

/// What [`RecvStream::read_to_end`] allocates at first, unless the limit is lower or more is there.
const READ_TO_END_FIRST_BYTES: usize = 2 << 10;

/// How appending went.
enum Append {
    /// Something was appended.
    Within,
    /// There is more than was wanted.
    TooLong,
}

/// What one attempt to read came to.
enum Outcome<T> {
    /// Something, and there may be more.
    Read(T),
    /// Perhaps something, then the end.
    End(Option<T>),
    /// Perhaps something, then a reset.
    Reset(Option<T>, VarInt),
    /// Nothing yet.
    Blocked,
}

impl<T> Outcome<T> {
    /// `error` is what ended the reading; `None` is the end of the stream.
    fn new(value: Option<T>, error: Option<core::ReadError>) -> Self {
        match (value, error) {
            (value, None) => Self::End(value),
            (value, Some(core::ReadError::Reset(code))) => Self::Reset(value, code),
            (Some(value), Some(core::ReadError::Blocked)) => Self::Read(value),
            (None, Some(core::ReadError::Blocked)) => Self::Blocked,
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if self.ended && !self.waiting {
            return;
        }
        let mut state = self.conn.lock();
        if self.is_0rtt && state.zero_rtt_rejected() {
            // Another stream may have this id by now, and a waker under it.
            return;
        }
        if self.waiting {
            state.readers.remove(&self.id);
        }
        if self.ended || self.reset.is_some() || state.error.is_some() {
            return;
        }
        let code = VarInt::from_u32(0);
        if state.machine.stop_stream(self.id, code).is_ok() {
            state.touch();
        }
    }
}

/// Puts chunks that come in any order together.
#[derive(Default)]
struct Assembly {
    /// What came in order before them.
    start: Vec<u8>,
    chunks: Vec<Chunk>,
    /// Lowest and highest offset seen. What was read before does not count against the limit.
    range: Option<(u64, u64)>,
}

impl Assembly {
    fn after(start: Vec<u8>) -> Self {
        Self {
            start,
            ..Self::default()
        }
    }

    fn push(&mut self, chunk: Chunk, size_limit: usize) -> Result<(), ReadToEndError> {
        let (start, end) = (chunk.offset, chunk.offset + chunk.bytes.len() as u64);
        let (start, end) = match self.range {
            Some((low, high)) => (low.min(start), high.max(end)),
            None => (start, end),
        };
        if end - start + self.start.len() as u64 > size_limit as u64 {
            return Err(ReadToEndError::TooLong);
        }
        self.range = Some((start, end));
        self.chunks.push(chunk);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        let Some((start, end)) = self.range else {
            return self.start;
        };
        self.chunks.sort_unstable_by_key(|chunk| chunk.offset);
        let mut whole = self.start;
        let before = whole.len();
        whole.reserve_exact((end - start) as usize);
        for chunk in self.chunks {
            // The machine hands out every byte once, and the stream is complete: no gaps.
            debug_assert_eq!((whole.len() - before) as u64, chunk.offset - start);
            whole.extend_from_slice(&chunk.bytes);
        }
        whole
    }
}

impl futures_io::AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Self::poll_read(&mut self, cx, buf).map_err(Into::into)
    }
}

#[cfg(feature = "tokio-io")]
impl tokio::io::AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Self::poll_read(&mut self, cx, buf.initialize_unfilled()))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, bytes: &'static [u8]) -> Chunk {
        Chunk {
            offset,
            bytes: Bytes::from_static(bytes),
        }
    }

    #[test]
    fn chunks_in_any_order() {
        let mut whole = Assembly::default();
        whole.push(chunk(104, b"efgh"), 8).unwrap();
        whole.push(chunk(100, b"abcd"), 8).unwrap();
        assert_eq!(whole.finish(), b"abcdefgh");
        assert!(Assembly::default().finish().is_empty());
    }

    #[test]
    fn chunks_follow_what_came_in_order() {
        let mut whole = Assembly::after(b"abcd".to_vec());
        whole.push(chunk(108, b"ijkl"), 12).unwrap();
        whole.push(chunk(104, b"efgh"), 12).unwrap();
        assert_eq!(
            whole.push(chunk(112, b"m"), 12),
            Err(ReadToEndError::TooLong)
        );
        assert_eq!(whole.finish(), b"abcdefghijkl");
    }

    #[test]
    fn limit_counts_what_is_missing_too() {
        let mut whole = Assembly::default();
        whole.push(chunk(4, b"efgh"), 6).unwrap();
        assert_eq!(
            whole.push(chunk(0, b"abcd"), 6),
            Err(ReadToEndError::TooLong)
        );
    }
}
