//! Connections that change their addresses.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use futures::future::{Either, join, select};
use polyquic_core::ConnectionError;
use polyquic_endpoint::{Connection, Endpoint, Executor, sleep};

use super::relay::Relay;
use crate::fixtures::{Pair, SERVER_NAME, Setup, idle_timeout, pair};
use crate::tools::{check_alive, read_hashed, send_hashed, yield_now};

fn localhost() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Transfer 8 MiB each way, and call `interfere` when a transfer is under way.
async fn transfer_while<F: Future<Output = ()>>(pair: &Pair, interfere: impl FnOnce() -> F) {
    const LEN: usize = 8 << 20;
    async fn transfer(from: &Connection, to: &Connection, seed: u64) {
        let sending = async { send_hashed(from.open_uni().await.unwrap(), seed, LEN).await };
        let receiving = async { read_hashed(to.accept_uni().await.unwrap()).await };
        let (sent, received) = futures::join!(sending, receiving);
        assert_eq!(received, (LEN, sent));
    }
    let transfers = join(
        transfer(&pair.client, &pair.server, 1),
        transfer(&pair.server, &pair.client, 2),
    );
    let interfering = async {
        while pair.client.stats().udp_rx.bytes < 1 << 20 {
            yield_now().await;
        }
        interfere().await;
    };
    match select(Box::pin(transfers), Box::pin(interfering)).await {
        Either::Left(_) => panic!("the transfer was over too early"),
        Either::Right(((), transfers)) => transfers.await,
    };
}

/// Wait until the server has followed the client to its new address.
async fn check_followed(client: &Endpoint, server: &Connection, old: SocketAddr) {
    let new = client.local_addr().unwrap();
    assert_ne!(new, old, "the address did not change");
    while server.remote_address() != new {
        yield_now().await;
    }
}

/// The client changes to a socket of the standard library in the middle of transfers both ways.
pub async fn rebinding_during_transfers<R: Executor>(rt: R) {
    // One socket takes the place of one.
    let one = Setup::new().with(|setup| setup.shards = Some(1));
    let pair = one.connect(&rt).await;
    let old = pair.ends.client.local_addr().unwrap();
    transfer_while(&pair, async || {
        let socket = UdpSocket::bind(localhost()).unwrap();
        pair.ends.client.rebind(socket).unwrap();
    })
    .await;
    check_followed(&pair.ends.client, &pair.server, old).await;
    assert_eq!(pair.ends.client.stats().rebind_failures, 0);
    pair.ends.finish().await;
}

/// The client changes to a new address in the middle of transfers both ways, twice.
pub async fn rebinding_to_an_address_during_transfers<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let old = pair.ends.client.local_addr().unwrap();
    transfer_while(&pair, async || {
        for _ in 0..2 {
            let new = pair.ends.client.rebind_addr(localhost()).await.unwrap();
            assert_eq!(new, pair.ends.client.local_addr().unwrap());
        }
    })
    .await;
    check_followed(&pair.ends.client, &pair.server, old).await;
    pair.ends.finish().await;
}

/// A client that changes its socket while nothing is under way tells the server by itself.
pub async fn rebinding_while_idle<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    check_alive(&pair.client, &pair.server).await;
    for _ in 0..3 {
        // Long enough for the last acknowledgement to be under way: from the new address, that
        // alone would tell the server.
        sleep(&rt, Duration::from_millis(100)).await;
        let old = pair.ends.client.local_addr().unwrap();
        pair.ends.client.rebind_addr(localhost()).await.unwrap();
        check_followed(&pair.ends.client, &pair.server, old).await;
        check_alive(&pair.client, &pair.server).await;
    }
    pair.ends.finish().await;
}

/// A change that fails leaves everything as it was.
pub async fn a_failed_rebind_keeps_the_socket<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let old = pair.ends.client.local_addr().unwrap();
    let error = pair
        .ends
        .client
        .rebind_addr(pair.ends.addr)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
    assert_eq!(pair.ends.client.local_addr().unwrap(), old);
    assert_eq!(pair.ends.client.stats().rebind_failures, 1);
    check_alive(&pair.client, &pair.server).await;
    pair.ends.finish().await;
}

/// A server that does not allow migration does not follow; the connection ends by its timeout.
pub async fn migration_can_be_forbidden<R: Executor>(rt: R) {
    let pair = Setup::new()
        .transport(|transport| idle_timeout(transport, Duration::from_millis(400)))
        .with(|setup| {
            setup.server.migration(false);
        })
        .connect(&rt)
        .await;
    check_alive(&pair.client, &pair.server).await;
    let old = pair.server.remote_address();
    pair.ends.client.rebind_addr(localhost()).await.unwrap();
    let (client, server) = join(pair.client.closed(), pair.server.closed()).await;
    assert_eq!(server, ConnectionError::TimedOut);
    // A server that has forgotten the connection may say so.
    assert!(
        matches!(client, ConnectionError::TimedOut | ConnectionError::Reset),
        "{client:?}"
    );
    assert_eq!(pair.server.remote_address(), old);
    pair.ends.finish().await;
}

/// A NAT gives the client another port, and the client does not know: the server follows.
pub async fn a_nat_rebinding_is_survived<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let relay = Relay::new(ends.addr);
    let connecting = ends.client.connect(relay.addr, SERVER_NAME).unwrap();
    let accepting = async { ends.server.accept().await.unwrap().await };
    let (client, server) = futures::join!(connecting, accepting);
    let (client, server) = (client.unwrap(), server.unwrap());
    check_alive(&client, &server).await;
    let old = server.remote_address();
    assert_eq!(old, relay.back_addr());
    relay.rebind();
    check_alive(&client, &server).await;
    assert_ne!(old, relay.back_addr());
    while server.remote_address() != relay.back_addr() {
        yield_now().await;
    }
    ends.finish().await;
}
