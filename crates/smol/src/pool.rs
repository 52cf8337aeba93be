//! The threads of [`run`].
//!
//! An executor of smol's is a queue of tasks; who takes from it, and where idle threads wait, is up
//! to its user. The usual arrangement wakes a sleeping thread for every task that is scheduled, and
//! waits in a reactor shared with the whole process. With tasks of a microsecond, as a QUIC stack
//! has them, the wake-ups cost more than the tasks. So here:
//!
//! - A thread runs tasks in bursts, and looks for I/O without waiting in between.
//! - When the queue is empty and nobody else runs, it waits in the reactor, and only then asks the
//!   executor to wake it.
//! - The other threads are parked. A thread is called for help when the queue has not been empty for
//!   a while; and one keeps watch, once a millisecond, whether a long task holds up the others.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_executor::Executor;
use parking::{Parker, Unparker};
use polyquic_udp::{Leader, LoopWaker, Reactor};

use crate::{ExecutorRef, SmolRuntime};

/// Tasks to run before looking for I/O.
const BURST: usize = 61;

/// Full bursts in a row after which another thread is called for help.
const BURSTS_BEFORE_HELP: usize = 2;

/// How often a parked thread looks whether the running ones make progress.
const WATCH_INTERVAL: Duration = Duration::from_millis(1);

/// Start an executor on `threads` threads (at least one, the calling one included), run `app` on it,
/// and return what it returns.
///
/// When `app` is done, tasks that are still running are dropped, endpoints' drivers among them: call
/// [`wait_idle`] first to let peers hear of closed connections.
///
/// ```no_run
/// let answer = polyquic_smol::run(1, |_rt| async { 42 })?;
/// # std::io::Result::Ok(())
/// ```
///
/// [`wait_idle`]: https://docs.rs/polyquic/latest/polyquic/struct.Endpoint.html#method.wait_idle
///
/// # Errors
///
/// No threads or no file descriptors to be had.
///
/// # Panics
///
/// When `app` does.
pub fn run<F, Fut>(threads: usize, app: F) -> io::Result<Fut::Output>
where
    F: FnOnce(SmolRuntime) -> Fut,
    Fut: Future<Output: Send> + Send + 'static,
{
    Builder::new().threads(threads).run(app)
}

/// An executor with settings, where [`run`] has none.
///
/// ```
/// use std::time::Duration;
///
/// let builder = polyquic_smol::Builder::new()
///     .threads(2)
///     .busy_poll(Duration::from_micros(50));
/// let answer = builder.run(|_rt| async { 42 })?;
/// # assert_eq!(answer, 42);
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    threads: usize,
    busy_poll: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// One thread, which sleeps when it has nothing to do.
    pub fn new() -> Self {
        Self {
            threads: 1,
            busy_poll: Duration::ZERO,
        }
    }

    /// Threads, the calling one included; at least one. Default: 1.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Look for I/O again and again for this long before sleeping. Default: 0, sleep at once.
    ///
    /// Buys latency with processor time: a processor that sleeps takes some ten microseconds to
    /// wake up, as often as a peer's answer takes to arrive in the same data centre. It is tried
    /// only as long as it pays: after a wait that lasted longer than this, the thread sleeps at once
    /// until something comes sooner again. An idle endpoint costs nothing extra.
    pub fn busy_poll(mut self, duration: Duration) -> Self {
        self.busy_poll = duration;
        self
    }

    /// As [`run`](run()), with these settings.
    ///
    /// # Errors
    ///
    /// No threads or no file descriptors to be had.
    ///
    /// # Panics
    ///
    /// When `app` does.
    pub fn run<F, Fut>(&self, app: F) -> io::Result<Fut::Output>
    where
        F: FnOnce(SmolRuntime) -> Fut,
        Fut: Future<Output: Send> + Send + 'static,
    {
        run_with(self, app)
    }
}

