//! Virtual time, and clocks that go wrong.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use polyquic_runtime::Clock;

use crate::pcapng::EPOCH_NANOS;

const MILLION: i128 = 1_000_000;

/// A host's clock: the simulation's time, as the host knows it.
pub(crate) struct HostClock {
    /// The simulation's time in nanoseconds.
    now: Arc<AtomicU64>,
    /// What `Instant`s are counted from; they cannot be made from nothing.
    base: Instant,
    skew: Mutex<Skew>,
    /// Nanoseconds by which the calendar is ahead.
    calendar: AtomicI64,
}

/// A clock that went right until `simulated`, when it showed `shown`, and errs since.
#[derive(Default)]
struct Skew {
    simulated: u64,
    shown: u64,
    /// How much too fast, in millionths.
    ppm: i64,
}

impl Skew {
    fn rate(&self) -> i128 {
        MILLION + i128::from(self.ppm)
    }

    fn shows(&self, at: u64) -> u64 {
        let passed = i128::from(at - self.simulated);
        let shown = i128::from(self.shown) + passed * self.rate() / MILLION;
        shown.try_into().unwrap_or(u64::MAX)
    }

    /// The first moment at which it shows `shown` or more.
    fn when(&self, shown: u64) -> u64 {
        let left = i128::from(shown.saturating_sub(self.shown));
        let rate = self.rate();
        let at = i128::from(self.simulated) + (left * MILLION + rate - 1) / rate;
        // Never, for what is hundreds of years away.
        at.try_into().unwrap_or(u64::MAX)
    }
}

impl HostClock {
    pub(crate) fn new(now: Arc<AtomicU64>, base: Instant) -> Self {
        Self {
            now,
            base,
            skew: Mutex::default(),
            calendar: AtomicI64::new(0),
        }
    }

    fn skew(&self) -> MutexGuard<'_, Skew> {
        self.skew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it shows, in nanoseconds.
    pub(crate) fn shows(&self) -> u64 {
        self.skew().shows(self.now.load(Ordering::Relaxed))
    }

    /// When it will show this, in the simulation's time.
    pub(crate) fn when(&self, shown: u64) -> u64 {
        self.skew().when(shown)
    }

    pub(crate) fn nanos(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.base);
        since.as_nanos().try_into().unwrap_or(u64::MAX)
    }

    pub(crate) fn instant(&self) -> Instant {
        self.base + Duration::from_nanos(self.shows())
    }

    pub(crate) fn date(&self) -> SystemTime {
        let ahead = self.calendar.load(Ordering::Relaxed);
        let nanos = EPOCH_NANOS
            .saturating_add(self.shows())
            .saturating_add_signed(ahead);
        SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
    }

    /// From now on, err by this much.
    pub(crate) fn set_rate(&self, ppm: i64) {
        let simulated = self.now.load(Ordering::Relaxed);
        let mut skew = self.skew();
        *skew = Skew {
            simulated,
            shown: skew.shows(simulated),
            ppm,
        };
    }

    pub(crate) fn set_calendar(&self, ahead: i64) {
        self.calendar.store(ahead, Ordering::Relaxed);
    }

    pub(crate) fn clock(self: &Arc<Self>) -> Clock {
        let (now, calendar) = (self.clone(), self.clone());
        Clock::with_calendar(move || now.instant(), move || calendar.date())
    }
}
