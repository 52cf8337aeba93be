//! Packet number spaces (RFC 9000 section 12.3).

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A packet number space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Initial packets.
    Initial = 0,
    /// Handshake packets.
    Handshake = 1,
    /// 0-RTT and 1-RTT packets.
    Data = 2,
}

/// What a peer keeps for each of them.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) next_pn: u64,
    /// Packet numbers of the victim, in ascending, disjoint ranges.
    received: Vec<RangeInclusive<u64>>,
    pub(crate) ack_due: bool,
    crypto_read: u64,
    crypto_waiting: BTreeMap<u64, Vec<u8>>,
    pub(crate) crypto_written: u64,
}

impl State {
    pub(crate) fn largest(&self) -> Option<u64> {
        self.received.last().map(|range| *range.end())
    }

    pub(crate) fn received(&self) -> &[RangeInclusive<u64>] {
        &self.received
    }

    /// Note a packet number; whether it is new.
    pub(crate) fn note(&mut self, pn: u64) -> bool {
        if self.received.iter().any(|range| range.contains(&pn)) {
            return false;
        }
        self.received.push(pn..=pn);
        self.received.sort_by_key(|range| *range.start());
        self.received.dedup_by(|next, kept| {
            let adjacent = *kept.end() + 1 == *next.start();
            if adjacent {
                *kept = *kept.start()..=*next.end();
            }
            adjacent
        });
        true
    }

    /// Take in a piece of the victim's TLS messages; returns what can be read now.
    pub(crate) fn crypto(&mut self, offset: u64, data: &[u8]) -> Vec<u8> {
        self.crypto_waiting.insert(offset, data.to_vec());
        let mut ready = Vec::new();
        while let Some((start, piece)) = self.crypto_waiting.pop_first() {
            if start > self.crypto_read {
                self.crypto_waiting.insert(start, piece);
                break;
            }
            let known = usize::try_from(self.crypto_read - start).unwrap_or(usize::MAX);
            if let Some(new) = piece.get(known..) {
                self.crypto_read += new.len() as u64;
                ready.extend_from_slice(new);
            }
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_numbers_become_ranges() {
        let mut state = State::default();
        for pn in [3, 1, 7, 2, 8] {
            assert!(state.note(pn));
        }
        assert!(!state.note(2));
        assert_eq!(state.received(), [1..=3, 7..=8]);
        assert_eq!(state.largest(), Some(8));
    }

    #[test]
    fn pieces_are_put_in_order() {
        let mut state = State::default();
        assert_eq!(state.crypto(2, b"cd"), b"");
        assert_eq!(state.crypto(0, b"abc"), b"abcd");
        assert_eq!(state.crypto(1, b"bc"), b"");
        assert_eq!(state.crypto(3, b"def"), b"ef");
    }
}
