//! What threads share: the standard library's, or a checker's in its place.
//!
//! Everything in this crate that one thread may see another one change goes through here: locks, atomic
//! numbers, the register for the driver's waker. `cargo xtask schedules` sets `polyquic_shuttle`, and
//! shuttle then decides at each of them which thread runs next. In any other build these are other
//! names for the same things. `Arc` is not among them: counting references is nothing that a
//! different order could break.

#[cfg(not(polyquic_shuttle))]
pub(crate) use {
    atomic_waker::AtomicWaker,
    std::sync::{Mutex, MutexGuard, atomic},
};

#[cfg(polyquic_shuttle)]
pub(crate) use {
    checked::AtomicWaker,
    shuttle::sync::{Mutex, MutexGuard, atomic},
};

#[cfg(polyquic_shuttle)]
mod checked {
    use std::task::Waker;

    use super::Mutex;
    use crate::shared::lock;

    /// What `atomic_waker::AtomicWaker` promises, in the plainest way: the waker that was registered
    /// last is woken, once. How it keeps that without a lock is its own tests' business.
    #[derive(Debug, Default)]
    pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self::default()
        }

        pub(crate) fn register(&self, waker: &Waker) {
            *lock(&self.0) = Some(waker.clone());
        }

        pub(crate) fn wake(&self) {
            let waker = lock(&self.0).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
