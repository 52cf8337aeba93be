//! What is sent to addresses that a client moved to or tried, and has not proved (RFC 9000 sections 8.2
//! and 9.3).
//!
//! quinn-proto 0.11.19 counts what it sends to a new address anew for each move, and neither challenges
//! nor answers to them nor the search for the path MTU keep to the limit: a client that pretends to move
//! back and forth between its own address and a victim's has a server send the victim two full datagrams
//! for each small packet. Here the limit is per address, over all moves.

use std::net::SocketAddr;

/// How many times as much may be sent to an address as came from it.
const FACTOR: u64 = 3;

/// Addresses that a client may claim without having proved them. What comes from further ones gets no
/// answer, but for the datagrams that bring proof: whoever moves for real proves one after the other.
const MAX_UNPROVED: usize = 8;

/// Addresses that a client claims and has not proved.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    unproved: Vec<Address>,
}

#[derive(Debug)]
struct Address {
    addr: SocketAddr,
    received: u64,
    sent: u64,
}

impl Moves {
    /// Whether there is anything to be counted.
    pub(crate) fn is_idle(&self) -> bool {
        self.unproved.is_empty()
    }

    /// The client moved to `addr`, or tries it, by an authentic datagram of `bytes` from there.
    pub(crate) fn claimed(&mut self, addr: SocketAddr, bytes: usize) {
        match self.unproved.iter_mut().find(|it| it.addr == addr) {
            Some(known) => known.received += bytes as u64,
            None => {
                // One too many is remembered, to be sent nothing.
                self.unproved.truncate(MAX_UNPROVED);
                self.unproved.push(Address {
                    addr,
                    received: bytes as u64,
                    sent: 0,
                });
            }
        }
    }

    /// A datagram of `bytes` came from `addr`, and answered a challenge or not.
    pub(crate) fn received(&mut self, addr: SocketAddr, bytes: usize, answered: bool) {
        let Some(index) = self.unproved.iter().position(|it| it.addr == addr) else {
            return;
        };
        // It may answer a challenge that was never sent, but is padded to 1200 bytes if it is to
        // count, and quinn-proto has a limit of its own for each move.
        if answered && bytes >= 1200 {
            self.unproved.swap_remove(index);
        } else {
            self.unproved[index].received += bytes as u64;
        }
    }

    /// Whether something may be sent to `addr`. As quinn-proto does, a whole
    /// datagram is allowed as long as any of the allowance is left.
    pub(crate) fn may_send(&self, addr: SocketAddr) -> bool {
        match self.unproved.iter().position(|it| it.addr == addr) {
            Some(index) => {
                let address = &self.unproved[index];
                index < MAX_UNPROVED && address.sent < FACTOR * address.received
            }
            None => true,
        }
    }

    /// A datagram goes to `addr`.
    pub(crate) fn sent(&mut self, addr: SocketAddr, bytes: usize) {
        if let Some(address) = self.unproved.iter_mut().find(|it| it.addr == addr) {
            address.sent += bytes as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 443).into()
    }

    #[test]
    fn the_limit_is_kept_over_all_moves() {
        let mut moves = Moves::default();
        assert!(moves.may_send(addr(1)) && moves.is_idle());
        for _ in 0..10 {
            moves.claimed(addr(1), 40);
            if moves.may_send(addr(1)) {
                moves.sent(addr(1), 1200);
            }
            moves.claimed(addr(2), 1200);
        }
        // 400 bytes came, so one datagram is all.
        assert!(!moves.may_send(addr(1)));
        assert!(moves.may_send(addr(2)));
        moves.claimed(addr(1), 40);
        assert!(moves.may_send(addr(1)), "440 bytes came");
    }

    #[test]
    fn proof_ends_the_limit() {
        let mut moves = Moves::default();
        moves.claimed(addr(1), 40);
        moves.sent(addr(1), 1200);
        moves.received(addr(1), 1200, false);
        assert!(!moves.is_idle(), "no proof in it");
        moves.received(addr(1), 100, true);
        assert!(!moves.is_idle(), "too cheap to be a proof");
        moves.received(addr(1), 1200, true);
        assert!(moves.is_idle() && moves.may_send(addr(1)));
    }

    #[test]
    fn addresses_beyond_the_limit_are_sent_nothing() {
        let mut moves = Moves::default();
        for last in 0..100 {
            moves.claimed(addr(last), 1200);
            assert_eq!(moves.may_send(addr(last)), usize::from(last) < MAX_UNPROVED);
        }
        assert_eq!(moves.unproved.len(), MAX_UNPROVED + 1);
        moves.received(addr(0), 1200, true);
        assert!(moves.may_send(addr(99)), "there is room again");
    }
}
