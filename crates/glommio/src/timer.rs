//! Deadlines, which may be moved from any thread; glommio's own timers are bound to theirs.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use polyquic_runtime::Timer;

type Key = (Instant, u64);

/// The deadlines of one executor, and its task that waits for the earliest.
#[derive(Default)]
pub(crate) struct Timers(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    /// Without a waker until the timer is polled.
    deadlines: BTreeMap<Key, Option<Waker>>,
    ids: u64,
    /// Until when the task sleeps; `None`: until it is woken.
    sleeping_until: Option<Instant>,
    task: Option<Waker>,
}

impl Timers {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn timer(self: &Arc<Self>) -> GlommioTimer {
        let mut queue = self.lock();
        queue.ids += 1;
        GlommioTimer {
            timers: self.clone(),
            id: queue.ids,
            deadline: None,
        }
    }

    /// Wakes whose time has come. Never ends; runs on the executor.
    pub(crate) async fn serve(self: Arc<Self>) {
        let mut sleep = glommio::timer::Timer::new(Duration::ZERO);
        let mut expired = Vec::new();
        poll_fn(|cx| {
            loop {
                let mut queue = self.lock();
                let now = Instant::now();
                while let Some(entry) = queue.deadlines.first_entry() {
                    if entry.key().0 > now {
                        break;
                    }
                    expired.extend(entry.remove());
                }
                let next = queue.deadlines.first_key_value().map(|(key, _)| key.0);
                queue.sleeping_until = next;
                if !queue
                    .task
                    .as_ref()
                    .is_some_and(|it| it.will_wake(cx.waker()))
                {
                    queue.task = Some(cx.waker().clone());
                }
                drop(queue);
                expired.drain(..).for_each(Waker::wake);
                let Some(next) = next else {
                    return Poll::<()>::Pending;
                };
                sleep.reset(next.saturating_duration_since(Instant::now()));
                if Pin::new(&mut sleep).poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }
}

/// A timer of a glommio executor's. May be used on any thread.
pub struct GlommioTimer {
    timers: Arc<Timers>,
    id: u64,
    deadline: Option<Instant>,
}

impl Timer for GlommioTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        let mut queue = self.timers.lock();
        let waker = match self.deadline {
            Some(old) => queue.deadlines.remove(&(old, self.id)).flatten(),
            None => None,
        };
        queue.deadlines.insert((deadline, self.id), waker);
        // Woken too early, the task looks again. Only too late would matter.
        let too_late = queue.sleeping_until.is_none_or(|until| until > deadline);
        let task = if too_late {
            // Once is enough, until the task has run.
            queue.sleeping_until = Some(deadline);
            queue.task.clone()
        } else {
            None
        };
        drop(queue);
        if let Some(task) = task {
            task.wake();
        }
        self.deadline = Some(deadline);
    }

    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        let mut queue = self.timers.lock();
        let key = (deadline, self.id);
        if deadline <= Instant::now() {
            let waker = queue.deadlines.remove(&key);
            drop(queue);
            drop(waker);
            self.deadline = None;
            return Poll::Ready(());
        }
        let waker = queue.deadlines.entry(key).or_default();
        let old = match waker {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            waker => waker.replace(cx.waker().clone()),
        };
        drop(queue);
        drop(old);
        Poll::Pending
    }
}

impl Drop for GlommioTimer {
    fn drop(&mut self) {
        if let Some(deadline) = self.deadline {
            let waker = self.timers.lock().deadlines.remove(&(deadline, self.id));
            drop(waker);
        }
    }
}

impl fmt::Debug for GlommioTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlommioTimer")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
