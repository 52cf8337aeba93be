//! Work away from the I/O path: an application's, and the TLS of handshakes.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use polyquic_core::HandshakeJob;
use polyquic_runtime::Runtime;

use crate::connection::ConnectionInner;
use crate::shared::lock;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{AtomicWaker, Mutex};
use crate::wake::{Signal, cause};

/// Run a closure that blocks or takes long away from the I/O path, and wait for its result.
///
/// By [`Runtime::offload`]: on a thread, or at once where there are none. Reading a file belongs in
/// there, or making a [`ServerConfig`](polyquic_core::ServerConfig) with new certificates for
/// [`set_server_config`](crate::Endpoint::set_server_config).
///
/// Cancel-safe in that dropping the future loses nothing but the result: the closure was started
/// when this was called, and runs to its end.
///
/// # Errors
///
/// [`Abandoned`] when there is no result: the closure panicked, or the executor was shut down.
pub fn offload<R: Runtime, T: Send + 'static>(
    rt: &R,
    job: impl FnOnce() -> T + Send + 'static,
) -> Offloaded<T> {
    let slot = Arc::new(Slot {
        value: Mutex::new(None),
        over: AtomicBool::new(false),
        waker: AtomicWaker::new(),
    });
    let filler = Filler(slot.clone());
    rt.offload(Box::new(move || filler.fill(job())));
    Offloaded(slot)
}

/// Future of [`offload`].
#[must_use = "the result is lost"]
pub struct Offloaded<T>(Arc<Slot<T>>);

impl<T> Future for Offloaded<T> {
    type Output = Result<T, Abandoned>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.waker.register(cx.waker());
        if !self.0.over.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        Poll::Ready(lock(&self.0.value).take().ok_or(Abandoned))
    }
}

impl<T> fmt::Debug for Offloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offloaded").finish_non_exhaustive()
    }
}

/// A closure given to [`offload`] panicked, or was dropped before it was run, as its executor was
/// shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the offloaded work was abandoned: it panicked, or the executor was shut down")]
pub struct Abandoned;

impl From<Abandoned> for std::io::Error {
    fn from(abandoned: Abandoned) -> Self {
        Self::other(abandoned)
    }
}

struct Slot<T> {
    value: Mutex<Option<T>>,
    /// Whether there is a value, or never will be.
    over: AtomicBool,
    waker: AtomicWaker,
}

/// The side of a [`Slot`] that ends the waiting, when it is dropped.
struct Filler<T>(Arc<Slot<T>>);

impl<T> Filler<T> {
    fn fill(self, value: T) {
        *lock(&self.0.value) = Some(value);
    }
}

impl<T> Drop for Filler<T> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

/// The handshakes of one driver whose TLS is being done elsewhere.
pub(crate) struct Handshakes {
    /// Most at a time: what they are short of is processors. Asked for with the first one.
    limit: OnceCell<usize>,
    under_way: usize,
    /// First come, first served.
    waiting: VecDeque<(Weak<ConnectionInner>, HandshakeJob)>,
    done: Arc<Done>,
}

/// Where those that are done are put.
struct Done {
    connections: Mutex<Vec<Weak<ConnectionInner>>>,
    signal: Arc<Signal>,
}

impl Handshakes {
    /// `signal` is raised when one is done.
    pub(crate) fn new(signal: Arc<Signal>) -> Self {
        Self {
            limit: OnceCell::new(),
            under_way: 0,
            waiting: VecDeque::new(),
            done: Arc::new(Done {
                connections: Mutex::new(Vec::new()),
                signal,
            }),
        }
    }

    /// Have a connection's TLS done, now or when it is its turn. To be called without a lock, as it
    /// may be done at once.
    pub(crate) fn start<R: Runtime>(
        &mut self,
        rt: &R,
        connection: &Arc<ConnectionInner>,
        job: HandshakeJob,
    ) {
        self.waiting.push_back((Arc::downgrade(connection), job));
        self.go_on(rt);
    }

    /// The connections whose TLS is done, and that are still there.
    pub(crate) fn take_done<R: Runtime>(&mut self, rt: &R) -> Vec<Arc<ConnectionInner>> {
        let done = std::mem::take(&mut *lock(&self.done.connections));
        self.under_way -= done.len();
        self.go_on(rt);
        done.iter().filter_map(Weak::upgrade).collect()
    }

    fn go_on<R: Runtime>(&mut self, rt: &R) {
        let processors = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        while !self.waiting.is_empty() && self.under_way < *self.limit.get_or_init(processors) {
            let Some((connection, job)) = self.waiting.pop_front() else {
                return;
            };
            // Its client may have lost patience.
            let over = |it: Arc<ConnectionInner>| lock(&it.state).machine.is_closed();
            if connection.upgrade().is_none_or(over) {
                continue;
            }
            self.under_way += 1;
            let work = Work {
                job: Some(job),
                _return: Return {
                    connection,
                    done: self.done.clone(),
                },
            };
            rt.offload(Box::new(move || work.run()));
        }
    }
}

/// A job, and what happens when it was run or dropped. Dropped in this order.
struct Work {
    job: Option<HandshakeJob>,
    _return: Return,
}

impl Work {
    fn run(mut self) {
        if let Some(job) = self.job.take() {
            job.run();
        }
    }
}

struct Return {
    connection: Weak<ConnectionInner>,
    done: Arc<Done>,
}

impl Drop for Return {
    fn drop(&mut self) {
        let connection = std::mem::take(&mut self.connection);
        lock(&self.done.connections).push(connection);
        self.done.signal.raise(cause::OFFLOAD);
    }
}
