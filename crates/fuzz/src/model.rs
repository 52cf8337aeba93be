//! What may go over a connection: judges both the puppet, which may break every rule, and the machine
//! under test, which may break none.

use std::collections::{BTreeMap, BTreeSet};

use polyquic_core::Side;

use crate::connection::{STREAM_WINDOW, STREAMS, WINDOW};
use crate::plain::TAG_BYTES;
use crate::wire::{Frame, Kind, Reader, frame, packet};

/// Bytes of the ids that polyquic issues.
const CID_BYTES: usize = 8;
/// What is beyond can never be delivered, with these windows and inputs of this size.
const MAX_CONTENT: u64 = 1 << 18;

/// What is on a stream at an offset.
pub(crate) fn pattern(id: u64, offset: u64) -> u8 {
    let mixed = offset
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(id << 5);
    (mixed >> 32) as u8 ^ offset as u8
}

/// A stream in the direction to the victim.
#[derive(Default)]
struct Inbound {
    /// What was sent, by offset.
    content: Vec<Option<u8>>,
    /// Offsets for which the puppet sent two different bytes.
    conflicts: BTreeSet<u64>,
    highest: u64,
    final_size: Option<u64>,
    reset: bool,
    /// Bytes that were delivered to the application.
    delivered: Vec<bool>,
    delivered_bytes: u64,
    next: u64,
    unordered: bool,
    /// The application wants no more.
    stopped: bool,
    /// The most that the victim allowed.
    allowed: u64,
}

/// A stream in the direction from the victim.
#[derive(Default)]
struct Outbound {
    written: u64,
    highest: u64,
    allowed: u64,
}

pub(crate) struct Model {
    side: Side,
    inbound: BTreeMap<u64, Inbound>,
    outbound: BTreeMap<u64, Outbound>,
    /// Streams that the victim's application opened.
    opened: BTreeSet<u64>,
    /// What the victim allowed on the whole.
    allowed: u64,
    /// How many streams the victim allowed the puppet, bidirectional and unidirectional.
    streams_allowed: [u64; 2],
    /// The same the other way.
    puppet_allowed: u64,
    puppet_streams_allowed: [u64; 2],
    /// Numbers of packets that the victim sent with 1-RTT keys.
    numbers: BTreeSet<u64>,
    datagrams: Vec<Vec<u8>>,
    /// Whether the puppet has kept to the rules, as far as the model is sure of it.
    legal: bool,
    /// The puppet broke one that the victim has to see.
    breached: bool,
    /// Whether packets surely reach the connection.
    addressed: bool,
    /// Whether the handshake is over, and the puppet is the fuzzer.
    fuzzed: bool,
    /// Whether the packet at hand is surely looked at.
    fresh: bool,
    application_closed: bool,
    puppet_id: Vec<u8>,
    victim_id: Vec<u8>,
    /// What the puppet offered besides.
    puppet_ids: Vec<Vec<u8>>,
}

