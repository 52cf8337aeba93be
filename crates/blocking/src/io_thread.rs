//! The thread that drives endpoints.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use polyquic_udp::{LoopWaker, Reactor};

type BoxedDriver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs drivers: polls those that were woken, and waits in the reactor when none was. Fires timers,
/// also those that belong to no driver.
pub(crate) struct IoThread {
    reactor: Arc<Reactor>,
    /// Set when there are new drivers, or one was woken.
    flag: Arc<LoopWaker>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    new: Vec<BoxedDriver>,
    running: bool,
}

/// A driver and whether it was woken.
struct Driven {
    driver: BoxedDriver,
    /// Several drivers on one thread: each has its own flag, and sets that of the thread.
    woken: Arc<DriverWaker>,
    waker: Waker,
}

struct DriverWaker {
    woken: std::sync::atomic::AtomicBool,
    thread: Arc<LoopWaker>,
}

impl std::task::Wake for DriverWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, std::sync::atomic::Ordering::SeqCst);
        std::task::Wake::wake_by_ref(&self.thread);
    }
}

impl IoThread {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let reactor = Reactor::new()?;
        let flag = LoopWaker::new(reactor.clone());
        Ok(Arc::new(Self {
            reactor,
            flag,
            state: Mutex::default(),
        }))
    }

    pub(crate) fn reactor(&self) -> &Arc<Reactor> {
        &self.reactor
    }

    /// Run `driver` on the I/O thread, starting it if there was nothing to do before.
    pub(crate) fn drive(self: &Arc<Self>, driver: BoxedDriver) {
        let mut state = self.lock();
        state.new.push(driver);
        if let Err(error) = self.start(&mut state) {
            tracing::error!(%error, "cannot start the I/O thread");
            // Dropping a driver fails its endpoint, which is how the caller learns of it.
            let failed = std::mem::take(&mut state.new);
            drop(state);
            drop(failed);
            return;
        }
        drop(state);
        std::task::Wake::wake_by_ref(&self.flag);
    }

    /// See to it that somebody watches the timers, one having been armed.
    pub(crate) fn watch_timers(self: &Arc<Self>) {
        if let Err(error) = self.start(&mut self.lock()) {
            tracing::error!(%error, "cannot start the I/O thread: timers stand still");
        }
    }

    fn start(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if !state.running {
            let this = self.clone();
            std::thread::Builder::new()
                .name("polyquic-io".into())
                .spawn(move || this.run())?;
            state.running = true;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut drivers: Vec<Driven> = Vec::new();
        loop {
            self.flag.take();
            {
                let mut state = self.lock();
                drivers.extend(state.new.drain(..).map(|driver| self.driven(driver)));
                // Asked under the lock: a timer that is armed later finds the thread gone.
                if drivers.is_empty() && !self.reactor.has_timers() {
                    state.running = false;
                    return;
                }
            }
            drivers.retain_mut(poll_if_woken);
            // No other thread leads this reactor.
            let Some(mut leader) = self.reactor.try_lead() else {
                continue;
            };
            let idle = drivers.is_empty() && !self.reactor.has_timers();
            let result = if self.flag.is_woken() || idle {
                leader.poll()
            } else {
                leader.turn(None, || self.flag.is_woken())
            };
            if let Err(error) = result {
                // Unwinding drops the drivers, which fails their endpoints.
                panic!("polyquic's reactor failed: {error}");
            }
        }
    }

    fn driven(&self, driver: BoxedDriver) -> Driven {
        let woken = Arc::new(DriverWaker {
            woken: std::sync::atomic::AtomicBool::new(true),
            thread: self.flag.clone(),
        });
        let waker = Waker::from(woken.clone());
        Driven {
            driver,
            woken,
            waker,
        }
    }
}

/// Poll the driver unless there is no reason to; false when it is done.
fn poll_if_woken(driven: &mut Driven) -> bool {
    if !driven
        .woken
        .woken
        .swap(false, std::sync::atomic::Ordering::SeqCst)
    {
        return true;
    }
    let mut cx = Context::from_waker(&driven.waker);
    let poll = std::panic::AssertUnwindSafe(|| driven.driver.as_mut().poll(&mut cx));
    match std::panic::catch_unwind(poll) {
        Ok(Poll::Pending) => true,
        Ok(Poll::Ready(())) => false,
        // One endpoint's panic, which has been printed, is not the end of the others.
        Err(_) => false,
    }
}
