//! The connection machine.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn_proto::{
    ClosedStream, ConnectionEvent, ConnectionStats, Dir, EndpointEvent, Event, RecvStream,
    SendStream, Side, StreamEvent, StreamId, Streams, Transmit, VarInt, congestion,
};

use crate::config::Additions;
use crate::datagrams::{Datagrams, Received};
use crate::deferral::Deferral;
use crate::gate::{Gate, Probes};
use crate::moves::Moves;
use crate::{BatchSizer, HandshakeJob, Instant, crypto};

/// One connection.
///
/// # Kinds of methods
///
/// *Getters* look, and change nothing. *Input*: [`handle_event`](Self::handle_event) (from
/// [`Endpoint::handle`](crate::Endpoint::handle) and
/// [`Endpoint::handle_event`](crate::Endpoint::handle_event)),
/// [`handle_timeout`](Self::handle_timeout). *Mutators* act for the application: streams,
/// datagrams, closing. *Output*: [`poll_transmit`](Self::poll_transmit),
/// [`poll_timeout`](Self::poll_timeout), [`poll_endpoint_events`](Self::poll_endpoint_events),
/// [`poll`](Self::poll), to be drained in this order after any input or mutation.
///
/// Times passed in must not go backwards. Calls with the same time may come in any order.
pub struct Connection {
    inner: quinn_proto::Connection,
    batch: BatchSizer,
    additions: Additions,
    /// Streams that the peer may have open at present, by [`Dir`].
    granted: [VarInt; 2],
    /// On servers whose TLS may be done elsewhere.
    deferral: Option<Box<Deferral>>,
    datagrams: Received,
    /// Of all its congestion controllers.
    gate: Arc<Gate>,
    probes: Probes,
    /// Whether the handshake is confirmed (RFC 9001 section 4.1.2), as far as was looked.
    confirmed: bool,
    /// A key update that was asked for before the handshake was confirmed.
    key_update_due: bool,
    /// On clients: whether a probe timeout may have fired before the handshake was confirmed.
    waited: bool,
    /// On servers, whose clients move.
    moves: Moves,
}

impl Connection {
    /// The congestion controller of `inner` was built around `gate`, at `now`.
    pub(crate) fn new(
        inner: quinn_proto::Connection,
        gate: Arc<Gate>,
        now: Instant,
        additions: Additions,
        deferral: Option<Deferral>,
    ) -> Self {
        let granted = [Dir::Bi, Dir::Uni].map(|dir| {
            // None is open yet, so that this is the configured number.
            VarInt::from_u64(inner.max_concurrent_streams(dir)).unwrap_or(VarInt::MAX)
        });
        let mut this = Self {
            inner,
            batch: BatchSizer::default(),
            additions,
            granted,
            deferral: deferral.map(Box::new),
            datagrams: Received::new(additions.datagram_bytes),
            gate,
            probes: Probes::new(now),
            confirmed: false,
            key_update_due: false,
            waited: false,
            moves: Moves::default(),
        };
        // What came with a first packet.
        this.collect_datagrams();
        this
    }

    // Input

    /// Take in a datagram of `bytes` from `from` that the endpoint routed here.
    pub fn handle_datagram(&mut self, event: ConnectionEvent, from: SocketAddr, bytes: usize) {
        if self.side().is_client() {
            return self.take_in(event);
        }
        let before = self.inner.remote_address();
        // quinn-proto drops it, too, but counts it as if it came from where the handshake began: that
        // address, which nobody has proved, would be sent three times as much (RFC 9000 section 8.1).
        if from != before && self.inner.is_handshaking() {
            return;
        }
        if from == before && !self.moves.is_challenged() {
            return self.take_in(event);
        }
        let frames = self.inner.stats().frame_rx;
        let (challenges, responses) = (frames.path_challenge, frames.path_response);
        self.handle_event(event);
        let frames = self.inner.stats().frame_rx;
        if self.inner.remote_address() != before {
            self.moves.moved(before, from, bytes);
        } else if from != before && frames.path_challenge > challenges {
            self.moves.claimed(from, bytes);
        } else {
            let answers = frames.path_response > responses;
            self.moves.received(from, bytes, from == before, answers);
        }
    }

    /// Take in what the endpoint has to say, or a datagram of unknown size that it routed here.
    pub fn handle_event(&mut self, event: ConnectionEvent) {
        if self.side().is_client() {
            return self.take_in(event);
        }
        // A client that moves gets a path, and a controller, of its own.
        let gate = self.gate.clone();
        gate.around(|| self.take_in(event));
    }

