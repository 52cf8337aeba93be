//! Certificates, configurations and connected pairs.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::tools::yield_now;
use polyquic_core::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use polyquic_core::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime,
};
use polyquic_core::rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use polyquic_core::rustls::sign::CertifiedKey;
use polyquic_core::rustls::time_provider::TimeProvider;
use polyquic_core::rustls::{self, KeyLog, RootCertStore};
use polyquic_core::{ClientConfig, EndpointConfig, ServerConfig, TransportConfig, crypto_provider};
use polyquic_endpoint::{Connection, Endpoint, Executor};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ED25519,
    SerialNumber, date_time_ymd,
};

/// The protocol that both sides speak unless a test says otherwise.
pub const ALPN: &[u8] = b"polyquic-test";

/// The name that [`Certificates::server`] is valid for, besides the loopback addresses.
pub const SERVER_NAME: &str = "localhost";

/// A certificate and its key.
#[derive(Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key().into()
    }
}

/// Everything that tests present to each other, made once per process and the same in each: keys are
/// Ed25519, whose signatures have one size and follow from what is signed, so that a simulation with
/// them follows from its seed. They are public, and good for tests only.
#[derive(Debug)]
pub struct Certificates {
    /// The authority that both sides trust.
    pub authority: CertificateDer<'static>,
    /// Good for `localhost`, `127.0.0.1` and `::1`.
    pub server: Identity,
    /// Of the same authority, but expired long ago.
    pub expired: Identity,
    /// Of the same authority, but for another name.
    pub other_name: Identity,
    /// For the right names, but by an authority that nobody trusts.
    pub untrusted: Identity,
    /// For a client.
    pub client: Identity,
}

impl Certificates {
    /// The process's certificates.
    pub fn get() -> &'static Self {
        static CERTIFICATES: OnceLock<Certificates> = OnceLock::new();
        CERTIFICATES.get_or_init(|| Self::generate().expect("making certificates cannot fail"))
    }

    fn generate() -> Result<Self, rcgen::Error> {
        let names = [SERVER_NAME, "127.0.0.1", "::1"];
        let ours = authority(1, "polyquic test authority")?;
        let theirs = authority(2, "somebody else's authority")?;
        let mut expired = params(&names)?;
        expired.not_before = date_time_ymd(2001, 1, 1);
        expired.not_after = date_time_ymd(2002, 1, 1);
        Ok(Self {
            authority: ours.der().clone(),
            server: leaf(3, params(&names)?, &ours)?,
            expired: leaf(4, expired, &ours)?,
            other_name: leaf(5, params(&["elsewhere.example"])?, &ours)?,
            untrusted: leaf(6, params(&names)?, &theirs)?,
            client: leaf(7, params(&["client.example"])?, &ours)?,
        })
    }
}

/// Valid for as long as anybody tests.
fn dated() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(4000, 1, 1);
    params
}

fn params(names: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
    let mut params = dated();
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    Ok(params)
}

/// What goes before an Ed25519 key in PKCS #8 (RFC 8410 section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
];

/// The key with this number, in PKCS #8.
fn key(number: u8) -> PrivatePkcs8KeyDer<'static> {
    let mut der = PKCS8_PREFIX.to_vec();
    der.resize(PKCS8_PREFIX.len() + 32, number);
    der.into()
}

fn key_pair(number: u8) -> Result<KeyPair, rcgen::Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&key(number), &PKCS_ED25519)
}

fn authority(number: u8, name: &str) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = dated();
    params.serial_number = Some(SerialNumber::from(u64::from(number)));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, key_pair(number)?)
}

fn leaf(
    number: u8,
    mut params: CertificateParams,
    issuer: &CertifiedIssuer<'_, KeyPair>,
) -> Result<Identity, rcgen::Error> {
    params.serial_number = Some(SerialNumber::from(u64::from(number)));
    Ok(Identity {
        certificate: params.signed_by(&key_pair(number)?, issuer)?.der().clone(),
        key: key(number),
    })
}

/// The date for TLS: always the same, because the age of a ticket, which clients send, would otherwise
/// tell when a test ran.
#[derive(Debug)]
struct Today;

impl TimeProvider for Today {
    fn current_time(&self) -> Option<UnixTime> {
        // 2026-01-01, as in simulations.
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            1_767_225_600,
        )))
    }
}

