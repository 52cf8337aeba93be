//! One direction of a link at work: its queue, its transmitter, its faults.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use polyquic_runtime::Ecn;
use rand::RngExt;
use rand::rngs::StdRng;

use super::link::{CoDel, Link, Loss, TooLarge};
use super::packet::{Packet, Verdict};
use crate::random::{below, happens};
use crate::trace::Fate;

type Filter = Box<dyn FnMut(&mut Packet) -> Verdict>;

/// Counters of one direction of a link, since the simulation began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Packets that came to be sent.
    pub offered: u64,
    /// Packets that left it.
    pub passed: u64,
    /// Bytes that left it, with IP and UDP headers.
    pub bytes: u64,
    /// Packets lost, for whatever reason.
    pub lost: u64,
    /// Those of them that found the queue full, or that CoDel dropped.
    pub overflowed: u64,
    /// Packets marked as having experienced congestion.
    pub marked: u64,
    /// How long packets waited in the queue, added up.
    pub waited: Duration,
    /// The longest that one did.
    pub longest_wait: Duration,
}

#[derive(Default)]
pub(crate) struct Pipe {
    pub(crate) link: Link,
    pub(crate) cut: bool,
    pub(crate) filter: Option<Filter>,
    pub(crate) stats: LinkStats,
    /// In the bad state of [`Loss::Bursts`].
    bad: bool,
    queue: VecDeque<(u64, Packet)>,
    queued: u64,
    /// What is being sent.
    current: Option<Packet>,
    last_arrival: u64,
    control: Control,
    /// Sockets that wait for room.
    pub(crate) waiting: Vec<Waker>,
}

/// What becomes of packets that enter a pipe.
pub(crate) enum Step {
    /// Arrives at the far end then.
    Arrives(u64, Packet),
    /// The transmitter is free again then.
    Busy(u64),
    /// The sender shall learn about this MTU.
    Report(Packet, u16),
    Note(Fate, Packet),
}

impl Pipe {
    pub(crate) fn new(link: &Link) -> Self {
        Self {
            link: link.clone(),
            ..Self::default()
        }
    }

    /// Bytes that wait to be sent.
    pub(crate) fn backlog(&self) -> u64 {
        self.queued
    }

    /// A packet comes to be sent.
    pub(crate) fn enter(
        &mut self,
        now: u64,
        mut packet: Packet,
        rng: &mut StdRng,
        steps: &mut Vec<Step>,
    ) {
        self.stats.offered += 1;
        if self.cut {
            return self.lose(Fate::Cut, packet, steps);
        }
        if let Some(filter) = &mut self.filter
            && filter(&mut packet) == Verdict::Drop
        {
            return self.lose(Fate::Filtered, packet, steps);
        }
        if let Some((mtu, too_large)) = self.link.mtu
            && packet.size() > mtu.into()
        {
            if too_large == TooLarge::Reported {
                steps.push(Step::Report(packet.clone(), mtu));
            }
            return self.lose(Fate::TooLarge, packet, steps);
        }
        if self.loses(rng) {
            return self.lose(Fate::Lost, packet, steps);
        }
        if happens(rng, self.link.corrupt) && !packet.payload.is_empty() {
            let bit = below(rng, packet.payload.len() as u64 * 8);
            packet.payload[bit as usize / 8] ^= 1 << (bit % 8);
            steps.push(Step::Note(Fate::Corrupted, packet.clone()));
        }
        if self.link.bleach {
            packet.ecn = None;
        } else if happens(rng, self.link.mark) {
            self.mark(&mut packet, steps);
        }
        if happens(rng, self.link.duplicate) {
            steps.push(Step::Note(Fate::Duplicated, packet.clone()));
            self.enqueue(now, packet.clone(), rng, steps);
        }
        self.enqueue(now, packet, rng, steps);
    }

    /// The transmitter has sent a packet whole.
    pub(crate) fn sent(&mut self, now: u64, rng: &mut StdRng, steps: &mut Vec<Step>) {
        if let Some(packet) = self.current.take() {
            self.travel(now, packet, rng, steps);
        }
        self.send_next(now, steps);
    }

    fn loses(&mut self, rng: &mut StdRng) -> bool {
        match self.link.loss {
            Loss::Random(probability) => happens(rng, probability),
            Loss::Bursts { begin, end } => {
                self.bad = if self.bad {
                    !happens(rng, end)
                } else {
                    happens(rng, begin)
                };
                self.bad
            }
        }
    }

