//! Many connections, much data.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use polyquic_endpoint::{Connection, Executor, spawn};

use crate::fixtures::{SERVER_NAME, Setup, pair};
use crate::tools::{check_alive, check_echo, code, echo, pattern, read_hashed, send_hashed, task};

/// Connections to have at once.
const CONNECTIONS: usize = 500;

/// Bytes of a large transfer.
const LARGE: usize = 64 << 20;

/// Five hundred connections on one endpoint, all open at once, each with an echo.
pub async fn many_connections_at_once<R: Executor>(rt: R) {
    let ends = Setup::new()
        .transport(|transport| {
            // Some of so many first packets do not fit into the socket's buffer.
            transport.initial_rtt(Duration::from_millis(100));
            // Tables for more cost more than the test.
            transport.max_concurrent_uni_streams(code(1));
            transport.max_concurrent_bidi_streams(code(1));
        })
        .start(&rt);
    let server = ends.server.clone();
    let (spawner, mut tasks) = futures::channel::mpsc::unbounded();
    let accepting = task(&rt, async move {
        for _ in 0..CONNECTIONS {
            let incoming = server.accept().await.expect("the server is open");
            spawner
                .unbounded_send(incoming)
                .expect("somebody wants them");
        }
    });
    let spawning = rt.clone();
    let serving = async move {
        while let Some(incoming) = tasks.next().await {
            spawn(&spawning, async move {
                if let Ok(connection) = incoming.await {
                    echo(connection).await;
                }
            });
        }
    };
    let connecting = join_all((0..CONNECTIONS).map(|number| {
        let connecting = ends.client.connect(ends.addr, SERVER_NAME);
        async move {
            let connection = connecting.unwrap().await.unwrap();
            check_echo(&connection, &pattern(number as u64, 1000)).await;
            connection
        }
    }));
    let (connections, (), ()) = futures::join!(connecting, serving, accepting);
    assert_eq!(ends.client.open_connections(), CONNECTIONS);
    assert_eq!(ends.server.open_connections(), CONNECTIONS);
    let ids: HashSet<_> = connections.iter().map(Connection::stable_id).collect();
    assert_eq!(ids.len(), CONNECTIONS);
    // They still work, one as well as all.
    join_all(connections.iter().map(|it| check_echo(it, b"again"))).await;
    drop(connections);
    ends.client.wait_idle().await;
    ends.finish().await;
}

/// Much data both ways at once.
pub async fn large_transfers_both_ways_at_once<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let receive =
        async |connection: Connection| read_hashed(connection.accept_uni().await.unwrap()).await;
    let send = async |connection: Connection, seed| {
        send_hashed(connection.open_uni().await.unwrap(), seed, LARGE).await
    };
    let at_server = task(&rt, receive(pair.server.clone()));
    let at_client = task(&rt, receive(pair.client.clone()));
    let from_client = task(&rt, send(pair.client.clone(), 1));
    let from_server = task(&rt, send(pair.server.clone(), 2));
    let (at_server, at_client, from_client, from_server) =
        futures::join!(at_server, at_client, from_client, from_server);
    assert_eq!(at_server, (LARGE, from_client));
    assert_eq!(at_client, (LARGE, from_server));
    pair.ends.finish().await;
}

/// Many streams at once on one connection, all busy.
pub async fn many_streams_at_once<R: Executor>(rt: R) {
    let pair = Setup::new()
        .server_transport(|transport| {
            transport.max_concurrent_bidi_streams(code(200));
        })
        .connect(&rt)
        .await;
    for _ in 0..200 {
        spawn(&rt, echo(pair.server.clone()));
    }
    join_all((0..1000u64).map(|seed| {
        let connection = pair.client.clone();
        async move { check_echo(&connection, &pattern(seed, (seed as usize * 37) % 9000)).await }
    }))
    .await;
    pair.client.close(code(0), b"");
    pair.ends.finish().await;
}

/// An endpoint is client and server at once, to and from the same peer, and even to itself.
pub async fn one_endpoint_is_client_and_server<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let Setup { server, client, .. } = Setup::new();
    ends.client.set_server_config(Some(server));
    let back = ends.client.local_addr().unwrap();
    let (to_server, at_server) = ends.connect().await;
    for addr in [back, ends.addr] {
        let connecting = ends
            .server
            .connect_with(client.clone(), addr, SERVER_NAME)
            .unwrap();
        let accepting = async {
            let endpoint = if addr == back {
                &ends.client
            } else {
                &ends.server
            };
            endpoint.accept().await.unwrap().await
        };
        let (near, far) = futures::join!(connecting, accepting);
        check_alive(&near.unwrap(), &far.unwrap()).await;
    }
    check_alive(&to_server, &at_server).await;
    ends.finish().await;
}
