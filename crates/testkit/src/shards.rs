//! Endpoints with several sockets on one address.

use std::any::Any;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream::unfold;
use polyquic_core::congestion::{Controller, ControllerFactory, CubicConfig};
use polyquic_core::{
    ConnectError, ConnectionError, EndpointConfig, Instant, ShardKey, ShardedCidGenerator,
    TransportConfig,
};
use polyquic_endpoint::{Connection, Endpoint, EndpointBuilder, Executor, spawn_on_shards};
use polyquic_runtime::Task;

use crate::fixtures::{SERVER_NAME, Setup, idle_timeout, transport};
use crate::tools::{check_echo, code, echo, pattern, yield_now};

/// Shards of the endpoints here.
const SHARDS: usize = 2;

/// Clients on sockets of their own. That all of their connections belong to one shard by chance
/// happens once in eight million times.
const CLIENTS: usize = 24;

fn localhost() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A server with several shards, which echoes on each of them, and where it is.
fn start<R: Executor>(
    rt: &R,
    setup: &Setup,
    set: impl FnOnce(EndpointBuilder) -> EndpointBuilder,
) -> (Endpoint, SocketAddr) {
    let builder = Endpoint::builder()
        .server_config(setup.server.clone())
        .shards(SHARDS);
    let server = set(builder).bind(rt, localhost()).unwrap();
    serve(rt, &server);
    let addr = server.local_addr().unwrap();
    (server, addr)
}

/// Serve echoes on every connection, each shard by itself.
fn serve<R: Executor>(rt: &R, endpoint: &Endpoint) {
    spawn_on_shards(rt, endpoint, |_, shard| -> Task {
        assert_eq!(shard.shards(), 1);
        let attempts = unfold(shard, async |shard| {
            let incoming = shard.accept().await?;
            Some((incoming, shard))
        });
        Box::pin(attempts.for_each_concurrent(None, async |incoming| {
            if let Ok(connection) = incoming.await {
                echo(connection).await;
            }
        }))
    })
    .unwrap();
}

/// A client with one socket.
fn client<R: Executor>(rt: &R, setup: &Setup) -> Endpoint {
    let mut client = Endpoint::builder().shards(1).bind(rt, localhost()).unwrap();
    client.set_default_client_config(setup.client.clone());
    client
}

/// Clients with a socket each, all connected.
async fn connect_clients<R: Executor>(
    rt: R,
    setup: &Setup,
    addr: SocketAddr,
) -> Vec<(Endpoint, Connection)> {
    let connecting = (0..CLIENTS).map(|_| {
        let endpoint = client(&rt, setup);
        let connecting = endpoint.connect(addr, SERVER_NAME).unwrap();
        async move { (endpoint, connecting.await.unwrap()) }
    });
    join_all(connecting).await
}

/// Where each connection is, as numbers of connections by shard.
fn spread(server: &Endpoint) -> Vec<usize> {
    (0..server.shards())
        .map(|index| server.shard(index).unwrap().open_connections())
        .collect()
}

/// Clients that wait far longer than it takes the heir of a lost shard to say that the connection is
/// gone, and that ask for it even if all that they sent was acknowledged.
fn persistent(transport: &mut TransportConfig) {
    idle_timeout(transport, Duration::from_secs(60));
    transport.keep_alive_interval(Some(Duration::from_millis(100)));
}

/// A server that tells every client at once that its connection is gone. Usually such answers are
/// limited to one in 20 ms, and clients that ask at the same time, less and less often, may have to
/// ask many times.
fn quick_resets(builder: EndpointBuilder) -> EndpointBuilder {
    let mut config = EndpointConfig::default();
    config.min_reset_interval(Duration::ZERO);
    builder.config(config)
}

