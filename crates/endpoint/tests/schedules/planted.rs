//! Bugs of the kinds that the other models look for, in a model small enough to plant them in: the
//! checker must find them, and must find nothing where there is none.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Poll, Waker};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::Mutex;
use shuttle::{FailurePersistence, Runner};

use crate::check::config;
use crate::world::World;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// The lock is released between looking and registering.
    LateRegistration,
    /// One waiter is woken; if it has given up, nobody is.
    WakeUpLostWithTheWaiter,
}

#[derive(Default)]
struct Queue {
    items: usize,
    waiting: Vec<Waker>,
}

/// One thread puts two items, two threads take one each.
fn model(planted: Planted) {
    let world = World::new();
    let queue = Arc::new(Mutex::new(Queue::default()));
    let takers = [false, true].map(|gives_up| {
        let queue = queue.clone();
        let mut polls = 0;
        world.task(poll_fn(move |cx| {
            let mut it = queue.lock().unwrap();
            polls += 1;
            if gives_up && polls == 2 && planted == Planted::WakeUpLostWithTheWaiter {
                return Poll::Ready(());
            }
            if it.items > 0 {
                it.items -= 1;
                return Poll::Ready(());
            }
            if planted == Planted::LateRegistration {
                drop(it);
                it = queue.lock().unwrap();
            }
            it.waiting.push(cx.waker().clone());
            Poll::Pending
        }))
    });
    let putter = world.thread(move || {
        let items = if planted == Planted::WakeUpLostWithTheWaiter {
            1
        } else {
            2
        };
        for _ in 0..items {
            let mut it = queue.lock().unwrap();
            it.items += 1;
            let woken = if planted == Planted::WakeUpLostWithTheWaiter {
                it.waiting.pop().into_iter().collect()
            } else {
                std::mem::take(&mut it.waiting)
            };
            drop(it);
            woken.into_iter().for_each(Waker::wake);
        }
    });
    world.join(takers.into_iter().chain([putter]));
}

fn finding(planted: Planted, pct: bool) -> Option<String> {
    let mut config = config();
    config.failure_persistence = FailurePersistence::None;
    let run =
        || match pct {
            true => Runner::new(PctScheduler::new_from_seed(1, 3, 500), config)
                .run(move || model(planted)),
            false => Runner::new(RandomScheduler::new_from_seed(1, 500), config)
                .run(move || model(planted)),
        };
    let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.unwrap_or_else(|| "a panic without a text".into()))
}

#[test]
fn planted_bugs_are_found() {
    for pct in [false, true] {
        for planted in [Planted::LateRegistration, Planted::WakeUpLostWithTheWaiter] {
            let finding = finding(planted, pct).expect("it was planted");
            assert!(finding.contains("deadlock"), "{finding}");
        }
        assert_eq!(finding(Planted::Nothing, pct), None);
    }
}
