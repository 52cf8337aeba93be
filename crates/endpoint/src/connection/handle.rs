//! The handle to a connection.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{
    ConnectionError, ConnectionStats, Dir, Side, VarInt, congestion::Controller,
    crypto::ExportKeyingMaterialError,
};

use super::futures::{
    AcceptBi, AcceptUni, Closed, OpenBi, OpenUni, ReadDatagram, SendDatagramWait,
};
use super::{ConnectionRef, State};
use crate::error::SendDatagramError;
use crate::shared::wake_all;

/// A QUIC connection.
///
/// Cloning gives another handle to the same connection; handles may be used from any thread. When
/// the last handle is gone (streams count as handles), the connection is closed with code 0: what
/// was written to finished streams is delivered first, for up to three seconds; unfinished streams
/// have been reset by then.
///
/// quinn's users will find every method of quinn's `Connection` here, with the same meaning. Two
/// things are different, because they hurt: dropping the last handle does not cut off what was
/// finished, and dropping an unfinished [`SendStream`](crate::SendStream) resets it.
#[derive(Debug, Clone)]
pub struct Connection(ConnectionRef);

impl Connection {
    pub(crate) fn new(conn: ConnectionRef) -> Self {
        Self(conn)
    }

    fn with<T>(&self, f: impl FnOnce(&State) -> T) -> T {
        f(&self.0.lock())
    }

    // Streams