/// Connections are spread over the shards, and the kernel brings each datagram to its own.
pub async fn the_kernel_steers<R: Executor>(rt: R) {
    let setup = Setup::new();
    let (server, addr) = start(&rt, &setup, |builder| builder);
    assert_eq!(server.shards(), SHARDS);
    let clients = connect_clients(rt, &setup, addr).await;
    join_all(clients.iter().map(|(_, it)| check_echo(it, b"hello"))).await;
    let spread = spread(&server);
    assert_eq!(spread.iter().sum::<usize>(), CLIENTS);
    assert!(spread.iter().all(|&count| count > 0), "{spread:?}");
    let stats = server.stats();
    assert!(stats.datagrams_steered > 0);
    if cfg!(target_os = "linux") {
        assert!(server.is_steered_by_kernel());
        assert_eq!(stats.datagrams_handed_over, 0, "{stats:?}");
    }
    server.close(code(0), b"");
    finish(clients).await;
}

/// Where the kernel does not steer, shards hand over what is not theirs.
pub async fn shards_hand_over<R: Executor>(rt: R) {
    let setup = Setup::new();
    let (server, addr) = start(&rt, &setup, |builder| builder.kernel_steering(false));
    assert!(!server.is_steered_by_kernel());
    let clients = connect_clients(rt, &setup, addr).await;
    let data = pattern(7, 200_000);
    join_all(clients.iter().map(|(_, it)| check_echo(it, &data))).await;
    let stats = server.stats();
    assert!(stats.datagrams_handed_over > 0, "{stats:?}");
    assert_eq!(stats.hand_overs_dropped, 0, "{stats:?}");
    server.close(code(0), b"");
    finish(clients).await;
}

/// Clients change their addresses in the middle of transfers; the server's shards keep them, with
/// and without the kernel's help.
pub async fn clients_rebind_during_transfers<R: Executor>(rt: R) {
    for kernel in [true, false] {
        let setup = Setup::new();
        let (server, addr) = start(&rt, &setup, |builder| builder.kernel_steering(kernel));
        let clients = connect_clients(rt.clone(), &setup, addr).await;
        let data = pattern(1, 500_000);
        let rebinding = clients.iter().map(async |(endpoint, connection)| {
            // Far more than a handshake, and far less than all.
            while connection.stats().udp_rx.bytes < 100_000 {
                yield_now().await;
            }
            let old = endpoint.local_addr().unwrap();
            assert_ne!(endpoint.rebind_addr(localhost()).await.unwrap(), old);
        });
        let transfers = clients.iter().map(|(_, it)| check_echo(it, &data));
        futures::join!(join_all(transfers), join_all(rebinding));
        let stats = server.stats();
        assert_eq!(stats.hand_overs_dropped, 0, "{stats:?}");
        if server.is_steered_by_kernel() {
            assert_eq!(stats.datagrams_handed_over, 0, "{stats:?}");
        }
        server.close(code(0), b"");
        finish(clients).await;
    }
}

/// A client with several shards makes connections on each, and moves them all to a new address in
/// the middle of transfers.
pub async fn a_client_of_several_shards_rebinds<R: Executor>(rt: R) {
    let setup = Setup::new();
    let (server, addr) = start(&rt, &setup, |builder| builder);
    let builder = Endpoint::builder().shards(SHARDS);
    let mut client = builder.bind(&rt, localhost()).unwrap();
    client.set_default_client_config(setup.client.clone());
    let connecting = (0..6).map(|_| client.connect(addr, SERVER_NAME).unwrap());
    let connections = join_all(connecting).await;
    let connections: Vec<_> = connections.into_iter().map(Result::unwrap).collect();
    // Taking turns.
    assert_eq!(spread(&client), [3, 3]);
    let data = pattern(1, 1_000_000);
    let rebinding = async {
        for connection in &connections {
            while connection.stats().udp_rx.bytes < 100_000 {
                yield_now().await;
            }
        }
        let old = client.local_addr().unwrap();
        let new = client.rebind_addr(localhost()).await.unwrap();
        assert_ne!(new, old);
        for index in 0..SHARDS {
            assert_eq!(client.shard(index).unwrap().local_addr().unwrap(), new);
        }
    };
    let transfers = connections.iter().map(|it| check_echo(it, &data));
    futures::join!(join_all(transfers), rebinding);
    server.close(code(0), b"");
    client.close(code(0), b"");
    client.wait_idle().await;
}