    fn lose(&mut self, fate: Fate, packet: Packet, steps: &mut Vec<Step>) {
        self.stats.lost += 1;
        if matches!(fate, Fate::QueueFull | Fate::CoDel) {
            self.stats.overflowed += 1;
        }
        steps.push(Step::Note(fate, packet));
    }

    /// Returns false if the packet does not allow it.
    fn mark(&mut self, packet: &mut Packet, steps: &mut Vec<Step>) -> bool {
        if packet.ecn.is_none() {
            return false;
        }
        packet.ecn = Some(Ecn::Ce);
        self.stats.marked += 1;
        steps.push(Step::Note(Fate::Marked, packet.clone()));
        true
    }

    fn enqueue(&mut self, now: u64, mut packet: Packet, rng: &mut StdRng, steps: &mut Vec<Step>) {
        if self.link.bandwidth.is_none() && self.current.is_none() {
            return self.travel(now, packet, rng, steps);
        }
        if self.queued + packet.size() > self.link.queue.bytes {
            return self.lose(Fate::QueueFull, packet, steps);
        }
        if self
            .link
            .queue
            .mark_above
            .is_some_and(|it| self.queued > it)
        {
            self.mark(&mut packet, steps);
        }
        self.queued += packet.size();
        self.queue.push_back((now, packet));
        if self.current.is_none() {
            self.send_next(now, steps);
        }
    }

    fn send_next(&mut self, now: u64, steps: &mut Vec<Step>) {
        while let Some((since, mut packet)) = self.queue.pop_front() {
            self.queued -= packet.size();
            let wait = now - since;
            if let Some(codel) = self.link.queue.codel
                && self.control.acts(codel, now, wait, self.queued)
                && !(codel.ecn && self.mark(&mut packet, steps))
            {
                self.lose(Fate::CoDel, packet, steps);
                continue;
            }
            let wait = Duration::from_nanos(wait);
            self.stats.waited += wait;
            self.stats.longest_wait = self.stats.longest_wait.max(wait);
            let bits = packet.size() * 8;
            let time = match self.link.bandwidth {
                Some(rate) => u128::from(bits) * 1_000_000_000 / u128::from(rate),
                None => 0,
            };
            self.current = Some(packet);
            steps.push(Step::Busy(now + time as u64));
            return;
        }
    }

    fn travel(&mut self, now: u64, packet: Packet, rng: &mut StdRng, steps: &mut Vec<Step>) {
        self.stats.passed += 1;
        self.stats.bytes += packet.size();
        let link = &self.link;
        let mut arrival = now + nanos(link.delay);
        if !link.jitter.is_zero() {
            arrival += rng.random_range(0..=nanos(link.jitter));
        }
        if happens(rng, link.reorder.0) {
            arrival += nanos(link.reorder.1);
        } else if !link.overtaking {
            arrival = arrival.max(self.last_arrival);
            self.last_arrival = arrival;
        }
        steps.push(Step::Arrives(arrival, packet));
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}

/// CoDel's control law (RFC 8289 section 5). Times in nanoseconds.
#[derive(Default)]
struct Control {
    /// When the wait will have been too long for an interval.
    first_above: Option<u64>,
    dropping: bool,
    next: u64,
    count: u32,
    last_count: u32,
}

impl Control {
    /// Whether the packet that leaves the queue now, having waited for `wait`, is to be dropped.
    fn acts(&mut self, codel: CoDel, now: u64, wait: u64, left: u64) -> bool {
        let interval = nanos(codel.interval);
        // A queue of less than one full packet is not worth anything.
        let bad = if wait < nanos(codel.target) || left < 1500 {
            self.first_above = None;
            false
        } else {
            now >= *self.first_above.get_or_insert(now + interval)
        };
        if self.dropping {
            if !bad {
                self.dropping = false;
            } else if now >= self.next {
                self.count += 1;
                self.next = Self::law(self.next, interval, self.count);
                return true;
            }
            return false;
        }
        if !bad {
            return false;
        }
        self.dropping = true;
        let delta = self.count - self.last_count.min(self.count);
        let recent = now.saturating_sub(self.next) < 16 * interval;
        self.count = if delta > 1 && recent { delta } else { 1 };
        self.next = Self::law(now, interval, self.count);
        self.last_count = self.count;
        true
    }

    fn law(from: u64, interval: u64, count: u32) -> u64 {
        // Square roots are exact to the last bit by IEEE 754, and so the same everywhere.
        from + (interval as f64 / f64::from(count).sqrt()) as u64
    }
}
