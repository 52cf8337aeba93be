//! The clock, and how it takes a pause of the event loop.

use std::cell::Cell;
use std::time::Duration;

use polyquic_runtime::{Clock, Instant};

/// A timer that fires later than this was held up, by more than a busy event loop.
const STALL: Duration = Duration::from_millis(50);

/// Turns of the event loop without a datagram, before the clock goes on.
const QUIET_TURNS: u32 = 3;

/// Turns of the event loop that it stands still for at most.
const MAX_TURNS: u32 = 64;

thread_local! {
    static STANDING: Cell<Option<Standing>> = const { Cell::new(None) };
    /// The last time that was told.
    static TOLD: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The clock stands still.
#[derive(Clone, Copy)]
struct Standing {
    at: Instant,
    turns: u32,
    quiet: u32,
}

/// The time that tasks go by.
pub(crate) fn now() -> Instant {
    let now = STANDING.get().map_or_else(Instant::now, |it| it.at);
    TOLD.set(Some(now));
    now
}

/// The same as the rest of the stack wants it.
pub(crate) fn clock() -> Clock {
    Clock::custom(now)
}

/// A timer was set for `target`, and the event loop has only come round now. Returns whether the clock
/// stands still, so that the timer has to wait.
pub(crate) fn check(target: Instant) -> bool {
    if STANDING.get().is_none() && Instant::now().saturating_duration_since(target) > STALL {
        STANDING.set(Some(Standing {
            // Just before, so that nothing is due that was not due before the pause.
            at: target
                .checked_sub(Duration::from_micros(1))
                .unwrap_or(target),
            turns: 0,
            quiet: 0,
        }));
    }
    STANDING.get().is_some()
}

/// Whether the clock stands still.
pub(crate) fn stands() -> bool {
    STANDING.get().is_some()
}

/// A datagram has arrived.
pub(crate) fn datagram() {
    if let Some(standing) = STANDING.get() {
        STANDING.set(Some(Standing {
            quiet: 0,
            ..standing
        }));
    }
}

/// The event loop has come round. Returns whether the clock still stands.
pub(crate) fn turn() -> bool {
    let Some(mut standing) = STANDING.get() else {
        return false;
    };
    standing.turns += 1;
    standing.quiet += 1;
    let on = standing.quiet < QUIET_TURNS && standing.turns < MAX_TURNS;
    STANDING.set(on.then_some(standing));
    on
}
