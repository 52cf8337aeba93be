//! Timers, all on one `setTimeout`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use js_sys::Function;
use polyquic_runtime::{Instant, Timer};
use wasm_bindgen::prelude::*;

use crate::{clock, js, tasks};

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
    fire: Function,
}

impl Timers {
    fn new() -> Self {
        Self {
            next_id: Cell::new(0),
            waiting: RefCell::default(),
            armed: RefCell::default(),
            fire: Closure::<dyn FnMut()>::new(|| {
                TIMERS.with(|it| {
                    let armed = it.armed.take();
                    if armed.is_some_and(|(_, target)| clock::check(target)) {
                        // In a turn, after what has arrived meanwhile.
                        tasks::schedule_turn();
                    } else {
                        it.expire();
                    }
                });
                tasks::turn();
            })
            .into_js_value()
            .into(),
        }
    }

    /// Wake whose deadline has passed, and wait for the next one.
    fn expire(&self) {
        let now = clock::now();
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

    /// Have `setTimeout` wait for the earliest deadline. One that it waits for and nobody else does
    /// any more is left: to be called for nothing is cheaper.
    fn arm(&self) {
        if clock::stands() {
            // Until it goes on, when whoever is late is woken.
            return;
        }
        let Some(earliest) = self.waiting.borrow().keys().next().map(|it| it.0) else {
            return;
        };
        let mut armed = self.armed.borrow_mut();
        if let Some((timeout, target)) = &*armed {
            if *target <= earliest {
                return;
            }
            js::clear_timeout(timeout);
        }
        let wait = earliest
            .saturating_duration_since(clock::now())
            .min(MAX_WAIT);
        // Up to whole milliseconds, as event loops round down.
        let milliseconds = (wait.as_secs_f64() * 1000.0).ceil();
        let timeout = js::set_timeout(&self.fire, milliseconds.max(1.0));
        *armed = Some((timeout, earliest));
    }
}

/// The event loop has come round.
pub(crate) fn turn() {
    TIMERS.with(|it| {
        if clock::turn() {
            tasks::schedule_turn();
        } else if it.armed.borrow().is_none() {
            // The clock has gone on.
            it.expire();
        }
    });
}

/// Before tasks get to know the time: a timer may have to fire that the event loop had no time for.
pub(crate) fn look() {
    TIMERS.with(|it| {
        let mut armed = it.armed.borrow_mut();
        if let Some((timeout, target)) = &*armed
            && clock::check(*target)
        {
            js::clear_timeout(timeout);
            *armed = None;
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
        if deadline <= clock::now() {
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
    }
}
