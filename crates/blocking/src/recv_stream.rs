//! The receiving half of a stream, for threads.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{Chunk, ClosedStream, StreamId, VarInt};
use polyquic_endpoint as handles;

use crate::wait::{check_timeout, try_wait};

/// A stream, or half of one, that can be read from through [`Read`].
///
/// The end of the data (`Ok(0)`) is only reported when the peer finished the stream; a peer that
/// gave up shows as [`io::ErrorKind::ConnectionReset`], with its code in
/// [`stream_error_code`](crate::stream_error_code). Dropping a stream that was not read to its end
/// tells the peer to stop sending, with code 0.
///
/// The two halves of a bidirectional stream can be moved to different threads.
///
/// # Blocking and timeouts
///
/// Reading blocks until there is something, for as long as
/// [`set_read_timeout`](Self::set_read_timeout) allows. As with `TcpStream`, running out of time
/// shows as [`io::ErrorKind::WouldBlock`]: nothing was taken from the stream, and what arrives later
/// can be read later. A connection whose peer went silent reports [`io::ErrorKind::TimedOut`]
/// instead.
///
/// Of the provided methods of [`Read`], `read_to_end` and `read_to_string` append what they have
/// read before they fail; `read_exact` and [`io::copy`] do not tell how much that was. Under a
/// timeout, use `read` or the methods below.
#[derive(Debug)]
pub struct RecvStream {
    inner: handles::RecvStream,
    read_timeout: Option<Duration>,
    /// What [`read_to_limit`](Self::read_to_limit) took before it failed; next to be read.
    unread: VecDeque<Chunk>,
}

impl RecvStream {
    pub(crate) fn new(inner: handles::RecvStream) -> Self {
        Self {
            inner,
            read_timeout: None,
            unread: VecDeque::new(),
        }
    }

    /// Limit how long reading, and [`received_reset`](Self::received_reset), block. `None`, the
    /// default: forever.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for a timeout of zero, as with `TcpStream`.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.read_timeout = check_timeout(timeout)?;
        Ok(())
    }

    /// What [`set_read_timeout`](Self::set_read_timeout) set.
    pub fn read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    /// Take the next chunk of at most `max_length` bytes without copying, blocking until there is
    /// one; `None` at the end.
    ///
    /// With `ordered` false, chunks come as they arrived; [`Chunk::offset`] tells where they belong.
    /// After that, ordered reads of this stream fail.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ConnectionReset`] when the peer reset the stream,
    /// [`io::ErrorKind::InvalidInput`] for an ordered read after an unordered one,
    /// [`io::ErrorKind::WouldBlock`] when time ran out, or the connection is lost.
    pub fn read_chunk(&mut self, max_length: usize, ordered: bool) -> io::Result<Option<Chunk>> {
        if let Some(mut chunk) = self.unread.pop_front() {
            if chunk.bytes.len() > max_length {
                let bytes = chunk.bytes.split_to(max_length);
                let offset = chunk.offset;
                chunk.offset += max_length as u64;
                self.unread.push_front(chunk);
                return Ok(Some(Chunk { offset, bytes }));
            }
            return Ok(Some(chunk));
        }
        try_wait(
            self.inner.read_chunk(max_length, ordered),
            self.read_timeout,
        )
    }

    /// Take the next chunks without copying, as many as there are and fit into `bufs`, blocking
    /// until there is one; returns how many, or `None` at the end.
    ///
    /// # Errors
    ///
    /// As [`read_chunk`](Self::read_chunk).
    pub fn read_chunks(&mut self, bufs: &mut [Bytes]) -> io::Result<Option<usize>> {
        if self.unread.is_empty() {
            return try_wait(self.inner.read_chunks(bufs), self.read_timeout);
        }
        let count = self.unread.len().min(bufs.len());
        for (buf, chunk) in bufs.iter_mut().zip(self.unread.drain(..count)) {
            *buf = chunk.bytes;
        }
        Ok(Some(count))
    }

    /// Read everything up to the end of the stream, at most `size_limit` bytes, blocking until it is
    /// there.
    ///
    /// Unlike `read_to_end` of [`Read`], it lets no peer fill the memory. When it fails, what was
    /// read so far is kept: after a timeout, call it again; after another failure, it can still be
    /// read by other means. The read timeout applies to each wait for more data, not to the whole.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidData`] when there is more, else as [`read_chunk`](Self::read_chunk).
    #[doc(alias = "read_to_end")]
    pub fn read_to_limit(&mut self, size_limit: usize) -> io::Result<Vec<u8>> {
        let mut size = self.unread.iter().map(|chunk| chunk.bytes.len()).sum();
        loop {
            if size > size_limit {
                return Err(handles::ReadToEndError::TooLong.into());
            }
            match try_wait(self.inner.read_chunk(usize::MAX, true), self.read_timeout)? {
                Some(chunk) => {
                    size += chunk.bytes.len();
                    self.unread.push_back(chunk);
                }
                None => break,
            }
        }
        let mut whole = Vec::with_capacity(size);
        for chunk in self.unread.drain(..) {
            whole.extend_from_slice(&chunk.bytes);
        }
        Ok(whole)
    }

    /// Tell the peer to stop sending, with a code for its application (RFC 9000 section 3.5), and
    /// drop what was not read. Does not block.
    ///
    /// # Errors
    ///
    /// The stream has ended already; harmless.
    pub fn stop(&mut self, error_code: VarInt) -> Result<(), ClosedStream> {
        self.unread.clear();
        self.inner.stop(error_code)
    }

    /// Block until the peer resets the stream; `None` when it ended otherwise. Data that was not
    /// read is not lost by waiting.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when the read timeout ran out, or the connection is lost.
    pub fn received_reset(&mut self) -> io::Result<Option<VarInt>> {
        try_wait(self.inner.received_reset(), self.read_timeout)
    }

    /// Whether the stream was opened before the handshake was complete, so that what is read from it
    /// may have been replayed.
    pub fn is_0rtt(&self) -> bool {
        self.inner.is_0rtt()
    }

    /// The stream's id (RFC 9000 section 2.1).
    pub fn id(&self) -> StreamId {
        self.inner.id()
    }
}

impl Read for RecvStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if !self.unread.is_empty() {
            return Ok(match self.read_chunk(buf.len(), true)? {
                Some(chunk) => {
                    buf[..chunk.bytes.len()].copy_from_slice(&chunk.bytes);
                    chunk.bytes.len()
                }
                None => 0,
            });
        }
        let read = try_wait(self.inner.read(buf), self.read_timeout)?;
        Ok(read.unwrap_or(0))
    }
}
