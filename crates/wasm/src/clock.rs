//! The clock, and how it takes a pause of the event loop.

use std::time::Duration;

use polyquic_runtime::Instant;

/// A timer that fires later than this was held up, by more than a busy event loop.
const STALL: Duration = Duration::from_millis(50);

/// Turns of the event loop without a datagram, before the clock goes on.
const QUIET_TURNS: u32 = 3;

/// Pauses for which the clock stands still without having gone on in between. A page whose every turn
/// takes longer than [`STALL`] would have it stand for ever.
const MAX_PAUSES: u32 = 3;

/// How long the clock stands still at least, and at most, after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Node asks its sockets in each turn of the event loop: turns are what counts.
    Turns {
        /// At most.
        most: u32,
    },
    /// In browsers, what has arrived comes from another process, and a turn may be over at once: it
    /// takes some time without a datagram, too.
    Time {
        /// Without a datagram.
        quiet: Duration,
        /// At most.
        most: Duration,
    },
}

impl Patience {
    pub(crate) const NODE: Self = Self::Turns { most: 64 };
    pub(crate) const BROWSER: Self = Self::Time {
        quiet: Duration::from_millis(20),
        most: Duration::from_millis(200),
    };
}

/// What tasks take for the time. Its methods are told the real one.
#[derive(Debug)]
pub(crate) struct Stalling {
    patience: Patience,
    standing: Option<Standing>,
    /// The last time that was told: whoever was told it is not told an earlier one.
    told: Option<Instant>,
    /// What the event loop was asked to call back for.
    armed: Option<Instant>,
}

/// The clock stands still.
#[derive(Debug, Clone, Copy)]
struct Standing {
    at: Instant,
    /// When it was noticed, when a datagram came last, and when the event loop came round last.
    since: Instant,
    datagram: Instant,
    turned: Instant,
    pauses: u32,
    turns: u32,
    quiet: u32,
}

impl Stalling {
    pub(crate) const fn new(patience: Patience) -> Self {
        Self {
            patience,
            standing: None,
            told: None,
            armed: None,
        }
    }

    /// The time that tasks go by.
    ///
    /// Whoever asks may be the first to notice a pause: JavaScript that was busy, and then calls.
    pub(crate) fn now(&mut self, real: Instant) -> Instant {
        if let Some(armed) = self.armed {
            self.check(armed, real);
        }
        let now = self.standing.map_or(real, |it| it.at);
        self.told = Some(now);
        now
    }

    /// The event loop was asked to call back at `target`, or no more.
    pub(crate) fn arm(&mut self, target: Option<Instant>) {
        self.armed = target;
    }

    /// A timer was set for `target`, and the event loop has only come round now. Returns whether the
    /// clock stands still, so that the timer has to wait.
    pub(crate) fn check(&mut self, target: Instant, real: Instant) -> bool {
        if self.standing.is_none() && real.saturating_duration_since(target) > STALL {
            // Just before, so that nothing is due that was not due before the pause.
            let before = target
                .checked_sub(Duration::from_micros(1))
                .unwrap_or(target);
            self.standing = Some(Standing {
                at: self.told.map_or(before, |told| told.max(before)),
                since: real,
                datagram: real,
                turned: real,
                pauses: 1,
                turns: 0,
                quiet: 0,
            });
        }
        self.stands()
    }

    /// Whether the clock stands still.
    pub(crate) const fn stands(&self) -> bool {
        self.standing.is_some()
    }

    /// A datagram has arrived.
    pub(crate) fn datagram(&mut self, real: Instant) {
        if let Some(standing) = &mut self.standing {
            standing.quiet = 0;
            standing.datagram = real;
        }
    }

