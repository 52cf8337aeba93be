//! Two shards that hand over to each other while one of them closes or is lost.

use polyquic_core::EndpointStats;
use polyquic_endpoint::{Connection, Endpoint};

use crate::check::check;
use crate::fixtures::{CODE, builder, connect, mortal_client, server_config};
use crate::world::{Failure, GROUP, World};

struct Sharded {
    world: World,
    client: Endpoint,
    server: Endpoint,
    connections: Vec<(Connection, Connection)>,
}

/// A server with two shards and connections enough that each has one.
fn sharded() -> Sharded {
    let world = World::new();
    let server = builder(2).server_config(server_config()).shards(2);
    let server = server.bind(&world, GROUP).unwrap();
    let client = mortal_client(&world);
    let shards = [0, 1].map(|index| server.shard(index).unwrap());
    let mut connections = Vec::new();
    while shards.iter().any(|shard| shard.open_connections() == 0) {
        connections.push(connect(&world, &client, &server, GROUP));
    }
    Sharded {
        world,
        client,
        server,
        connections,
    }
}

#[test]
fn what_another_shard_received_arrives() {
    check("what_another_shard_received_arrives", || {
        let it = sharded();
        it.world.stop_time();
        it.world.steer(1);
        let drivers = it.world.start_drivers();
        let threads: Vec<_> = (it.connections.iter().cloned())
            .flat_map(|(near, far)| {
                let writer = it.world.task(async move {
                    let mut stream = near.open_uni().await.unwrap();
                    stream.write_all(&[1; 3000]).await.unwrap();
                    stream.finish().unwrap();
                });
                let reader = it.world.task(async move {
                    let mut stream = far.accept_uni().await.unwrap();
                    assert_eq!(stream.read_to_end(3000).await.unwrap().len(), 3000);
                });
                [writer, reader]
            })
            .collect();
        it.world.join(threads);
        let EndpointStats {
            datagrams_handed_over,
            ..
        } = it.server.stats();
        assert!(datagrams_handed_over > 0);
        it.world.run_time();
        drop((it.connections, it.client, it.server));
        it.world.join(drivers);
    });
}

/// Connections of both shards are written to until they end, which `end` is to bring about.
fn all_return(end: impl FnOnce(&World, &Endpoint)) {
    let it = sharded();
    let drivers = it.world.start_drivers();
    let threads: Vec<_> = (it.connections.into_iter())
        .map(|(near, far)| {
            it.world.task(async move {
                if let Ok((mut stream, _unread)) = near.open_bi().await {
                    while stream.write(&[1; 1200]).await.is_ok() {}
                }
                near.closed().await;
                drop(far);
            })
        })
        .collect();
    end(&it.world, &it.server);
    it.server.close(CODE, b"over");
    let idle = it.server;
    let idle = it.world.task(async move { idle.wait_idle().await });
    it.world.join(threads.into_iter().chain([idle]));
    drop(it.client);
    it.world.join(drivers);
}

#[test]
fn shards_that_close_while_they_hand_over_let_go_of_everybody() {
    check(
        "shards_that_close_while_they_hand_over_let_go_of_everybody",
        || {
            all_return(|world, _| world.steer(1));
        },
    );
}

#[test]
fn a_shard_that_is_lost_leaves_its_peers_to_the_other() {
    check("a_shard_that_is_lost_leaves_its_peers_to_the_other", || {
        all_return(|world, server| {
            world.fail(GROUP, 0, Failure::Panic);
            // Closing waits for nobody of the lost one.
            world.block_on(server.shard(0).unwrap().wait_idle());
        });
    });
}
