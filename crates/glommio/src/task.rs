//! Tasks that can be ended.
//!
//! glommio neither drops the tasks that are left when an executor ends, nor counts more than 32767
//! wakers of one task, nor copes with wakers that outlive their executor (each keeps an eventfd). So
//! tasks run in a wrapper with a waker of its own, and are told to end.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

use crate::preempt::Preemption;

/// What a task sees of its executor's waker, for as long as the task lives and no longer.
#[derive(Default)]
pub(crate) struct TaskWaker(Mutex<Option<Waker>>);

impl TaskWaker {
    fn replace(&self, waker: Option<Waker>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *inner, waker);
        drop(inner);
        drop(old);
    }

    fn register(&self, waker: &Waker) {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.as_ref().is_some_and(|old| old.will_wake(waker)) {
            return;
        }
        drop(inner);
        self.replace(Some(waker.clone()));
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waker) = &*inner {
            waker.wake_by_ref();
        }
    }
}

/// The tasks of one executor.
pub(crate) struct Tasks {
    pub(crate) preemption: Rc<Preemption>,
    wakers: RefCell<Slab<Arc<TaskWaker>>>,
    closing: Cell<bool>,
    /// Who waits for the last one to end.
    closer: RefCell<Option<Waker>>,
}

impl Tasks {
    /// To be called by a task of the executor.
    pub(crate) fn new() -> io::Result<Rc<Self>> {
        let preemption = Preemption::new()?;
        let tasks = Rc::new(Self {
            preemption: preemption.clone(),
            wakers: RefCell::default(),
            closing: Cell::new(false),
            closer: RefCell::default(),
        });
        for _ in 0..2 {
            tasks.spawn(preemption.clone().listen());
        }
        Ok(tasks)
    }

    /// Start a task on the executor of this thread. Its panics end it, and nothing else.
    pub(crate) fn spawn(self: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        if self.closing.get() {
            return;
        }
        let waker = Arc::new(TaskWaker::default());
        let key = self.wakers.borrow_mut().insert(waker.clone());
        let entry = Entry {
            tasks: self.clone(),
            key,
        };
        let task = async move {
            let tasks = entry.tasks.clone();
            // What it panicked with was shown by the panic hook.
            let _ = shielded(future, waker, &tasks.preemption, || tasks.closing.get()).await;
            drop(entry);
        };
        // Not `spawn_local`, which polls the task here and now, whatever its spawner holds.
        let queue = glommio::executor().current_task_queue();
        glommio::spawn_local_into(task, queue)
            .expect("a task's own queue exists")
            .detach();
    }

    /// Drop all tasks, and those that they spawn while they are dropped.
    pub(crate) async fn close(&self) {
        self.closing.set(true);
        let wakers: Vec<_> = {
            let wakers = self.wakers.borrow();
            wakers.iter().map(|(_, waker)| waker.clone()).collect()
        };
        for waker in wakers {
            waker.wake();
        }
        poll_fn(|cx| {
            if self.wakers.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.closer.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A task's place in the list.
struct Entry {
    tasks: Rc<Tasks>,
    key: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let waker = self.tasks.wakers.borrow_mut().remove(self.key);
        drop(waker);
        let closer = self.tasks.closer.borrow_mut().take();
        if let Some(closer) = closer {
            closer.wake();
        }
    }
}

/// Run `future` with a waker that does not outlive it, until it is done, panics, or shall end, and
/// drop it. `None`: it was ended.
pub(crate) async fn shielded<T>(
    future: impl Future<Output = T>,
    waker: Arc<TaskWaker>,
    preemption: &Preemption,
    ended: impl Fn() -> bool,
) -> Option<Result<T, Box<dyn Any + Send>>> {
    let result = {
        let shield = Waker::from(waker.clone());
        let mut future = pin!(future);
        poll_fn(|cx| {
            if ended() {
                return Poll::Ready(None);
            }
            preemption.tick();
            waker.register(cx.waker());
            let mut cx = Context::from_waker(&shield);
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx))) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(output)) => Poll::Ready(Some(Ok(output))),
                Err(panic) => Poll::Ready(Some(Err(panic))),
            }
        })
        .await
    };
    waker.replace(None);
    result
}