    /// Open a unidirectional stream, waiting while the peer allows no more of them.
    ///
    /// Opening sends nothing: the peer learns of the stream when something is written to it.
    /// Cancel-safe.
    pub fn open_uni(&self) -> OpenUni<'_> {
        OpenUni::new(&self.0)
    }

    /// Open a bidirectional stream, waiting while the peer allows no more of them.
    ///
    /// Opening sends nothing: the peer learns of the stream when something is written to it, so
    /// that reading an answer without having written waits forever. Cancel-safe.
    pub fn open_bi(&self) -> OpenBi<'_> {
        OpenBi::new(&self.0)
    }

    /// Wait for the peer's next unidirectional stream. Cancel-safe.
    pub fn accept_uni(&self) -> AcceptUni<'_> {
        AcceptUni::new(&self.0)
    }

    /// Wait for the peer's next bidirectional stream. Cancel-safe.
    pub fn accept_bi(&self) -> AcceptBi<'_> {
        AcceptBi::new(&self.0)
    }

    // Datagrams (RFC 9221)

    /// Wait for an unreliable datagram. Cancel-safe.
    pub fn read_datagram(&self) -> ReadDatagram<'_> {
        ReadDatagram::new(&self.0)
    }

    /// Send an unreliable datagram, dropping the oldest unsent ones when there is no room.
    ///
    /// # Errors
    ///
    /// The peer takes no datagrams, or none of this size (see
    /// [`max_datagram_size`](Self::max_datagram_size)), or the connection is lost.
    pub fn send_datagram(&self, data: Bytes) -> Result<(), SendDatagramError> {
        let mut state = self.0.lock();
        if let Some(error) = &state.error {
            return Err(SendDatagramError::ConnectionLost(error.clone()));
        }
        state.machine.datagrams().send(data, true)?;
        state.touch();
        Ok(())
    }

    /// Send an unreliable datagram, waiting for room. Cancel-safe: dropped early, it sent nothing.
    ///
    /// # Errors
    ///
    /// As [`send_datagram`](Self::send_datagram).
    pub fn send_datagram_wait(&self, data: Bytes) -> SendDatagramWait<'_> {
        SendDatagramWait::new(&self.0, data)
    }

    /// Largest datagram in bytes that can be sent now; `None` when the peer takes none.
    ///
    /// Changes with the path MTU.
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.0.lock().machine.datagrams().max_size()
    }

    /// Bytes of datagrams that can be queued before older ones are dropped.
    pub fn datagram_send_buffer_space(&self) -> usize {
        self.0.lock().machine.datagrams().send_buffer_space()
    }

    // Closing

    /// Wait until the connection is closed, for whatever reason, and tell it. Cancel-safe.
    pub fn closed(&self) -> Closed<'_> {
        Closed::new(&self.0)
    }

    /// Why the connection is closed; `None` while it is open.
    pub fn close_reason(&self) -> Option<ConnectionError> {
        self.with(|state| state.error.clone())
    }

    /// Close now (RFC 9000 section 10.2): pending operations fail with
    /// [`ConnectionError::LocallyClosed`], and what is not delivered yet is lost.
    ///
    /// Code and reason are for the peer's application. The reason is cut to fit one packet.
    ///
    /// Only who received the last data can know that all of it arrived, and should be the one that
    /// closes. To wait for the peer's acknowledgement of a stream, use
    /// [`SendStream::stopped`](crate::SendStream::stopped); to deliver what was finished and then
    /// close everything, [`Endpoint::close`](crate::Endpoint::close); to make sure that the peer
    /// hears of it before the process ends, [`Endpoint::wait_idle`](crate::Endpoint::wait_idle).
    pub fn close(&self, error_code: VarInt, reason: &[u8]) {
        let now = self.0.inner().endpoint.clock.now();
        let mut woken = Vec::new();
        {
            let mut state = self.0.lock();
            state
                .machine
                .close(now, error_code, Bytes::copy_from_slice(reason));
            state.terminate(ConnectionError::LocallyClosed, &mut woken);
            state.touch();
        }
        wake_all(&mut woken);
    }

    // Looking

    /// Whether this side is the client or the server.
    pub fn side(&self) -> Side {
        self.with(|state| state.machine.side())
    }

    /// The peer's address. Changes when the peer migrates (RFC 9000 section 9).
    pub fn remote_address(&self) -> SocketAddr {
        self.with(|state| state.machine.remote_address())
    }

    /// The local address at which the peer's first datagram arrived (servers, where the platform
    /// tells).
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.with(|state| state.machine.local_ip())
    }

    /// The current estimate of the round-trip time (RFC 9002 section 5).
    pub fn rtt(&self) -> Duration {
        self.with(|state| state.machine.rtt())
    }

    /// The least round-trip time seen on this path, the peer's delay not deducted.
    pub fn min_rtt(&self) -> Duration {
        self.with(|state| state.machine.min_rtt())
    }

    /// Counters: datagrams, frames, losses, the congestion window, the path MTU.
    pub fn stats(&self) -> ConnectionStats {
        self.with(|state| state.machine.stats())
    }

    /// A copy of the congestion controller's state, for diagnosis.
    pub fn congestion_state(&self) -> Box<dyn Controller> {
        self.with(|state| state.machine.congestion_state().clone_box())
    }

    /// What was negotiated; with rustls a
    /// [`crypto::rustls::HandshakeData`](polyquic_core::crypto::rustls::HandshakeData). `None` only
    /// on connections used before their handshake got that far.
    pub fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.with(|state| state.machine.crypto_session().handshake_data())
    }

    /// Who the peer proved to be; with rustls its chain of certificates, a
    /// `Vec<rustls::pki_types::CertificateDer>`.
    pub fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.with(|state| state.machine.crypto_session().peer_identity())
    }

    /// A number that stays with this connection and that no other living one of this process has.
    pub fn stable_id(&self) -> usize {
        self.0.stable_id()
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
        self.with(|state| {
            state
                .machine
                .crypto_session()
                .export_keying_material(output, label, context)
        })
    }

    // Tuning

    /// Update the packet protection keys now (RFC 9001 section 6), or once the handshake is confirmed. It
    /// happens by itself in time.
    ///
    /// Leave it to one side, and to times when that side sends: with quinn-proto 0.11.19, updates of both
    /// sides shortly after each other, while one has nothing to say, can leave them without keys in common.
    pub fn force_key_update(&self) {
        let mut state = self.0.lock();
        state.machine.force_key_update();
        state.touch();
    }

    /// Change how many unidirectional streams the peer may have open at once.
    pub fn set_max_concurrent_uni_streams(&self, count: VarInt) {
        self.set_max_concurrent_streams(Dir::Uni, count);
    }

    /// Change how many bidirectional streams the peer may have open at once.
    pub fn set_max_concurrent_bi_streams(&self, count: VarInt) {
        self.set_max_concurrent_streams(Dir::Bi, count);
    }

    fn set_max_concurrent_streams(&self, dir: Dir, count: VarInt) {
        let mut state = self.0.lock();
        state.machine.set_max_concurrent_streams(dir, count);
        // The peer must hear of it.
        state.touch();
    }

    /// Change how many bytes that were written are kept until they are acknowledged.
    pub fn set_send_window(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.machine.set_send_window(bytes);
        state.touch();
    }

    /// Change how many bytes the peer may send, over all streams, before they are read.
    pub fn set_receive_window(&self, bytes: VarInt) {
        let mut state = self.0.lock();
        state.machine.set_receive_window(bytes);
        state.touch();
    }
}