fn run_with<F, Fut>(settings: &Builder, app: F) -> io::Result<Fut::Output>
where
    F: FnOnce(SmolRuntime) -> Fut,
    Fut: Future<Output: Send> + Send + 'static,
{
    let threads = settings.threads;
    let executor = Arc::new(Executor::new());
    let pool = Pool {
        reactor: Reactor::new()?,
        busy_poll: settings.busy_poll,
        running: AtomicUsize::new(0),
        done: AtomicBool::new(false),
        progress: AtomicU64::new(0),
        parked: Mutex::default(),
        watched: AtomicBool::new(false),
    };
    let pool = Arc::new(pool);
    let rt = SmolRuntime {
        executor: ExecutorRef::Own(Arc::downgrade(&executor)),
        reactor: Some(pool.reactor.clone()),
        shards: NonZeroUsize::MIN,
    };
    // Stops the threads when the application is done, or panics, or is dropped.
    let stop = StopOnDrop(pool.clone());
    let app = app(rt);
    let task = executor.spawn(async move {
        let _stop = stop;
        app.await
    });

    let output = std::thread::scope(|scope| {
        // Should a thread fail to start, those that did are stopped before the error is returned.
        let stop = StopOnDrop(pool.clone());
        for index in 1..threads {
            let worker = || Worker::new(&pool, &executor).run();
            std::thread::Builder::new()
                .name(format!("polyquic-smol-{index}"))
                .spawn_scoped(scope, worker)?;
        }
        Worker::new(&pool, &executor).run();
        drop(stop);
        io::Result::Ok(())
    });
    output?;
    // It is complete: this only takes the value, or passes the panic on.
    Ok(smol::future::block_on(task))
}

struct Pool {
    reactor: Arc<Reactor>,
    /// How long to look for I/O before sleeping.
    busy_poll: Duration,
    /// Threads that are neither parked nor waiting for I/O.
    running: AtomicUsize,
    done: AtomicBool,
    /// Counts bursts, so that a watching thread sees whether anything moves.
    progress: AtomicU64,
    parked: Mutex<Vec<Unparker>>,
    /// Whether a parked thread is keeping watch.
    watched: AtomicBool,
}

impl Pool {
    /// Wake a parked thread, if there is one.
    fn unpark_one(&self) {
        let unparker = self
            .parked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        if let Some(unparker) = unparker {
            unparker.unpark();
        }
    }
}

struct StopOnDrop(Arc<Pool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::SeqCst);
        self.0.reactor.notify();
        let parked =
            std::mem::take(&mut *self.0.parked.lock().unwrap_or_else(PoisonError::into_inner));
        for unparker in parked {
            unparker.unpark();
        }
    }
}

struct Worker<'a> {
    pool: &'a Pool,
    executor: &'a Executor<'static>,
    flag: Arc<LoopWaker>,
    parker: Parker,
    /// Whether the last wait was short enough for looking to be worth more than sleeping.
    busy: Cell<bool>,
}

impl<'a> Worker<'a> {
    fn new(pool: &'a Pool, executor: &'a Executor<'static>) -> Self {
        Self {
            pool,
            executor,
            flag: LoopWaker::new(pool.reactor.clone()),
            parker: Parker::new(),
            busy: Cell::new(false),
        }
    }

    fn run(&self) {
        let pool = self.pool;
        pool.running.fetch_add(1, Ordering::SeqCst);
        let mut busy_bursts = 0;
        while !pool.done.load(Ordering::SeqCst) {
            if self.burst() {
                busy_bursts += 1;
                if busy_bursts == BURSTS_BEFORE_HELP {
                    busy_bursts = 0;
                    pool.unpark_one();
                }
                self.poll_io();
                continue;
            }
            busy_bursts = 0;
            let last = pool.running.fetch_sub(1, Ordering::SeqCst) == 1;
            if !(last && self.wait()) {
                self.park();
            }
            pool.running.fetch_add(1, Ordering::SeqCst);
        }
        pool.running.fetch_sub(1, Ordering::SeqCst);
        // The next one to wait for I/O has to see that it is over, too.
        pool.reactor.notify();
        pool.unpark_one();
    }

    /// Run tasks; whether there are more.
    fn burst(&self) -> bool {
        for _ in 0..BURST {
            if !self.executor.try_tick() {
                return false;
            }
            self.pool.progress.fetch_add(1, Ordering::Relaxed);
            if self.pool.done.load(Ordering::Relaxed) {
                return true;
            }
        }
        true
    }

    fn poll_io(&self) {
        if let Some(mut leader) = self.pool.reactor.try_lead()
            && let Err(error) = leader.poll()
        {
            fail(&error);
        }
    }

