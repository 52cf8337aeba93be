//! Tasks, and when they run.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use js_sys::Function;
use wasm_bindgen::prelude::*;

use crate::js::{Soon, queue_microtask};

/// Runs of tasks, in microtasks, before the event loop gets to do something else.
const BURST_RUNS: u32 = 128;

type Running = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    static LOOP: Loop = Loop::new();
}

struct Loop {
    /// Tasks that are not being polled.
    tasks: RefCell<HashMap<u64, Running>>,
    next_id: Cell<u64>,
    ready: RefCell<VecDeque<Arc<Handle>>>,
    /// A microtask will run tasks.
    in_microtask: Cell<bool>,
    /// A turn of the event loop will.
    in_turn: Cell<bool>,
    /// What is woken now was woken by a datagram.
    receiving: Cell<bool>,
    /// Runs since the event loop last had a turn.
    runs: Cell<u32>,
    microtask: Function,
    soon: Soon,
}

impl Loop {
    fn new() -> Self {
        let function = |run: fn()| Closure::<dyn FnMut()>::new(run).into_js_value().into();
        Self {
            tasks: RefCell::default(),
            next_id: Cell::new(0),
            ready: RefCell::default(),
            in_microtask: Cell::new(false),
            in_turn: Cell::new(false),
            receiving: Cell::new(false),
            runs: Cell::new(0),
            microtask: function(|| {
                LOOP.with(|it| {
                    it.in_microtask.set(false);
                    it.run();
                });
            }),
            soon: Soon::new(function(|| {
                LOOP.with(|it| it.in_turn.set(false));
                crate::timers::turn();
                turn();
            })),
        }
    }

    /// See to it that ready tasks are run.
    fn schedule(&self) {
        if self.in_microtask.get() {
            return;
        }
        if self.receiving.get() || self.runs.get() >= BURST_RUNS {
            self.schedule_turn();
        } else {
            self.in_microtask.set(true);
            queue_microtask(&self.microtask);
        }
    }

    fn schedule_turn(&self) {
        if !self.in_turn.replace(true) {
            self.soon.call();
        }
    }

    /// Run ready tasks, as many as may run in a row.
    fn run(&self) {
        crate::timers::look();
        while self.runs.get() < BURST_RUNS {
            let Some(handle) = self.ready.borrow_mut().pop_front() else {
                return;
            };
            self.runs.set(self.runs.get() + 1);
            // Cleared before the poll: whoever wakes the task during it means the next one.
            handle.queued.store(false, Ordering::Relaxed);
            let task = self.tasks.borrow_mut().remove(&handle.id);
            // Ended, and woken since; or waking itself by polling itself, by way of JavaScript.
            let Some(mut task) = task else { continue };
            let id = handle.id;
            let waker = Waker::from(handle);
            if task
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
            {
                self.tasks.borrow_mut().insert(id, task);
            }
        }
        if !self.ready.borrow().is_empty() {
            self.schedule_turn();
        }
    }
}

/// A task as its wakers know it.
struct Handle {
    id: u64,
    queued: AtomicBool,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            LOOP.with(|it| {
                it.ready.borrow_mut().push_back(self);
                it.schedule();
            });
        }
    }
}

/// Start a task.
pub(crate) fn spawn(future: impl Future<Output = ()> + 'static) {
    let handle = new_handle();
    LOOP.with(|it| it.tasks.borrow_mut().insert(handle.id, Box::pin(future)));
    handle.wake();
}

/// Poll `future` once, and make a task of it unless it is ready.
pub(crate) fn start(future: impl Future<Output = ()> + 'static) {
    let handle = new_handle();
    let id = handle.id;
    let mut future: Running = Box::pin(future);
    let waker = Waker::from(handle);
    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
    if polled.is_pending() {
        LOOP.with(|it| it.tasks.borrow_mut().insert(id, future));
    }
}

fn new_handle() -> Arc<Handle> {
    LOOP.with(|it| {
        let id = it.next_id.get();
        it.next_id.set(id + 1);
        Arc::new(Handle {
            id,
            queued: AtomicBool::new(false),
        })
    })
}

/// Wake whom a datagram wakes: not before the event loop has delivered what else it has.
pub(crate) fn wake_for_datagram(waker: Waker) {
    LOOP.with(|it| it.receiving.set(true));
    waker.wake();
    LOOP.with(|it| it.receiving.set(false));
}

/// Have a turn of the event loop, even if no task is ready.
pub(crate) fn schedule_turn() {
    LOOP.with(Loop::schedule_turn);
}

/// The event loop has come round, and tasks may run again.
pub(crate) fn turn() {
    LOOP.with(|it| {
        it.runs.set(0);
        it.run();
    });
}
