//! Timers, all on one `setTimeout`, and the clock that they go by.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use js_sys::Function;
use polyquic_runtime::{Clock, Instant, Timer};
use wasm_bindgen::prelude::*;

use crate::clock::{Patience, Stalling};
use crate::{js, tasks};

/// The longest that `setTimeout` can wait; longer waits take several.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);

thread_local! {
    static TIMERS: Timers = Timers::new();
}

struct Timers {
    next_id: Cell<u64>,
    /// Who waits, by deadline.
    waiting: RefCell<BTreeMap<(Instant, u64), Waker>>,
    /// What `setTimeout` returned, and what it was set for.
    armed: RefCell<Option<(JsValue, Instant)>>,
    clock: RefCell<Stalling>,
    fire: Function,
}

impl Timers {
    fn new() -> Self {
        Self {
            next_id: Cell::new(0),
            waiting: RefCell::default(),
            armed: RefCell::default(),
            clock: RefCell::new(Stalling::new(if js::has_immediate() {
                Patience::NODE
            } else {
                Patience::BROWSER
            })),
            fire: Closure::<dyn FnMut()>::new(|| {
                TIMERS.with(Self::fired);
                tasks::turn();
            })
            .into_js_value()
            .into(),
        }
    }

    fn fired(&self) {
        let armed = self.armed.take();
        self.clock.borrow_mut().arm(None);
        if armed.is_some_and(|(_, target)| self.is_held_up(target)) {
            // In a turn, after what has arrived meanwhile.
            tasks::schedule_turn();
        } else {
            self.expire();
        }
    }

    /// Whether the clock stands, because of a timer for `target` or of another one.
    fn is_held_up(&self, target: Instant) -> bool {
        self.clock.borrow_mut().check(target, Instant::now())
    }

    /// The time that tasks go by.
    fn now(&self) -> Instant {
        let mut clock = self.clock.borrow_mut();
        let stood = clock.stands();
        let now = clock.now(Instant::now());
        if clock.stands() && !stood {
            tasks::schedule_turn();
        }
        now
    }

    /// Wake whose deadline has passed, and wait for the next one.
    fn expire(&self) {
        let now = self.now();
        let mut due = Vec::new();
        {
            let mut waiting = self.waiting.borrow_mut();
            while let Some(first) = waiting.first_entry().filter(|it| it.key().0 <= now) {
                due.push(first.remove());
            }
        }
        due.into_iter().for_each(Waker::wake);
        self.arm();
    }

    /// Have `setTimeout` wait for the earliest deadline. One that it waits for and somebody else does
    /// not any more is left: to be called for nothing is cheaper.
    fn arm(&self) {
        if self.clock.borrow().stands() {
            // Until it goes on, when whoever is late is woken.
            return;
        }
        let Some(earliest) = self.waiting.borrow().keys().next().map(|it| it.0) else {
            return;
        };
        if let Some((_, target)) = &*self.armed.borrow()
            && *target <= earliest
        {
            return;
        }
        self.disarm();
        let wait = earliest.saturating_duration_since(self.now()).min(MAX_WAIT);
        // Up to whole milliseconds, as event loops round down.
        let milliseconds = (wait.as_secs_f64() * 1000.0).ceil();
        let timeout = js::set_timeout(&self.fire, milliseconds.max(1.0));
        *self.armed.borrow_mut() = Some((timeout, earliest));
        self.clock.borrow_mut().arm(Some(earliest));
    }

    /// Have `setTimeout` wait for nothing.
    fn disarm(&self) {
        if let Some((timeout, _)) = self.armed.take() {
            js::clear_timeout(&timeout);
            self.clock.borrow_mut().arm(None);
        }
    }
}

/// The clock that tasks go by, as the rest of the stack wants it.
pub(crate) fn clock() -> Clock {
    Clock::custom(now)
}

fn now() -> Instant {
    TIMERS.with(Timers::now)
}

/// A datagram has arrived.
pub(crate) fn datagram() {
    look();
    TIMERS.with(|it| it.clock.borrow_mut().datagram(Instant::now()));
}

/// The event loop has come round.
pub(crate) fn turn() {
    TIMERS.with(|it| {
        let stood = it.clock.borrow().stands();
        if it.clock.borrow_mut().turn(Instant::now()) {
            tasks::schedule_turn();
        } else if stood {
            // The clock has gone on. What was to wait for this is late by as much as the pause was,
            // which is no news any more.
            it.disarm();
            it.expire();
        }
    });
}

/// Before tasks get to know the time: a timer may have to fire that the event loop had no time for.
pub(crate) fn look() {
    TIMERS.with(|it| {
        let target = it.armed.borrow().as_ref().map(|(_, target)| *target);
        if target.is_some_and(|target| it.is_held_up(target)) {
            it.disarm();
            tasks::schedule_turn();
        }
    });
}

/// A deadline on JavaScript's event loop.
#[derive(Debug)]
pub struct WasmTimer {
    id: u64,
    deadline: Option<Instant>,
    /// The key under which a waker may be left.
    waiting: Option<Instant>,
}

impl WasmTimer {
    pub(crate) fn new() -> Self {
        let id = TIMERS.with(|it| it.next_id.replace(it.next_id.get() + 1));
        Self {
            id,
            deadline: None,
            waiting: None,
        }
    }

    /// Take back the waker, if it is still there.
    fn withdraw(&mut self) -> Option<Waker> {
        let at = self.waiting.take()?;
        TIMERS.with(|it| it.waiting.borrow_mut().remove(&(at, self.id)))
    }

    fn wait(&mut self, deadline: Instant, waker: Waker) {
        self.waiting = Some(deadline);
        TIMERS.with(|it| {
            it.waiting.borrow_mut().insert((deadline, self.id), waker);
            it.arm();
        });
    }
}

impl Timer for WasmTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = Some(deadline);
        if let Some(waker) = self.withdraw() {
            self.wait(deadline, waker);
        }
    }

    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        self.withdraw();
        if deadline <= now() {
            self.deadline = None;
            return Poll::Ready(());
        }
        self.wait(deadline, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for WasmTimer {
    fn drop(&mut self) {
        self.withdraw();
        // Nobody may ever wait again, and Node's process goes on for as long as `setTimeout` does.
        // At the end of a thread there is nothing to clear.
        let _ = TIMERS.try_with(|it| {
            if it.waiting.borrow().is_empty() {
                it.disarm();
            }
        });
    }
}