/// Closing an endpoint closes all of its shards, and lets the address go.
pub async fn closing_covers_all_shards<R: Executor>(rt: R) {
    let setup = Setup::new();
    let (server, addr) = start(&rt, &setup, |builder| builder);
    let clients = connect_clients(rt.clone(), &setup, addr).await;
    // The server's handshakes are over, too.
    join_all(clients.iter().map(|(_, it)| check_echo(it, b"hello"))).await;
    server.close(code(7), b"enough");
    for (_, connection) in &clients {
        let error = connection.closed().await;
        let ConnectionError::ApplicationClosed(close) = error else {
            panic!("{error}");
        };
        assert_eq!(close.error_code, code(7));
    }
    assert!(server.accept().await.is_none());
    server.wait_idle().await;
    assert_eq!(server.open_connections(), 0);
    drop(server);
    while UdpSocket::bind(addr).is_err() {
        yield_now().await;
    }
    finish(clients).await;
}

/// The driver of one shard panics: the others go on, its connections are told, and new ones are
/// accepted by who is left.
pub async fn a_lost_shard_is_contained<R: Executor>(rt: R) {
    let mut setup = Setup::new().client_transport(persistent);
    let fuse = Arc::new(AtomicBool::new(false));
    let bomb = fuse.clone();
    setup.server.transport_config(transport(|transport| {
        transport.congestion_controller_factory(Arc::new(Fused(bomb)));
    }));
    let (server, addr) = start(&rt, &setup, quick_resets);
    let clients = connect_clients(rt.clone(), &setup, addr).await;
    join_all(clients.iter().map(|(_, it)| check_echo(it, b"hello"))).await;
    let before = spread(&server);
    fuse.store(true, Ordering::SeqCst);
    // Larger than a reset, lest two resets answer each other for ever (RFC 9000 section 10.3.3).
    let data = pattern(1, 5000);
    let outcomes = join_all(clients.iter().map(async |(_, connection)| {
        let (mut send, mut recv) = connection.open_bi().await.ok()?;
        send.write_all(&data).await.ok()?;
        send.finish().ok()?;
        let echoed = recv.read_to_end(usize::MAX).await.ok()?;
        assert!(echoed == data);
        Some(())
    }))
    .await;
    assert_eq!(server.stats().shards_lost, 1);
    let survivors = outcomes.iter().flatten().count();
    let lost = (0..SHARDS)
        .find(|&index| server.shard(index).unwrap().stats().shards_lost == 1)
        .unwrap();
    assert_eq!(survivors, CLIENTS - before[lost], "{before:?}");
    for ((_, connection), outcome) in clients.iter().zip(&outcomes) {
        match outcome {
            Some(()) => check_echo(connection, b"still here").await,
            None => assert_eq!(connection.closed().await, ConnectionError::Reset),
        }
    }
    let newcomers = connect_clients(rt, &setup, addr).await;
    join_all(newcomers.iter().map(|(_, it)| check_echo(it, b"new here"))).await;
    server.close(code(0), b"");
    finish(clients).await;
    finish(newcomers).await;
}

