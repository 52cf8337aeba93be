//! Datagrams in and out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use bytes::BytesMut;

/// Explicit congestion notification codepoint of an IP packet (RFC 3168).
///
/// `None` in the fields that carry it means not ECN-capable, or not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// ECN-capable transport, codepoint 1 (binary 01).
    Ect1 = 0b01,
    /// ECN-capable transport, codepoint 0 (binary 10); what QUIC sends (RFC 9000 section 13.4).
    Ect0 = 0b10,
    /// Congestion experienced (binary 11).
    Ce = 0b11,
}

/// Where a received buffer came from.
#[derive(Debug, Clone, Copy)]
pub struct RecvMeta {
    /// The sender's address.
    pub peer: SocketAddr,
    /// The local address that it was sent to, where the platform tells.
    pub local_ip: Option<IpAddr>,
    /// The ECN codepoint of the packet (of all of them, when several were coalesced).
    pub ecn: Option<Ecn>,
    /// Length in bytes of each datagram in the buffer; the last one may be shorter.
    ///
    /// Equal to the buffer's length when it holds one datagram. Smaller when the kernel coalesced
    /// several (GRO). Never 0 for a non-empty buffer.
    pub stride: usize,
}

/// One or more datagrams from one peer.
#[derive(Debug)]
pub struct Received {
    /// The payloads, back to back, `meta.stride` bytes each.
    pub data: BytesMut,
    /// Where they came from.
    pub meta: RecvMeta,
}

/// A reusable list that [`DatagramSocket::poll_recv`] fills.
///
/// Its allocation is kept between calls. `limit` bounds how many messages one call may add, so that
/// the driver can take small steps when each message holds many datagrams.
#[derive(Debug)]
pub struct RecvBatch {
    items: Vec<Received>,
    limit: usize,
}

impl RecvBatch {
    /// An empty batch that takes at most `limit` messages (at least one).
    pub fn new(limit: usize) -> Self {
        Self {
            items: Vec::with_capacity(limit),
            limit: limit.max(1),
        }
    }

    /// How many more messages a socket may add.
    pub fn remaining(&self) -> usize {
        self.limit.saturating_sub(self.items.len())
    }

    /// Change the bound on messages (at least one).
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Add a message. Called by sockets.
    pub fn push(&mut self, received: Received) {
        self.items.push(received);
    }

    /// Take all messages out, keeping the allocation.
    pub fn drain(&mut self) -> impl Iterator<Item = Received> + '_ {
        self.items.drain(..)
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Datagrams to be sent to one peer.
#[derive(Debug, Clone, Copy)]
pub struct Transmit<'a> {
    /// The peer's address.
    pub destination: SocketAddr,
    /// The payloads, back to back.
    pub contents: &'a [u8],
    /// Length in bytes of each datagram in `contents` (the last one may be shorter), or `None` when
    /// it is a single one. Only set when [`Capabilities::max_send_segments`] is above 1.
    pub segment_size: Option<usize>,
    /// ECN codepoint to put on each packet.
    pub ecn: Option<Ecn>,
    /// Local address to send from; `None` lets the system choose.
    pub src_ip: Option<IpAddr>,
}

/// What a socket can do. Nothing above it assumes more than is stated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Most datagrams that one [`Transmit`] may hold (GSO); 1 without segmentation offload.
    pub max_send_segments: usize,
    /// Most datagrams that one [`Received`] may hold (GRO); 1 without.
    pub max_recv_segments: usize,
    /// Whether ECN codepoints are sent and reported.
    pub ecn: bool,
    /// Whether the network layer may fragment what is sent. Path MTU discovery needs `false`.
    pub may_fragment: bool,
}

impl Capabilities {
    /// The least that a socket can offer: single datagrams, no ECN, fragmentation possible.
    pub const fn minimal() -> Self {
        Self {
            max_send_segments: 1,
            max_recv_segments: 1,
            ecn: false,
            may_fragment: true,
        }
    }

    /// Set [`max_send_segments`](Self::max_send_segments).
    pub const fn with_send_segments(mut self, segments: usize) -> Self {
        self.max_send_segments = segments;
        self
    }

    /// Set [`max_recv_segments`](Self::max_recv_segments).
    pub const fn with_recv_segments(mut self, segments: usize) -> Self {
        self.max_recv_segments = segments;
        self
    }

    /// Set [`ecn`](Self::ecn).
    pub const fn with_ecn(mut self, ecn: bool) -> Self {
        self.ecn = ecn;
        self
    }

    /// Set [`may_fragment`](Self::may_fragment).
    pub const fn with_may_fragment(mut self, may_fragment: bool) -> Self {
        self.may_fragment = may_fragment;
        self
    }
}

/// Something that moves datagrams: a UDP socket, or whatever takes its place.
///
/// A socket is owned by one driver and never shared.
pub trait DatagramSocket: 'static {
    /// Receive at least one message, or register the waker.
    ///
    /// Adds up to [`RecvBatch::remaining`] messages. The buffers are owned, so that payloads travel
    /// to the application without being copied; a socket should copy small messages out of large
    /// receive buffers, lest a short frame keep 64 KiB alive.
    ///
    /// A socket that knows it has been drained returns `Pending` without asking the system again.
    /// The driver calls this only after the waker has fired, or while it keeps returning `Ready`.
    ///
    /// # Errors
    ///
    /// Errors end the driver, and with it every connection. A socket swallows those that a peer or
    /// the network can cause (a refused port, an unreachable host, a reset).
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>>;

    /// Hand `transmit` to the network, or register the waker when there is no room.
    ///
    /// All or nothing. As datagrams may be lost anyway, a socket reports success when the network
    /// refuses one for reasons of the moment (no route, too large, not permitted).
    ///
    /// # Errors
    ///
    /// Errors end the driver, see [`poll_recv`](Self::poll_recv).
    fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>>;

    /// What this socket can do.
    ///
    /// Asked again before each batch of sends: a socket lowers
    /// [`max_send_segments`](Capabilities::max_send_segments) when the system turns out not to
    /// support it.
    fn capabilities(&self) -> Capabilities;

    /// The address the socket is bound to.
    ///
    /// # Errors
    ///
    /// Whatever the platform reports.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}
