//! What a link does to packets.

use std::time::Duration;

/// One direction of a path: how fast, how far, how reliable.
///
/// Starts out perfect and immediate; each method adds a property. Probabilities are from 0 to 1,
/// and drawn for each packet.
///
/// ```
/// use std::time::Duration;
/// use polyquic_sim::{Link, Queue};
///
/// let dsl = Link::new()
///     .bandwidth(16_000_000)
///     .delay(Duration::from_millis(12))
///     .queue(Queue::drop_tail(100_000))
///     .loss(0.001);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    pub(crate) bandwidth: Option<u64>,
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) overtaking: bool,
    pub(crate) queue: Queue,
    pub(crate) loss: Loss,
    pub(crate) reorder: (f64, Duration),
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
    pub(crate) mtu: Option<(u16, TooLarge)>,
    pub(crate) mark: f64,
    pub(crate) bleach: bool,
}

/// How packets are lost on a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Loss {
    /// Each with the same probability.
    Random(f64),
    /// By the model of Gilbert and Elliott: in the bad state all are lost.
    Bursts { begin: f64, end: f64 },
}

/// What becomes of a packet that is larger than a link's MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TooLarge {
    /// It vanishes: a black hole.
    Vanishes,
    /// The sender's host learns about the smaller MTU, as by ICMP, and sends nothing larger on that
    /// path for ten minutes: it drops such packets itself. NATs translate what it is told.
    Reported,
}

/// The buffer before a link with limited bandwidth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Queue {
    pub(crate) bytes: u64,
    pub(crate) mark_above: Option<u64>,
    pub(crate) codel: Option<CoDel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CoDel {
    pub(crate) target: Duration,
    pub(crate) interval: Duration,
    pub(crate) ecn: bool,
}

impl Queue {
    /// Holds `bytes` (with IP headers) and drops what comes when it is full.
    pub const fn drop_tail(bytes: u64) -> Self {
        Self {
            bytes,
            mark_above: None,
            codel: None,
        }
    }

    /// Keeps packets from waiting longer than `target` for longer than `interval`, by dropping from
    /// its head (RFC 8289); holds at most `bytes`. The RFC's values are 5 ms and 100 ms.
    pub const fn codel(bytes: u64, target: Duration, interval: Duration) -> Self {
        let codel = CoDel {
            target,
            interval,
            ecn: false,
        };
        Self {
            bytes,
            mark_above: None,
            codel: Some(codel),
        }
    }

    /// Mark packets as having experienced congestion instead of dropping them, if they allow that
    /// (RFC 3168): CoDel where it would have dropped, a drop-tail queue while it holds more than
    /// half of what it can.
    pub const fn with_ecn(mut self) -> Self {
        match &mut self.codel {
            Some(codel) => codel.ecn = true,
            None => self.mark_above = Some(self.bytes / 2),
        }
        self
    }
}

impl Default for Link {
    fn default() -> Self {
        Self {
            bandwidth: None,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            overtaking: false,
            queue: Queue::drop_tail(256 * 1024),
            loss: Loss::Random(0.0),
            reorder: (0.0, Duration::ZERO),
            duplicate: 0.0,
            corrupt: 0.0,
            mtu: None,
            mark: 0.0,
            bleach: false,
        }
    }
}

impl Link {
    /// A perfect link: every packet arrives at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bits per second, counting IP and UDP headers; at least 1. Default: unlimited, without a queue.
    pub fn bandwidth(mut self, bits_per_second: u64) -> Self {
        self.bandwidth = Some(bits_per_second.max(1));
        self
    }

    /// Time that a packet travels, after it was sent whole.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Up to this much more delay, drawn for each packet. Packets keep their order.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self.overtaking = false;
        self
    }

    /// As [`jitter`](Self::jitter), and packets overtake each other.
    pub fn disorder(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self.overtaking = true;
        self
    }

    /// What waits to be sent. Default: drop-tail with 256 KiB. Of no effect without
    /// [`bandwidth`](Self::bandwidth).
    pub fn queue(mut self, queue: Queue) -> Self {
        self.queue = queue;
        self
    }

    /// Lose packets, each with this probability.
    pub fn loss(mut self, probability: f64) -> Self {
        self.loss = Loss::Random(probability);
        self
    }

    /// Lose packets in bursts: one begins before a packet with probability `begin`, and ends before
    /// one with probability `end`, so that it takes `1 / end` packets on average.
    pub fn bursts(mut self, begin: f64, end: f64) -> Self {
        self.loss = Loss::Bursts { begin, end };
        self
    }

    /// Hold packets back for `by` with this probability, so that later ones overtake them.
    pub fn reorder(mut self, probability: f64, by: Duration) -> Self {
        self.reorder = (probability, by);
        self
    }

    /// Deliver packets twice, with this probability.
    pub fn duplicate(mut self, probability: f64) -> Self {
        self.duplicate = probability;
        self
    }

    /// Flip a bit of the payload, with this probability.
    pub fn corrupt(mut self, probability: f64) -> Self {
        self.corrupt = probability;
        self
    }

    /// Largest IP packet in bytes, and what becomes of larger ones. Default: none.
    pub fn mtu(mut self, bytes: u16, too_large: TooLarge) -> Self {
        self.mtu = Some((bytes, too_large));
        self
    }

    /// Mark packets that allow it as having experienced congestion, with this probability.
    pub fn mark(mut self, probability: f64) -> Self {
        self.mark = probability;
        self
    }

    /// Erase ECN codepoints, as some routers do.
    pub fn bleach(mut self) -> Self {
        self.bleach = true;
        self
    }
}

/// Links as they occur. None of these loses packets at random unless it says so.
impl Link {
    /// A cable in the same building: 1 Gbit/s, 100 µs.
    pub fn lan() -> Self {
        Self::new()
            .bandwidth(1_000_000_000)
            .delay(Duration::from_micros(100))
            .queue(Queue::drop_tail(500_000))
    }

    /// The downlink of a home: 50 Mbit/s, 10 ms, 200 ms of buffer.
    pub fn dsl() -> Self {
        Self::new()
            .bandwidth(50_000_000)
            .delay(Duration::from_millis(10))
            .queue(Queue::drop_tail(1_250_000))
    }

    /// A mobile network: 30 Mbit/s, 25 ms and up to 20 ms more, a deep buffer.
    pub fn lte() -> Self {
        Self::new()
            .bandwidth(30_000_000)
            .delay(Duration::from_millis(25))
            .jitter(Duration::from_millis(20))
            .queue(Queue::drop_tail(1_500_000))
    }

    /// By a geostationary satellite: 20 Mbit/s, 300 ms each way.
    pub fn satellite() -> Self {
        Self::new()
            .bandwidth(20_000_000)
            .delay(Duration::from_millis(300))
            .queue(Queue::drop_tail(1_500_000))
    }

    /// Crowded Wi-Fi: 40 Mbit/s, 3 ms and up to 5 ms more, 1 % lost, in bursts of 2.
    pub fn wifi() -> Self {
        Self::new()
            .bandwidth(40_000_000)
            .delay(Duration::from_millis(3))
            .jitter(Duration::from_millis(5))
            .queue(Queue::drop_tail(250_000))
            .bursts(0.005, 0.5)
    }
}
