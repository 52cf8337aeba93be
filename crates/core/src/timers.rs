//! One deadline per connection, one queue per endpoint.

use std::time::Duration;

use crate::Instant;

/// Children per heap node. Four makes the heap half as deep as two, and a node's children share a
/// cache line or two.
const ARITY: usize = 4;

/// Deadlines are put off by at most this part of the time that is left until then.
const SLACK_SHARE: u32 = 32;

/// And by at most so much, about 17 ms.
const MAX_SLACK_LOG2_NANOS: u32 = 24;

/// Puts deadlines off a little, so that those of many connections fall on the same instants.
///
/// A thousand idle connections otherwise wake their thread a thousand times per keep-alive interval,
/// each for a packet, and the peer's thread as often. The step is the largest power of two, in
/// nanoseconds, that is at most a 32nd of the time left, and about 17 ms: less than 1 ms for an
/// acknowledgement that is due in 25, and nothing to speak of for pacing, which plans microseconds
/// ahead. Timers of QUIC are lower bounds that a busy machine misses by more.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineGrid {
    origin: Instant,
}

impl DeadlineGrid {
    /// A grid through `origin`, which must not be later than any time to come.
    pub fn new(origin: Instant) -> Self {
        Self { origin }
    }

    /// The instant for something that is due at `deadline`, not before it.
    pub fn at_or_after(&self, deadline: Instant, now: Instant) -> Instant {
        let left = deadline.saturating_duration_since(now);
        // 64 bits of nanoseconds are enough for five centuries.
        let Some(log2) = ((left / SLACK_SHARE).as_nanos() as u64).checked_ilog2() else {
            return deadline;
        };
        let step = 1u64 << log2.min(MAX_SLACK_LOG2_NANOS);
        let after_origin = deadline.saturating_duration_since(self.origin).as_nanos() as u64;
        let late = after_origin.wrapping_neg() & (step - 1);
        deadline + Duration::from_nanos(late)
    }
}

/// Marks a slot that has no entry in the heap.
const ABSENT: u32 = u32::MAX;

/// The deadlines of all connections of an endpoint, so that ten thousand idle connections cost one
/// timer of the runtime.
///
/// A heap with an index: each slot (the number of a connection) has at most one entry, whose
/// deadline can be moved in `O(log n)`. A connection's deadline moves later with nearly every packet
/// and is then simply left where it is ([`schedule`](Self::schedule)): when it comes due too early,
/// the connection is asked again and the entry re-inserted. That costs one extra look per interval
/// instead of a heap operation per packet.
///
/// ```
/// use std::time::{Duration, Instant};
/// let (mut queue, start) = (polyquic_core::TimerQueue::default(), Instant::now());
/// queue.schedule(3, start + Duration::from_secs(2));
/// queue.schedule(5, start + Duration::from_secs(1));
/// assert_eq!(queue.next_deadline(), Some(start + Duration::from_secs(1)));
/// assert_eq!(queue.pop_expired(start), None);
/// assert_eq!(queue.pop_expired(start + Duration::from_secs(1)), Some(5));
/// ```
#[derive(Debug, Default)]
pub struct TimerQueue {
    heap: Vec<(Instant, u32)>,
    /// Slot to position in the heap.
    positions: Vec<u32>,
}

impl TimerQueue {
    /// Make sure that `slot` comes due no later than `deadline`.
    ///
    /// An entry that is already earlier stays as it is: it will come due early, which is harmless.
    pub fn schedule(&mut self, slot: usize, deadline: Instant) {
        if slot >= self.positions.len() {
            self.positions.resize(slot + 1, ABSENT);
        }
        let position = self.positions[slot];
        if position == ABSENT {
            let position = self.heap.len();
            self.heap.push((deadline, slot as u32));
            self.positions[slot] = position as u32;
            self.sift_up(position);
        } else if deadline < self.heap[position as usize].0 {
            self.heap[position as usize].0 = deadline;
            self.sift_up(position as usize);
        }
    }

    /// Forget `slot`'s deadline, if it has one.
    pub fn cancel(&mut self, slot: usize) {
        if let Some(&position) = self.positions.get(slot)
            && position != ABSENT
        {
            self.remove(position as usize);
        }
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.heap.first().map(|&(deadline, _)| deadline)
    }

    /// Take out one slot whose deadline is not after `now`.
    pub fn pop_expired(&mut self, now: Instant) -> Option<usize> {
        let &(deadline, slot) = self.heap.first()?;
        if deadline > now {
            return None;
        }
        self.remove(0);
        Some(slot as usize)
    }

    /// How many slots have a deadline.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no slot has a deadline.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    fn remove(&mut self, position: usize) {
        let (_, slot) = self.heap.swap_remove(position);
        self.positions[slot as usize] = ABSENT;
        if position < self.heap.len() {
            self.positions[self.heap[position].1 as usize] = position as u32;
            // What came from the end may belong above or below its new place.
            self.sift_up(position);
            self.sift_down(position);
        }
    }

    fn sift_up(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / ARITY;
            if self.heap[parent].0 <= self.heap[position].0 {
                break;
            }
            self.swap(parent, position);
            position = parent;
        }
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let first = position * ARITY + 1;
            let children = first..(first + ARITY).min(self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.heap[child].0) else {
                break;
            };
            if self.heap[position].0 <= self.heap[least].0 {
                break;
            }
            self.swap(position, least);
            position = least;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.positions[self.heap[a].1 as usize] = a as u32;
        self.positions[self.heap[b].1 as usize] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    /// Random operations, compared with a map that is obviously right.
    #[test]
    fn agrees_with_a_model() {
        let mut rng = StdRng::from_seed([1; 32]);
        let base = Instant::now();
        let mut queue = TimerQueue::default();
        let mut model: BTreeMap<usize, u64> = BTreeMap::new();
        for step in 0..20_000u64 {
            let slot = rng.random_range(0..200usize);
            match rng.random_range(0..10) {
                0..6 => {
                    let at = rng.random_range(0..5_000);
                    queue.schedule(slot, base + Duration::from_millis(at));
                    let entry = model.entry(slot).or_insert(at);
                    *entry = at.min(*entry);
                }
                6 => {
                    queue.cancel(slot);
                    model.remove(&slot);
                }
                _ => {
                    let now = rng.random_range(0..5_000);
                    let popped = queue.pop_expired(base + Duration::from_millis(now));
                    let least = model.values().min().copied();
                    match popped {
                        Some(slot) => {
                            let at = model.remove(&slot).expect("popped what was not scheduled");
                            assert_eq!(Some(at), least, "step {step}: not the earliest");
                            assert!(at <= now);
                        }
                        None => assert!(least.is_none_or(|at| at > now), "step {step}"),
                    }
                }
            }
            assert_eq!(queue.len(), model.len());
            assert_eq!(
                queue.next_deadline(),
                model
                    .values()
                    .min()
                    .map(|&at| base + Duration::from_millis(at))
            );
        }
    }

    #[test]
    fn moving_later_is_lazy() {
        let base = Instant::now();
        let mut queue = TimerQueue::default();
        queue.schedule(0, base + Duration::from_secs(1));
        queue.schedule(0, base + Duration::from_secs(9));
        assert_eq!(queue.next_deadline(), Some(base + Duration::from_secs(1)));
        queue.cancel(7); // never scheduled: no effect
        queue.cancel(0);
        assert!(queue.is_empty());
    }
}
