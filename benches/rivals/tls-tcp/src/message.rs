//! Messages with their length first.

use anyhow::{Context, Result, ensure};
use bytes::{Buf, Bytes, BytesMut};
use polyquic_bench::stack;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::pool::{RecvStream, SendStream, Tls};

const LENGTH_BYTES: usize = 4;
/// Four records of TLS.
const READ_BYTES: usize = 64 << 10;

pub(crate) struct Writer(WriteHalf<Tls>);

impl Writer {
    pub(crate) fn new(half: WriteHalf<Tls>) -> Self {
        Self(half)
    }

    async fn message(&mut self, data: impl Buf) -> Result<()> {
        let length = u32::try_from(data.remaining()).context("a message beyond 4 GiB")?;
        // With its length in one vectored write, and so in one record if it fits.
        let mut message = Bytes::copy_from_slice(&length.to_be_bytes()).chain(data);
        self.0.write_all_buf(&mut message).await?;
        // What the socket did not take yet is in a buffer of rustls.
        Ok(self.0.flush().await?)
    }
}

pub(crate) struct Reader {
    half: ReadHalf<Tls>,
    buffer: BytesMut,
    /// Bytes of the current message that have not been handed out.
    left: usize,
}

impl Reader {
    pub(crate) fn new(half: ReadHalf<Tls>) -> Self {
        Self {
            half,
            buffer: BytesMut::new(),
            left: 0,
        }
    }

    pub(crate) fn into_inner(self) -> ReadHalf<Tls> {
        self.half
    }

    /// Reads until so much is in the buffer; false if the peer has ended the connection before.
    async fn fill(&mut self, bytes: usize) -> Result<bool> {
        while self.buffer.len() < bytes {
            // Takes the same memory again once all that was handed out is gone.
            self.buffer.reserve(READ_BYTES);
            if self.half.read_buf(&mut self.buffer).await? == 0 {
                ensure!(self.buffer.is_empty(), "the connection ended in a message");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the length of the next message; false if there is none.
    async fn next(&mut self) -> Result<bool> {
        if !self.fill(LENGTH_BYTES).await? {
            return Ok(false);
        }
        self.left = self.buffer.get_u32() as usize;
        Ok(true)
    }

    /// What has arrived of the current message or the next; `None` at the end.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while self.left == 0 {
            if !self.next().await? {
                return Ok(None);
            }
        }
        ensure!(self.fill(1).await?, "the connection ended in a message");
        let chunk = self.buffer.split_to(self.left.min(self.buffer.len()));
        self.left -= chunk.len();
        Ok(Some(chunk.freeze()))
    }

    async fn whole(&mut self, limit_bytes: usize) -> Result<Vec<u8>> {
        ensure!(self.left == 0, "part of the message has been read already");
        ensure!(self.next().await?, "the connection ended without a message");
        ensure!(self.left <= limit_bytes, "more than asked for");
        let mut data = Vec::with_capacity(self.left);
        while self.left > 0 {
            ensure!(self.fill(1).await?, "the connection ended in a message");
            let count = self.left.min(self.buffer.len());
            data.extend_from_slice(&self.buffer[..count]);
            self.buffer.advance(count);
            self.left -= count;
        }
        Ok(data)
    }
}

impl stack::SendStream for SendStream {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<()> {
        self.message()?.message(chunk).await
    }

    async fn write_all(&mut self, data: &[u8]) -> Result<()> {
        self.message()?.message(data).await
    }

    fn finish(&mut self) -> Result<()> {
        self.end()
    }
}

impl stack::RecvStream for RecvStream {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.reader()?.chunk().await?;
        Ok(chunk)
    }

    async fn read_to_end(&mut self, limit_bytes: usize) -> Result<Vec<u8>> {
        let data = self.reader()?.whole(limit_bytes).await?;
        self.end();
        Ok(data)
    }

    fn stop(&mut self) {
        self.abandon();
    }
}
