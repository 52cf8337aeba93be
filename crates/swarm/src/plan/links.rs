//! Plans of links.

use std::fmt;
use std::time::Duration;

use polyquic::sim::{Link, Queue, TooLarge};

use crate::dice::Dice;

/// One direction of a link.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LinkPlan {
    /// Bits per second.
    pub(crate) bandwidth: Option<u64>,
    pub(crate) delay: Duration,
    jitter: Option<(Duration, bool)>,
    /// Bytes, whether by CoDel, whether with ECN.
    queue: (u64, bool, bool),
    loss: f64,
    bursts: Option<(f64, f64)>,
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
    reorder: Option<(f64, Duration)>,
    mtu: Option<(u16, bool)>,
    mark: f64,
    bleach: bool,
}

impl LinkPlan {
    /// Fast and near, and nothing goes wrong.
    pub(crate) fn clean() -> Self {
        Self {
            bandwidth: Some(100_000_000),
            delay: Duration::from_millis(5),
            jitter: None,
            queue: (256 << 10, false, false),
            loss: 0.0,
            bursts: None,
            duplicate: 0.0,
            corrupt: 0.0,
            reorder: None,
            mtu: None,
            mark: 0.0,
            bleach: false,
        }
    }

    /// Nothing gets lost on it but by a full queue.
    pub(crate) fn near(dice: &mut Dice) -> Self {
        Self {
            bandwidth: Some(dice.scale(30_000_000, 1_000_000_000)),
            delay: dice.span(1, 8),
            queue: (64 << 10, false, false),
            ..Self::clean()
        }
    }

    /// With a queue of two round-trip times of 40 ms, at this rate.
    pub(crate) fn bottleneck(bandwidth: u64, delay: Duration) -> Self {
        Self {
            bandwidth: Some(bandwidth),
            delay,
            queue: ((bandwidth / 8 / 12).max(30_000), false, false),
            ..Self::clean()
        }
    }

    /// `harsh` up to 15 % of losses, otherwise up to 2 %.
    pub(crate) fn draw(dice: &mut Dice, harsh: bool) -> Self {
        let worst = if harsh { 0.15 } else { 0.02 };
        let bandwidth = dice.maybe(0.7, |it| it.scale(256_000, 1_000_000_000));
        // From 20 ms to 1 s of buffer.
        let buffer = bandwidth.unwrap_or(10_000_000) / 8 / dice.scale(1, 50);
        Self {
            bandwidth,
            delay: match dice.chance(0.2) {
                true => Duration::ZERO,
                false => dice.span(1, 400),
            },
            jitter: dice.maybe(0.3, |it| (it.span(1, 60), it.chance(0.4))),
            queue: (
                buffer.clamp(12_000, 2_000_000),
                dice.chance(0.3),
                dice.chance(0.3),
            ),
            loss: dice
                .maybe(0.4, |it| it.probability(0.0, worst))
                .unwrap_or(0.0),
            bursts: dice.maybe(if harsh { 0.2 } else { 0.0 }, |it| {
                (it.probability(0.001, 0.02), it.probability(0.1, 0.6))
            }),
            duplicate: dice
                .maybe(0.2, |it| it.probability(0.0, 0.1))
                .unwrap_or(0.0),
            corrupt: dice
                .maybe(0.15, |it| it.probability(0.0, worst / 5.0))
                .unwrap_or(0.0),
            reorder: dice.maybe(0.2, |it| (it.probability(0.0, 0.1), it.span(1, 80))),
            mtu: dice.maybe(0.3, |it| (it.range(1280, 1600) as u16, it.chance(0.5))),
            mark: dice
                .maybe(0.1, |it| it.probability(0.0, 0.05))
                .unwrap_or(0.0),
            bleach: dice.chance(0.1),
        }
    }

