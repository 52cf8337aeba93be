//! What the shards of one endpoint know of each other, and how datagrams get to the right one.
//!
//! An endpoint with several shards has a socket, a driver and a set of connections for each. They
//! share nothing but what is here: a table of who looks after which shard, and an inbox for each.
//! Connection ids name their shard, so whoever receives a datagram knows where it belongs.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::BytesMut;
use polyquic_core::{EndpointStats, ShardKey};
use polyquic_runtime::{
    FilterInstruction, Received, RecvMeta, Runtime, SocketGroup, SteeringFilter,
};

use crate::shared::lock;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU16, Ordering};
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use polyquic_core::{ConnectionIdGenerator, ShardedCidGenerator};

    use super::*;

    const SHARDS: u16 = 3;

    fn key() -> ShardKey {
        ShardKey::new([11, 22, 33])
    }

    fn places() -> Vec<Place> {
        let signals = (0..SHARDS).map(|_| Arc::default()).collect();
        let siblings = Siblings::new(key(), signals, true);
        (0..SHARDS)
            .map(|index| Place {
                siblings: siblings.clone(),
                index,
            })
            .collect()
    }

    fn meta(stride: usize) -> RecvMeta {
        RecvMeta {
            peer: ([127, 0, 0, 1], 1).into(),
            local_ip: None,
            ecn: None,
            stride,
        }
    }

    /// A short-header datagram for `shard` that ends in `mark`.
    fn datagram(shard: u16, len: usize, mark: u8) -> Vec<u8> {
        let mut generator = ShardedCidGenerator::new(key(), SHARDS, shard, [mark; 32]);
        let mut bytes = vec![0x40; len];
        bytes[1..9].copy_from_slice(&generator.generate_cid());
        bytes[len - 1] = mark;
        bytes
    }

    fn received(datagrams: &[Vec<u8>]) -> Received {
        Received {
            data: BytesMut::from(&datagrams.concat()[..]),
            meta: meta(datagrams[0].len()),
        }
    }

    /// The last bytes of all datagrams that were handed to `place`.
    fn taken(place: &Place) -> Vec<u8> {
        let mut handed = Vec::new();
        place.take_handed(&mut handed);
        let datagrams = handed.into_iter().map(|it| match it {
            Handed::Datagrams(received) => received,
            Handed::Orphan(..) => panic!("nobody offered an orphan"),
        });
        datagrams.flat_map(|it| marks(&it)).collect()
    }

    fn marks(received: &Received) -> Vec<u8> {
        let datagrams = received.data.chunks(received.meta.stride);
        datagrams.map(|it| *it.last().unwrap()).collect()
    }

    #[test]
    fn each_datagram_gets_to_its_shard_in_order() {
        let places = places();
        let shards = [0, 0, 1, 0, 2, 2, 1, 0];
        let mut datagrams: Vec<_> = shards
            .iter()
            .zip(0..)
            .map(|(&shard, mark)| datagram(shard, 60, mark))
            .collect();
        // Only the last one of a coalesced message may be shorter.
        let last = datagram(0, 30, 7);
        *datagrams.last_mut().unwrap() = last;
        let (mut own, mut sorted) = (Vec::new(), Sorted::default());
        places[0].sort(received(&datagrams), &mut own, &mut sorted);
        let own: Vec<_> = own.iter().flat_map(marks).collect();
        assert_eq!(own, [0, 1, 3, 7]);
        assert_eq!(taken(&places[1]), [2, 6]);
        assert_eq!(taken(&places[2]), [4, 5]);
        let expected = Sorted {
            kept: 4,
            handed_over: 4,
            dropped: 0,
        };
        assert_eq!(sorted, expected);
    }

    #[test]
    fn an_inbox_has_bounds() {
        let places = places();
        let (mut own, mut sorted) = (Vec::new(), Sorted::default());
        let many = (INBOX_BYTES / 1200 + 10) as u64;
        for _ in 0..many {
            places[0].sort(received(&[datagram(1, 1200, 1)]), &mut own, &mut sorted);
        }
        assert!(own.is_empty());
        assert_eq!(sorted.handed_over + sorted.dropped, many);
        assert_eq!(sorted.handed_over, (INBOX_BYTES / 1200) as u64);
        // There is room again once it was emptied.
        taken(&places[1]);
        let mut sorted = Sorted::default();
        places[0].sort(received(&[datagram(1, 1200, 1)]), &mut own, &mut sorted);
        assert_eq!(sorted.handed_over, 1);
    }

    #[test]
    fn others_look_after_who_has_left() {
        let places = places();
        let (mut own, mut sorted) = (Vec::new(), Sorted::default());
        places[1].leave();
        places[0].sort(received(&[datagram(1, 40, 5)]), &mut own, &mut sorted);
        assert_eq!(taken(&places[2]), [5]);
        // With its heir gone as well, what it left is the next one's.
        places[2].leave();
        places[0].sort(received(&[datagram(1, 40, 6)]), &mut own, &mut sorted);
        places[0].sort(received(&[datagram(2, 40, 7)]), &mut own, &mut sorted);
        assert_eq!(own.iter().flat_map(marks).collect::<Vec<_>>(), [6, 7]);
        // The last one is not left without an owner that can be asked.
        places[0].leave();
        own.clear();
        places[0].sort(received(&[datagram(0, 40, 8)]), &mut own, &mut sorted);
        assert_eq!(own.iter().flat_map(marks).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn a_shard_is_woken_once_for_many() {
        let places = places();
        let signal = &places[0].siblings.shards[1].signal;
        signal.register(Waker::noop());
        let (mut own, mut sorted) = (Vec::new(), Sorted::default());
        for mark in 0..3 {
            places[0].sort(received(&[datagram(1, 40, mark)]), &mut own, &mut sorted);
        }
        assert_eq!(signal.take(), cause::HANDED);
        assert_eq!(signal.take(), 0);
    }

    #[test]
    fn orphans_keep_header_and_token() {
        let whole: Vec<u8> = (0..=100).collect();
        let orphan = Orphan::of(&whole).unwrap();
        assert_eq!(orphan.bytes[..25], whole[..25]);
        assert_eq!(orphan.bytes[25..orphan.len], whole[85..]);
        let short: Vec<u8> = (0..21).collect();
        let orphan = Orphan::of(&short).unwrap();
        assert_eq!(orphan.bytes[..orphan.len], short);
        assert!(Orphan::of(&short[..20]).is_none());
        assert!(Orphan::of(&[]).is_none());
        assert!(Orphan::of(&[0xc0; 1200]).is_none(), "a long header");
    }

    #[test]
    fn orphans_are_offered_to_all_others() {
        let places = places();
        let orphan = Orphan::of(&[0x40; 50]).unwrap();
        places[1].offer_orphan(&orphan, meta(50));
        let orphans = places.iter().map(|place| {
            let mut handed = Vec::new();
            place.take_handed(&mut handed);
            handed.len()
        });
        assert_eq!(orphans.collect::<Vec<_>>(), [1, 0, 1]);
    }
}
