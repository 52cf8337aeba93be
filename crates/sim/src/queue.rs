//! What is going to happen, in order of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::net::PipeId;
use crate::net::packet::Packet;

pub(crate) enum Event {
    /// A packet comes out of a pipe.
    Arrival(PipeId, Box<Packet>),
    /// A link has sent a packet whole.
    Transmitted(PipeId),
    /// A timer is due, by its number.
    Timer(u64),
}

/// When a timer's event is, and its place among those of that time.
pub(crate) type Key = (u64, u64);

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
    /// Apart, because they are taken back: most timers are reset or dropped long before they are due.
    timers: BTreeMap<Key, u64>,
    next: u64,
}

impl Queue {
    pub(crate) fn push(&mut self, at: u64, event: Event) {
        self.next += 1;
        let order = self.next;
        self.heap.push(Reverse(Entry { at, order, event }));
    }

    /// Have a timer's event then, which can be taken back.
    pub(crate) fn set_timer(&mut self, at: u64, timer: u64) -> Key {
        self.next += 1;
        let key = (at, self.next);
        self.timers.insert(key, timer);
        key
    }

    pub(crate) fn take_back(&mut self, key: Key) {
        self.timers.remove(&key);
    }

    /// How many timers have an event.
    #[cfg(test)]
    pub(crate) fn timers(&self) -> usize {
        self.timers.len()
    }

    fn next_timer(&self) -> Option<Key> {
        self.timers.first_key_value().map(|(key, _)| *key)
    }

    fn next_other(&self) -> Option<Key> {
        let Reverse(entry) = self.heap.peek()?;
        Some((entry.at, entry.order))
    }

    /// When the next event is, in nanoseconds.
    pub(crate) fn next(&self) -> Option<u64> {
        let keys = [self.next_timer(), self.next_other()];
        keys.into_iter().flatten().min().map(|(at, _)| at)
    }

    /// The next event, if it is due.
    pub(crate) fn due(&mut self, now: u64) -> Option<Event> {
        if self.next()? > now {
            return None;
        }
        let first = |timer| self.next_other().is_none_or(|other| timer < other);
        if self.next_timer().is_some_and(first) {
            let (_, timer) = self.timers.pop_first()?;
            return Some(Event::Timer(timer));
        }
        self.heap.pop().map(|Reverse(entry)| entry.event)
    }
}
