//! What is sent to addresses that a client moved to or tried, and has not proved (RFC 9000 sections 8.2
//! and 9.3).
//!
//! quinn-proto 0.11.19 counts what it sends to a new address anew for each move, and neither challenges
//! nor answers to them nor the search for the path MTU keep to the limit: a client that pretends to move
//! back and forth between its own address and a victim's has a server send the victim two full datagrams
//! for each small packet. Here the limit is per address, over all moves.
//!
//! Whether an answer to a challenge is right only quinn-proto knows, and it does not tell. It shows:
//! while quinn-proto challenges an address, each packet for it but the search for the path MTU bears the
//! challenge.

use std::net::SocketAddr;

/// How many times as much may be sent to an address as came from it.
const FACTOR: u64 = 3;

/// Addresses that are counted at a time. Others may be claimed, and the one that was silent for longest
/// is forgotten.
const MAX_UNPROVED: usize = 8;

/// Proved addresses that a client may go back to without being counted. Whoever can have its packets
/// overtaken by copies from elsewhere moves it away as often as they like, and it must get back each time.
const MAX_PROVED: usize = 4;

/// The addresses of a client.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// In the order in which they were last moved to.
    proved: Vec<SocketAddr>,
    /// In the order in which they were last claimed.
    unproved: Vec<Address>,
    /// Whether one was forgotten. It may have had the datagram too many that others may have.
    forgetful: bool,
    /// Whether quinn-proto challenges the current address, as far as was seen.
    challenged: bool,
    /// Whether the current address sent what may have been the right answer.
    answered: bool,
    /// Whether quinn-proto may have a challenge for the address before, which it sends first.
    old_path_due: bool,
}

#[derive(Debug)]
struct Address {
    addr: SocketAddr,
    received: u64,
    sent: u64,
    /// Not even by a part of a datagram may it be sent more.
    strict: bool,
}

impl Moves {
    /// Whether nothing that is sent needs to be looked at.
    pub(crate) fn is_idle(&self) -> bool {
        !self.challenged && self.unproved.is_empty()
    }

    /// Whether the current address is yet to be proved.
    pub(crate) fn is_challenged(&self) -> bool {
        self.challenged
    }

    /// The client moved from one address to another by an authentic datagram of `bytes`.
    pub(crate) fn moved(&mut self, before: SocketAddr, addr: SocketAddr, bytes: usize) {
        if !self.challenged {
            self.prove(before);
        }
        // quinn-proto asks whether the client is still there.
        self.old_path_due |= !self.challenged || self.answered;
        self.challenged = true;
        self.answered = false;
        self.claimed(addr, bytes);
    }

    /// The client moved to `addr`, or tries it, by an authentic datagram of `bytes` from there.
    pub(crate) fn claimed(&mut self, addr: SocketAddr, bytes: usize) {
        if let Some(index) = self.proved.iter().position(|it| *it == addr) {
            self.proved[index..].rotate_left(1);
            return;
        }
        if let Some(index) = self.unproved.iter().position(|it| it.addr == addr) {
            self.unproved[index].received += bytes as u64;
            self.unproved[index..].rotate_left(1);
            return;
        }
        if self.unproved.len() == MAX_UNPROVED {
            self.unproved.remove(0);
            self.forgetful = true;
        }
        self.unproved.push(Address {
            addr,
            received: bytes as u64,
            sent: 0,
            strict: self.forgetful,
        });
    }

    /// A datagram of `bytes` came from `addr`, the `current` address or not, and claims nothing. It may
    /// answer a challenge.
    pub(crate) fn received(
        &mut self,
        addr: SocketAddr,
        bytes: usize,
        current: bool,
        answers: bool,
    ) {
        if current {
            self.answered |= answers && self.challenged;
            self.claimed(addr, bytes);
        } else if let Some(known) = self.unproved.iter_mut().find(|it| it.addr == addr) {
            known.received += bytes as u64;
        }
    }

    /// quinn-proto went back from an address that was not proved in time to `addr`, which was.
    pub(crate) fn returned(&mut self, addr: SocketAddr) {
        self.old_path_due = false;
        self.prove(addr);
    }

    /// Whether quinn-proto may be asked for a datagram of `bytes` or less, the current address being
    /// `addr`.
    pub(crate) fn may_ask(&self, addr: SocketAddr, bytes: usize) -> bool {
        // Whether an answer was right shows in the next packet, which is dropped if it was not.
        !self.challenged || self.answered || self.old_path_due || self.may_send(addr, bytes)
    }

    /// quinn-proto was asked.
    pub(crate) fn asked(&mut self) {
        self.old_path_due = false;
    }

    /// A packet for `addr`, the current address, was made, with a challenge or without.
    pub(crate) fn made(&mut self, addr: SocketAddr, challenges: bool) {
        self.answered = false;
        if !challenges {
            self.prove(addr);
        }
    }

    /// Whether a datagram of `bytes` may be sent to `addr`. As in quinn-proto, a whole datagram is
    /// allowed as long as any of the allowance is left.
    pub(crate) fn may_send(&self, addr: SocketAddr, bytes: usize) -> bool {
        if let Some(known) = self.unproved.iter().find(|it| it.addr == addr) {
            let needed = if known.strict { bytes as u64 } else { 1 };
            return known.sent + needed <= FACTOR * known.received;
        }
        self.proved.contains(&addr)
    }

