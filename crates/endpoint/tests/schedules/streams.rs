//! Data between threads: nobody is left waiting for what has come.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::check::check;
use crate::fixtures::{CODE, pair};

/// Three times what the receiver's window holds.
const BYTES: usize = 6000;

#[test]
fn what_one_thread_writes_another_reads_to_the_end() {
    check("what_one_thread_writes_another_reads_to_the_end", || {
        let pair = pair();
        let (near, far) = (pair.near.clone(), pair.far.clone());
        pair.world.stop_time();
        let drivers = pair.world.start_drivers();
        let writer = pair.world.task(async move {
            let mut stream = near.open_uni().await.unwrap();
            stream.write_all(&[5; BYTES]).await.unwrap();
            stream.finish().unwrap();
            0
        });
        let reader = pair.world.task(async move {
            let mut stream = far.accept_uni().await.unwrap();
            stream.read_to_end(BYTES).await.unwrap().len()
        });
        assert_eq!(pair.world.join([writer, reader]), [0, BYTES]);
        pair.world.run_time();
        pair.end(drivers);
    });
}

#[test]
fn whoever_waits_for_stream_credit_gets_it_when_another_stream_ends() {
    let name = "whoever_waits_for_stream_credit_gets_it_when_another_stream_ends";
    check(name, || {
        let pair = pair();
        let (near, far) = (pair.near.clone(), pair.far.clone());
        let drivers = pair.world.start_drivers();
        // The server allows one stream at a time.
        let openers = [near.clone(), near].map(|near| {
            pair.world.task(async move {
                let mut stream = near.open_uni().await.unwrap();
                stream.write_all(b"x").await.unwrap();
                stream.finish().unwrap();
                // Only then may the handle go; the other stream is not ended by it.
                stream.stopped().await.unwrap();
                1
            })
        });
        let reader = pair.world.task(async move {
            let mut read = 0;
            for _ in 0..2 {
                let mut stream = far.accept_uni().await.unwrap();
                read += stream.read_to_end(1).await.unwrap().len();
            }
            read
        });
        assert_eq!(
            pair.world.join(openers.into_iter().chain([reader])),
            [1, 1, 2]
        );
        pair.end(drivers);
    });
}

#[test]
fn a_stream_is_not_lost_with_a_waiter_that_gave_up() {
    check("a_stream_is_not_lost_with_a_waiter_that_gave_up", || {
        let pair = pair();
        let (near, far) = (pair.near.clone(), pair.far.clone());
        pair.world.stop_time();
        let drivers = pair.world.start_drivers();
        let quitter = pair.world.thread({
            let far = far.clone();
            let world = pair.world.clone();
            move || {
                let taken = {
                    let mut accept = pin!(far.accept_uni());
                    accept
                        .as_mut()
                        .poll(&mut Context::from_waker(Waker::noop()))
                };
                // It may have been in time. The others want one as well, and its end allows that.
                if let Poll::Ready(stream) = taken {
                    world
                        .block_on(async { stream.unwrap().read_to_end(1).await })
                        .unwrap();
                    1
                } else {
                    0
                }
            }
        });
        let opener = pair.world.task(async move {
            for _ in 0..3 {
                let mut stream = near.open_uni().await.unwrap();
                stream.write_all(b"x").await.unwrap();
                stream.finish().unwrap();
            }
            0
        });
        let acceptors = [far.clone(), far].map(|far| {
            pair.world.task(async move {
                let mut stream = far.accept_uni().await.unwrap();
                stream.read_to_end(1).await.unwrap().len()
            })
        });
        let counts = pair
            .world
            .join(acceptors.into_iter().chain([opener, quitter]));
        assert_eq!(counts[..2], [1, 1]);
        pair.world.run_time();
        pair.near.close(CODE, b"");
        pair.end(drivers);
    });
}
