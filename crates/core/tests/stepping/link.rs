//! A model of one direction of a network path.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::Duration;

use polyquic_core::{EcnCodepoint, Instant};
use rand::{RngExt, rngs::StdRng};

/// How a path treats datagrams. Probabilities are per datagram.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) latency: Duration,
    /// Up to this much more, at random for each datagram: what reorders them.
    pub(crate) jitter: Duration,
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    /// Flip up to four bits.
    pub(crate) corrupt: f64,
    /// Mark as congestion experienced what is ECN-capable.
    pub(crate) mark: f64,
    /// With a queue of 50 ms in front, which drops what does not fit.
    pub(crate) bytes_per_second: Option<u64>,
    /// Larger datagrams vanish.
    pub(crate) mtu_bytes: usize,
}

const QUEUE: Duration = Duration::from_millis(50);

impl Default for Network {
    /// Twenty milliseconds there and back, and nothing goes wrong.
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            mark: 0.0,
            bytes_per_second: None,
            mtu_bytes: 1472,
        }
    }
}

/// A datagram under way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Datagram {
    pub(crate) arrival: Instant,
    /// Orders what arrives at the same time.
    number: u64,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) data: Vec<u8>,
    /// The two bits on the wire.
    ecn: u8,
}

impl Datagram {
    pub(crate) fn ecn(&self) -> Option<EcnCodepoint> {
        EcnCodepoint::from_bits(self.ecn)
    }
}

/// Datagrams under way in one direction.
pub(crate) struct Link {
    pub(crate) network: Network,
    rng: StdRng,
    in_flight: BinaryHeap<Reverse<Datagram>>,
    sent: u64,
    /// When the bottleneck is done with what it has.
    busy_until: Option<Instant>,
    /// Nothing passes, in either way a cable can be cut.
    pub(crate) cut: bool,
    /// If set: lose one datagram, after so many more.
    pub(crate) lose_nth: Option<u64>,
    /// If set: spoil one byte of the next datagram, so many from its end.
    pub(crate) damage_next: Option<usize>,
}

impl Link {
    pub(crate) fn new(network: Network, rng: StdRng) -> Self {
        Self {
            network,
            rng,
            in_flight: BinaryHeap::new(),
            sent: 0,
            busy_until: None,
            cut: false,
            lose_nth: None,
            damage_next: None,
        }
    }

    pub(crate) fn send(
        &mut self,
        now: Instant,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Option<EcnCodepoint>,
        data: &[u8],
    ) {
        // Drawn whether needed or not: a change of one setting leaves the others' fate alone.
        let [lost, twice, corrupt, mark] = self.rng.random::<[f64; 4]>();
        if self.cut || data.len() > self.network.mtu_bytes {
            return;
        }
        let Some(departure) = self.bottleneck(now, data.len()) else {
            return;
        };
        if lost < self.network.loss {
            return;
        }
        if let Some(nth) = self.lose_nth {
            self.lose_nth = nth.checked_sub(1);
            if nth == 0 {
                return;
            }
        }
        let mut data = data.to_vec();
        if let Some(byte) = self.damage_next.take() {
            let at = data.len() - 1 - byte;
            data[at] ^= 1;
        }
        if corrupt < self.network.corrupt {
            flip_bits(&mut self.rng, &mut data);
        }
        let ecn = match ecn {
            Some(_) if mark < self.network.mark => EcnCodepoint::Ce as u8,
            Some(ecn) => ecn as u8,
            None => 0,
        };
        let copies = if twice < self.network.duplicate { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = self.network.jitter.mul_f64(self.rng.random());
            self.sent += 1;
            self.in_flight.push(Reverse(Datagram {
                arrival: departure + self.network.latency + jitter,
                number: self.sent,
                from,
                to,
                data: data.clone(),
                ecn,
            }));
        }
    }

    /// When the datagram gets through the bottleneck; `None` when there is no room to wait.
    fn bottleneck(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let Some(rate) = self.network.bytes_per_second else {
            return Some(now);
        };
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        if start - now > QUEUE {
            return None;
        }
        let done = start + Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate);
        self.busy_until = Some(done);
        Some(done)
    }

    /// When the next datagram arrives.
    pub(crate) fn next_arrival(&self) -> Option<Instant> {
        self.in_flight.peek().map(|next| next.0.arrival)
    }

    /// Take out a datagram that has arrived.
    pub(crate) fn receive(&mut self, now: Instant) -> Option<Datagram> {
        if self.next_arrival()? > now {
            return None;
        }
        self.in_flight.pop().map(|next| next.0)
    }
}

/// Flip one to four bits.
pub(crate) fn flip_bits(rng: &mut StdRng, data: &mut [u8]) {
    if data.is_empty() {
        return;
    }
    for _ in 0..rng.random_range(1..=4) {
        let bit = rng.random_range(0..data.len() * 8);
        data[bit / 8] ^= 1 << (bit % 8);
    }
}
