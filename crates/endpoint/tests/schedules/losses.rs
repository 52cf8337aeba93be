//! Drivers that end before their time: whoever waits is told.

use polyquic_core::ConnectionError;

use crate::check::check;
use crate::closing::users;
use crate::fixtures::{Pair, pair, server_addr};
use crate::world::{Failure, Switch};

/// A client's driver is lost by `lose` while threads use its connection and its endpoint.
fn everybody_is_told(lose: impl FnOnce(&Pair, &Switch) + Send + 'static) {
    let pair = pair();
    pair.world.stop_time();
    let switch = Switch::default();
    let drivers = pair.world.take_drivers();
    // The client's is the first: only this one is lost.
    let switches = [switch.clone(), Switch::default()];
    let drivers: Vec<_> = (drivers.into_iter().zip(switches))
        .map(|(driver, switch)| pair.world.task(switch.run(driver)))
        .collect();
    let mut threads = users(&pair.world, &pair.near);
    let (accepting, idle) = (pair.client.clone(), pair.client.clone());
    let connecting = pair.client.clone();
    threads.push(
        pair.world
            .task(async move { assert!(accepting.accept().await.is_none()) }),
    );
    threads.push(pair.world.task(async move { idle.wait_idle().await }));
    threads.push(pair.world.task(async move {
        if let Ok(connecting) = connecting.connect(server_addr(), "localhost") {
            // Nobody accepts it.
            connecting.await.unwrap_err();
        }
    }));
    lose(&pair, &switch);
    pair.world.join(threads);
    let reason = pair.near.close_reason();
    assert!(
        matches!(reason, Some(ConnectionError::TransportError(_))),
        "{reason:?}"
    );
    pair.world.run_time();
    pair.end(drivers);
}

#[test]
fn everybody_is_told_when_the_executor_drops_the_driver() {
    check(
        "everybody_is_told_when_the_executor_drops_the_driver",
        || {
            everybody_is_told(|_, switch| switch.off());
        },
    );
}

#[test]
fn everybody_is_told_when_the_socket_fails() {
    check("everybody_is_told_when_the_socket_fails", || {
        everybody_is_told(|pair, _| {
            let addr = pair.client.local_addr().unwrap();
            pair.world.fail(addr, 0, Failure::Error);
        });
    });
}

#[test]
fn everybody_is_told_when_the_driver_panics() {
    check("everybody_is_told_when_the_driver_panics", || {
        everybody_is_told(|pair, _| {
            let addr = pair.client.local_addr().unwrap();
            pair.world.fail(addr, 0, Failure::Panic);
        });
    });
}
