//! Connections over time: idle timeouts, keep-alive, key updates.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures::future::{Either, join, select};
use polyquic_core::{Blame, ConnectionError, blame};
use polyquic_endpoint::{Abandoned, Connection, Executor, offload, sleep};
use polyquic_runtime::Timer;

use crate::fixtures::{Setup, idle_timeout, pair};
use crate::tools::{
    check_alive, check_pending, check_transfer, pattern, read_hashed, send_hashed, yield_now,
};

/// A silent connection ends on both sides, after the shorter of their timeouts.
pub async fn a_silent_connection_times_out<R: Executor>(rt: R) {
    let pair = Setup::new()
        .server_transport(|transport| idle_timeout(transport, Duration::from_secs(600)))
        .client_transport(|transport| idle_timeout(transport, Duration::from_millis(300)))
        .connect(&rt)
        .await;
    check_alive(&pair.client, &pair.server).await;
    let (client, server) = futures::join!(pair.client.closed(), pair.server.closed());
    assert_eq!(client, ConnectionError::TimedOut);
    assert_eq!(server, ConnectionError::TimedOut);
    assert_eq!(blame(&client), Blame::Network);
    // Nobody has to be told: the endpoints forget it at once.
    futures::join!(pair.ends.client.wait_idle(), pair.ends.server.wait_idle());
    pair.ends.finish().await;
}

/// Keep-alive packets of one side keep a connection that nobody uses.
pub async fn keep_alive_keeps_a_silent_connection<R: Executor>(rt: R) {
    let pair = Setup::new()
        .server_transport(|transport| idle_timeout(transport, Duration::from_millis(1000)))
        .client_transport(|transport| {
            transport.keep_alive_interval(Some(Duration::from_millis(100)));
        })
        .connect(&rt)
        .await;
    sleep(&rt, Duration::from_millis(2200)).await;
    assert_eq!(pair.client.close_reason(), None);
    check_alive(&pair.client, &pair.server).await;
    pair.ends.finish().await;
}

/// Timers fire in the order of their deadlines, not of their making, and not early.
pub async fn timers_fire_in_order<R: Executor>(rt: R) {
    let start = rt.clock().now();
    let late = sleep(&rt, Duration::from_millis(120));
    let early = sleep(&rt, Duration::from_millis(40));
    let past = sleep(&rt, Duration::ZERO);
    past.await;
    let order = std::sync::Mutex::new(Vec::new());
    let clock = rt.clock();
    futures::join!(
        async {
            late.await;
            order.lock().unwrap().push(("late", clock.now()));
        },
        async {
            early.await;
            order.lock().unwrap().push(("early", clock.now()));
        }
    );
    let order = order.into_inner().unwrap();
    assert_eq!(order[0].0, "early");
    assert!(order[0].1 - start >= Duration::from_millis(40));
    assert!(order[1].1 - start >= Duration::from_millis(120));
}

/// A timer can be moved, also to an earlier time, and disarms itself.
pub async fn timers_can_be_moved<R: Executor>(rt: R) {
    async fn expire<T: Timer>(timer: &mut Pin<Box<T>>) {
        poll_fn(|cx| timer.as_mut().poll_expired(cx)).await;
    }
    let clock = rt.clock();
    let mut timer = Box::pin(rt.timer());
    check_pending(expire(&mut timer)).await;
    let hours = Duration::from_secs(3600);
    timer.as_mut().reset(clock.now() + hours);
    // Polled, so that whoever wakes it knows of the hour.
    check_pending(expire(&mut timer)).await;
    let soon = clock.now() + Duration::from_millis(30);
    timer.as_mut().reset(soon);
    expire(&mut timer).await;
    assert!(clock.now() >= soon);
    check_pending(expire(&mut timer)).await;
    // And to a later one.
    timer
        .as_mut()
        .reset(clock.now() + Duration::from_millis(10));
    let later = clock.now() + Duration::from_millis(60);
    timer.as_mut().reset(later);
    expire(&mut timer).await;
    assert!(clock.now() >= later);
    // What lies in the past is due at once.
    timer.as_mut().reset(clock.now());
    expire(&mut timer).await;
}

/// `offload` runs its jobs, all of them.
pub async fn offloaded_jobs_run<R: Executor>(rt: R) {
    let mut results = Vec::new();
    for number in 0..20 {
        let (send, receive) = futures::channel::oneshot::channel();
        rt.offload(Box::new(move || {
            let _ = send.send(number * number);
        }));
        results.push(receive);
    }
    for (number, result) in results.into_iter().enumerate() {
        assert_eq!(result.await, Ok(number * number));
    }
}

/// Results of offloaded closures come back, or the news that there is none.
pub async fn offloaded_results_come_back<R: Executor>(rt: R) {
    let panicking = offload(&rt, || -> u8 { panic!("this panic is part of a test") });
    let results = (0..20).map(|number| offload(&rt, move || number * number));
    for (number, result) in results.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(result.await, Ok(number * number));
    }
    assert_eq!(panicking.await, Err(Abandoned));
    // Nobody waiting is no error.
    drop(offload(&rt, || ()));
}

/// Both sides update their keys again and again in the middle of transfers both ways.
pub async fn key_updates_during_transfers<R: Executor>(rt: R) {
    const LEN: usize = 8 << 20;
    let pair = pair(&rt).await;
    let transfer = |from: &Connection, to: &Connection| {
        let (from, to) = (from.clone(), to.clone());
        async move {
            let sending = async { send_hashed(from.open_uni().await.unwrap(), 1, LEN).await };
            let receiving = async { read_hashed(to.accept_uni().await.unwrap()).await };
            let (sent, received) = futures::join!(sending, receiving);
            assert_eq!(received, (LEN, sent));
        }
    };
    let transfers = join(
        transfer(&pair.client, &pair.server),
        transfer(&pair.server, &pair.client),
    );
    let updates = async {
        for round in 0.. {
            // A round trip in between: an update is only due when the one before is known.
            let (updating, other) = if round % 2 == 0 {
                (&pair.client, &pair.server)
            } else {
                (&pair.server, &pair.client)
            };
            updating.force_key_update();
            yield_now().await;
            round_trip(updating, other).await;
        }
    };
    match select(Box::pin(transfers), Box::pin(updates)).await {
        Either::Left(_) => {}
        Either::Right(_) => unreachable!("updates go on for ever"),
    }
    for _ in 0..5 {
        pair.client.force_key_update();
        check_transfer(&pair.client, &pair.server, &pattern(1, 3000)).await;
        pair.server.force_key_update();
        check_transfer(&pair.server, &pair.client, &pattern(1, 3000)).await;
    }
    pair.ends.finish().await;
}

/// Both sides have heard something new of each other.
async fn round_trip(a: &Connection, b: &Connection) {
    for (from, to) in [(a, b), (b, a)] {
        let (mut send, _recv) = from.open_bi().await.unwrap();
        send.write_all(b"?").await.unwrap();
        let (_send, mut recv) = to.accept_bi().await.unwrap();
        recv.read_exact(&mut [0; 1]).await.unwrap();
    }
}