    /// Take in what does not move the client.
    fn take_in(&mut self, event: ConnectionEvent) {
        match &mut self.deferral {
            Some(deferral) if deferral.link.is_away() && !self.inner.is_closed() => {
                deferral.hold(event);
            }
            _ => {
                self.inner.handle_event(event);
                self.collect_datagrams();
            }
        }
        if (self.key_update_due || self.waited) && self.is_confirmed() {
            self.on_confirmed();
        }
    }

    /// Do what waited for the handshake to be confirmed.
    fn on_confirmed(&mut self) {
        if std::mem::take(&mut self.waited) {
            // quinn-proto does not begin anew to count probe timeouts when the handshake's keys are
            // dropped (RFC 9002 section 6.2.2). Many were needed to get here if the first guess of the
            // round-trip time was far too low, and what was sent since and lost would be repeated as
            // late as after a peer's idle timeout. An answer ends that.
            self.inner.ping();
        }
        if self.key_update_due {
            self.force_key_update();
        }
    }

    /// Take over what quinn-proto has, which would keep more alive than it says.
    fn collect_datagrams(&mut self) {
        while let Some(datagram) = self.inner.datagrams().recv() {
            self.datagrams.push(datagram);
        }
    }

    /// The same for what does not come from the network, or came before: `bytes` that do not count.
    pub(crate) fn inject(&mut self, event: ConnectionEvent, bytes: usize) {
        if let Some(deferral) = &mut self.deferral {
            deferral.inject(bytes);
        }
        self.inner.handle_event(event);
        self.collect_datagrams();
    }

