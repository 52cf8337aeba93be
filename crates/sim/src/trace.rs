//! What happened.

use std::net::SocketAddr;
use std::time::Duration;

use crate::net::HostId;
use crate::net::packet::Packet;
use crate::pcapng::Capture;
use crate::random::Fnv;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Fate {
    /// A host sent it.
    Sent,
    /// A socket has it.
    Delivered,
    /// Lost on a link, at random.
    Lost,
    /// Lost on a link that was cut.
    Cut,
    /// Dropped by a filter.
    Filtered,
    /// Larger than a link's MTU.
    TooLarge,
    /// A link's queue was full.
    QueueFull,
    /// Dropped by CoDel.
    CoDel,
    /// No socket has this address.
    NobodyListens,
    /// The socket's buffer was full.
    BufferFull,
    /// No host has this address.
    NoRoute,
    /// A NAT let nobody in for whom it has no mapping.
    Unmapped,
    /// A bit was flipped; it went on.
    Corrupted,
    /// Goes on twice.
    Duplicated,
    /// Marked as having experienced congestion; it went on.
    Marked,
}

/// Something that happened to a packet, see [`Sim::record`](crate::Sim::record).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceEvent {
    /// When, since the simulation began.
    pub at: Duration,
    /// What.
    pub fate: Fate,
    /// The packet's number.
    pub packet: u64,
    /// Its source.
    pub src: SocketAddr,
    /// Its destination.
    pub dst: SocketAddr,
    /// Length of its payload in bytes.
    pub len: usize,
}

/// A fingerprint of everything that happened, from [`Sim::trace`](crate::Sim::trace).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceHash {
    /// Of times, sizes and order of packets, and of when each task ran.
    pub shape: u64,
    /// Of the packets' contents. The same in every run only if the cryptography draws its randomness
    /// from the seed, see [`deterministic_tls`](crate::deterministic_tls).
    pub content: u64,
}

impl std::fmt::Display for TraceHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}:{:016x}", self.shape, self.content)
    }
}

#[derive(Default)]
pub(crate) struct Trace {
    shape: Fnv,
    content: Fnv,
    pub(crate) events: Option<Vec<TraceEvent>>,
    pub(crate) capture: Option<Capture>,
    pub(crate) packets: u64,
}

impl Trace {
    pub(crate) fn packet(&mut self, now: u64, fate: Fate, packet: &Packet) {
        self.shape.write_u64(now);
        self.shape.write_u64(packet.id << 8 | fate as u64);
        self.shape.write_u64(packet.payload.len() as u64);
        if fate == Fate::Sent {
            self.packets += 1;
            self.shape.write_u64(packet.src.port().into());
            self.shape.write_u64(packet.ecn.map_or(0, |it| it as u64));
            self.content.write(&packet.payload);
        }
        if let Some(events) = &mut self.events {
            events.push(TraceEvent {
                at: Duration::from_nanos(now),
                fate,
                packet: packet.id,
                src: packet.src,
                dst: packet.dst,
                len: packet.payload.len(),
            });
        }
    }

    pub(crate) fn capture(&mut self, now: u64, host: HostId, inbound: bool, packet: &Packet) {
        if let Some(capture) = &mut self.capture {
            capture.packet(now, host, inbound, packet);
        }
    }

    /// A task runs.
    pub(crate) fn poll(&mut self, now: u64, task: u64) {
        self.shape.write_u64(now);
        self.shape.write_u64(task);
    }

    pub(crate) fn hash(&self) -> TraceHash {
        TraceHash {
            shape: self.shape.0,
            content: self.content.0,
        }
    }
}
