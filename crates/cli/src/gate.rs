//! Counts open transfers, limits them, and tells when the last one is over.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

#[derive(Debug, Default)]
struct State {
    open: usize,
    draining: bool,
    wakers: Vec<Waker>,
}

/// Transfers enter here. Once it drains, none may enter any more.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    state: Arc<Mutex<State>>,
    limit: usize,
}

impl Gate {
    /// At most `limit` transfers are open at a time; more have to wait.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Arc::default(),
            limit,
        }
    }

    /// Enter, when there is room; `None` when the gate drains. Cancel-safe.
    pub(crate) async fn enter(&self) -> Option<Guard> {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.draining {
                Poll::Ready(None)
            } else if state.open < self.limit {
                state.open += 1;
                Poll::Ready(Some(Guard(self.clone())))
            } else {
                state.register(cx)
            }
        })
        .await
    }

    /// Let nobody in from now on, not even those who wait.
    pub(crate) fn drain(&self) {
        let wakers = {
            let mut state = self.lock();
            state.draining = true;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether [`drain`](Self::drain) was called.
    pub(crate) fn draining(&self) -> bool {
        self.lock().draining
    }

    /// How many are inside.
    pub(crate) fn open(&self) -> usize {
        self.lock().open
    }

    /// Wait until nobody is inside. Cancel-safe.
    pub(crate) async fn empty(&self) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.open == 0 {
                Poll::Ready(())
            } else {
                state.register(cx)
            }
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn register<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        if !self.wakers.iter().any(|w| w.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// One open transfer; over when dropped.
#[derive(Debug)]
pub(crate) struct Guard(Gate);

impl Drop for Guard {
    fn drop(&mut self) {
        // All are woken: one alone might have been cancelled, and the room would stay unused.
        let wakers = {
            let mut state = self.0.lock();
            state.open -= 1;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn the_limit_holds_and_draining_lets_nobody_in() {
        let gate = Gate::new(2);
        let enter = || gate.enter().now_or_never();
        let first = enter().unwrap().unwrap();
        let second = enter().unwrap().unwrap();
        assert!(enter().is_none(), "a third must wait");
        drop(first);
        let third = enter().unwrap().unwrap();
        assert!(gate.empty().now_or_never().is_none());
        gate.drain();
        drop(second);
        assert!(enter().unwrap().is_none(), "nobody enters while draining");
        assert_eq!(gate.open(), 1);
        drop(third);
        assert!(gate.empty().now_or_never().is_some());
    }

    #[test]
    fn who_waits_is_woken() {
        let gate = Gate::new(1);
        let inside = gate.enter().now_or_never().unwrap().unwrap();
        let waiting = gate.clone();
        let thread =
            std::thread::spawn(move || futures::executor::block_on(waiting.enter()).is_some());
        drop(inside);
        assert!(thread.join().unwrap());
    }
}