    /// Do what is due at `now`. Too early a call is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.inner.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let before = self.inner.remote_address();
        self.inner.handle_timeout(now);
        let remote = self.inner.remote_address();
        if remote != before {
            self.moves.returned(remote);
        }
        if !self.confirmed {
            self.on_handshake_timeout(now);
        }
    }

    /// Some timer was due, and when last looked at, the handshake was not confirmed.
    fn on_handshake_timeout(&mut self, now: Instant) {
        self.confirmed = self.is_confirmed();
        if self.confirmed {
            return self.gate.rest();
        }
        let acks = self.inner.stats().frame_rx.acks;
        if self.probes.may_be_due(now, self.inner.rtt(), acks) {
            self.waited |= self.side().is_client();
            self.gate.relieve();
        }
    }

    // Output

    /// Next datagrams to send, written to `buf`, which must be empty.
    ///
    /// Holds several of [`Transmit::segment_size`] bytes when `max_segments`, what the socket
    /// supports, is above 1; how many follows from what this connection has been filling. Call it
    /// until it returns `None`, within a budget: the last call tells congestion control that the
    /// application, not the network, is the limit.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        max_segments: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        if self.inner.is_closed() {
            self.gate.open();
        }
        let mut limit = self.batch.limit(self.inner.current_mtu(), max_segments);
        if let Some(deferral) = &self.deferral {
            // Not even an acknowledgement, which would travel alone, and have the client ask what
            // takes so long, in full datagrams.
            if deferral.link.is_away() && !self.inner.is_closed() {
                return None;
            }
            if deferral.counts_sends() {
                if deferral.is_blocked(&self.inner.stats()) {
                    return None;
                }
                limit = 1;
            }
        }
        let asking = (self.additions.pad_to_mtu).then(|| asking_frames(&self.inner.stats()));
        let transmit = if self.moves.is_idle() {
            self.inner.poll_transmit(now, limit, buf)?
        } else {
            self.transmit_to_mover(now, limit, buf)?
        };
        if asking.is_some_and(|before| before == asking_frames(&self.inner.stats())) {
            self.gate.sent_padded(transmit.size as u64);
        }
        self.batch.sent(datagrams(&transmit));
        Some(transmit)
    }

    /// The next datagrams for a client that moved, or tries to, if they may be sent to where they go.
    fn transmit_to_mover(
        &mut self,
        now: Instant,
        limit: usize,
        buf: &mut Vec<u8>,
    ) -> Option<Transmit> {
        let remote = self.inner.remote_address();
        while self.moves.may_ask(remote, self.inner.current_mtu().into()) {
            let transmit = if self.moves.is_challenged() {
                self.transmit_to_unproved(now, buf)
            } else {
                self.inner.poll_transmit(now, limit, buf)
            }?;
            // Answers to challenges go to where these came from, and the old path is challenged, too.
            let to = transmit.destination;
            let proved = to == remote && !self.moves.is_challenged();
            if proved || self.moves.may_send(to, transmit.size) {
                self.moves.sent(to, transmit.size);
                return Some(transmit);
            }
            buf.clear();
        }
        None
    }

    /// The next datagram, while quinn-proto may be challenging the current address. Shows if it is not.
    fn transmit_to_unproved(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        let (remote, closed) = (self.inner.remote_address(), self.inner.is_closed());
        let before = self.inner.stats();
        let transmit = self.inner.poll_transmit(now, 1, buf);
        self.moves.asked();
        let transmit = transmit?;
        let after = self.inner.stats();
        // No other packets than these can do without a challenge that is due.
        let probes_mtu = after.path.sent_plpmtud_probes > before.path.sent_plpmtud_probes;
        if transmit.destination == remote && !probes_mtu && !closed {
            let challenges = after.frame_tx.path_challenge > before.frame_tx.path_challenge;
            self.moves.made(remote, challenges);
        }
        Some(transmit)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    /// What the endpoint must be told.
    pub fn poll_endpoint_events(&mut self) -> Option<EndpointEvent> {
        self.inner.poll_endpoint_events()
    }

    /// What the application should know.
    pub fn poll(&mut self) -> Option<Event> {
        if let Some(deferral) = &mut self.deferral
            && std::mem::take(&mut deferral.data_ready)
        {
            return Some(Event::HandshakeDataReady);
        }
        let event = self.inner.poll()?;
        if let Event::Stream(StreamEvent::Opened { dir }) = event {
            self.grant_streams(dir);
        }
        Some(event)
    }

    /// The TLS of the handshake, if that is to be done elsewhere, and can be done now; at most once
    /// for a connection. To be asked for after draining.
    ///
    /// Until [`Endpoint::resume`](crate::Endpoint::resume) is called after the job was run, the
    /// connection neither takes in nor sends anything: what comes for it waits, and its timeouts go
    /// on. It may be closed meanwhile, and then the job does not matter any more.
    pub fn take_handshake_job(&mut self) -> Option<HandshakeJob> {
        self.deferral.as_ref()?.take_job()
    }

    /// What the connection needs around TLS that was done elsewhere.
    pub(crate) fn deferral(&mut self) -> Option<&mut Deferral> {
        self.deferral.as_deref_mut()
    }

    /// Let the peer open all its streams once it has opened half of those it may.
    fn grant_streams(&mut self, dir: Dir) {
        let open = self.inner.streams().remote_open_streams(dir);
        let current = self.inner.max_concurrent_streams(dir);
        if let Some(limit) = self.additions.grown(dir, open, current) {
            self.grant(dir, limit);
        }
    }

    // Mutators

    /// Opening and accepting streams.
    pub fn streams(&mut self) -> Streams<'_> {
        self.inner.streams()
    }

    /// The receiving half of a stream. Panics when a stream of this kind has none.
    pub fn recv_stream(&mut self, id: StreamId) -> RecvStream<'_> {
        self.inner.recv_stream(id)
    }

    /// Tell the peer to stop sending on a stream (RFC 9000 section 3.5), and drop what was not read.
    ///
    /// To be used instead of `stop` of [`recv_stream`](Self::recv_stream). When that is the end of
    /// the stream, quinn-proto tells the peer that it may open another one only after the next packet
    /// has arrived, and a peer that waits for just that sends none.
    ///
    /// # Errors
    ///
    /// The stream has ended already.
    pub fn stop_stream(&mut self, id: StreamId, error_code: VarInt) -> Result<(), ClosedStream> {
        self.inner.recv_stream(id).stop(error_code)?;
        if id.initiator() != self.side() {
            // Setting the limit to what it is has quinn-proto look for what the peer may be told.
            let dir = id.dir();
            self.inner
                .set_max_concurrent_streams(dir, self.granted[dir as usize]);
        }
        Ok(())
    }

    /// The sending half of a stream. Panics when a stream of this kind has none.
    pub fn send_stream(&mut self, id: StreamId) -> SendStream<'_> {
        self.inner.send_stream(id)
    }

    /// Unreliable datagrams (RFC 9221).
    pub fn datagrams(&mut self) -> Datagrams<'_> {
        Datagrams {
            inner: self.inner.datagrams(),
            received: &mut self.datagrams,
        }
    }

    /// Close with an application's code and reason (RFC 9000 section 10.2). What has not been
    /// delivered is lost.
    pub fn close(&mut self, now: Instant, error_code: VarInt, reason: Bytes) {
        self.inner.close(now, error_code, reason);
    }

    /// Send a PING frame, which the peer acknowledges.
    pub fn ping(&mut self) {
        self.inner.ping();
    }

    /// Update the packet protection keys (RFC 9001 section 6); once the handshake is confirmed, if it
    /// is not yet. Does nothing while an update is under way.
    pub fn force_key_update(&mut self) {
        // quinn-proto would do so as soon as the handshake is complete, which section 6.1 forbids.
        self.key_update_due = !self.is_confirmed();
        if !self.key_update_due {
            self.inner.force_key_update();
        }
    }

    /// Whether the handshake is confirmed (RFC 9001 section 4.1.2).
    fn is_confirmed(&self) -> bool {
        match self.side() {
            Side::Client => self.inner.stats().frame_rx.handshake_done > 0,
            Side::Server => !self.inner.is_handshaking(),
        }
    }

    /// Note that the local address changed: take another connection id and find the path anew.
    pub fn local_address_changed(&mut self) {
        self.inner.local_address_changed();
    }

    /// Change how many streams the peer may have open at once.
    pub fn set_max_concurrent_streams(&mut self, dir: Dir, count: VarInt) {
        self.additions.set(dir, count);
        self.grant(dir, count);
    }

    fn grant(&mut self, dir: Dir, count: VarInt) {
        self.granted[dir as usize] = count;
        self.inner.set_max_concurrent_streams(dir, count);
    }

    /// Change how many bytes written by the application are kept until they are acknowledged.
    pub fn set_send_window(&mut self, bytes: u64) {
        self.inner.set_send_window(bytes);
    }

    /// Change how many bytes the peer may send before the application has read them.
    pub fn set_receive_window(&mut self, bytes: VarInt) {
        self.inner.set_receive_window(bytes);
    }

    // Getters

    /// Client or server.
    pub fn side(&self) -> Side {
        self.inner.side()
    }

    /// Whether the handshake is still going on.
    pub fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    /// Whether the connection was closed, by either side or by an error.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Whether nothing more will come of this connection.
    pub fn is_drained(&self) -> bool {
        self.inner.is_drained()
    }

    /// Whether 0-RTT keys are at hand (clients only).
    pub fn has_0rtt(&self) -> bool {
        self.inner.has_0rtt()
    }

    /// Whether the server accepted 0-RTT data (clients, after the handshake).
    pub fn accepted_0rtt(&self) -> bool {
        self.inner.accepted_0rtt()
    }

    /// Whether several datagrams may go into one send, as configured.
    pub fn segmentation_offload(&self) -> bool {
        self.additions.segmentation_offload
    }

    /// The TLS session.
    pub fn crypto_session(&self) -> &dyn crypto::Session {
        self.inner.crypto_session()
    }

    /// The peer's current address.
    pub fn remote_address(&self) -> SocketAddr {
        self.inner.remote_address()
    }

    /// The local address at which the peer's first datagram arrived (servers, where known).
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.inner.local_ip()
    }

    /// The current estimate of the round-trip time.
    pub fn rtt(&self) -> Duration {
        self.inner.rtt()
    }

    /// The least round-trip time seen on this path.
    pub fn min_rtt(&self) -> Duration {
        self.inner.min_rtt()
    }

    /// Counters.
    pub fn stats(&self) -> ConnectionStats {
        let stats = self.inner.stats();
        match &self.deferral {
            Some(deferral) => deferral.corrected(stats),
            None => stats,
        }
    }

    /// The congestion controller's state.
    pub fn congestion_state(&self) -> &dyn congestion::Controller {
        self.inner.congestion_state()
    }

    /// Largest UDP payload in bytes that the path is known to carry.
    pub fn current_mtu(&self) -> u16 {
        self.inner.current_mtu()
    }
}

/// How many frames were sent that ask for an acknowledgement: all but ACK and CONNECTION_CLOSE.
fn asking_frames(stats: &ConnectionStats) -> u64 {
    let frames = &stats.frame_tx;
    let all = [
        frames.ack_frequency,
        frames.crypto,
        frames.data_blocked,
        frames.datagram,
        frames.handshake_done.into(),
        frames.immediate_ack,
        frames.max_data,
        frames.max_stream_data,
        frames.max_streams_bidi,
        frames.max_streams_uni,
        frames.new_connection_id,
        frames.new_token,
        frames.path_challenge,
        frames.path_response,
        frames.ping,
        frames.reset_stream,
        frames.retire_connection_id,
        frames.stream_data_blocked,
        frames.streams_blocked_bidi,
        frames.streams_blocked_uni,
        frames.stop_sending,
        frames.stream,
    ];
    all.iter().sum()
}

/// How many datagrams a transmit holds.
fn datagrams(transmit: &Transmit) -> usize {
    transmit
        .segment_size
        .map_or(1, |segment| transmit.size.div_ceil(segment))
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("side", &self.side())
            .field("remote_address", &self.remote_address())
            .finish_non_exhaustive()
    }
}
