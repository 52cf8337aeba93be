//! The connection for threads.

use std::any::Any;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{
    ConnectionError, ConnectionStats, Side, VarInt, congestion::Controller,
    crypto::ExportKeyingMaterialError,
};
use polyquic_endpoint as handles;

use crate::wait::{datagram_error, try_wait, wait};
use crate::{RecvStream, SendStream, block_on};

/// A QUIC connection: any number of streams both ways, and datagrams.
///
/// Cloning gives another handle to the same connection; handles may be used by any number of threads
/// at once. When the last handle is gone (streams count as handles), the connection is closed with
/// code 0: what was written to finished streams is delivered first, for up to three seconds.
///
/// Methods that may block say so; each of them has a variant with a timeout, which fails with
/// [`io::ErrorKind::WouldBlock`] when time ran out, and has done nothing then.
#[derive(Debug, Clone)]
pub struct Connection {
    inner: handles::Connection,
}

impl Connection {
    // Streams

    /// Open a bidirectional stream, blocking while the peer allows no more of them.
    ///
    /// Opening sends nothing: the peer learns of the stream when something is written to it, so
    /// that reading an answer without having written blocks forever.
    ///
    /// # Errors
    ///
    /// The connection is lost or closed.
    pub fn open_bi(&self) -> io::Result<(SendStream, RecvStream)> {
        both(try_wait(self.inner.open_bi(), None))
    }

    /// [`open_bi`](Self::open_bi), blocking for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out, else as [`open_bi`](Self::open_bi).
    pub fn open_bi_timeout(&self, timeout: Duration) -> io::Result<(SendStream, RecvStream)> {
        both(try_wait(self.inner.open_bi(), Some(timeout)))
    }

    /// Open a unidirectional stream, blocking while the peer allows no more of them.
    ///
    /// Opening sends nothing: the peer learns of the stream when something is written to it.
    ///
    /// # Errors
    ///
    /// The connection is lost or closed.
    pub fn open_uni(&self) -> io::Result<SendStream> {
        try_wait(self.inner.open_uni(), None).map(SendStream::new)
    }

    /// [`open_uni`](Self::open_uni), blocking for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out, else as [`open_uni`](Self::open_uni).
    pub fn open_uni_timeout(&self, timeout: Duration) -> io::Result<SendStream> {
        try_wait(self.inner.open_uni(), Some(timeout)).map(SendStream::new)
    }

    /// Block until the peer's next bidirectional stream.
    ///
    /// # Errors
    ///
    /// The connection is lost or closed, and all streams that arrived before have been accepted.
    pub fn accept_bi(&self) -> io::Result<(SendStream, RecvStream)> {
        both(try_wait(self.inner.accept_bi(), None))
    }

    /// [`accept_bi`](Self::accept_bi), blocking for `timeout` at most. No stream is lost when time
    /// runs out.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out, else as [`accept_bi`](Self::accept_bi).
    pub fn accept_bi_timeout(&self, timeout: Duration) -> io::Result<(SendStream, RecvStream)> {
        both(try_wait(self.inner.accept_bi(), Some(timeout)))
    }

    /// Block until the peer's next unidirectional stream.
    ///
    /// # Errors
    ///
    /// As [`accept_bi`](Self::accept_bi).
    pub fn accept_uni(&self) -> io::Result<RecvStream> {
        try_wait(self.inner.accept_uni(), None).map(RecvStream::new)
    }

    /// [`accept_uni`](Self::accept_uni), blocking for `timeout` at most. No stream is lost when time
    /// runs out.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out, else as [`accept_bi`](Self::accept_bi).
    pub fn accept_uni_timeout(&self, timeout: Duration) -> io::Result<RecvStream> {
        try_wait(self.inner.accept_uni(), Some(timeout)).map(RecvStream::new)
    }

