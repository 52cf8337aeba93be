//! What the shards of one endpoint know of each other, and how datagrams get to the right one.
//!
//! An endpoint with several shards has a socket, a driver and a set of connections for each. They
//! share nothing but what is here: a table of who looks after which shard, and an inbox for each.
//! Connection ids name their shard, so whoever receives a datagram knows where it belongs.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use polyquic_core::{EndpointStats, ShardKey};
use polyquic_runtime::{
    FilterInstruction, Received, RecvMeta, Runtime, SocketGroup, SteeringFilter,
};

use crate::shared::lock;
use crate::wake::{Signal, cause};

/// Most bytes to keep for a shard that does not get around to taking what was handed to it.
const INBOX_BYTES: usize = 8 << 20;

/// A stateless reset is a header byte, at least 38 bits, and a token (RFC 9000 section 10.3).
const MIN_RESET_BYTES: usize = 5 + RESET_TOKEN_BYTES;
const RESET_TOKEN_BYTES: usize = 16;

/// What to keep of a datagram that may be a stateless reset: as much as a header has, and the token.
const RESET_HEAD_BYTES: usize = 25;

/// No shard is left.
const NOBODY: u16 = u16::MAX;

/// Shared by the shards of an endpoint.
pub(crate) struct Siblings {
    key: ShardKey,
    shards: Box<[Sibling]>,
    /// Whether the system is to be asked to steer.
    kernel: bool,
    /// Whether it does.
    steered: AtomicBool,
}

struct Sibling {
    /// Who looks after this shard's datagrams: itself, or another one after its end.
    owner: AtomicU16,
    inbox: Mutex<Inbox>,
    signal: Arc<Signal>,
}

#[derive(Default)]
struct Inbox {
    handed: Vec<Handed>,
    bytes: usize,
    closed: bool,
}

/// What one shard hands to another.
pub(crate) enum Handed {
    /// Datagrams of the receiver's.
    Datagrams(Received),
    /// Perhaps a stateless reset. Its connection id is random and so names any shard; the shard that
    /// it named knows it not, and has answered it.
    Orphan(BytesMut, RecvMeta),
}

impl Handed {
    fn bytes(&self) -> usize {
        match self {
            Self::Datagrams(received) => received.data.len(),
            Self::Orphan(data, _) => data.len(),
        }
    }
}

/// What became of an attempt to hand something over.
enum Push {
    Done,
    /// Too much is waiting; it was dropped.
    Full,
    /// The shard has ended: the caller gets it back.
    Closed(Handed),
}

/// A shard's place among its siblings.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) siblings: Arc<Siblings>,
    pub(crate) index: u16,
}

/// Counts of one round of sorting.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Sorted {
    pub(crate) kept: u64,
    pub(crate) handed_over: u64,
    pub(crate) dropped: u64,
}

impl Sorted {
    pub(crate) fn count(&self, stats: &mut EndpointStats) {
        stats.datagrams_steered += self.kept;
        stats.datagrams_handed_over += self.handed_over;
        stats.hand_overs_dropped += self.dropped;
    }
}

impl Siblings {
    pub(crate) fn new(key: ShardKey, signals: Vec<Arc<Signal>>, kernel: bool) -> Arc<Self> {
        let shards = signals
            .into_iter()
            .zip(0..)
            .map(|(signal, index)| Sibling {
                owner: AtomicU16::new(index),
                inbox: Mutex::default(),
                signal,
            })
            .collect();
        Arc::new(Self {
            key,
            shards,
            kernel,
            steered: AtomicBool::new(false),
        })
    }

    /// A socket for each shard.
    pub(crate) fn bind<R: Runtime>(&self, rt: &R, addr: SocketAddr) -> io::Result<SocketGroup> {
        let filter = self.kernel.then(|| {
            let program = self.key.filter(self.count());
            SteeringFilter(
                program
                    .into_iter()
                    .map(|it| FilterInstruction {
                        code: it.code,
                        jump_true: it.jump_true,
                        jump_false: it.jump_false,
                        operand: it.operand,
                    })
                    .collect(),
            )
        });
        let count = NonZeroUsize::new(self.shards.len()).expect("at least one shard");
        let group = rt.bind_group(addr, count, filter.as_ref())?;
        if group.sockets.len() != self.shards.len() {
            return Err(io::Error::other(
                "the runtime bound another number of sockets than asked",
            ));
        }
        self.steered.store(group.steered, Ordering::Relaxed);
        Ok(group)
    }

    /// Whether the system steers datagrams by their connection ids.
    pub(crate) fn steered(&self) -> bool {
        self.steered.load(Ordering::Relaxed)
    }

    /// How many there are, ended ones included.
    pub(crate) fn count(&self) -> u16 {
        self.shards.len() as u16
    }

