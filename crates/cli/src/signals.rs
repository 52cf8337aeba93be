//! SIGINT, SIGTERM and SIGHUP as futures that any executor can wait for.
//!
//! A thread of its own waits for the signals, so that no executor's signal support is needed, and
//! signals are seen even while every executor thread is busy.

use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

#[derive(Debug, Default)]
struct State {
    received: Vec<i32>,
    wakers: Vec<Waker>,
}

/// The signals received since [`install`](Self::install).
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    state: Arc<Mutex<State>>,
}

impl Signals {
    /// Take over SIGINT and SIGTERM for the rest of the process.
    #[cfg(unix)]
    pub(crate) fn install() -> io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        Self::take_over(&[SIGINT, SIGTERM])
    }

    /// Take over SIGHUP, which otherwise ends the process, for the rest of it.
    #[cfg(unix)]
    pub(crate) fn hang_ups() -> io::Result<Self> {
        Self::take_over(&[signal_hook::consts::SIGHUP])
    }

    /// There is no such signal elsewhere.
    #[cfg(not(unix))]
    pub(crate) fn hang_ups() -> io::Result<Self> {
        Ok(Self::default())
    }

    #[cfg(unix)]
    fn take_over(which: &[i32]) -> io::Result<Self> {
        let signals = Self::default();
        let mut queue = signal_hook::iterator::Signals::new(which)?;
        let ours = signals.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                for signal in queue.forever() {
                    ours.deliver(signal);
                }
            })?;
        Ok(signals)
    }

    /// Elsewhere the system's default applies: the process ends at once.
    #[cfg(not(unix))]
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self::default())
    }

    /// Pretend that `signal` arrived.
    pub(crate) fn deliver(&self, signal: i32) {
        let wakers = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.received.push(signal);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wait for the `nth` signal (the first is number 1) and return which one it was.
    ///
    /// Cancel-safe: signals are kept, not consumed.
    pub(crate) async fn nth(&self, nth: usize) -> i32 {
        poll_fn(|cx| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(signal) = state.received.get(nth - 1) {
                return Poll::Ready(*signal);
            }
            if !state.wakers.iter().any(|w| w.will_wake(cx.waker())) {
                state.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// The usual name of a signal.
pub(crate) fn name(signal: i32) -> &'static str {
    match signal {
        2 => "SIGINT",
        15 => "SIGTERM",
        _ => "signal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn signals_are_kept_and_counted() {
        let signals = Signals::default();
        assert_eq!(signals.nth(1).now_or_never(), None);
        signals.deliver(15);
        assert_eq!(signals.nth(1).now_or_never(), Some(15));
        assert_eq!(signals.nth(1).now_or_never(), Some(15));
        assert_eq!(signals.nth(2).now_or_never(), None);
        signals.deliver(2);
        assert_eq!(signals.nth(2).now_or_never(), Some(2));
    }

    #[test]
    fn a_waiting_thread_is_woken() {
        let signals = Signals::default();
        let waiter = signals.clone();
        let thread = std::thread::spawn(move || futures::executor::block_on(waiter.nth(1)));
        signals.deliver(2);
        assert_eq!(thread.join().unwrap(), 2);
    }
}
