//! Handles that outlive their executor.
//!
//! What is checked here happens after the closure given to `conformance!` has returned.

use std::sync::mpsc::Sender;

use polyquic_core::{Blame, ConnectError, ConnectionError, blame};
use polyquic_endpoint::{Connection, Executor, ReadError, WriteError};

use crate::fixtures::{Ends, Pair, SERVER_NAME, Setup, pair};
use crate::harness::After;
use crate::tools::{block_on, check_alive, code};

#[track_caller]
fn check_lost(error: &ConnectionError) {
    assert_eq!(blame(error), Blame::Local, "{error:?}");
    assert!(error.to_string().contains("driver is gone"), "{error}");
}

/// Whatever is tried after the executor is gone fails, and nothing hangs.
pub async fn operations_fail_afterwards<R: Executor>(rt: R, leave: Sender<After>) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    let theirs = server.accept_bi().await.unwrap();
    check_alive(&client, &server).await;
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    let undecided = ends.server.accept().await.unwrap();
    let after = move || {
        let Ends {
            server: mut endpoint,
            addr,
            client: other,
        } = ends;
        check_lost(&block_on(client.closed()));
        check_lost(&client.close_reason().expect("it is lost"));
        check_lost(&block_on(client.open_uni()).unwrap_err());
        check_lost(&block_on(client.accept_bi()).unwrap_err());
        check_lost(&block_on(client.read_datagram()).unwrap_err());
        match block_on(send.write(b"y")) {
            Err(WriteError::ConnectionLost(error)) => check_lost(&error),
            other => panic!("{other:?}"),
        }
        match block_on(recv.read(&mut [0; 1])) {
            Err(ReadError::ConnectionLost(error)) => check_lost(&error),
            other => panic!("{other:?}"),
        }
        check_lost(&block_on(connecting).unwrap_err());
        assert!(undecided.accept().is_err());
        assert!(block_on(endpoint.accept()).is_none());
        block_on(endpoint.wait_idle());
        endpoint.set_default_client_config(Setup::new().client);
        assert_eq!(
            endpoint.connect(addr, SERVER_NAME).err(),
            Some(ConnectError::EndpointStopping)
        );
        assert!(block_on(endpoint.rebind_addr(addr)).is_err());
        // Closing and dropping are harmless.
        client.close(code(1), b"");
        other.close(code(1), b"");
        drop((send, recv, theirs, client, server, endpoint, other));
    };
    leave.send(Box::new(after)).unwrap();
}

/// Whoever waits on another thread while the executor goes away is woken.
pub async fn who_waits_is_woken<R: Executor>(rt: R, leave: Sender<After>) {
    async fn lost(connection: Connection) {
        let (accepted, closed, datagram) = futures::join!(
            connection.accept_uni(),
            connection.closed(),
            connection.read_datagram()
        );
        check_lost(&accepted.unwrap_err());
        check_lost(&closed);
        check_lost(&datagram.unwrap_err());
    }
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let (waits, waiting) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    let mut start = |wait: Box<dyn FnOnce() + Send>| {
        let waits = waits.clone();
        threads.push(std::thread::spawn(move || {
            waits.send(()).unwrap();
            wait();
        }));
    };
    let (here, there) = (client.clone(), server.clone());
    start(Box::new(move || block_on(lost(here))));
    start(Box::new(move || block_on(lost(there))));
    let idle = ends.client.clone();
    start(Box::new(move || block_on(idle.wait_idle())));
    let endpoint = ends.server.clone();
    start(Box::new(move || {
        assert!(block_on(endpoint.accept()).is_none());
    }));
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    start(Box::new(move || {
        let written = block_on(send.write_all(&vec![0; 64 << 20]));
        assert!(matches!(written, Err(WriteError::ConnectionLost(_))));
    }));
    start(Box::new(move || {
        let read = block_on(recv.read(&mut [0; 1]));
        assert!(matches!(read, Err(ReadError::ConnectionLost(_))));
    }));
    for _ in 0..threads.len() {
        waiting.recv().unwrap();
    }
    check_alive_by_datagram(&client, &server).await;
    let after = move || {
        for thread in threads {
            thread.join().expect("the thread saw what it should");
        }
        drop((client, server, ends));
    };
    leave.send(Box::new(after)).unwrap();
}

/// The threads take everything else.
async fn check_alive_by_datagram(client: &Connection, server: &Connection) {
    let (mut send, _recv) = server.open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    let (_send, mut recv) = client.accept_bi().await.unwrap();
    recv.read_exact(&mut [0; 1]).await.unwrap();
}
