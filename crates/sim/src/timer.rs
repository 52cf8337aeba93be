//! Timers of virtual time.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use polyquic_runtime::Timer;
use rand::RngExt;

use crate::host::Host;
use crate::queue::Event;
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
        timers.entries.insert(id, TimerState::default());
        drop(timers);
        Self { host, id }
    }

    /// Have an event for the deadline.
    fn arm(&self, timer: &mut TimerState, deadline: u64) {
        let (mut at, slack) = self.host.state(|it| (it.clock.when(deadline), it.slack));
        timer.set += 1;
        timer.pending = true;
        if slack > 0 {
            let purpose = format!("timer {} {}", self.id, timer.set);
            at += generator(self.host.world.seed, &purpose).random_range(0..=slack);
        }
        let event = Event::Timer(self.id, timer.set);
        self.host.world.queue.borrow_mut().push(at, event);
    }
}

impl Timer for SimTimer {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        let deadline = self.host.state(|it| it.clock.nanos(deadline));
        let mut timers = self.host.world.timers.borrow_mut();
        let timer = timers.entries.get_mut(&self.id).expect("it lives");
        timer.deadline = Some(deadline);
        self.arm(timer, deadline);
    }

    fn poll_expired(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut timers = self.host.world.timers.borrow_mut();
        let timer = timers.entries.get_mut(&self.id).expect("it lives");
        let Some(deadline) = timer.deadline else {
            return Poll::Pending;
        };
        if deadline <= self.host.state(|it| it.clock.shows()) {
            timer.deadline = None;
            return Poll::Ready(());
        }
        // The clock may have been slowed down since the event was made.
        if !timer.pending {
            self.arm(timer, deadline);
        }
        timer.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        self.host.world.timers.borrow_mut().entries.remove(&self.id);
    }
}

impl fmt::Debug for SimTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimTimer({})", self.id)
    }
}
