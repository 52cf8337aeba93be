//! Timers of virtual time.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use polyquic_runtime::Timer;
use rand::RngExt;

use crate::host::Host;
use crate::random::generator;
use crate::world::TimerState;

/// A deadline by a host's clock.
pub struct SimTimer {
    host: Host,
    id: u64,
}

impl SimTimer {
    pub(crate) fn new(host: Host) -> Self {
        let mut timers = host.world.timers.borrow_mut();
        timers.next += 1;
        let id = timers.next;
        let state = TimerState {
            host: host.id,
            deadline: None,
            set: 0,
            event: None,
            waker: None,
        };
        timers.entries.insert(id, state);
        drop(timers);
        Self { host, id }
    }
}

/// Have an event for the timer's deadline, instead of the one that it has.
fn arm(host: &Host, id: u64, timer: &mut TimerState, deadline: u64) {
    let (mut at, slack) = host.state(|it| (it.clock.when(deadline), it.slack));
    timer.set += 1;
    if slack > 0 {
        let purpose = format!("timer {id} {}", timer.set);
        let late = generator(host.world.seed, &purpose).random_range(0..=slack);
        at = at.saturating_add(late);
    }
    let mut queue = host.world.queue.borrow_mut();
    if let Some(event) = timer.event.take() {
        queue.take_back(event);
    }
    timer.event = Some(queue.set_timer(at, id));
}

/// Have events when deadlines are by a clock that goes at another rate now.
pub(crate) fn clock_changed(host: &Host) {
    let mut timers = host.world.timers.borrow_mut();
    let mut waiting: Vec<_> = timers
        .entries
        .iter_mut()
        .filter(|(_, timer)| timer.host == host.id && timer.event.is_some())
        .collect();
    // Not in the order of a hash table.
    waiting.sort_by_key(|(id, _)| **id);
    for (&id, timer) in waiting {
        if let Some(deadline) = timer.deadline {
            arm(host, id, timer, deadline);
        }
    }
}

impl Timer for SimTimer {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        let deadline = self.host.state(|it| it.clock.nanos(deadline));
        let mut timers = self.host.world.timers.borrow_mut();
        let timer = timers.entries.get_mut(&self.id).expect("it lives");
        timer.deadline = Some(deadline);
        arm(&self.host, self.id, timer, deadline);
    }

    fn poll_expired(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut timers = self.host.world.timers.borrow_mut();
        let timer = timers.entries.get_mut(&self.id).expect("it lives");
        let Some(deadline) = timer.deadline else {
            return Poll::Pending;
        };
        if deadline <= self.host.state(|it| it.clock.shows()) {
            timer.deadline = None;
            // What asks before it is woken needs no event any more.
            if let Some(event) = timer.event.take() {
                self.host.world.queue.borrow_mut().take_back(event);
            }
            return Poll::Ready(());
        }
        // The clock may have been slowed down since the event happened.
        if timer.event.is_none() {
            arm(&self.host, self.id, timer, deadline);
        }
        timer.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        let world = &self.host.world;
        let timer = world.timers.borrow_mut().entries.remove(&self.id);
        if let Some(event) = timer.and_then(|timer| timer.event) {
            world.queue.borrow_mut().take_back(event);
        }
    }
}

impl fmt::Debug for SimTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimTimer({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Sim;

    #[test]
    fn timers_that_are_moved_or_dropped_leave_no_events() {
        let sim = Sim::new(1);
        let host = sim.host("host");
        let events = || sim.world.queue.borrow().timers();
        let mut timer = Box::pin(SimTimer::new(host.clone()));
        let start = host.state(|it| it.clock.instant());
        for hours in 1..1000 {
            let deadline = start + Duration::from_secs(hours * 3600);
            timer.as_mut().reset(deadline);
        }
        assert_eq!(events(), 1);
        host.set_clock_rate(100);
        assert_eq!(events(), 1);
        drop(timer);
        assert_eq!(events(), 0);
    }
}
