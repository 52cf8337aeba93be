//! Readiness and timers.
//!
//! For adapters whose executor brings no reactor (blocking), or one whose every wait costs five
//! system calls and a helper thread (smol). This one costs a single `epoll_wait` when its thread has
//! nothing to do, and none while it is busy.

#[cfg(any(target_os = "linux", target_os = "android"))]
mod epoll;
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
mod portable;

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;
use polyquic_runtime::Timer;
use slab::Slab;

#[cfg(any(target_os = "linux", target_os = "android"))]
use epoll::{Events, Poller};
#[cfg(not(any(target_os = "linux", target_os = "android")))]
use portable::{Events, Poller};

/// Waits for sockets and timers, on whichever thread calls [`Leader::turn`].
///
/// One thread at a time does ([`try_lead`](Self::try_lead)); others park elsewhere. Wakers are woken
/// on that thread, with no lock held.
#[derive(Debug)]
pub struct Reactor {
    poller: Poller,
    sources: Mutex<Slab<Arc<Readiness>>>,
    timers: Mutex<Timers>,
    /// Holding it is the right to wait.
    events: Mutex<Events>,
    /// Whether a thread is, or is about to be, blocked in the poller.
    blocked: AtomicBool,
}

/// Armed timers, soonest first. The number tells apart those of the same instant.
#[derive(Debug, Default)]
struct Timers {
    queue: BTreeMap<(Instant, u64), Arc<Expiry>>,
    next_id: u64,
}

#[derive(Debug, Default)]
struct Expiry {
    expired: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct Readiness {
    readable: AtomicBool,
    writable: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// What a poller reports.
struct Ready {
    key: usize,
    readable: bool,
    writable: bool,
}

impl Reactor {
    /// A new reactor.
    ///
    /// # Errors
    ///
    /// The process is out of file descriptors.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            poller: Poller::new()?,
            sources: Mutex::default(),
            timers: Mutex::default(),
            events: Mutex::new(Events::new()),
            blocked: AtomicBool::new(false),
        }))
    }

    /// Watch `socket`, until the returned source is dropped; drop it before the socket is closed.
    ///
    /// # Errors
    ///
    /// What the platform reports.
    pub fn register(self: &Arc<Self>, socket: &UdpSocket) -> io::Result<IoSource> {
        // Ready until proven otherwise: edges from before the registration are not reported.
        let readiness = Arc::new(Readiness {
            readable: AtomicBool::new(true),
            writable: AtomicBool::new(true),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        });
        let key = lock(&self.sources).insert(readiness.clone());
        // A second descriptor of the same socket: the source can then outlive whatever the owner
        // does with the first, and the poller never holds a number that was given to another file.
        let registered = socket.try_clone().and_then(|socket| {
            self.poller.add(&socket, key)?;
            Ok(socket)
        });
        match registered {
            Ok(socket) => Ok(IoSource {
                reactor: self.clone(),
                readiness,
                key,
                socket,
            }),
            Err(error) => {
                lock(&self.sources).remove(key);
                Err(error)
            }
        }
    }

    /// A timer, not armed.
    pub fn timer(self: &Arc<Self>) -> ReactorTimer {
        ReactorTimer {
            reactor: self.clone(),
            expiry: Arc::default(),
            entry: None,
        }
    }

    /// Whether any timer is armed.
    pub fn has_timers(&self) -> bool {
        !lock(&self.timers).queue.is_empty()
    }

    /// Become the thread that waits, unless another one is.
    pub fn try_lead(&self) -> Option<Leader<'_>> {
        match self.events.try_lock() {
            Ok(events) => Some(Leader {
                reactor: self,
                events,
            }),
            Err(TryLockError::Poisoned(poisoned)) => Some(Leader {
                reactor: self,
                events: poisoned.into_inner(),
            }),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Make the thread that waits, if any, return.
    pub fn notify(&self) {
        if self.blocked.load(Ordering::SeqCst) {
            self.poller.notify();
        }
    }

    /// Fire timers that are due; how long until the next one.
    fn fire_timers(&self) -> Option<Duration> {
        let mut timers = lock(&self.timers);
        let (&(first, _), _) = timers.queue.first_key_value()?;
        let now = Instant::now();
        if first > now {
            return Some(first - now);
        }
        // `split_off` takes what is due after `now`.
        let later = timers.queue.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut timers.queue, later);
        // Under the lock that `reset` takes: a timer that is moved now has either fired before that,
        // and is set anew, or not at all.
        for expiry in due.values() {
            expiry.expired.store(true, Ordering::Release);
        }
        drop(timers);
        for expiry in due.into_values() {
            expiry.waker.wake();
        }
        // Somebody was woken: look for other events, but do not wait for them.
        Some(Duration::ZERO)
    }
}