    /// Iterate over the peer's bidirectional streams. `next` blocks, and returns `None` when the
    /// connection has ended; [`close_reason`](Self::close_reason) tells why.
    pub fn incoming_bi(&self) -> IncomingBi<'_> {
        IncomingBi(self)
    }

    /// Iterate over the peer's unidirectional streams. `next` blocks, and returns `None` when the
    /// connection has ended; [`close_reason`](Self::close_reason) tells why.
    pub fn incoming_uni(&self) -> IncomingUni<'_> {
        IncomingUni(self)
    }

    // Datagrams (RFC 9221)

    /// Block until an unreliable datagram arrives.
    ///
    /// # Errors
    ///
    /// The connection is lost or closed, and all datagrams that arrived before have been read.
    pub fn read_datagram(&self) -> io::Result<Bytes> {
        try_wait(self.inner.read_datagram(), None)
    }

    /// [`read_datagram`](Self::read_datagram), blocking for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out, else as
    /// [`read_datagram`](Self::read_datagram).
    pub fn read_datagram_timeout(&self, timeout: Duration) -> io::Result<Bytes> {
        try_wait(self.inner.read_datagram(), Some(timeout))
    }

    /// Send an unreliable datagram, dropping the oldest unsent ones when there is no room. Does not
    /// block.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] when the peer or the transport configuration of this side
    /// takes no datagrams, [`io::ErrorKind::InvalidInput`] when it is larger than
    /// [`max_datagram_size`](Self::max_datagram_size), or the connection is lost.
    pub fn send_datagram(&self, data: impl Into<Bytes>) -> io::Result<()> {
        self.inner
            .send_datagram(data.into())
            .map_err(datagram_error)
    }

    /// Send an unreliable datagram, blocking until there is room.
    ///
    /// # Errors
    ///
    /// As [`send_datagram`](Self::send_datagram).
    pub fn send_datagram_wait(&self, data: impl Into<Bytes>) -> io::Result<()> {
        block_on(self.inner.send_datagram_wait(data.into())).map_err(datagram_error)
    }

    /// [`send_datagram_wait`](Self::send_datagram_wait), blocking for `timeout` at most.
    ///
    /// When time runs out, the datagram is not sent. To try again, pass a clone of it.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out, else as
    /// [`send_datagram`](Self::send_datagram).
    pub fn send_datagram_timeout(
        &self,
        data: impl Into<Bytes>,
        timeout: Duration,
    ) -> io::Result<()> {
        wait(self.inner.send_datagram_wait(data.into()), Some(timeout))?.map_err(datagram_error)
    }

    /// Largest datagram in bytes that can be sent now; `None` when the peer takes none.
    ///
    /// Changes with the path MTU.
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.inner.max_datagram_size()
    }

    /// Bytes of datagrams that can be queued before older ones are dropped.
    pub fn datagram_send_buffer_space(&self) -> usize {
        self.inner.datagram_send_buffer_space()
    }

    // Closing

    /// Block until the connection is closed, for whatever reason, and tell it.
    pub fn closed(&self) -> ConnectionError {
        block_on(self.inner.closed())
    }

    /// [`closed`](Self::closed), blocking for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when time ran out.
    pub fn closed_timeout(&self, timeout: Duration) -> io::Result<ConnectionError> {
        wait(self.inner.closed(), Some(timeout))
    }

    /// Why the connection is closed; `None` while it is open.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.inner.close_reason()
    }

    /// Close now (RFC 9000 section 10.2): blocked calls on all threads fail with
    /// [`ConnectionError::LocallyClosed`], and what is not delivered yet is lost. Does not block.
    ///
    /// Code and reason are for the peer's application. The reason is cut to fit one packet.
    ///
    /// Only who received the last data can know that all of it arrived, and should be the one that
    /// closes. To wait for the peer's acknowledgement of a stream, use [`SendStream::stopped`]; to
    /// deliver what was finished and then close everything,
    /// [`Endpoint::close`](crate::Endpoint::close) and
    /// [`Endpoint::wait_idle`](crate::Endpoint::wait_idle).
    pub fn close(&self, error_code: VarInt, reason: &[u8]) {
        self.inner.close(error_code, reason);
    }

    // Looking; none of these blocks

    /// Client or server.
    pub fn side(&self) -> Side {
        self.inner.side()
    }

    /// The peer's address. Changes when the peer migrates (RFC 9000 section 9).
    pub fn remote_address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    /// The local address at which the peer's first datagram arrived (servers, where the platform
    /// tells).
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.inner.local_ip()
    }

    /// The current estimate of the round-trip time (RFC 9002 section 5).
    pub fn rtt(&self) -> Duration {
        self.inner.rtt()
    }

    /// The least round-trip time seen on this path, the peer's delay not deducted.
    pub fn min_rtt(&self) -> Duration {
        self.inner.min_rtt()
    }

    /// Counters: datagrams, frames, losses, the congestion window, the path MTU.
    pub fn stats(&self) -> ConnectionStats {
        self.inner.stats()
    }

    /// A copy of the congestion controller's state, for diagnosis.
    pub fn congestion_state(&self) -> Box<dyn Controller> {
        self.inner.congestion_state()
    }

    /// What was negotiated; with rustls a
    /// [`crypto::rustls::HandshakeData`](polyquic_core::crypto::rustls::HandshakeData). `None` only
    /// on connections used before their handshake got that far.
    pub fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    /// Who the peer proved to be; with rustls its chain of certificates, a
    /// `Vec<rustls::pki_types::CertificateDer>`.
    pub fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    /// A number that stays with this connection and that no other living one of this process has.
    pub fn stable_id(&self) -> usize {
        self.inner.stable_id()
    }

    /// Keying material of this TLS session (RFC 5705, RFC 8446 section 7.5): the same on both sides
    /// for the same `label`, `context` and length.
    ///
    /// # Errors
    ///
    /// The length is not supported, or the handshake is not complete.
    pub fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }

    // Tuning; none of these blocks

    /// Update the packet protection keys now (RFC 9001 section 6). It happens by itself in time.
    pub fn force_key_update(&self) {
        self.inner.force_key_update();
    }

    /// Change how many unidirectional streams the peer may have open at once.
    pub fn set_max_concurrent_uni_streams(&self, count: VarInt) {
        self.inner.set_max_concurrent_uni_streams(count);
    }

    /// Change how many bidirectional streams the peer may have open at once.
    pub fn set_max_concurrent_bi_streams(&self, count: VarInt) {
        self.inner.set_max_concurrent_bi_streams(count);
    }

    /// Change how many bytes that were written are kept until they are acknowledged.
    pub fn set_send_window(&self, bytes: u64) {
        self.inner.set_send_window(bytes);
    }

    /// Change how many bytes the peer may send, over all streams, before they are read.
    pub fn set_receive_window(&self, bytes: VarInt) {
        self.inner.set_receive_window(bytes);
    }
}

fn both(
    streams: io::Result<(handles::SendStream, handles::RecvStream)>,
) -> io::Result<(SendStream, RecvStream)> {
    streams.map(|(send, recv)| (SendStream::new(send), RecvStream::new(recv)))
}

/// The same connection for threads, whatever drives it.
impl From<handles::Connection> for Connection {
    fn from(inner: handles::Connection) -> Self {
        Self { inner }
    }
}

/// The same connection for asynchronous code.
impl From<Connection> for handles::Connection {
    fn from(connection: Connection) -> Self {
        connection.inner
    }
}

/// Iterator of [`Connection::incoming_bi`].
#[derive(Debug)]
pub struct IncomingBi<'a>(&'a Connection);

impl Iterator for IncomingBi<'_> {
    type Item = (SendStream, RecvStream);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.accept_bi().ok()
    }
}

/// Iterator of [`Connection::incoming_uni`].
#[derive(Debug)]
pub struct IncomingUni<'a>(&'a Connection);

impl Iterator for IncomingUni<'_> {
    type Item = RecvStream;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.accept_uni().ok()
    }
}