/// Stateless resets bear no connection id that would name a shard, and arrive all the same.
pub async fn resets_find_their_shard<R: Executor>(rt: R) {
    let setup = Setup::new().client_transport(persistent);
    // The reset comes from the heir of a lost shard, here to clients of several shards.
    let fuse = Arc::new(AtomicBool::new(false));
    let mut setup_server = Setup::new();
    let bomb = fuse.clone();
    setup_server.server.transport_config(transport(|transport| {
        transport.congestion_controller_factory(Arc::new(Fused(bomb)));
    }));
    let (server, addr) = start(&rt, &setup_server, quick_resets);
    let mut client = Endpoint::builder()
        .shards(4)
        .bind(&rt, localhost())
        .unwrap();
    client.set_default_client_config(setup.client.clone());
    let connecting = (0..CLIENTS).map(|_| client.connect(addr, SERVER_NAME).unwrap());
    let connections = join_all(connecting).await;
    let connections: Vec<_> = connections.into_iter().map(Result::unwrap).collect();
    join_all(connections.iter().map(|it| check_echo(it, b"hello"))).await;
    fuse.store(true, Ordering::SeqCst);
    let data = pattern(1, 5000);
    let errors = join_all(connections.iter().map(async |connection| {
        let (mut send, mut recv) = connection.open_bi().await.ok()?;
        send.write_all(&data).await.ok()?;
        send.finish().ok()?;
        match recv.read_to_end(usize::MAX).await {
            Ok(_) => None,
            Err(_) => Some(connection.closed().await),
        }
    }))
    .await;
    let errors: Vec<_> = errors.into_iter().flatten().collect();
    assert!(!errors.is_empty());
    assert!(
        errors.iter().all(|error| *error == ConnectionError::Reset),
        "{errors:?}"
    );
    server.close(code(0), b"");
    client.close(code(0), b"");
    yield_now().await;
}

/// What makes no sense is refused, with a reason.
pub async fn what_cannot_be_is_refused<R: Executor>(rt: R) {
    for count in [0, 1025] {
        let error = bind(&rt, Endpoint::builder().shards(count)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(&count.to_string()), "{error}");
    }
    let mut config = EndpointConfig::default();
    config.cid_generator(|| {
        let key = ShardKey::new([1, 2, 3]);
        let seed = ShardedCidGenerator::random_seed();
        Box::new(ShardedCidGenerator::new(key, 1, 0, seed))
    });
    let builder = Endpoint::builder().config(config);
    let error = bind(&rt, builder.clone().shards(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    drop(bind(&rt, builder.shards(1)).unwrap());

    let server = bind(&rt, Endpoint::builder().shards(SHARDS)).unwrap();
    let error = server
        .rebind(UdpSocket::bind(localhost()).unwrap())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let shard = server.shard(1).unwrap();
    assert!(server.shard(SHARDS).is_none());
    let error = shard.rebind_addr(localhost()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    // Neither one socket nor several share a port with it by accident.
    let taken = server.local_addr().unwrap();
    for shards in [1, SHARDS] {
        let builder = Endpoint::builder().shards(shards);
        let error = builder.bind(&rt, taken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
    }
    // Closing one shard leaves the others open.
    shard.close(code(0), b"");
    assert!(shard.accept().await.is_none());
    let mut client = server.clone();
    client.set_default_client_config(Setup::new().client);
    assert!(client.connect(taken, SERVER_NAME).is_ok());
    let mut shard = client.shard(1).unwrap();
    shard.set_default_client_config(Setup::new().client);
    assert_eq!(
        shard.connect(taken, SERVER_NAME).err(),
        Some(ConnectError::EndpointStopping)
    );
    server.close(code(0), b"");
    yield_now().await;
}

fn bind<R: Executor>(rt: &R, builder: EndpointBuilder) -> io::Result<Endpoint> {
    builder.bind(rt, localhost())
}

async fn finish(clients: Vec<(Endpoint, Connection)>) {
    for (endpoint, _) in &clients {
        endpoint.close(code(0), b"");
    }
    yield_now().await;
}

/// A congestion controller that panics once, when told.
struct Fused(Arc<AtomicBool>);

impl ControllerFactory for Fused {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(FusedController {
            inner: Arc::new(CubicConfig::default()).build(now, current_mtu),
            fuse: self.0.clone(),
        })
    }
}

struct FusedController {
    inner: Box<dyn Controller>,
    fuse: Arc<AtomicBool>,
}

impl Controller for FusedController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        assert!(
            !self.fuse.swap(false, Ordering::SeqCst),
            "this panic is part of the test"
        );
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            fuse: self.fuse.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