    /// The event loop has come round. Returns whether the clock still stands.
    pub(crate) fn turn(&mut self, real: Instant) -> bool {
        let Some(standing) = &mut self.standing else {
            return false;
        };
        let pause = real.saturating_duration_since(standing.turned) > STALL;
        standing.turned = real;
        if pause && standing.pauses < MAX_PAUSES {
            // Another one, before what came during the first was taken in.
            standing.pauses += 1;
            standing.since = real;
            standing.datagram = real;
            standing.turns = 0;
            standing.quiet = 0;
            return true;
        }
        standing.turns += 1;
        standing.quiet += 1;
        let enough = match self.patience {
            Patience::Turns { most } => standing.quiet >= QUIET_TURNS || standing.turns >= most,
            Patience::Time { quiet, most } => {
                let silence = real.saturating_duration_since(standing.datagram);
                standing.quiet >= QUIET_TURNS && silence >= quiet
                    || real.saturating_duration_since(standing.since) >= most
            }
        };
        if enough {
            self.standing = None;
        }
        !enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_late_timer_stops_the_clock_until_it_is_quiet() {
        let start = Instant::now();
        let mut clock = Stalling::new(Patience::NODE);
        assert!(!clock.check(start, start + STALL), "merely busy");
        assert!(!clock.turn(start));
        let late = start + ms(3000);
        assert!(clock.check(start, late));
        assert!(clock.now(late) < start);
        assert!(clock.turn(late));
        assert!(clock.turn(late));
        clock.datagram(late);
        assert!(clock.turn(late));
        assert!(clock.turn(late));
        assert!(clock.stands());
        assert!(!clock.turn(late));
        assert_eq!(clock.now(late), late);
    }

    #[test]
    fn datagrams_without_end_do_not_hold_the_clock_for_ever() {
        let start = Instant::now();
        for patience in [Patience::NODE, Patience::BROWSER] {
            let mut clock = Stalling::new(patience);
            let mut now = start + ms(3000);
            assert!(clock.check(start, now));
            let turns = (0..1000).take_while(|_| {
                now += ms(10);
                clock.datagram(now);
                clock.turn(now)
            });
            assert!((10..100).contains(&turns.count()), "{patience:?}");
        }
    }

    #[test]
    fn in_a_browser_turns_alone_are_not_quiet() {
        let start = Instant::now();
        let mut clock = Stalling::new(Patience::BROWSER);
        let late = start + ms(3000);
        assert!(clock.check(start, late));
        for _ in 0..1000 {
            assert!(clock.turn(late + ms(1)));
        }
        clock.datagram(late + ms(15));
        for _ in 0..1000 {
            assert!(clock.turn(late + ms(34)), "only 19 ms after it");
        }
        assert!(!clock.turn(late + ms(35)));
    }

    #[test]
    fn a_pause_soon_after_a_pause_is_one_too() {
        let start = Instant::now();
        for patience in [Patience::NODE, Patience::BROWSER] {
            let mut clock = Stalling::new(patience);
            let mut now = start + ms(3000);
            assert!(clock.check(start, now));
            assert!(clock.turn(now + ms(1)));
            let stood = clock.now(now);
            now += ms(3000);
            assert!(clock.turn(now));
            assert!(clock.turn(now + ms(1)));
            assert!(clock.turn(now + ms(2)), "{patience:?}");
            assert_eq!(clock.now(now), stood);
        }
    }

    #[test]
    fn turns_that_are_all_slow_do_not_hold_the_clock_for_ever() {
        let start = Instant::now();
        for patience in [Patience::NODE, Patience::BROWSER] {
            let mut clock = Stalling::new(patience);
            let mut now = start + ms(3000);
            assert!(clock.check(start, now));
            let turns = (0..1000).take_while(|_| {
                now += ms(100);
                clock.turn(now)
            });
            assert!(turns.count() < 10, "{patience:?}");
        }
    }

    #[test]
    fn whoever_asks_notices_a_pause() {
        let start = Instant::now();
        let mut clock = Stalling::new(Patience::NODE);
        clock.arm(Some(start + ms(10)));
        assert_eq!(clock.now(start + ms(20)), start + ms(20));
        let told = clock.now(start + ms(3000));
        assert!(clock.stands());
        assert!(told < start + ms(3000), "the pause was not noticed");
    }

    #[test]
    fn the_clock_does_not_go_back() {
        let start = Instant::now();
        let mut clock = Stalling::new(Patience::NODE);
        // The timer is late, but not by much, when somebody asks.
        let told = clock.now(start + ms(40));
        assert!(clock.check(start, start + ms(100)));
        assert!(clock.now(start + ms(100)) >= told);
    }
}