impl Model {
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            inbound: BTreeMap::new(),
            outbound: BTreeMap::new(),
            opened: BTreeSet::new(),
            allowed: WINDOW.into(),
            streams_allowed: [STREAMS.into(); 2],
            puppet_allowed: WINDOW.into(),
            puppet_streams_allowed: [STREAMS.into(); 2],
            numbers: BTreeSet::new(),
            datagrams: Vec::new(),
            legal: true,
            breached: false,
            addressed: true,
            fuzzed: false,
            fresh: false,
            application_closed: false,
            puppet_id: Vec::new(),
            victim_id: Vec::new(),
            puppet_ids: Vec::new(),
        }
    }

    /// From now on, the puppet is the fuzzer. What came before was genuine.
    pub(crate) fn begin(&mut self) {
        self.legal = true;
        self.fuzzed = true;
    }

    // What the fuzzer asks

    /// Whether the connection may not end.
    pub(crate) fn is_legal(&self) -> bool {
        self.legal && !self.application_closed
    }

    /// Ids of the puppet and of the victim, as they last used them.
    pub(crate) fn ids(&self) -> (Vec<u8>, Vec<u8>) {
        (self.puppet_id.clone(), self.victim_id.clone())
    }

    pub(crate) fn sent_up_to(&self, id: u64) -> u64 {
        self.inbound.get(&id).map_or(0, |stream| stream.highest)
    }

    /// The latest numbers without a gap.
    pub(crate) fn latest_packets(&self) -> (u64, u64) {
        let largest = self.numbers.last().copied().unwrap_or(0);
        let mut smallest = largest;
        while smallest > 0 && self.numbers.contains(&(smallest - 1)) {
            smallest -= 1;
        }
        (smallest, largest)
    }

    /// Which way a stream was read before.
    pub(crate) fn reads_in_order(&self, id: u64) -> Option<bool> {
        let stream = self.inbound.get(&id)?;
        (stream.unordered || stream.next > 0).then_some(!stream.unordered)
    }

    /// Whether the victim's application opened it.
    pub(crate) fn is_open(&self, id: u64) -> bool {
        self.opened.contains(&id)
    }

    pub(crate) fn written(&self, id: u64) -> u64 {
        self.outbound.get(&id).map_or(0, |stream| stream.written)
    }

    // What the application does

    pub(crate) fn opened(&mut self, id: u64) {
        let allowed = self.puppet_streams_allowed[usize::from(id & 2 != 0)];
        assert!(
            id >> 2 < allowed,
            "stream {id} was opened, {allowed} are allowed"
        );
        self.opened.insert(id);
    }

    pub(crate) fn wrote(&mut self, id: u64, count: u64) {
        self.outbound(id).written += count;
    }

    pub(crate) fn stopped(&mut self, id: u64) {
        self.inbound(id).stopped = true;
    }

    pub(crate) fn keys_updated(&mut self) {
        // The puppet does not follow.
        self.legal = false;
        self.addressed = false;
    }

    pub(crate) fn application_closed(&mut self) {
        self.application_closed = true;
        self.addressed = false;
    }

    pub(crate) fn delivered(&mut self, id: u64, ordered: bool, offset: u64, bytes: &[u8]) {
        let stream = self.inbound(id);
        assert!(!stream.stopped, "{id} was stopped");
        let end = offset + bytes.len() as u64;
        assert!(
            end <= stream.content.len() as u64,
            "{id}: {offset}..{end} was never sent"
        );
        if ordered {
            // Both kinds of read may have been used, but only in this order.
            assert_eq!(stream.next, offset, "{id}: a gap");
        }
        stream.unordered |= !ordered;
        stream.next = stream.next.max(end);
        stream.delivered.resize(stream.content.len(), false);
        for (at, byte) in (offset..).zip(bytes) {
            let index = at as usize;
            assert!(
                !std::mem::replace(&mut stream.delivered[index], true),
                "{id}: {at} twice"
            );
            let sent = stream.content[index].expect("what was not sent must not be delivered");
            assert!(
                sent == *byte || stream.conflicts.contains(&at),
                "{id}: wrong byte at {at}"
            );
        }
        stream.delivered_bytes += bytes.len() as u64;
    }

    pub(crate) fn delivered_all(&mut self, id: u64) {
        let legal = self.legal;
        let stream = self.inbound(id);
        let whole = !stream.stopped && !stream.reset;
        if let (Some(size), true) = (stream.final_size, whole && legal) {
            assert_eq!(stream.delivered_bytes, size, "{id}: the end came too early");
        }
    }

    pub(crate) fn datagram_delivered(&mut self, data: &[u8]) {
        assert!(
            self.datagrams.iter().any(|sent| sent == data),
            "a datagram that nobody sent"
        );
    }

    // What is on the wire

    /// Take note of what the puppet sends.
    pub(crate) fn puppet_sent(&mut self, datagram: &[u8], fresh: bool) {
        self.fresh = fresh;
        let mut r = Reader(datagram);
        while !r.0.is_empty() {
            let first = r.0[0];
            let Some(packet) = packet(&mut r, CID_BYTES, TAG_BYTES) else {
                self.legal = false;
                return;
            };
            self.victim_id = if packet.kind == Kind::Retry {
                return;
            } else {
                packet.dst_cid.to_vec()
            };
            if !packet.src_cid.is_empty() {
                self.puppet_id = packet.src_cid.to_vec();
                if !self.fuzzed {
                    self.puppet_ids.push(self.puppet_id.clone());
                }
            }
            if packet.kind != Kind::Short {
                // That of the handshake is genuine; what comes later is not.
                self.legal &= !self.fuzzed;
                continue;
            }
            if self.fuzzed && first != 0x43 {
                self.legal = false;
                self.addressed = false;
            }
            self.puppet_frames(packet.payload);
        }
    }

    fn puppet_frames(&mut self, payload: &[u8]) {
        let mut r = Reader(payload);
        self.legal &= !payload.is_empty();
        while !r.0.is_empty() {
            let Some(frame) = frame(&mut r) else {
                self.legal = false;
                return;
            };
            self.puppet_frame(&frame);
        }
    }

    fn puppet_frame(&mut self, frame: &Frame<'_>) {
        match *frame {
            Frame::Padding | Frame::Ping | Frame::Blocked => {}
            Frame::PathChallenge(_) | Frame::PathResponse(_) => {}
            Frame::StreamBlocked(id) => self.legal &= self.puppet_may_send_on(id),
            Frame::StreamsBlocked(limit) => self.legal &= limit <= 1 << 60,
            Frame::Ack {
                largest,
                smallest,
                more,
            } => {
                self.legal &= !more
                    && largest - smallest <= self.numbers.len() as u64
                    && (smallest..=largest).all(|number| self.numbers.contains(&number));
            }
            Frame::Stream {
                id,
                offset,
                data,
                fin,
            } => {
                let end = offset.saturating_add(data.len() as u64);
                self.puppet_data(id, offset, data, end, fin);
            }
            Frame::ResetStream { id, final_size } => {
                self.puppet_data(id, final_size, &[], final_size, true);
                self.inbound(id).reset = true;
            }
            Frame::StopSending { id } => self.legal &= self.victim_may_send_on(id),
            Frame::MaxStreamData { id, limit } => {
                self.legal &= self.victim_may_send_on(id);
                let stream = self.outbound(id);
                stream.allowed = stream.allowed.max(limit);
            }
            Frame::MaxData(limit) => self.puppet_allowed = self.puppet_allowed.max(limit),
            Frame::MaxStreams { uni, count } => {
                self.legal &= count <= 1 << 60;
                let allowed = &mut self.puppet_streams_allowed[usize::from(uni)];
                *allowed = (*allowed).max(count);
            }
            Frame::Datagram(data) => self.datagrams.push(data.to_vec()),
            Frame::HandshakeDone => self.legal &= self.side.is_client(),
            Frame::NewToken(token) => self.legal &= self.side.is_client() && !token.is_empty(),
            // Legal during the handshake, when it is genuine, and else hard to tell.
            Frame::Crypto => self.legal &= !self.fuzzed,
            // An empty one is not taken.
            Frame::NewConnectionId([]) => self.legal = false,
            Frame::NewConnectionId(id) => {
                self.puppet_ids.push(id.to_vec());
                self.legal &= !self.fuzzed;
            }
            Frame::RetireConnectionId => {
                self.legal &= !self.fuzzed;
                self.addressed = false;
            }
            Frame::Close { .. } => {
                self.legal = false;
                self.addressed = false;
            }
            Frame::Extension => self.legal = false,
        }
    }

    /// Data, or the end of it, on a stream.
    fn puppet_data(&mut self, id: u64, offset: u64, data: &[u8], end: u64, ends: bool) {
        let (index, uni) = (id >> 2, usize::from(id & 2 != 0));
        let victims = id & 1 == u64::from(self.side.is_server());
        let total: u64 = (self.inbound.iter())
            .filter(|(other, _)| **other != id)
            .fold(0, |sum, (_, stream)| sum.saturating_add(stream.highest));
        let credited = self.credited();
        let referenced = self.referenced(uni);
        let known = self.legal && self.fresh;
        if victims {
            self.legal &= uni == 0 && self.opened.contains(&id);
        } else {
            self.legal &= index < self.streams_allowed[uni];
            self.breached |= known && index >= u64::from(STREAMS) + referenced;
        }
        let known = known && self.legal;
        let stream = self.inbound(id);
        let live = !stream.stopped && !stream.reset && stream.final_size.is_none();
        let consistent = match stream.final_size {
            Some(size) => end <= size && (!ends || end == size),
            None => !ends || end >= stream.highest,
        };
        let highest = stream.highest.max(end);
        let within = end <= stream.allowed;
        // Far beyond what can have been allowed.
        let beyond = known && live && end > stream.delivered_bytes + u64::from(STREAM_WINDOW);
        stream.highest = highest;
        if ends && stream.final_size.is_none() {
            stream.final_size = Some(end);
        }
        if end <= MAX_CONTENT {
            let length = stream.content.len().max(end as usize);
            stream.content.resize(length, None);
            for (at, byte) in (offset as usize..).zip(data) {
                match stream.content[at] {
                    Some(other) if other != *byte => {
                        stream.conflicts.insert(at as u64);
                    }
                    _ => stream.content[at] = Some(*byte),
                }
            }
        }
        self.legal &= consistent && within && total.saturating_add(highest) <= self.allowed;
        self.breached |= beyond;
        self.breached |= known
            && live
            && total.saturating_add(highest) > credited + u64::from(WINDOW) + self.forgiven();
    }

    /// How many streams of this kind the puppet has used.
    fn referenced(&self, uni: usize) -> u64 {
        let theirs = u64::from(self.side.is_client());
        let used = |id: &&u64| **id & 1 == theirs && usize::from(**id & 2 != 0) == uni;
        self.inbound
            .keys()
            .filter(used)
            .map(|id| (id >> 2) + 1)
            .max()
            .unwrap_or(0)
    }

    /// Bytes on all streams that the victim may count as consumed.
    fn credited(&self) -> u64 {
        self.inbound.values().fold(0, |sum, stream| {
            let gone = stream.stopped || stream.reset;
            sum.saturating_add(if gone {
                stream.highest
            } else {
                stream.delivered_bytes
            })
        })
    }

    /// Bytes on streams that are gone, which the victim need not count at all.
    fn forgiven(&self) -> u64 {
        let gone = self
            .inbound
            .values()
            .filter(|stream| stream.stopped || stream.reset || stream.final_size.is_some());
        gone.fold(0, |sum, stream| sum.saturating_add(stream.highest))
    }

    fn puppet_may_send_on(&self, id: u64) -> bool {
        if id & 1 == u64::from(self.side.is_server()) {
            id & 2 == 0 && self.opened.contains(&id)
        } else {
            id >> 2 < self.streams_allowed[usize::from(id & 2 != 0)]
        }
    }

    fn victim_may_send_on(&self, id: u64) -> bool {
        if id & 1 == u64::from(self.side.is_server()) {
            self.opened.contains(&id)
        } else {
            id & 2 == 0 && id >> 2 < self.streams_allowed[0]
        }
    }

    /// After a packet: the victim noticed what it must notice.
    pub(crate) fn must_be_closed_if_breached(&mut self, closed: bool) {
        let breached = std::mem::take(&mut self.breached);
        if breached && self.addressed {
            assert!(closed, "limits were exceeded, and the connection goes on");
        }
    }

    /// Check what the victim sends.
    pub(crate) fn victim_sent(&mut self, datagram: &[u8]) {
        let mut r = Reader(datagram);
        while !r.0.is_empty() {
            let before = r.clone();
            // Ids that the fuzzer made up may have any length, and one may begin like another.
            let ids = self
                .puppet_ids
                .iter()
                .filter(|id| before.0[1..].starts_with(id));
            let lengths: BTreeSet<_> = ids.map(Vec::len).collect();
            if lengths.len() > 1 && before.0[0] & 0x80 == 0 {
                return;
            }
            let cid_bytes = lengths.first().copied().unwrap_or(CID_BYTES);
            let packet = packet(&mut r, cid_bytes, TAG_BYTES);
            let packet = packet.unwrap_or_else(|| panic!("malformed packet {:x?}", before.0));
            if packet.kind == Kind::Short {
                let next = self.numbers.last().map_or(0, |last| last + 1);
                let mask = (1 << packet.number_bits) - 1;
                self.numbers
                    .insert(next + (packet.number.wrapping_sub(next) & mask));
            }
            if matches!(packet.kind, Kind::Retry | Kind::VersionNegotiation) {
                continue;
            }
            assert!(!packet.payload.is_empty(), "a packet without frames");
            let mut frames = Reader(packet.payload);
            while !frames.0.is_empty() {
                let frame = frame(&mut frames);
                let frame =
                    frame.unwrap_or_else(|| panic!("malformed frame in {:x?}", packet.payload));
                self.victim_frame(&frame);
            }
        }
    }

    fn victim_frame(&mut self, frame: &Frame<'_>) {
        match *frame {
            Frame::Stream {
                id,
                offset,
                data,
                fin: _,
            } => {
                assert!(
                    self.victim_may_send_on(id),
                    "the victim may not send on {id}"
                );
                let allowed = self.puppet_allowed;
                let stream = self.outbound(id);
                let end = offset + data.len() as u64;
                assert!(end <= stream.written, "{id}: nobody wrote {offset}..{end}");
                assert!(
                    end <= stream.allowed,
                    "{id}: {end} is beyond its limit {}",
                    stream.allowed
                );
                stream.highest = stream.highest.max(end);
                for (at, byte) in (offset..).zip(data) {
                    assert_eq!(*byte, pattern(id, at), "{id}: wrong byte at {at}");
                }
                let total: u64 = self.outbound.values().map(|stream| stream.highest).sum();
                assert!(
                    total <= allowed,
                    "{total} bytes are beyond the limit {allowed}"
                );
            }
            Frame::MaxData(limit) => {
                let most = self.credited() + u64::from(WINDOW);
                assert!(limit <= most, "{limit} bytes allowed, {most} at most");
                self.allowed = self.allowed.max(limit);
            }
            Frame::MaxStreamData { id, limit } => {
                let stream = self.inbound(id);
                let most = stream.delivered_bytes + u64::from(STREAM_WINDOW);
                assert!(limit <= most, "{id}: {limit} bytes allowed, {most} at most");
                stream.allowed = stream.allowed.max(limit);
            }
            Frame::MaxStreams { uni, count } => {
                let most = u64::from(STREAMS) + self.referenced(uni.into());
                assert!(count <= most, "{count} streams allowed, {most} at most");
                let allowed = &mut self.streams_allowed[usize::from(uni)];
                *allowed = (*allowed).max(count);
            }
            Frame::Close { code, application } => {
                assert!(
                    !self.is_legal(),
                    "closed with {code:#x}, though nothing was wrong"
                );
                if application {
                    assert!(self.application_closed, "the application has not closed it");
                } else {
                    assert!(
                        code <= 0x10 || (0x100..0x200).contains(&code),
                        "code {code:#x}"
                    );
                }
            }
            Frame::NewConnectionId(id) => assert_eq!(id.len(), CID_BYTES),
            Frame::HandshakeDone | Frame::NewToken(_) => assert!(self.side.is_server()),
            _ => {}
        }
    }

    fn inbound(&mut self, id: u64) -> &mut Inbound {
        self.inbound.entry(id).or_insert_with(|| Inbound {
            allowed: STREAM_WINDOW.into(),
            ..Inbound::default()
        })
    }

    fn outbound(&mut self, id: u64) -> &mut Outbound {
        self.outbound.entry(id).or_insert_with(|| Outbound {
            allowed: STREAM_WINDOW.into(),
            ..Outbound::default()
        })
    }
}
