//! Tasks that run where they are woken.
//!
//! msquic has threads of its own and calls back on them, and its users do their work there. So
//! does this executor: whoever wakes a task runs it, before anything else happens on that thread.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Task {
    /// `None` once it is done.
    work: Mutex<Option<Work>>,
    /// Whether it waits in some thread's queue.
    queued: AtomicBool,
}

/// A thread's tasks that have been woken, and whether it is already running them.
#[derive(Default)]
struct Queue {
    tasks: VecDeque<Arc<Task>>,
    running: bool,
}

thread_local! {
    static QUEUE: RefCell<Queue> = RefCell::default();
}

/// Starts a task on this thread.
pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    let task = Arc::new(Task {
        work: Mutex::new(Some(Box::pin(work))),
        queued: AtomicBool::new(false),
    });
    task.wake();
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let start = QUEUE.with_borrow_mut(|queue| {
            queue.tasks.push_back(self);
            !std::mem::replace(&mut queue.running, true)
        });
        if !start {
            // This is within a task; the loop below comes to it.
            return;
        }
        loop {
            let next = QUEUE.with_borrow_mut(|queue| {
                let next = queue.tasks.pop_front();
                queue.running = next.is_some();
                next
            });
            let Some(task) = next else {
                return;
            };
            task.run();
        }
    }
}

impl Task {
    fn run(self: Arc<Self>) {
        // From here on it may be woken again, also by itself.
        self.queued.store(false, Ordering::Release);
        // Another thread that runs it meanwhile is waited for, since it may not have seen why.
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = work.as_mut() {
            let waker = Waker::from(self.clone());
            if let Poll::Ready(()) = running.as_mut().poll(&mut Context::from_waker(&waker)) {
                *work = None;
            }
        }
    }
}
