//! Closing, from either side and at any moment: every operation returns, and drivers end.

use polyquic_core::ConnectionError;
use polyquic_endpoint::Connection;
use shuttle::thread::JoinHandle;

use crate::check::check;
use crate::fixtures::{
    CODE, client, connect, mortal_client, pair, server, server_addr, server_config,
};
use crate::world::World;

/// Threads that use a connection in every way that waits, until it ends.
pub(crate) fn users(world: &World, conn: &Connection) -> Vec<JoinHandle<()>> {
    let (writing, opening) = (conn.clone(), conn.clone());
    let (accepting, closed) = (conn.clone(), conn.clone());
    vec![
        world.task(async move {
            let Ok((mut send, mut recv)) = writing.open_bi().await else {
                return;
            };
            let stopped = send.stopped();
            while send.write(&[1; 1500]).await.is_ok() {}
            recv.read(&mut [0]).await.unwrap_err();
            stopped.await.unwrap_err();
        }),
        world.task(async move {
            // Credit for one, and nobody ends it.
            let mut streams = Vec::new();
            while let Ok(stream) = opening.open_uni().await {
                streams.push(stream);
            }
        }),
        world.task(async move {
            // Whatever came before the end may still be taken.
            while let Ok(mut stream) = accepting.accept_uni().await {
                let _ = stream.read(&mut [0]).await;
            }
        }),
        world.task(async move {
            closed.closed().await;
        }),
    ]
}

#[test]
fn everything_returns_when_this_side_closes() {
    check("everything_returns_when_this_side_closes", || {
        let pair = pair();
        let drivers = pair.world.start_drivers();
        let users = users(&pair.world, &pair.near);
        pair.near.close(CODE, b"over");
        pair.world.join(users);
        assert_eq!(
            pair.near.close_reason(),
            Some(ConnectionError::LocallyClosed)
        );
        pair.end(drivers);
    });
}

#[test]
fn everything_returns_when_the_peer_closes() {
    check("everything_returns_when_the_peer_closes", || {
        let pair = pair();
        pair.world.stop_time();
        let drivers = pair.world.start_drivers();
        let users = users(&pair.world, &pair.near);
        pair.far.close(CODE, b"over");
        pair.world.join(users);
        let reason = pair.near.close_reason();
        assert!(
            matches!(reason, Some(ConnectionError::ApplicationClosed(_))),
            "{reason:?}"
        );
        pair.world.run_time();
        pair.end(drivers);
    });
}

#[test]
fn drivers_end_with_the_last_handle() {
    check("drivers_end_with_the_last_handle", || {
        let pair = pair();
        let drivers = pair.world.start_drivers();
        let clones = (pair.near.clone(), pair.client.clone(), pair.server.clone());
        let first = pair.world.thread(move || drop(clones));
        let other = (pair.far, pair.near);
        let second = pair.world.thread(move || drop(other));
        drop((pair.client, pair.server));
        pair.world.join(drivers.into_iter().chain([first, second]));
    });
}

#[test]
fn an_endpoint_that_closes_lets_go_of_who_accepts_and_connects() {
    check(
        "an_endpoint_that_closes_lets_go_of_who_accepts_and_connects",
        || {
            let world = World::new();
            let (client, server) = (mortal_client(&world), server(&world, server_config()));
            let drivers = world.start_drivers();
            let accepting = server.clone();
            let connecting = client.clone();
            let threads = vec![
                world.task(async move {
                    while let Some(incoming) = accepting.accept().await {
                        if let Ok(connection) = incoming.await {
                            connection.closed().await;
                        }
                    }
                }),
                world.task(async move {
                    let connecting = connecting.connect(server_addr(), "localhost").unwrap();
                    if let Ok(connection) = connecting.await {
                        connection.closed().await;
                    }
                }),
                world.task(async move {
                    server.close(CODE, b"over");
                    server.wait_idle().await;
                }),
            ];
            world.join(threads);
            world.block_on(client.wait_idle());
            drop(client);
            world.join(drivers);
        },
    );
}