    /// Whether it loses more than links do when nothing is meant to fail.
    pub(crate) fn is_harsh(&self) -> bool {
        self.loss > 0.02 || self.corrupt > 0.004 || self.bursts.is_some()
    }

    /// Whether packets get lost other than by full queues.
    pub(crate) fn loses(&self) -> bool {
        self.loss > 0.0 || self.corrupt > 0.0 || self.bursts.is_some() || self.mtu.is_some()
    }

    /// How much may be under way on it: in its queue, or, where there is none, on its way.
    pub(crate) fn queue_bytes(&self) -> u64 {
        self.bandwidth.map_or(64 << 10, |_| self.queue.0)
    }

    /// The longest that a packet takes, behind a full queue.
    pub(crate) fn worst(&self) -> Duration {
        let queue = self
            .bandwidth
            .map_or(0, |rate| self.queue.0 * 8_000_000 / rate);
        let jitter = self.jitter.map_or(Duration::ZERO, |it| it.0);
        let held = self.reorder.map_or(Duration::ZERO, |it| it.1);
        self.delay + jitter + held + Duration::from_micros(queue)
    }

    pub(crate) fn build(&self) -> Link {
        let mut link = Link::new().delay(self.delay);
        if let Some(bandwidth) = self.bandwidth {
            link = link.bandwidth(bandwidth);
        }
        if let Some((jitter, overtaking)) = self.jitter {
            link = match overtaking {
                true => link.disorder(jitter),
                false => link.jitter(jitter),
            };
        }
        let (bytes, codel, ecn) = self.queue;
        let queue = match codel {
            true => Queue::codel(bytes, Duration::from_millis(5), Duration::from_millis(100)),
            false => Queue::drop_tail(bytes),
        };
        link = link.queue(if ecn { queue.with_ecn() } else { queue });
        link = match self.bursts {
            Some((begin, end)) => link.bursts(begin, end),
            None => link.loss(self.loss),
        };
        link = link.duplicate(self.duplicate).corrupt(self.corrupt);
        if let Some((probability, by)) = self.reorder {
            link = link.reorder(probability, by);
        }
        if let Some((bytes, reported)) = self.mtu {
            let too_large = match reported {
                true => TooLarge::Reported,
                false => TooLarge::Vanishes,
            };
            link = link.mtu(bytes, too_large);
        }
        link = link.mark(self.mark);
        if self.bleach { link.bleach() } else { link }
    }
}

impl fmt::Display for LinkPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bandwidth {
            Some(bits) => write!(
                f,
                "{} kbit/s (queue {} B{}{})",
                bits / 1000,
                self.queue.0,
                if self.queue.1 { ", CoDel" } else { "" },
                if self.queue.2 { ", ECN" } else { "" },
            )?,
            None => f.write_str("unlimited")?,
        }
        write!(f, ", {:?}", self.delay)?;
        if let Some((jitter, overtaking)) = self.jitter {
            let kind = if overtaking { "disorder" } else { "jitter" };
            write!(f, ", {kind} {jitter:?}")?;
        }
        if let Some((begin, end)) = self.bursts {
            write!(f, ", bursts {begin:.4}/{end:.2}")?;
        } else if self.loss > 0.0 {
            write!(f, ", loss {:.2} %", self.loss * 100.0)?;
        }
        for (name, value) in [
            ("duplicates", self.duplicate),
            ("corrupts", self.corrupt),
            ("marks", self.mark),
        ] {
            if value > 0.0 {
                write!(f, ", {name} {:.2} %", value * 100.0)?;
            }
        }
        if let Some((probability, by)) = self.reorder {
            write!(f, ", holds {:.1} % back by {by:?}", probability * 100.0)?;
        }
        if let Some((bytes, reported)) = self.mtu {
            let kind = if reported { "reported" } else { "black hole" };
            write!(f, ", MTU {bytes} ({kind})")?;
        }
        f.write_str(if self.bleach { ", bleaches ECN" } else { "" })
    }
}
