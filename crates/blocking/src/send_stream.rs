//! The sending half of a stream, for threads.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{ClosedStream, StreamId, VarInt, Written};
use polyquic_endpoint as handles;

use crate::wait::{check_timeout, try_wait};

/// A stream, or half of one, that can be written to through [`Write`].
///
/// Call [`finish`](Self::finish) when everything was written. **A stream that is dropped before
/// that is reset** with code 0, so that the peer can tell an accident (an early return, a panic)
/// from the end of the data; dropping a `TcpStream` cannot.
///
/// The two halves of a bidirectional stream can be moved to different threads.
///
/// # Blocking and timeouts
///
/// Writing blocks while flow control or the send window leave no room, for as long as
/// [`set_write_timeout`](Self::set_write_timeout) allows. As with `TcpStream`, running out of time
/// shows as [`io::ErrorKind::WouldBlock`]: nothing was written by that call of `write`, and the
/// stream is as good as before. The provided methods of [`Write`] that call `write` repeatedly
/// (`write_all`, `write!`, [`io::copy`]) may have written a part by then and do not tell how much.
/// Under a timeout, use `write`, or [`write_chunk`](Self::write_chunk), which keeps the rest.
///
/// # Flushing
///
/// What was written is on its way: `flush` has nothing to do. It does not wait for the peer;
/// [`stopped`](Self::stopped) does, after [`finish`](Self::finish).
#[derive(Debug)]
pub struct SendStream {
    inner: handles::SendStream,
    write_timeout: Option<Duration>,
}

impl SendStream {
    pub(crate) fn new(inner: handles::SendStream) -> Self {
        Self {
            inner,
            write_timeout: None,
        }
    }

    /// Limit how long writing, and [`stopped`](Self::stopped), block. `None`, the default: forever.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for a timeout of zero, as with `TcpStream`.
    pub fn set_write_timeout(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.write_timeout = check_timeout(timeout)?;
        Ok(())
    }

    /// What [`set_write_timeout`](Self::set_write_timeout) set.
    pub fn write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    /// Write all of `chunk` without copying it, leaving it empty. Blocks like `write_all`.
    ///
    /// On failure, `chunk` holds what was not written: after a timeout, call again with it.
    ///
    /// # Errors
    ///
    /// As [`write_chunks`](Self::write_chunks).
    pub fn write_chunk(&mut self, chunk: &mut Bytes) -> io::Result<()> {
        while !chunk.is_empty() {
            self.write_chunks(std::slice::from_mut(chunk))?;
        }
        Ok(())
    }

    /// Write some of `chunks` without copying, blocking until at least one byte is accepted.
    ///
    /// Chunks that were written are empty afterwards; one that was written in part holds the rest.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ConnectionReset`] when the peer stopped the stream (see
    /// [`stream_error_code`](crate::stream_error_code)), [`io::ErrorKind::NotConnected`] when it was
    /// finished or reset here, [`io::ErrorKind::WouldBlock`] when time ran out, or the connection is
    /// lost.
    pub fn write_chunks(&mut self, chunks: &mut [Bytes]) -> io::Result<Written> {
        try_wait(self.inner.write_chunks(chunks), self.write_timeout)
    }

    /// Tell the peer that nothing more will be written. What was written is delivered. Does not
    /// block.
    ///
    /// To wait until the peer has all of it, use [`stopped`](Self::stopped).
    ///
    /// # Errors
    ///
    /// The stream was finished or reset before; harmless.
    pub fn finish(&mut self) -> Result<(), ClosedStream> {
        self.inner.finish()
    }

    /// Give the stream up with a code for the peer's application (RFC 9000 section 3.5). What was
    /// not sent yet is dropped, what was lost is not sent again. Does not block.
    ///
    /// # Errors
    ///
    /// The stream was reset before, or everything was delivered; harmless.
    pub fn reset(&mut self, error_code: VarInt) -> Result<(), ClosedStream> {
        self.inner.reset(error_code)
    }

    /// Block until the peer stops the stream, or has acknowledged everything after
    /// [`finish`](Self::finish).
    ///
    /// `Some` is the code with which the peer stopped it. `None` means that everything arrived at
    /// the peer's QUIC stack (its application may not have read it yet), or that the stream was
    /// reset here.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when the write timeout ran out, or the connection is lost.
    pub fn stopped(&self) -> io::Result<Option<VarInt>> {
        try_wait(self.inner.stopped(), self.write_timeout)
    }

    /// Send this stream's data before that of streams with a lower priority. Default: 0.
    ///
    /// # Errors
    ///
    /// The stream is closed.
    pub fn set_priority(&self, priority: i32) -> Result<(), ClosedStream> {
        self.inner.set_priority(priority)
    }

    /// The stream's priority.
    ///
    /// # Errors
    ///
    /// The stream is closed.
    pub fn priority(&self) -> Result<i32, ClosedStream> {
        self.inner.priority()
    }

    /// The stream's id (RFC 9000 section 2.1).
    pub fn id(&self) -> StreamId {
        self.inner.id()
    }
}

impl Write for SendStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            // Nothing to wait for.
            return Ok(0);
        }
        try_wait(self.inner.write(buf), self.write_timeout)
    }

    /// Does nothing, see [above](SendStream#flushing).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
