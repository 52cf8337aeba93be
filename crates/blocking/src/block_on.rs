//! Waiting for a future by blocking the thread.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking::Parker;

thread_local! {
    /// This thread's parker and its waker; made once, as most calls complete at once.
    static PARKER: RefCell<Option<(Parker, Waker)>> = const { RefCell::new(None) };
}

/// Block the calling thread until `future` completes.
pub fn block_on<F: Future>(future: F) -> F::Output {
    match wait(future, None) {
        Some(output) => output,
        None => unreachable!("without a deadline, only completion ends the wait"),
    }
}

/// Block the calling thread until `future` completes, or `timeout` has passed: then it is dropped.
///
/// A timeout too long for the clock, such as [`Duration::MAX`], never passes.
pub fn block_on_timeout<F: Future>(future: F, timeout: Duration) -> Option<F::Output> {
    wait(future, Instant::now().checked_add(timeout))
}

fn wait<F: Future>(future: F, deadline: Option<Instant>) -> Option<F::Output> {
    let mut future = pin!(future);
    // Taken out while in use, so that a nested call makes one of its own.
    let (parker, waker) = PARKER.take().unwrap_or_else(|| {
        let parker = Parker::new();
        let waker = Waker::from(std::sync::Arc::new(Unpark(parker.unparker())));
        (parker, waker)
    });
    let output = loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            break Some(output);
        }
        match deadline {
            None => parker.park(),
            Some(deadline) => {
                if !parker.park_deadline(deadline) {
                    break None;
                }
            }
        }
    };
    PARKER.set(Some((parker, waker)));
    output
}

struct Unpark(parking::Unparker);

impl std::task::Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completes_across_threads_and_nests() {
        let (send, mut recv) = (
            std::sync::Arc::new(std::sync::Mutex::new((false, None::<Waker>))),
            0,
        );
        let shared = send.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            let mut state = shared.lock().unwrap();
            state.0 = true;
            if let Some(waker) = state.1.take() {
                waker.wake();
            }
        });
        block_on(std::future::poll_fn(|cx| {
            recv = block_on(async { recv + 1 });
            let mut state = send.lock().unwrap();
            state.1 = Some(cx.waker().clone());
            if state.0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
        assert!(recv >= 1);
    }

    #[test]
    fn gives_up_in_time() {
        let start = Instant::now();
        let output = block_on_timeout(std::future::pending::<()>(), Duration::from_millis(30));
        assert!(output.is_none());
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert_eq!(block_on_timeout(async { 1 }, Duration::MAX), Some(1));
    }
}
