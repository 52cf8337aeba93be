//! Certificates and configurations from which chance has been removed.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use polyquic_core::rustls::RootCertStore;
use polyquic_core::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use polyquic_core::{
    ClientConfig, ConnectionId, EndpointConfig, ServerConfig, TimeSource, TransportConfig,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// A seed for one of several generators of a test.
pub(crate) fn derive(seed: u64, purpose: &str) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    for (to, from) in bytes[8..].iter_mut().zip(purpose.bytes()) {
        *to = from;
    }
    StdRng::from_seed(bytes)
}

/// Bytes that do not repeat within a test.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    derive(seed, "noise").fill_bytes(&mut bytes);
    bytes
}

/// Run a test for each of a few seeds, or for the one in `POLYQUIC_SEED` to replay a failure.
pub(crate) fn for_seeds(count: u64, test: impl Fn(u64)) {
    match std::env::var("POLYQUIC_SEED") {
        Ok(seed) => test(seed.parse().expect("POLYQUIC_SEED is a number")),
        Err(_) => (1..=count).for_each(test),
    }
}

/// The server's certificate and key.
///
/// Ed25519, because its signatures have one size; those of ECDSA vary by a few bytes from one
/// handshake to the next. The serial number is given, because a random one may begin with a zero and
/// be a byte shorter.
pub(crate) fn identity() -> (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
    static IDENTITY: OnceLock<(CertificateDer<'static>, Vec<u8>)> = OnceLock::new();
    let (cert, key) = IDENTITY.get_or_init(|| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.serial_number = Some(7u64.into());
        let cert = params.self_signed(&key).unwrap();
        (cert.into(), key.serialize_der())
    });
    (cert.clone(), PrivatePkcs8KeyDer::from(key.clone()))
}

/// A server's configuration; tokens are made with a fixed key, at a fixed date.
pub(crate) fn server_config(transport: TransportConfig) -> ServerConfig {
    #[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
    use aws_lc_rs::hkdf;
    #[cfg(feature = "ring")]
    use ring::hkdf;

    let (cert, key) = identity();
    let mut config = ServerConfig::with_single_cert(vec![cert], key.into()).unwrap();
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&[7; 64]);
    config
        .token_key(Arc::new(token_key))
        .time_source(Arc::new(FixedDate))
        .transport_config(Arc::new(transport));
    config
}

struct FixedDate;

impl TimeSource for FixedDate {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }
}

/// The configuration of a client that trusts the server; the connection ids that it invents for its
/// servers follow from the seed.
pub(crate) fn client_config(seed: u64, transport: TransportConfig) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(identity().0).unwrap();
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    let rng = Mutex::new(derive(seed, "initial dst cid"));
    config
        .initial_dst_cid_provider(Arc::new(move || {
            let mut cid = [0; 20];
            rng.lock().unwrap().fill_bytes(&mut cid);
            ConnectionId::new(&cid)
        }))
        .transport_config(Arc::new(transport));
    config
}

/// An endpoint's configuration; `purpose` tells the two sides apart.
pub(crate) fn endpoint_config(seed: u64, purpose: &str) -> EndpointConfig {
    let mut bytes = [0; 32];
    derive(seed, purpose).fill_bytes(&mut bytes);
    let mut config = EndpointConfig::default();
    config.seed(bytes);
    config
}
