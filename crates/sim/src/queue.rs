//! What is going to happen, in order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::net::PipeId;
use crate::net::packet::Packet;

pub(crate) enum Event {
    /// A packet comes out of a pipe.
    Arrival(PipeId, Box<Packet>),
    /// A link has sent a packet whole.
    Transmitted(PipeId),
    /// A timer is due; by its number, and by how often it had been set.
    Timer(u64, u64),
}

struct Entry {
    at: u64,
    /// Events of the same time happen in the order in which they were added.
    order: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    next: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: u64, event: Event) {
        self.next += 1;
        let order = self.next;
        self.heap.push(Reverse(Entry { at, order, event }));
    }

    /// When the next event is, in nanoseconds.
    pub(crate) fn next(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// The next event, if it is due.
    pub(crate) fn due(&mut self, now: u64) -> Option<Event> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.event)
    }
}
