//! Executors, threads and places: what the adapter promises besides the common contract.
#![cfg(target_os = "linux")]

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use futures::channel::{mpsc, oneshot};
use futures::{StreamExt, executor::block_on};
use polyquic_glommio::{Builder, GlommioRuntime, run};
use polyquic_runtime::{Runtime, Spawn, Timer};

/// Where shard number `shard` lives.
async fn home(rt: &GlommioRuntime, shard: usize) -> ThreadId {
    let (sender, receiver) = oneshot::channel();
    let start = move |rt: GlommioRuntime| {
        // By a task, to see that the handle is good for that place.
        rt.spawn(async move {
            let _ = sender.send(thread::current().id());
        });
    };
    rt.place(shard, Box::new(start)).unwrap();
    receiver.await.unwrap()
}

async fn sleep(rt: &GlommioRuntime, duration: Duration) {
    let mut timer = pin!(rt.timer());
    timer.as_mut().reset(Instant::now() + duration);
    poll_fn(|cx| timer.as_mut().poll_expired(cx)).await;
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or_default()
}

#[test]
fn each_shard_has_a_core_of_its_own() {
    run(3, |rt| async move {
        assert_eq!(rt.default_shards().get(), 3);
        let mut homes = Vec::new();
        for shard in 0..6 {
            homes.push(home(&rt, shard).await);
        }
        assert_eq!(homes[0], thread::current().id());
        assert!(homes[0] != homes[1] && homes[1] != homes[2] && homes[2] != homes[0]);
        assert_eq!(homes[..3], homes[3..], "the same number, the same place");
    })
    .unwrap();
}

#[test]
fn the_own_place_is_reached_at_once() {
    run(2, |rt| async move {
        let reached = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flag = reached.clone();
        let start = move |_| flag.store(true, std::sync::atomic::Ordering::SeqCst);
        rt.place(2, Box::new(start)).unwrap();
        assert!(reached.load(std::sync::atomic::Ordering::SeqCst));
    })
    .unwrap();
}

#[test]
fn places_are_reached_from_anywhere() {
    run(2, |rt| async move {
        let here = thread::current().id();
        let there = home(&rt, 1).await;
        // From a thread that is no core.
        let (sender, receiver) = oneshot::channel();
        let remote = rt.clone();
        let thread = thread::spawn(move || {
            let homes = (block_on(home(&remote, 0)), block_on(home(&remote, 1)));
            let _ = sender.send(homes);
        });
        assert_eq!(receiver.await.unwrap(), (here, there));
        thread.join().unwrap();
        // And from the other core.
        let (sender, receiver) = oneshot::channel();
        let start = move |rt: GlommioRuntime| {
            let task = rt.clone();
            rt.spawn(async move {
                let _ = sender.send(home(&task, 0).await);
            });
        };
        rt.place(1, Box::new(start)).unwrap();
        assert_eq!(receiver.await.unwrap(), here);
    })
    .unwrap();
}