#[test]
fn an_endpoint_that_closes_lets_go_of_who_connects_from_it() {
    check(
        "an_endpoint_that_closes_lets_go_of_who_connects_from_it",
        || {
            let pair = pair();
            let drivers = pair.world.start_drivers();
            let (connecting, closing) = (pair.client.clone(), pair.client.clone());
            let threads = vec![
                pair.world.task(async move {
                    // Refused at once, or when it is closed: nobody accepts it.
                    if let Ok(connecting) = connecting.connect(server_addr(), "localhost") {
                        connecting.await.unwrap_err();
                    }
                }),
                pair.world.task(async move {
                    closing.close(CODE, b"over");
                    closing.wait_idle().await;
                }),
            ];
            pair.world.join(threads);
            pair.server.close(CODE, b"");
            pair.end(drivers);
        },
    );
}

#[test]
fn a_handshake_that_comes_back_late_harms_nobody() {
    check("a_handshake_that_comes_back_late_harms_nobody", || {
        let world = World::new();
        let mut config = server_config();
        config.offload_handshakes(true);
        let (client, server) = (client(&world), server(&world, config));
        let drivers = world.start_drivers();
        let (connecting, accepting) = (client.clone(), server.clone());
        let threads = vec![
            world.task(async move {
                if let Ok(connecting) = connecting.connect(server_addr(), "localhost") {
                    drop(connecting.await);
                }
            }),
            world.task(async move {
                if let Some(incoming) = accepting.accept().await {
                    drop(incoming.await);
                }
            }),
            world.thread(move || server.close(CODE, b"over")),
            world.thread(move || client.close(CODE, b"over")),
        ];
        world.join(threads);
        world.join(drivers);
    });
}

#[test]
fn an_offloaded_handshake_ends_without_help_of_time() {
    check("an_offloaded_handshake_ends_without_help_of_time", || {
        let world = World::new();
        let mut config = server_config();
        config.offload_handshakes(true);
        let (client, server) = (client(&world), server(&world, config));
        world.stop_time();
        let drivers = world.start_drivers();
        let (connecting, accepting) = (client.clone(), server.clone());
        let threads = [
            world.task(async move {
                connecting
                    .connect(server_addr(), "localhost")
                    .unwrap()
                    .await
                    .unwrap()
            }),
            world.task(async move { accepting.accept().await.unwrap().await.unwrap() }),
        ];
        let connections = world.join(threads);
        world.run_time();
        drop((connections, client, server));
        world.join(drivers);
    });
}

#[test]
fn a_connection_that_closes_does_not_end_another() {
    check("a_connection_that_closes_does_not_end_another", || {
        let pair = pair();
        let (near, far) = connect(&pair.world, &pair.client, &pair.server, server_addr());
        let drivers = pair.world.start_drivers();
        let closing = pair.near.clone();
        let threads = vec![
            pair.world.thread(move || closing.close(CODE, b"over")),
            pair.world.task(async move {
                let mut stream = near.open_uni().await.unwrap();
                stream.write_all(b"x").await.unwrap();
                stream.finish().unwrap();
                stream.stopped().await.unwrap();
            }),
            pair.world.task(async move {
                let mut stream = far.accept_uni().await.unwrap();
                assert_eq!(stream.read_to_end(1).await.unwrap(), b"x");
                far.closed().await;
            }),
        ];
        pair.world.join(threads);
        pair.end(drivers);
    });
}

/// Found by the model of the late handshake: the server's end was never forgotten.
#[test]
fn a_client_that_closes_in_its_first_packet_leaves_nothing() {
    check(
        "a_client_that_closes_in_its_first_packet_leaves_nothing",
        || {
            let world = World::new();
            let (client, server) = (client(&world), server(&world, server_config()));
            // Before its driver runs, and so before anything was sent.
            drop(client.connect(server_addr(), "localhost").unwrap());
            drop(client);
            let drivers = world.start_drivers();
            let accepting = server.clone();
            let thread = world.task(async move {
                let incoming = accepting.accept().await.unwrap();
                incoming.await.unwrap_err();
            });
            world.join([thread]);
            world.stop_time();
            world.block_on(server.wait_idle());
            world.run_time();
            drop(server);
            world.join(drivers);
        },
    );
}
