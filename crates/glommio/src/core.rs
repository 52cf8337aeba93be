//! What is known of the executors of a run: from other threads ([`Core`]), and from their own
//! ([`Local`]).

use std::cell::{OnceCell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use rustix::thread::CpuSet;

use crate::ring::Ring;
use crate::start::with_advice;
use crate::task::Tasks;
use crate::timer::Timers;

/// How long executors that have stopped wait for others, which stop as soon as the task that they
/// are polling returns.
const PATIENCE: Duration = Duration::from_secs(1);

/// The executors of a run, each on a thread of its own.
pub(crate) struct Run {
    pub(crate) cores: Vec<Core>,
    /// Where threads may run that are no executors, if these are pinned.
    pub(crate) affinity: Option<CpuSet>,
    /// How many executors may still poll tasks.
    polling: Mutex<usize>,
    nobody_polls: Condvar,
}

impl Run {
    pub(crate) fn new(cores: usize, affinity: Option<CpuSet>) -> Arc<Self> {
        Arc::new(Self {
            cores: (0..cores).map(|_| Core::default()).collect(),
            affinity,
            polling: Mutex::new(cores),
            nobody_polls: Condvar::new(),
        })
    }
}

/// Says that an executor may poll tasks, until this is dropped.
pub(crate) struct Polling(Arc<Run>);

impl Polling {
    /// One for each executor of a run.
    pub(crate) fn all(run: &Arc<Run>) -> Vec<Self> {
        run.cores.iter().map(|_| Self(run.clone())).collect()
    }

    /// Block this thread, and so its tasks, until no executor polls any. Whoever drops tasks earlier
    /// has those of others see that: a shard that is left tells the peers of one that is gone, which
    /// is none of their business when all end.
    fn end(self) {
        let run = self.0.clone();
        drop(self);
        let polling = run.polling.lock().unwrap_or_else(PoisonError::into_inner);
        // Not for ever: a task that blocks its thread may wait for something that ours hold.
        let _ = run
            .nobody_polls
            .wait_timeout_while(polling, PATIENCE, |polling| *polling > 0);
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        let mut polling = self
            .0
            .polling
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *polling -= 1;
        if *polling == 0 {
            self.0.nobody_polls.notify_all();
        }
    }
}

/// One executor, as seen from other threads.
#[derive(Default)]
pub(crate) struct Core {
    pub(crate) timers: Arc<Timers>,
    inbox: Mutex<Inbox>,
}

type Start = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inbox {
    starts: Vec<Start>,
    stop: bool,
    /// Nobody will look again.
    ended: bool,
    reader: Option<Waker>,
}

impl Core {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Have `start` called on the executor.
    pub(crate) fn post(&self, start: Start) -> io::Result<()> {
        let mut inbox = self.inbox();
        if inbox.ended || inbox.stop {
            drop(inbox);
            let message = "the glommio executor for this shard has ended";
            return Err(io::Error::new(ErrorKind::BrokenPipe, message));
        }
        inbox.starts.push(start);
        wake(inbox);
        Ok(())
    }

    /// Have the executor end.
    pub(crate) fn stop(&self) {
        let mut inbox = self.inbox();
        inbox.stop = true;
        wake(inbox);
    }

    /// Call what is posted, until it is time to stop. Runs on the executor.
    pub(crate) async fn read_inbox(&self) {
        let mut starts = Vec::new();
        poll_fn(|cx| {
            loop {
                let mut inbox = self.inbox();
                if inbox.stop {
                    return Poll::Ready(());
                }
                std::mem::swap(&mut inbox.starts, &mut starts);
                if starts.is_empty() {
                    inbox.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                drop(inbox);
                for start in starts.drain(..) {
                    // A panic was shown by the hook, and is nobody else's business.
                    let _ = catch_unwind(AssertUnwindSafe(start));
                }
            }
        })
        .await;
    }

    fn end(&self) {
        let mut inbox = self.inbox();
        inbox.ended = true;
        let starts = std::mem::take(&mut inbox.starts);
        let reader = inbox.reader.take();
        drop(inbox);
        drop((starts, reader));
    }
}

fn wake(mut inbox: MutexGuard<'_, Inbox>) {
    let reader = inbox.reader.take();
    drop(inbox);
    if let Some(reader) = reader {
        reader.wake();
    }
}

thread_local! {
    static LOCAL: RefCell<Option<Rc<Local>>> = const { RefCell::new(None) };
}

/// One executor, as seen from its own thread.
pub(crate) struct Local {
    /// glommio's number for it.
    executor: usize,
    pub(crate) run: Arc<Run>,
    pub(crate) index: usize,
    pub(crate) tasks: Rc<Tasks>,
    ring: OnceCell<Rc<Ring>>,
}

impl Local {
    /// Make the executor that runs here that core of `run`. Called by one of its tasks.
    pub(crate) fn enter(run: Arc<Run>, index: usize) -> io::Result<Rc<Self>> {
        let tasks = Tasks::new()
            .map_err(|error| with_advice("cannot make a pair of sockets for an executor", error))?;
        tasks.spawn(run.cores[index].timers.clone().serve());
        let local = Rc::new(Self {
            executor: glommio::executor().id(),
            run,
            index,
            tasks,
            ring: OnceCell::new(),
        });
        let previous = LOCAL.replace(Some(local.clone()));
        drop(previous);
        Ok(local)
    }

    /// The executor of this thread, if we have had to do with it.
    pub(crate) fn current() -> Option<Rc<Self>> {
        let local = LOCAL.with_borrow(Clone::clone)?;
        // The thread may run another one by now, or none.
        (executor_id() == Some(local.executor)).then_some(local)
    }

    /// The same, but one that was made by somebody else is taken in.
    pub(crate) fn current_or_foreign() -> Option<Rc<Self>> {
        if let Some(local) = Self::current() {
            return Some(local);
        }
        executor_id()?;
        let local = match Self::enter(Run::new(1, None), 0) {
            Ok(local) => local,
            Err(error) => panic!("{error}"),
        };
        let run = local.run.clone();
        local
            .tasks
            .spawn(async move { run.cores[0].read_inbox().await });
        Some(local)
    }

    pub(crate) fn core(&self) -> &Core {
        &self.run.cores[self.index]
    }

    /// The ring that watches sockets.
    pub(crate) fn ring(&self) -> io::Result<&Rc<Ring>> {
        if let Some(ring) = self.ring.get() {
            return Ok(ring);
        }
        let ring = Ring::start(&self.tasks)?;
        Ok(self.ring.get_or_init(|| ring))
    }

    /// Drop all tasks, and what belongs to the executor, once the others of the run have stopped too.
    pub(crate) async fn leave(self: Rc<Self>, polling: Polling) {
        self.core().end();
        polling.end();
        self.tasks.close().await;
        let local = LOCAL.take();
        drop(local);
        drop(self);
        // glommio submits what was left to be cancelled and closed on its next two rounds. Until
        // then the kernel may write to memory that is freed together with the executor.
        for _ in 0..2 {
            glommio::timer::sleep(Duration::from_micros(1)).await;
        }
    }
}

/// glommio's number of the executor that runs on this thread.
fn executor_id() -> Option<usize> {
    // Without an executor it panics, and there is no other way to ask.
    catch_unwind(|| glommio::executor().id()).ok()
}
