//! Plans of what applications do.

use std::time::Duration;

use super::more::Hasty;
use crate::dice::Dice;

/// One direction of a stream: what is written, and what becomes of it.
#[derive(Debug, Clone)]
pub(crate) struct HalfPlan {
    /// Bytes; if any, at least 8, by which the reader knows the stream.
    pub(crate) size: u64,
    /// Bytes per write.
    pub(crate) chunk: u64,
    /// Between writes.
    pub(crate) write_pause: Duration,
    pub(crate) write_end: End,
    /// How often a write is given up early, and tried again.
    pub(crate) write_cancel: f64,
    pub(crate) priority: i32,
    /// Whether the writer waits until the peer has everything.
    pub(crate) confirm: bool,
    pub(crate) mode: ReadMode,
    pub(crate) read_pause: Duration,
    pub(crate) read_end: End,
    pub(crate) read_cancel: f64,
    /// How long the reader stands still once, after the first half.
    pub(crate) read_stop: Duration,
    /// How often waiting for the peer's acknowledgement is given up early, and tried again.
    pub(crate) stopped_cancels: u32,
    /// Whether the reader uses `read_exact`, as long as so much must come.
    pub(crate) exact: bool,
}

/// How an application is done with its half of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Finishes, or reads to the end.
    Regular,
    /// Resets or stops it with a code after this many bytes.
    Code(u64),
    /// Drops the handle after this many bytes.
    Drop(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadMode {
    Slice(usize),
    Chunk(usize),
    Unordered,
    Chunks,
    ToEnd,
}

/// A stream, and what follows from it.
#[derive(Debug, Clone)]
pub(crate) struct StreamPlan {
    pub(crate) there: HalfPlan,
    /// `None`: it is unidirectional.
    pub(crate) back: Option<HalfPlan>,
    /// How often opening is given up early, and tried again.
    pub(crate) open_cancels: u32,
    /// Before the next one.
    pub(crate) gap: Duration,
    /// Streams that the server opens when it has got to know this one.
    pub(crate) pushes: Vec<Self>,
}

#[derive(Debug, Clone)]
pub(crate) enum TaskPlan {
    /// One after the other.
    Streams(Vec<StreamPlan>),
    Datagrams {
        count: u32,
        size: u64,
        gap: Duration,
        /// Wait for room instead of dropping.
        wait: bool,
        /// How often the server answers.
        echo: f64,
    },
    KeyUpdate(Duration),
    /// Change the interface, if there are two, and the socket.
    Move(Duration),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The client closes when everything was done.
    Close,
    /// The client drops its handles when everything was done.
    Drop,
    /// The server closes when everything was done.
    ServerCloses,
    /// The client closes in the middle of it.
    Abrupt(Duration),
}

#[derive(Debug, Clone)]
pub(crate) struct ConnectionPlan {
    pub(crate) after: Duration,
    pub(crate) server: usize,
    pub(crate) ipv6: bool,
    pub(crate) early: bool,
    /// How long to wait for the handshake.
    pub(crate) patience: Option<Duration>,
    pub(crate) tasks: Vec<(bool, TaskPlan)>,
    pub(crate) ending: Ending,
    /// When the server updates keys, each time after the one before.
    pub(crate) server_key_updates: Vec<Duration>,
    /// How long readers of datagrams stand still after each.
    pub(crate) slow_datagrams: Option<Duration>,
    /// Instead of `ending`: it does not wait until everything was delivered.
    pub(crate) hasty: Option<Hasty>,
}

/// What to draw from.
pub(crate) struct Limits {
    /// Of one half of a stream, in bytes.
    pub(crate) size: u64,
    pub(crate) servers: usize,
    pub(crate) moves: bool,
    /// Nothing is given up, stopped or reset.
    pub(crate) polite: bool,
}

impl HalfPlan {
    fn draw(dice: &mut Dice, limits: &Limits) -> Self {
        let size = match dice.chance(0.1) {
            true => 0,
            false => dice.scale(8, limits.size),
        };
        let mut end = |probability: f64| match dice.chance(probability) && !limits.polite {
            true if dice.chance(0.5) => End::Code(dice.range(0, size)),
            true => End::Drop(dice.range(0, size)),
            false => End::Regular,
        };
        let (write_end, read_end) = (end(0.12), end(0.12));
        let pause = |it: &mut Dice| it.span(1, 50);
        let pieces = dice.scale(1, 100);
        let mode = match dice.range(0, 4) {
            0 => ReadMode::Slice((size / pieces).clamp(16, 1 << 16) as usize),
            1 => ReadMode::Chunk((size / pieces).clamp(16, 1 << 20) as usize),
            2 => ReadMode::Unordered,
            3 => ReadMode::Chunks,
            _ => ReadMode::ToEnd,
        };
        let cancel = |it: &mut Dice| it.probability(0.0, 0.5);
        Self {
            size,
            chunk: (size / pieces).max(8),
            write_pause: dice.maybe(0.2, pause).unwrap_or_default(),
            write_end,
            write_cancel: dice.maybe(0.3, cancel).unwrap_or(0.0),
            priority: dice.range(0, 4) as i32 - 2,
            confirm: dice.chance(0.7),
            mode,
            read_pause: dice.maybe(0.2, pause).unwrap_or_default(),
            read_end,
            read_cancel: dice.maybe(0.3, cancel).unwrap_or(0.0),
            read_stop: Duration::ZERO,
            stopped_cancels: 0,
            exact: false,
        }
    }

    /// Everything at once, and no more than that.
    pub(crate) fn plain(size: u64) -> Self {
        Self {
            size,
            chunk: 16 << 10,
            write_pause: Duration::ZERO,
            write_end: End::Regular,
            write_cancel: 0.0,
            priority: 0,
            confirm: true,
            mode: ReadMode::Chunks,
            read_pause: Duration::ZERO,
            read_end: End::Regular,
            read_cancel: 0.0,
            read_stop: Duration::ZERO,
            stopped_cancels: 0,
            exact: false,
        }
    }
}

impl StreamPlan {
    fn draw(dice: &mut Dice, limits: &Limits, pushes: bool) -> Self {
        let there = HalfPlan::draw(dice, limits);
        let pushes = match pushes && dice.chance(0.3) {
            true => (0..dice.range(1, 4))
                .map(|_| Self::draw(dice, limits, false))
                .collect(),
            false => Vec::new(),
        };
        Self {
            // Who opens a stream and gets an answer has to be known.
            there: HalfPlan {
                size: there.size.max(if pushes.is_empty() { 0 } else { 8 }),
                ..there
            },
            back: dice.maybe(0.5, |it| HalfPlan::draw(it, limits)),
            open_cancels: dice.maybe(0.2, |it| it.range(1, 3) as u32).unwrap_or(0),
            gap: dice.maybe(0.5, |it| it.span(1, 500)).unwrap_or_default(),
            pushes,
        }
    }
}

impl HalfPlan {
    /// The longest that this may have a connection be silent.
    fn longest_pause(&self) -> Duration {
        self.write_pause.max(self.read_pause).max(self.read_stop)
    }
}

impl StreamPlan {
    fn longest_pause(&self) -> Duration {
        let halves = self.there.longest_pause();
        let halves = halves.max(
            self.back
                .as_ref()
                .map_or(Duration::ZERO, HalfPlan::longest_pause),
        );
        let pushes = self.pushes.iter().map(Self::longest_pause).max();
        halves.max(self.gap).max(pushes.unwrap_or_default())
    }
}

impl ConnectionPlan {
    /// The longest that applications say nothing of their own accord.
    pub(crate) fn longest_pause(&self) -> Duration {
        let tasks = self.tasks.iter().filter(|(removed, _)| !removed);
        let pauses = tasks.map(|(_, task)| match task {
            TaskPlan::Streams(streams) => {
                let pauses = streams.iter().map(StreamPlan::longest_pause);
                pauses.max().unwrap_or_default()
            }
            TaskPlan::Datagrams { gap, .. } => *gap,
            TaskPlan::KeyUpdate(after) | TaskPlan::Move(after) => *after,
        });
        pauses.max().unwrap_or_default()
    }

    pub(crate) fn draw(dice: &mut Dice, limits: &Limits) -> Self {
        let mut tasks: Vec<_> = (0..dice.range(1, 3))
            .map(|_| {
                let count = dice.scale(1, 8);
                let streams = (0..count).map(|_| StreamPlan::draw(dice, limits, true));
                TaskPlan::Streams(streams.collect())
            })
            .collect();
        if dice.chance(0.4) {
            tasks.push(TaskPlan::Datagrams {
                count: dice.scale(1, 50) as u32,
                size: dice.scale(24, 1200),
                gap: dice.span(1, 100),
                wait: dice.chance(0.5),
                echo: dice.probability(0.0, 1.0),
            });
        }
        if dice.chance(0.3) {
            tasks.push(TaskPlan::KeyUpdate(dice.span(1, 5_000)));
        }
        if limits.moves && dice.chance(0.4) {
            tasks.push(TaskPlan::Move(dice.span(1, 5_000)));
        }
        Self {
            after: dice.maybe(0.7, |it| it.span(1, 5_000)).unwrap_or_default(),
            server: dice.range(0, limits.servers as u64 - 1) as usize,
            ipv6: dice.chance(0.4),
            early: dice.chance(0.5),
            patience: dice.maybe(if limits.polite { 0.0 } else { 0.1 }, |it| {
                it.span(1, 2_000)
            }),
            tasks: tasks.into_iter().map(|it| (false, it)).collect(),
            ending: match dice.range(0, 9) {
                0..=3 => Ending::Close,
                4..=6 => Ending::Drop,
                9 if !limits.polite => Ending::Abrupt(dice.span(1, 10_000)),
                _ => Ending::ServerCloses,
            },
            server_key_updates: Vec::new(),
            slow_datagrams: None,
            hasty: None,
        }
    }
}