    /// A datagram goes to `addr`.
    pub(crate) fn sent(&mut self, addr: SocketAddr, bytes: usize) {
        if let Some(known) = self.unproved.iter_mut().find(|it| it.addr == addr) {
            known.sent += bytes as u64;
        }
    }

    /// The current address is `addr`, and the client's.
    fn prove(&mut self, addr: SocketAddr) {
        self.challenged = false;
        self.answered = false;
        self.unproved.retain(|it| it.addr != addr);
        self.proved.retain(|it| *it != addr);
        if self.proved.len() == MAX_PROVED {
            self.proved.remove(0);
        }
        self.proved.push(addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 443).into()
    }

    /// Send what may be sent of datagrams of `bytes`.
    fn flood(moves: &mut Moves, to: SocketAddr, bytes: usize) -> usize {
        let mut sent = 0;
        while sent < 1_000_000 && moves.may_send(to, bytes) {
            moves.sent(to, bytes);
            sent += bytes;
        }
        sent
    }

    #[test]
    fn the_limit_is_kept_over_all_moves() {
        let mut moves = Moves::default();
        assert!(moves.is_idle());
        let mut sent = 0;
        for _ in 0..10 {
            moves.moved(addr(1), addr(2), 40);
            sent += flood(&mut moves, addr(2), 1200);
            moves.moved(addr(2), addr(1), 1200);
            assert!(moves.may_send(addr(1), 1200), "it was proved before");
        }
        // 400 bytes came.
        assert_eq!(sent, 1200);
        moves.moved(addr(1), addr(2), 40);
        assert!(moves.may_send(addr(2), 1200), "440 bytes came");
    }

    #[test]
    fn what_quinn_proto_does_not_challenge_is_proved() {
        let mut moves = Moves::default();
        moves.moved(addr(1), addr(2), 40);
        assert_eq!(flood(&mut moves, addr(2), 1200), 1200);
        moves.asked();
        assert!(!moves.may_ask(addr(2), 1200));
        moves.received(addr(2), 300, true, true);
        moves.sent(addr(2), 1200);
        assert!(moves.may_ask(addr(2), 1200), "it may be the right answer");
        moves.made(addr(2), true);
        assert!(!moves.may_ask(addr(2), 1200), "it was not");
        assert!(!moves.may_send(addr(2), 1200) && moves.is_challenged());
        moves.received(addr(2), 10, true, true);
        moves.made(addr(2), false);
        assert!(moves.is_idle() && moves.may_send(addr(2), 1200));
    }

    #[test]
    fn the_old_path_is_asked_whatever_the_new_one_may_get() {
        let mut moves = Moves::default();
        moves.moved(addr(1), addr(2), 40);
        flood(&mut moves, addr(2), 1200);
        assert!(moves.may_ask(addr(2), 1200) && moves.may_send(addr(1), 1200));
        moves.asked();
        assert!(!moves.may_ask(addr(2), 1200));
        moves.returned(addr(1));
        assert!(moves.may_ask(addr(1), 1200) && !moves.is_challenged());
        assert!(!moves.is_idle(), "what the other got is not forgotten");
    }

    /// More addresses than are counted, over and over: each gets one datagram too many at most once.
    #[test]
    fn who_was_forgotten_keeps_to_the_limit() {
        let mut moves = Moves::default();
        let (mut sent, mut received) = ([0; 100], [0; 100]);
        for round in 0..30 {
            for last in 0..100 {
                moves.moved(addr(200), addr(last), 40 + round);
                received[usize::from(last)] += 40 + round;
                sent[usize::from(last)] += flood(&mut moves, addr(last), 1200);
                moves.moved(addr(last), addr(200), 40);
                assert!(moves.may_send(addr(200), 1200), "the client's own");
            }
        }
        for (sent, received) in sent.into_iter().zip(received) {
            assert!(sent < 3 * received + 1200, "{sent} for {received}");
        }
        assert_eq!(moves.unproved.len(), MAX_UNPROVED);
        // And yet whoever comes then is served.
        moves.moved(addr(200), addr(201), 40);
        assert_eq!(flood(&mut moves, addr(201), 1200), 0);
        for _ in 0..10 {
            moves.received(addr(201), 40, true, false);
        }
        assert_eq!(flood(&mut moves, addr(201), 1200), 1200);
    }

    /// Claims by probes push out the current address, which is not free for that.
    #[test]
    fn the_current_address_is_counted_when_it_was_forgotten() {
        let mut moves = Moves::default();
        moves.moved(addr(1), addr(2), 40);
        moves.asked();
        for last in 10..30 {
            moves.claimed(addr(last), 40);
        }
        assert!(!moves.may_ask(addr(2), 1200) && !moves.may_send(addr(2), 1200));
        moves.received(addr(2), 400, true, false);
        assert_eq!(flood(&mut moves, addr(2), 1200), 1200);
    }

    #[test]
    fn few_proved_addresses_are_remembered() {
        let mut moves = Moves::default();
        for last in 1..10 {
            moves.moved(addr(last), addr(last + 1), 40);
            moves.made(addr(last + 1), false);
        }
        assert_eq!(moves.proved, [7, 8, 9, 10].map(addr));
        moves.moved(addr(10), addr(8), 40);
        assert_eq!(moves.proved, [7, 9, 10, 8].map(addr));
    }
}
