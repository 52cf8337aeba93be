//! Handles on threads that the executor knows nothing of.

use polyquic_core::ConnectionError;
use polyquic_endpoint::{Endpoint, Executor};

// Their jobs block until the executor's thread does something.
pub use crate::handshake::{
    closing_during_a_certificate_lookup, slow_certificate_lookups_hold_up_nobody,
};

use crate::fixtures::{Pair, SERVER_NAME, Setup, pair};
use crate::tools::{
    block_on, check_alive, check_echo, code, echo, pattern, read_all, send_all, spawn_thread, task,
};

/// Several threads use the same connection, each waiting by blocking.
pub async fn a_connection_is_shared_by_threads<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    for _ in 0..4 {
        drop(task(&rt, echo(server.clone())));
    }
    let threads = (0..4u64).map(|thread| {
        let client = client.clone();
        spawn_thread(move || {
            for round in 0..30 {
                let data = pattern(thread * 100 + round, 2000 + 500 * round as usize);
                block_on(check_echo(&client, &data));
            }
        })
    });
    futures::future::join_all(threads).await;
    client.close(code(0), b"");
    ends.finish().await;
}

/// A server and its client, neither of them on the executor.
pub async fn everything_happens_on_other_threads<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let server = ends.server.clone();
    let serving = spawn_thread(move || {
        for _ in 0..10 {
            block_on(async {
                let connection = server.accept().await.unwrap().await.unwrap();
                echo(connection).await;
            });
        }
    });
    let (client, addr) = (ends.client.clone(), ends.addr);
    let connecting = spawn_thread(move || {
        for round in 0..10 {
            let connection = block_on(client.connect(addr, SERVER_NAME).unwrap()).unwrap();
            block_on(check_echo(&connection, &pattern(round, 20_000)));
            connection.close(code(0), b"");
        }
        block_on(client.wait_idle());
    });
    futures::join!(serving, connecting);
    ends.finish().await;
}

/// Who waits on one thread is woken by who acts on another.
pub async fn waiting_and_acting_on_different_threads<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let reading = server.clone();
    let reading = spawn_thread(move || {
        block_on(async { read_all(reading.accept_uni().await.unwrap()).await })
    });
    let closed = server.clone();
    let closed = spawn_thread(move || block_on(closed.closed()));
    let writing = client.clone();
    let writing = spawn_thread(move || {
        block_on(async { send_all(writing.open_uni().await.unwrap(), b"across").await });
    });
    let (read, ()) = futures::join!(reading, writing);
    assert_eq!(read, b"across");
    // The executor's own tasks use them, too.
    check_alive(&client, &server).await;
    let closing = spawn_thread(move || client.close(code(5), b""));
    let (error, ()) = futures::join!(closed, closing);
    assert!(
        matches!(error, ConnectionError::ApplicationClosed(_)),
        "{error:?}"
    );
    ends.finish().await;
}

/// The last handles may be dropped anywhere.
pub async fn handles_are_dropped_elsewhere<R: Executor>(rt: R) {
    for _ in 0..10 {
        let Pair {
            client,
            server,
            ends,
        } = pair(&rt).await;
        let send = client.open_uni().await.unwrap();
        let observer = server.clone();
        let dropping = spawn_thread(move || drop((send, client, server, ends.client)));
        let (error, ()) = futures::join!(observer.closed(), dropping);
        assert!(
            matches!(error, ConnectionError::ApplicationClosed(_)),
            "{error:?}"
        );
        ends.server.close(code(0), b"");
    }
}

/// Endpoints can be made and used where no executor is.
pub async fn handles_come_from_other_threads<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let made: Endpoint = ends.client.clone();
    let addr = ends.addr;
    let attempt = spawn_thread(move || made.connect(addr, SERVER_NAME).unwrap());
    let (connecting, incoming) = futures::join!(attempt, ends.server.accept());
    let (client, server) = futures::join!(connecting, async { incoming.unwrap().await });
    check_alive(&client.unwrap(), &server.unwrap()).await;
    ends.finish().await;
}