    /// Wait for I/O, for a timer, or for a task scheduled by another thread. False if another
    /// thread is at it already.
    fn wait(&self) -> bool {
        let pool = self.pool;
        let Some(mut leader) = pool.reactor.try_lead() else {
            return false;
        };
        self.flag.take();
        let waker = self.flag.waker();
        // From here on the executor rings the flag for new tasks.
        let mut tick = pin!(self.executor.tick());
        if let Poll::Ready(()) = tick.as_mut().poll(&mut Context::from_waker(&waker)) {
            return true;
        }
        let must_wake = || {
            self.flag.is_woken()
                || pool.done.load(Ordering::SeqCst)
                // Somebody runs again who will see to the queue, but not to the reactor.
                || pool.running.load(Ordering::SeqCst) > 0
        };
        let start = Instant::now();
        let found = self.busy.get() && self.look(&mut leader, start);
        if !found && let Err(error) = leader.turn(None, must_wake) {
            fail(&error);
        }
        let waited = start.elapsed();
        self.busy.set(waited < pool.busy_poll);
        // After a longer rest nobody may be watching any more.
        if !pool.watched.load(Ordering::Relaxed) && waited > WATCH_INTERVAL {
            pool.unpark_one();
        }
        true
    }

    /// Look for I/O without sleeping, for a while. Whether there is something to do.
    fn look(&self, leader: &mut Leader<'_>, start: Instant) -> bool {
        while start.elapsed() < self.pool.busy_poll {
            if let Err(error) = leader.poll() {
                fail(&error);
            }
            if self.flag.is_woken() || self.pool.done.load(Ordering::SeqCst) {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Leave the work to those who are at it; return when help is needed.
    fn park(&self) {
        let pool = self.pool;
        let parked = || pool.parked.lock().unwrap_or_else(PoisonError::into_inner);
        parked().push(self.parker.unparker());
        let watching = !pool.watched.swap(true, Ordering::SeqCst);
        let mut seen = pool.progress.load(Ordering::Relaxed);
        loop {
            if pool.done.load(Ordering::SeqCst) {
                break;
            }
            if !watching {
                self.parker.park();
                break;
            }
            if self.parker.park_timeout(WATCH_INTERVAL) {
                break;
            }
            let progress = pool.progress.load(Ordering::Relaxed);
            let running = pool.running.load(Ordering::SeqCst);
            if running > 0 && progress == seen {
                // Whoever runs is stuck in a long task. See whether others wait.
                break;
            }
            seen = progress;
            if running == 0 {
                // All is quiet, and somebody waits for I/O: no need to watch.
                pool.watched.store(false, Ordering::SeqCst);
                self.parker.park();
                parked().retain(|unparker| !unparker.will_unpark(&self.parker));
                return;
            }
        }
        if watching {
            pool.watched.store(false, Ordering::SeqCst);
        }
        parked().retain(|unparker| !unparker.will_unpark(&self.parker));
    }
}

/// Waiting for I/O failed, which leaves nothing to go on with.
fn fail(error: &io::Error) -> ! {
    panic!("polyquic's reactor failed: {error}")
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use polyquic_runtime::{Runtime, Timer};

    use super::*;

    /// Timers, and tasks woken by foreign threads, get through to a thread that is looking for I/O.
    #[test]
    fn whoever_is_busy_looking_still_listens() {
        for threads in [1, 2] {
            let builder = Builder::new()
                .threads(threads)
                .busy_poll(Duration::from_secs(3600));
            let counted = builder.run(|rt| async move {
                let mut counted = 0;
                for _ in 0..50 {
                    let mut timer = pin!(rt.timer());
                    timer
                        .as_mut()
                        .reset(Instant::now() + Duration::from_micros(100));
                    poll_fn(|cx| timer.as_mut().poll_expired(cx)).await;
                    from_elsewhere().await;
                    counted += 1;
                }
                counted
            });
            assert_eq!(counted.unwrap(), 50);
        }
    }

    /// Completes when another thread says so.
    async fn from_elsewhere() {
        let shared = Arc::new(Mutex::new((false, None::<Waker>)));
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || {
            let mut shared = theirs.lock().unwrap();
            shared.0 = true;
            if let Some(waker) = shared.1.take() {
                waker.wake();
            }
        });
        poll_fn(|cx| {
            let mut shared = shared.lock().unwrap();
            shared.1 = Some(cx.waker().clone());
            if shared.0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        thread.join().unwrap();
    }
}