    /// Who looks after this datagram.
    fn owner(&self, datagram: &[u8]) -> u16 {
        let shard = self.key.shard_of_datagram(datagram, self.count());
        self.shards[usize::from(shard)]
            .owner
            .load(Ordering::Acquire)
    }

    fn push(&self, to: u16, handed: Handed) -> Push {
        let Some(sibling) = self.shards.get(usize::from(to)) else {
            return Push::Closed(handed);
        };
        {
            let mut inbox = lock(&sibling.inbox);
            if inbox.closed {
                return Push::Closed(handed);
            }
            if inbox.bytes + handed.bytes() > INBOX_BYTES {
                return Push::Full;
            }
            inbox.bytes += handed.bytes();
            inbox.handed.push(handed);
        }
        // Wakes it once, however many follow before it runs.
        sibling.signal.raise(cause::HANDED);
        Push::Done
    }
}

impl Place {
    /// Take what others handed over.
    pub(crate) fn take_handed(&self, into: &mut impl Extend<Handed>) {
        let mut inbox = lock(&self.siblings.shards[usize::from(self.index)].inbox);
        inbox.bytes = 0;
        into.extend(inbox.handed.drain(..));
    }

    /// Keep what is this shard's, in `own`, and hand over the rest.
    pub(crate) fn sort(
        &self,
        mut received: Received,
        own: &mut Vec<Received>,
        sorted: &mut Sorted,
    ) {
        let stride = received.meta.stride.max(1);
        // Mostly all of it has one owner: looked at without taking it apart.
        while !received.data.is_empty() {
            let mut datagrams = received.data.chunks(stride);
            let owner = datagrams
                .next()
                .map_or(self.index, |it| self.siblings.owner(it));
            let count = 1 + datagrams
                .take_while(|datagram| self.siblings.owner(datagram) == owner)
                .count();
            let run = Received {
                data: received
                    .data
                    .split_to((count * stride).min(received.data.len())),
                meta: received.meta,
            };
            let count = count as u64;
            if owner == self.index {
                sorted.kept += count;
                own.push(run);
                continue;
            }
            match self.siblings.push(owner, Handed::Datagrams(run)) {
                Push::Done => sorted.handed_over += count,
                Push::Full => sorted.dropped += count,
                // It is ending this moment. As a shard that does not know the connection, this one
                // can at least tell the peer.
                Push::Closed(Handed::Datagrams(run)) => {
                    sorted.kept += count;
                    own.push(run);
                }
                Push::Closed(Handed::Orphan(..)) => {}
            }
        }
    }

    /// Have the other shards look whether this is a stateless reset of a connection of theirs.
    pub(crate) fn offer_orphan(&self, orphan: &Orphan, meta: RecvMeta) {
        for index in (0..self.siblings.count()).filter(|&index| index != self.index) {
            let data = BytesMut::from(&orphan.bytes[..orphan.len]);
            // One that is full or has ended will not miss it much: a reset saves time only.
            self.siblings.push(index, Handed::Orphan(data, meta));
        }
    }

    /// This shard has ended: others look after its datagrams from now on, to tell peers that their
    /// connections are gone, and to accept new ones.
    pub(crate) fn leave(&self) {
        let shards = &self.siblings.shards;
        let own = usize::from(self.index);
        let closed = Inbox {
            closed: true,
            ..Inbox::default()
        };
        let left = std::mem::replace(&mut *lock(&shards[own].inbox), closed);
        drop(left);
        // The next one that is its own owner, which is how one knows that it lives.
        let heir = (1..shards.len())
            .map(|step| (own + step) % shards.len())
            .find(|&index| shards[index].owner.load(Ordering::Acquire) == index as u16)
            .map_or(NOBODY, |index| index as u16);
        for shard in shards {
            let _ =
                shard
                    .owner
                    .compare_exchange(self.index, heir, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

/// What is needed of a datagram to recognise a stateless reset, kept because the datagram itself is
/// consumed by whoever looks at it first.
pub(crate) struct Orphan {
    bytes: [u8; RESET_HEAD_BYTES + RESET_TOKEN_BYTES],
    len: usize,
}

impl Orphan {
    /// `None` if it cannot be one.
    pub(crate) fn of(datagram: &[u8]) -> Option<Self> {
        let long_header = datagram.first()? & 0x80 != 0;
        if long_header || datagram.len() < MIN_RESET_BYTES {
            return None;
        }
        let (head, token) = datagram.split_at(datagram.len() - RESET_TOKEN_BYTES);
        let head = &head[..head.len().min(RESET_HEAD_BYTES)];
        let mut bytes = [0; RESET_HEAD_BYTES + RESET_TOKEN_BYTES];
        bytes[..head.len()].copy_from_slice(head);
        bytes[head.len()..][..RESET_TOKEN_BYTES].copy_from_slice(token);
        Some(Self {
            bytes,
            len: head.len() + RESET_TOKEN_BYTES,
        })
    }
}