/// The right to wait on a [`Reactor`].
#[derive(Debug)]
pub struct Leader<'a> {
    reactor: &'a Reactor,
    events: MutexGuard<'a, Events>,
}

impl Leader<'_> {
    /// Look for events without waiting.
    ///
    /// # Errors
    ///
    /// What the platform reports.
    pub fn poll(&mut self) -> io::Result<()> {
        self.reactor.fire_timers();
        self.wait(Some(Duration::ZERO), None)
    }

    /// Wait for events, at most for `limit` if there is one.
    ///
    /// `must_wake` is asked once when [`Reactor::notify`] is sure to be heard: return true if there
    /// is something to do already. Whoever makes it true must call `notify` after that.
    ///
    /// # Errors
    ///
    /// What the platform reports.
    pub fn turn(
        &mut self,
        limit: Option<Duration>,
        must_wake: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        // Those that are due already. Whom they wake shows in `must_wake`, without a system call.
        self.reactor.fire_timers();
        let blocked = Blocked::new(&self.reactor.blocked);
        if must_wake() {
            return Ok(());
        }
        let timeout = match (self.reactor.fire_timers(), limit) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let result = self.wait(timeout, Some(blocked));
        if timeout.is_some() {
            self.reactor.fire_timers();
        }
        result
    }

    fn wait(&mut self, timeout: Option<Duration>, blocked: Option<Blocked<'_>>) -> io::Result<()> {
        let events = &mut *self.events;
        let result = self.reactor.poller.wait(events, timeout);
        // Before anybody is woken from here: that is no reason to interrupt a wait that is over, at
        // the price of a system call now, and of a wait that returns for nothing next.
        drop(blocked);
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        for ready in events.iter() {
            // Cloned, so that no lock is held while tasks are woken.
            let source = lock(&self.reactor.sources).get(ready.key).cloned();
            let Some(source) = source else { continue };
            if ready.readable {
                source.readable.store(true, Ordering::Release);
                source.reader.wake();
            }
            if ready.writable {
                source.writable.store(true, Ordering::Release);
                source.writer.wake();
            }
        }
        Ok(())
    }
}

/// Sets a flag for as long as it lives.
struct Blocked<'a>(&'a AtomicBool);

impl<'a> Blocked<'a> {
    fn new(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::SeqCst);
        Self(flag)
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

/// A socket that is being watched.
///
/// Readiness is remembered until it is cleared. Clear it *before* an attempt, and set it again when
/// the attempt left something: an edge that comes in between is then never lost.
#[derive(Debug)]
pub struct IoSource {
    reactor: Arc<Reactor>,
    readiness: Arc<Readiness>,
    key: usize,
    socket: UdpSocket,
}

impl IoSource {
    /// Ready when the socket may have something to receive.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        poll_flag(&self.readiness.readable, &self.readiness.reader, cx)
    }

    /// Note whether the socket may have something to receive.
    pub fn set_readable(&self, readable: bool) {
        self.readiness.readable.store(readable, Ordering::Release);
    }

    /// Ready when the socket may have room to send.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        poll_flag(&self.readiness.writable, &self.readiness.writer, cx)
    }

    /// Note whether the socket may have room to send.
    pub fn set_writable(&self, writable: bool) {
        self.readiness.writable.store(writable, Ordering::Release);
    }
}

fn poll_flag(flag: &AtomicBool, waker: &AtomicWaker, cx: &mut Context<'_>) -> Poll<()> {
    if flag.load(Ordering::Acquire) {
        return Poll::Ready(());
    }
    waker.register(cx.waker());
    // It may have been set before the waker was there.
    if flag.load(Ordering::Acquire) {
        Poll::Ready(())
    } else {
        Poll::Pending
    }
}

impl Drop for IoSource {
    fn drop(&mut self) {
        if let Err(error) = self.reactor.poller.delete(&self.socket) {
            tracing::debug!(%error, "cannot stop watching a socket");
        }
        lock(&self.reactor.sources).remove(self.key);
    }
}

/// A timer of a [`Reactor`].
#[derive(Debug)]
pub struct ReactorTimer {
    reactor: Arc<Reactor>,
    expiry: Arc<Expiry>,
    /// Where it is in the queue, unless it fired.
    entry: Option<(Instant, u64)>,
}

impl ReactorTimer {
    fn disarm(&mut self) {
        if let Some(entry) = self.entry.take() {
            lock(&self.reactor.timers).queue.remove(&entry);
        }
    }
}