thread_local! {
    static KEY_LOG: RefCell<Option<Arc<dyn KeyLog>>> = const { RefCell::new(None) };
}

/// Have configurations that are made on this thread from now on log their secrets, so that captures
/// can be decrypted.
pub fn log_secrets_to(log: Arc<dyn KeyLog>) {
    KEY_LOG.set(Some(log));
}

fn roots() -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots
        .add(Certificates::get().authority.clone())
        .expect("our own authority is well-formed");
    Arc::new(roots)
}

/// rustls' configuration of a server that presents `identity`, accepts 0-RTT, and asks clients for
/// certificates if `authenticate_clients`.
pub fn server_tls(identity: &Identity, authenticate_clients: bool) -> rustls::ServerConfig {
    let builder = rustls::ServerConfig::builder_with_details(crypto_provider(), Arc::new(Today))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3");
    let builder = if authenticate_clients {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(), crypto_provider()).build();
        builder.with_client_cert_verifier(verifier.expect("there is a root"))
    } else {
        builder.with_no_client_auth()
    };
    let mut tls = builder
        .with_single_cert(identity.chain(), identity.key())
        .expect("key and certificate match");
    tls.alpn_protocols = vec![ALPN.into()];
    tls.max_early_data_size = u32::MAX;
    if let Some(log) = KEY_LOG.with_borrow(Option::clone) {
        tls.key_log = log;
    }
    tls
}

/// rustls' configuration of a server whose certificates are looked up by what is made of the one
/// that [`server_tls`] would present.
pub fn server_tls_with(
    resolver: impl FnOnce(Arc<CertifiedKey>) -> Arc<dyn ResolvesServerCert>,
) -> rustls::ServerConfig {
    let identity = &Certificates::get().server;
    let key = CertifiedKey::from_der(identity.chain(), identity.key(), &crypto_provider())
        .expect("key and certificate match");
    let mut tls = server_tls(identity, false);
    tls.cert_resolver = resolver(Arc::new(key));
    tls
}

/// rustls' configuration of a client that trusts our authority, uses 0-RTT when it can, and
/// presents `identity` if asked.
pub fn client_tls(identity: Option<&Identity>) -> rustls::ClientConfig {
    let builder = rustls::ClientConfig::builder_with_details(crypto_provider(), Arc::new(Today))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_root_certificates(roots());
    let mut tls = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain(), identity.key())
            .expect("key and certificate match"),
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![ALPN.into()];
    tls.enable_early_data = true;
    if let Some(log) = KEY_LOG.with_borrow(Option::clone) {
        tls.key_log = log;
    }
    tls
}

/// A server configuration for QUIC from one of rustls.
pub fn server_config(tls: rustls::ServerConfig) -> ServerConfig {
    let crypto = QuicServerConfig::try_from(tls).expect("the provider has QUIC's initial suite");
    ServerConfig::with_crypto(Arc::new(crypto))
}

/// A client configuration for QUIC from one of rustls.
pub fn client_config(tls: rustls::ClientConfig) -> ClientConfig {
    let crypto = QuicClientConfig::try_from(tls).expect("the provider has QUIC's initial suite");
    ClientConfig::new(Arc::new(crypto))
}

/// A server and a client to be, on the loopback interface.
pub struct Setup {
    /// The server's configuration.
    pub server: ServerConfig,
    /// The client's configuration.
    pub client: ClientConfig,
    /// What holds for the server's endpoint.
    pub server_endpoint: EndpointConfig,
    /// What holds for the client's endpoint.
    pub client_endpoint: EndpointConfig,
    /// Where the server listens.
    pub server_addr: SocketAddr,
    /// Where the client's socket is bound.
    pub client_addr: SocketAddr,
    /// Shards of both endpoints. Default: what the executor says.
    pub shards: Option<usize>,
}

impl Default for Setup {
    fn default() -> Self {
        let localhost = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            server: server_config(server_tls(&Certificates::get().server, false)),
            client: client_config(client_tls(None)),
            server_endpoint: EndpointConfig::default(),
            client_endpoint: EndpointConfig::default(),
            server_addr: localhost,
            client_addr: localhost,
            shards: None,
        }
    }
}