#[test]
fn there_is_no_place_after_the_end() {
    let rt = run(2, |rt| async move { rt }).unwrap();
    for shard in [0, 1] {
        let held = Rc::new(());
        let error = rt.place(shard, Box::new(|_| ())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        assert!(error.to_string().contains("has ended"), "{error}");
        assert_eq!(Rc::strong_count(&held), 1);
    }
}

/// What a task holds is dropped with it, on every core, and so is what tasks spawn as they are
/// dropped.
#[test]
fn tasks_are_dropped_at_the_end() {
    struct SpawnsOnDrop(GlommioRuntime, mpsc::UnboundedSender<&'static str>);
    impl Drop for SpawnsOnDrop {
        fn drop(&mut self) {
            let sender = self.1.clone();
            sender.unbounded_send("dropped").unwrap();
            self.0.spawn(async move {
                sender.unbounded_send("ran").unwrap();
            });
        }
    }
    let (sender, receiver) = mpsc::unbounded();
    run(2, |rt| async move {
        for shard in [0, 1] {
            let sender = sender.clone();
            let (started, starts) = oneshot::channel();
            let start = move |rt: GlommioRuntime| {
                let held = SpawnsOnDrop(rt.clone(), sender);
                rt.spawn(async move {
                    let _held = held;
                    let _ = started.send(());
                    std::future::pending().await
                });
            };
            rt.place(shard, Box::new(start)).unwrap();
            starts.await.unwrap();
        }
    })
    .unwrap();
    let seen: Vec<_> = block_on(receiver.collect());
    assert_eq!(seen, ["dropped", "dropped"]);
}

#[test]
fn nothing_is_asked_to_be_send() {
    let shared = Rc::new(RefCell::new(0));
    let output = run(1, |rt| {
        let shared = shared.clone();
        async move {
            let (task, inner) = (shared.clone(), rt.clone());
            let (done, finished) = oneshot::channel();
            rt.spawn(async move {
                sleep(&inner, Duration::from_millis(1)).await;
                *task.borrow_mut() += 1;
                let _ = done.send(());
            });
            finished.await.unwrap();
            shared
        }
    });
    assert_eq!(*output.unwrap().borrow(), 1);
}

#[test]
fn a_panic_ends_its_task_only() {
    run(2, |rt| async move {
        for shard in [0, 1] {
            let start = |rt: GlommioRuntime| {
                rt.spawn(async { panic!("of a task, which is part of the test") });
            };
            rt.place(shard, Box::new(start)).unwrap();
        }
        let panics = |_| panic!("of a start, which is part of the test");
        rt.place(1, Box::new(panics)).unwrap();
        home(&rt, 0).await;
        home(&rt, 1).await;
    })
    .unwrap();
}

#[test]
fn a_panic_of_the_application_comes_through() {
    let result = catch_unwind(|| run(2, |_| async { panic!("of the application, a test") }));
    let panic: Box<dyn std::any::Any + Send> = match result {
        Ok(Ok(())) => unreachable!("it panicked"),
        Ok(Err(error)) => panic!("{error}"),
        Err(panic) => panic,
    };
    assert_eq!(message(&*panic), "of the application, a test");
    // The thread is good for another run.
    assert_eq!(run(1, |_| async { 1 }).unwrap(), 1);
}

#[test]
fn spawning_elsewhere_says_what_is_wrong() {
    let rt = run(1, |rt| async move { rt }).unwrap();
    let attempts: [&dyn Fn(); 2] = [&|| rt.spawn(async {}), &|| drop(GlommioRuntime::current())];
    for attempt in attempts {
        let panic = catch_unwind(AssertUnwindSafe(attempt)).unwrap_err();
        assert!(message(&*panic).contains("glommio executor"), "{panic:?}");
    }
}

/// A timer may be made, moved and awaited anywhere, and an earlier deadline counts.
#[test]
fn timers_travel() {
    run(1, |rt| async move {
        let mut timer = Box::pin(rt.timer());
        let (sender, receiver) = oneshot::channel();
        timer
            .as_mut()
            .reset(Instant::now() + Duration::from_secs(3600));
        let thread = thread::spawn(move || {
            let mut late = Box::pin(rt.timer());
            late.as_mut().reset(Instant::now());
            block_on(poll_fn(|cx| late.as_mut().poll_expired(cx)));
            let deadline = Instant::now() + Duration::from_millis(20);
            timer.as_mut().reset(deadline);
            block_on(poll_fn(|cx| timer.as_mut().poll_expired(cx)));
            assert!(Instant::now() >= deadline, "it was early");
            // Disarmed now.
            block_on(poll_fn(|cx| {
                assert!(timer.as_mut().poll_expired(cx).is_pending());
                std::task::Poll::Ready(())
            }));
            let _ = sender.send(());
        });
        receiver.await.unwrap();
        thread.join().unwrap();
    })
    .unwrap();
}

#[test]
fn pinned_threads_stay_and_the_callers_does_not() {
    use rustix::thread::sched_getaffinity;
    let allowed = || sched_getaffinity(None).unwrap().count();
    let before = allowed();
    let builder = Builder::new().cores(2).pin(true);
    builder
        .run(|rt| async move {
            assert_eq!(allowed(), 1);
            let (sender, receiver) = oneshot::channel();
            rt.place(1, Box::new(move |_| sender.send(allowed()).unwrap()))
                .unwrap();
            assert_eq!(receiver.await.unwrap(), 1);
            // What blocks is to keep away from the cores.
            let (sender, receiver) = oneshot::channel();
            rt.offload(Box::new(move || sender.send(allowed()).unwrap()));
            assert_eq!(receiver.await.unwrap(), before);
        })
        .unwrap();
    assert_eq!(allowed(), before);
}

#[test]
fn who_looks_before_sleeping_still_listens() {
    let builder = Builder::new()
        .cores(2)
        .busy_poll(Duration::from_micros(200));
    builder
        .run(|rt| async move {
            for _ in 0..20 {
                home(&rt, 1).await;
                sleep(&rt, Duration::from_micros(100)).await;
            }
        })
        .unwrap();
}

#[test]
fn a_full_queue_of_tasks_does_not_stop_timers() {
    run(1, |rt| async move {
        let (stop, mut stopped) = oneshot::channel::<()>();
        rt.spawn(async move {
            // Always ready again.
            poll_fn(|cx| {
                cx.waker().wake_by_ref();
                match stopped.try_recv() {
                    Ok(None) => std::task::Poll::Pending,
                    _ => std::task::Poll::Ready(()),
                }
            })
            .await;
        });
        sleep(&rt, Duration::from_millis(5)).await;
        drop(stop);
    })
    .unwrap();
}