impl Timer for ReactorTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        let this = &mut *self;
        let mut timers = lock(&this.reactor.timers);
        if let Some(entry) = this.entry.take() {
            timers.queue.remove(&entry);
        }
        this.expiry.expired.store(false, Ordering::Relaxed);
        let entry = (deadline, timers.next_id);
        timers.next_id += 1;
        timers.queue.insert(entry, this.expiry.clone());
        this.entry = Some(entry);
        let is_first = timers
            .queue
            .first_key_value()
            .is_some_and(|(&first, _)| first == entry);
        drop(timers);
        if is_first {
            // Whoever waits already, waits too long.
            this.reactor.notify();
        }
    }

    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.expiry.expired.load(Ordering::Acquire) {
            self.expiry.waker.register(cx.waker());
            if !self.expiry.expired.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        self.expiry.expired.store(false, Ordering::Relaxed);
        self.entry = None;
        Poll::Ready(())
    }
}

impl Drop for ReactorTimer {
    fn drop(&mut self) {
        self.disarm();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A waker that remembers being woken and calls [`Reactor::notify`], for run loops.
#[derive(Debug)]
pub struct LoopWaker {
    reactor: Arc<Reactor>,
    woken: AtomicBool,
}

impl LoopWaker {
    /// A loop's flag, set at first so that the loop starts by polling.
    pub fn new(reactor: Arc<Reactor>) -> Arc<Self> {
        Arc::new(Self {
            reactor,
            woken: AtomicBool::new(true),
        })
    }

    /// Whether it was woken since the last call.
    pub fn take(&self) -> bool {
        self.woken.swap(false, Ordering::SeqCst)
    }

    /// Whether it was woken, leaving the flag as it is.
    pub fn is_woken(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    /// As a waker.
    pub fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(self.clone())
    }
}

impl std::task::Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.reactor.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Run a future on a reactor the way the blocking adapter does.
    fn run<T>(reactor: &Arc<Reactor>, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let flag = LoopWaker::new(reactor.clone());
        let waker = flag.waker();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            assert!(Instant::now() < deadline, "stuck");
            if flag.take()
                && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return value;
            }
            let mut leader = reactor.try_lead().expect("only this thread waits");
            leader
                .turn(Some(Duration::from_secs(1)), || flag.is_woken())
                .unwrap();
        }
    }

    #[test]
    fn timers_fire_in_order_and_can_be_moved() {
        let reactor = Reactor::new().unwrap();
        let start = Instant::now();
        let mut early = Box::pin(reactor.timer());
        let mut late = Box::pin(reactor.timer());
        early.as_mut().reset(start + Duration::from_secs(100));
        late.as_mut().reset(start + Duration::from_millis(60));
        early.as_mut().reset(start + Duration::from_millis(20));
        run(&reactor, poll_fn(|cx| early.as_mut().poll_expired(cx)));
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert!(
            start.elapsed() < Duration::from_millis(60),
            "waited for the wrong timer"
        );
        run(&reactor, poll_fn(|cx| late.as_mut().poll_expired(cx)));
        assert!(start.elapsed() >= Duration::from_millis(60));
        // Disarmed after it fired.
        let mut cx = Context::from_waker(Waker::noop());
        assert!(late.as_mut().poll_expired(&mut cx).is_pending());
        assert!(lock(&reactor.timers).queue.is_empty());
    }

    #[test]
    fn readiness_is_reported_per_edge() {
        let reactor = Reactor::new().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let source = reactor.register(&socket).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..3 {
            source.set_readable(false);
            sender.send_to(b"x", socket.local_addr().unwrap()).unwrap();
            run(&reactor, poll_fn(|cx| source.poll_readable(cx)));
        }
        drop(source);
        assert!(lock(&reactor.sources).is_empty());
    }

    #[test]
    fn another_thread_can_interrupt_the_wait() {
        let reactor = Reactor::new().unwrap();
        let flag = LoopWaker::new(reactor.clone());
        flag.take();
        let waker = flag.waker();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            waker.wake();
        });
        let start = Instant::now();
        while !flag.is_woken() {
            reactor
                .try_lead()
                .unwrap()
                .turn(None, || flag.is_woken())
                .unwrap();
        }
        assert!(start.elapsed() < Duration::from_secs(5));
        thread.join().unwrap();
    }

    /// The poller of other platforms, tested where we are.
    #[test]
    fn portable_poller_works_too() {
        let poller = portable::Poller::new().unwrap();
        let mut events = portable::Events::new();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        poller.add(&socket, 42).unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let readable = loop {
            assert!(Instant::now() < deadline, "no event");
            poller
                .wait(&mut events, Some(Duration::from_millis(100)))
                .unwrap();
            if events.iter().any(|ready| ready.key == 42 && ready.readable) {
                break true;
            }
        };
        assert!(readable);
        poller.notify();
        poller
            .wait(&mut events, Some(Duration::from_secs(5)))
            .unwrap();
        poller.delete(&socket).unwrap();
    }
}
