//! Two endpoints and a connection, up to the point where a model begins.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use polyquic_core::rustls::RootCertStore;
use polyquic_core::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use polyquic_core::{
    ClientConfig, ConnectionId, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt,
};
use polyquic_endpoint::{Connection, Endpoint, EndpointBuilder};
use shuttle::thread::JoinHandle;

use crate::world::World;

pub(crate) const CODE: VarInt = VarInt::from_u32(7);

/// Two endpoints that are connected; their drivers have no threads yet.
pub(crate) struct Pair {
    pub(crate) world: World,
    pub(crate) client: Endpoint,
    pub(crate) server: Endpoint,
    /// The client's end.
    pub(crate) near: Connection,
    /// The server's end.
    pub(crate) far: Connection,
}

pub(crate) fn client_addr() -> SocketAddr {
    ([10, 0, 0, 1], 1).into()
}

pub(crate) fn server_addr() -> SocketAddr {
    ([10, 0, 0, 2], 2).into()
}

fn identity() -> &'static (CertificateDer<'static>, Vec<u8>) {
    static IDENTITY: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        // Of the same size in every process.
        params.serial_number = Some(7u64.into());
        let cert = params.self_signed(&key).unwrap();
        (cert.into(), key.serialize_der())
    })
}

/// Small windows and one stream, so that there is something to wait for; nothing that acts by itself.
fn transport(idle_timeout: Option<IdleTimeout>) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(idle_timeout)
        .mtu_discovery_config(None)
        .eager_streams(false)
        .max_concurrent_uni_streams(1u32.into())
        .stream_receive_window(2000u32.into());
    Arc::new(transport)
}

pub(crate) fn server_config() -> ServerConfig {
    let (cert, key) = identity();
    let key = PrivatePkcs8KeyDer::from(key.clone());
    let mut config = ServerConfig::with_single_cert(vec![cert.clone()], key.into()).unwrap();
    config.transport_config(transport(None));
    config
}

/// Made anew for each execution: it remembers sessions.
fn client_config(idle_timeout: Option<IdleTimeout>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(identity().0.clone()).unwrap();
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let next = AtomicU8::new(0);
    config
        .initial_dst_cid_provider(Arc::new(move || {
            ConnectionId::new(&[next.fetch_add(1, Ordering::Relaxed); 8])
        }))
        .transport_config(transport(idle_timeout));
    config
}

pub(crate) fn builder(seed: u8) -> EndpointBuilder {
    let mut config = EndpointConfig::default();
    config.seed([seed; 32]);
    Endpoint::builder().config(config)
}

/// A client that never gives up: no timeout hides that somebody was forgotten.
pub(crate) fn client(world: &World) -> Endpoint {
    client_with(world, None)
}

/// A client that gives up at some time, for models in which its peer vanishes.
pub(crate) fn mortal_client(world: &World) -> Endpoint {
    client_with(world, Some(VarInt::from_u32(30_000).into()))
}

fn client_with(world: &World, idle_timeout: Option<IdleTimeout>) -> Endpoint {
    let mut client = builder(1).bind(world, client_addr()).unwrap();
    client.set_default_client_config(client_config(idle_timeout));
    client
}

pub(crate) fn server(world: &World, config: ServerConfig) -> Endpoint {
    let builder = builder(2).server_config(config);
    builder.bind(world, server_addr()).unwrap()
}

/// One more connection, by drivers that have no threads yet.
pub(crate) fn connect(
    world: &World,
    client: &Endpoint,
    server: &Endpoint,
    addr: SocketAddr,
) -> (Connection, Connection) {
    let connecting = client.connect(addr, "localhost").unwrap();
    let accepting = async { server.accept().await.unwrap().await.unwrap() };
    let (near, far) = world.settle(futures::future::join(connecting, accepting));
    (near.unwrap(), far)
}

pub(crate) fn pair() -> Pair {
    let world = World::new();
    let client = client(&world);
    let server = server(&world, server_config());
    let (near, far) = connect(&world, &client, &server, server_addr());
    Pair {
        world,
        client,
        server,
        near,
        far,
    }
}

impl Pair {
    /// Close what is left, and see that drivers end when all handles are gone.
    pub(crate) fn end(self, drivers: Vec<JoinHandle<()>>) {
        drop((self.near, self.far, self.client, self.server));
        self.world.join(drivers);
    }
}