impl Setup {
    /// The usual one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A server that presents `identity`.
    pub fn with_identity(identity: &Identity) -> Self {
        Self {
            server: server_config(server_tls(identity, false)),
            ..Self::default()
        }
    }

    /// Transport settings of the server.
    pub fn server_transport(mut self, set: impl FnOnce(&mut TransportConfig)) -> Self {
        self.server.transport_config(transport(set));
        self
    }

    /// Transport settings of the client.
    pub fn client_transport(mut self, set: impl FnOnce(&mut TransportConfig)) -> Self {
        self.client.transport_config(transport(set));
        self
    }

    /// Transport settings of both sides.
    pub fn transport(self, set: impl Fn(&mut TransportConfig)) -> Self {
        self.server_transport(&set).client_transport(&set)
    }

    /// Change anything.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Start both endpoints.
    pub fn start<R: Executor>(self, rt: &R) -> Ends {
        self.try_start(rt).expect("loopback sockets can be bound")
    }

    /// Start both endpoints.
    ///
    /// # Errors
    ///
    /// A socket cannot be bound.
    pub fn try_start<R: Executor>(self, rt: &R) -> io::Result<Ends> {
        let mut server = Endpoint::builder()
            .config(self.server_endpoint)
            .server_config(self.server);
        let mut client = Endpoint::builder().config(self.client_endpoint);
        if let Some(shards) = self.shards {
            (server, client) = (server.shards(shards), client.shards(shards));
        }
        let server = server.bind(rt, self.server_addr)?;
        let mut client = client.bind(rt, self.client_addr)?;
        client.set_default_client_config(self.client);
        let addr = server.local_addr()?;
        Ok(Ends {
            server,
            client,
            addr,
        })
    }

    /// Start both endpoints and connect them.
    pub fn connect<R: Executor>(self, rt: &R) -> impl Future<Output = Pair> + use<R> {
        let ends = self.start(rt);
        async move {
            let (client, server) = ends.connect().await;
            Pair {
                client,
                server,
                ends,
            }
        }
    }
}

/// The usual server and client, connected.
pub fn pair<R: Executor>(rt: &R) -> impl Future<Output = Pair> + use<R> {
    Setup::new().connect(rt)
}

/// Two endpoints that are started.
#[derive(Debug)]
pub struct Ends {
    /// The server.
    pub server: Endpoint,
    /// The client, with its configuration as the default one.
    pub client: Endpoint,
    /// Where to reach the server.
    pub addr: SocketAddr,
}

impl Ends {
    /// Connect the two; the client's connection comes first.
    pub async fn connect(&self) -> (Connection, Connection) {
        let connecting = self
            .client
            .connect(self.addr, SERVER_NAME)
            .expect("the parameters are good");
        let accepting = async {
            let incoming = self.server.accept().await.expect("the server is open");
            incoming.await.expect("the client's side of it is sound")
        };
        let (client, server) = futures::join!(connecting, accepting);
        (client.expect("the server's side of it is sound"), server)
    }

    /// Close both, and leave it to the executor what becomes of them.
    ///
    /// Closed connections linger for a tenth of a second ([`Endpoint::wait_idle`]); hundreds of
    /// tests do not wait for that.
    pub async fn finish(self) {
        self.client.close(0u32.into(), b"");
        self.server.close(0u32.into(), b"");
        yield_now().await;
    }
}

/// A connected client and server.
#[derive(Debug)]
pub struct Pair {
    /// The client's end.
    pub client: Connection,
    /// The server's end.
    pub server: Connection,
    /// Their endpoints.
    pub ends: Ends,
}

/// Transport settings for tests.
pub fn transport(set: impl FnOnce(&mut TransportConfig)) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    set(&mut transport);
    Arc::new(transport)
}

/// Set the idle timeout.
pub fn idle_timeout(transport: &mut TransportConfig, timeout: Duration) {
    let timeout = timeout.try_into().expect("a sensible timeout");
    transport.max_idle_timeout(Some(timeout));
}

/// Give a connection attempt up soon: it lasts for nine assumed round trips at least.
pub fn give_up_early(transport: &mut TransportConfig) {
    transport.initial_rtt(Duration::from_millis(20));
    idle_timeout(transport, Duration::from_millis(200));
}
