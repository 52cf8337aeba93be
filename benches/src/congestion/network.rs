//! The bottlenecks.

use std::time::Duration;

use polyquic::sim::{Link, Queue};

/// A bottleneck between servers and clients, of which servers send down.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its name in results.
    pub name: &'static str,
    /// What it is, for the page.
    pub title: &'static str,
    /// Its properties, for the page.
    pub about: &'static str,
    /// Towards the client.
    pub down: Link,
    /// Towards the server.
    pub up: Link,
    /// Bits per second towards the client; at first, if it changes.
    pub rate: u64,
    /// Whether the rate changes every [`STEP`].
    pub walks: bool,
    /// How long a transfer is watched.
    pub watched: Duration,
}

/// How often the rate of a link that [walks](Network::walks) changes.
pub const STEP: Duration = Duration::from_millis(100);
/// Between which rates it walks, in bit/s.
const WALK: (u64, u64) = (5_000_000, 60_000_000);

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Network {
    fn new(
        name: &'static str,
        title: &'static str,
        about: &'static str,
        rate: u64,
        link: Link,
    ) -> Self {
        Self {
            name,
            title,
            about,
            down: link.clone(),
            up: link,
            rate,
            walks: false,
            watched: Duration::from_secs(20),
        }
    }

    fn up(mut self, up: Link) -> Self {
        self.up = up;
        self
    }

    fn watched(mut self, seconds: u64) -> Self {
        self.watched = Duration::from_secs(seconds);
        self
    }

    /// All on which one transfer is measured, in the order of the page.
    pub fn all() -> Vec<Self> {
        let uplink = Link::new()
            .bandwidth(10_000_000)
            .delay(ms(10))
            .queue(Queue::drop_tail(250_000));
        // 50 Mbit/s over 40 ms: 250 kB are in flight.
        let middle = |queue| {
            Link::new()
                .bandwidth(50_000_000)
                .delay(ms(20))
                .queue(Queue::drop_tail(queue))
        };
        let clean = || Link::new().bandwidth(50_000_000).delay(ms(20));
        let about_loss = "50 Mbit/s, 40 ms round trip, buffer of 40 ms";
        let mut lte = Self::new(
            "lte",
            "LTE",
            "5 to 60 Mbit/s, another rate every 100 ms; 50 ms round trip and up to 40 ms of jitter; buffer of 1.5 MB",
            30_000_000,
            Link::lte(),
        )
        .watched(30);
        lte.walks = true;
        vec![
            Self::new(
                "lan",
                "LAN",
                "1 Gbit/s, 0.2 ms round trip, buffer of 4 ms",
                1_000_000_000,
                Link::lan(),
            )
            .watched(1),
            Self::new(
                "dsl",
                "DSL",
                "50/10 Mbit/s, 20 ms round trip, buffer of 200 ms",
                50_000_000,
                Link::dsl(),
            )
            .up(uplink.clone()),
            Self::new(
                "dsl-codel",
                "DSL, CoDel and ECN",
                "the same with a queue that marks (CoDel, 5 ms and 100 ms)",
                50_000_000,
                Link::dsl().queue(Queue::codel(1_250_000, ms(5), ms(100)).with_ecn()),
            )
            .up(uplink),
            lte,
            Self::new(
                "satellite",
                "Satellite",
                "20 Mbit/s, 600 ms round trip, buffer of 600 ms",
                20_000_000,
                Link::satellite(),
            )
            .watched(60),
            Self::new(
                "wifi",
                "Lossy Wi-Fi",
                "40 Mbit/s, 6 ms round trip and up to 10 ms of jitter; 1 % lost each way, in bursts of 2",
                40_000_000,
                Link::wifi(),
            ),
            Self::new(
                "loss-0.1",
                "Loss of 0.1 %",
                about_loss,
                50_000_000,
                middle(250_000).loss(0.001),
            )
            .up(clean()),
            Self::new(
                "loss-1",
                "Loss of 1 %",
                about_loss,
                50_000_000,
                middle(250_000).loss(0.01),
            )
            .up(clean()),
            Self::new(
                "loss-3",
                "Loss of 3 %",
                about_loss,
                50_000_000,
                middle(250_000).loss(0.03),
            )
            .up(clean()),
            Self::new(
                "shallow",
                "Shallow buffer",
                "50 Mbit/s, 40 ms round trip, buffer of 4 ms: a tenth of what is in flight",
                50_000_000,
                middle(25_000),
            )
            .up(clean()),
        ]
    }

    /// One by its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|it| it.name == name)
    }

    /// The bottleneck that two transfers share: 20 Mbit/s, whose round trip the servers decide.
    pub fn shared(name: &str) -> Option<Self> {
        // 20 Mbit/s over 40 ms: 100 kB are in flight.
        let (name, title, about, queue) = match name {
            "1bdp" => (
                "1bdp",
                "Buffer of 40 ms",
                "one round trip",
                Queue::drop_tail(100_000),
            ),
            "5bdp" => (
                "5bdp",
                "Buffer of 200 ms",
                "five round trips",
                Queue::drop_tail(500_000),
            ),
            "codel" => (
                "codel",
                "CoDel and ECN",
                "marks rather than drops",
                Queue::codel(500_000, ms(5), ms(100)).with_ecn(),
            ),
            _ => return None,
        };
        let link = Link::new().bandwidth(20_000_000).queue(queue);
        Some(Self::new(name, title, about, 20_000_000, link).up(Link::new()))
    }
}

/// The rate of a link that changes, on a random walk.
pub struct Walk {
    state: u64,
    rate: f64,
}

impl Walk {
    /// Starts at `rate`.
    pub fn new(seed: u64, rate: u64) -> Self {
        Self {
            state: seed,
            rate: rate as f64,
        }
    }

    /// The next rate: up to a third less or half more, and reflected at the limits.
    pub fn step(&mut self) -> u64 {
        let up = 1.0 + f64::from(self.draw()) / f64::from(u32::MAX) * 0.5;
        let change = if self.draw() & 1 == 0 { up } else { 1.0 / up };
        let (lowest, highest) = (WALK.0 as f64, WALK.1 as f64);
        self.rate *= change;
        if self.rate > highest {
            self.rate = highest * highest / self.rate;
        }
        if self.rate < lowest {
            self.rate = lowest * lowest / self.rate;
        }
        self.rate as u64
    }

    /// SplitMix64, the upper half.
    fn draw(&mut self) -> u32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_stays_within_its_limits_and_follows_from_its_seed() {
        let walk = |seed| {
            let mut walk = Walk::new(seed, 30_000_000);
            (0..10_000).map(|_| walk.step()).collect::<Vec<_>>()
        };
        let rates = walk(1);
        assert!(rates.iter().all(|rate| (WALK.0..=WALK.1).contains(rate)));
        assert_eq!(rates, walk(1));
        assert_ne!(rates, walk(2));
    }
}
