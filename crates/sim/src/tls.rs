//! TLS that leaves nothing to chance.
//!
//! rustls takes its randomness from its provider, and the provider is the process's. Ours draws from
//! the simulation that runs on the thread that asks, or lives there; and from the system on all other
//! threads.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, OnceLock, PoisonError};

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey};
use rand::Rng;
use rand::rngs::StdRng;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret,
    SupportedKxGroup, aws_lc_rs as aws,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{CipherSuite, Error, KeyLog, NamedGroup, PeerMisbehaved};

use crate::pcapng::Secrets;

/// A simulation's randomness for cryptography.
pub(crate) type Source = Rc<RefCell<StdRng>>;

thread_local! {
    /// Of the simulations that live on this thread, in the order in which they were made or began to
    /// run. The last one counts.
    static SOURCES: RefCell<Vec<Source>> = const { RefCell::new(Vec::new()) };
}

/// Has cryptography on this thread draw from a source while this lives.
pub(crate) struct Drawing(Source);

impl Drawing {
    pub(crate) fn from(source: &Source) -> Self {
        SOURCES.with_borrow_mut(|it| it.push(source.clone()));
        Self(source.clone())
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        SOURCES.with_borrow_mut(|it| {
            // Simulations need not end in the reverse order.
            if let Some(at) = it.iter().rposition(|source| Rc::ptr_eq(source, &self.0)) {
                it.remove(at);
            }
        });
    }
}

/// Whether TLS draws its randomness from the seed, so that not only sizes and order but every byte of
/// a simulation follows from it.
///
/// It does where rustls' provider is the simulator's, which the first simulation of a process installs
/// as the process's default. Where another was installed before, or configurations are made with one
/// of their own, contents differ from run to run. So they do with post-quantum key exchange, which the
/// simulator's provider does not offer, and with certificates that are not Ed25519, whose signatures
/// have no randomness of their own ([`identity`] has it): with RSA contents differ, with ECDSA sizes do
/// as well, and so everything that follows from them.
///
/// Configurations may be made before [`Sim::run`](crate::Sim::run): what a thread draws while a
/// simulation lives on it comes from that simulation (from the one made last, if there are several and
/// none runs). On threads without one this provider draws from the system, as any other.
pub fn deterministic_tls() -> bool {
    static OURS: OnceLock<bool> = OnceLock::new();
    *OURS.get_or_init(|| provider().install_default().is_ok())
}

fn provider() -> CryptoProvider {
    let mut provider = aws::default_provider();
    // As `polyquic::crypto_provider` orders them.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.secure_random = &Seeded;
    provider.kx_groups = vec![&Seeded, aws::kx_group::SECP256R1, aws::kx_group::SECP384R1];
    provider
}

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        SOURCES.with_borrow(|sources| match sources.last() {
            Some(source) => {
                source.borrow_mut().fill_bytes(bytes);
                Ok(())
            }
            None => aws_lc_rs::rand::fill(bytes).map_err(|_| GetRandomFailed),
        })
    }
}

/// X25519 (RFC 7748) with private keys from [`SecureRandom`].
impl SupportedKxGroup for Seeded {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        self.fill(&mut secret)?;
        let private = PrivateKey::from_private_key(&agreement::X25519, &secret)
            .map_err(|_| GetRandomFailed)?;
        let public = private.compute_public_key().map_err(|_| GetRandomFailed)?;
        Ok(Box::new(Exchange { private, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    private: PrivateKey,
    public: agreement::PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer = UnparsedPublicKey::new(&agreement::X25519, peer);
        let refused = Error::from(PeerMisbehaved::InvalidKeyShare);
        agreement::agree(&self.private, peer, refused, |secret| {
            Ok(SharedSecret::from(secret))
        })
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }
}

/// A certificate for `localhost` and `*.sim`, signed by itself, and its key: public, the same always,
/// valid until 4000, and good for simulations only.
///
/// Its signatures (Ed25519) have one size and follow from what is signed, so that handshakes are the
/// same in every run.
pub fn identity() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let certificate: &[u8] = include_bytes!("identity/certificate.der");
    let key: &[u8] = include_bytes!("identity/key.der");
    (certificate.into(), PrivatePkcs8KeyDer::from(key).into())
}

/// Keeps secrets for captures.
#[derive(Debug)]
pub(crate) struct Keeper(pub(crate) Secrets);

impl KeyLog for Keeper {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|it| format!("{it:02x}")).collect() };
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.push_str(&line);
    }
}

pub(crate) fn key_log(secrets: &Secrets) -> Arc<dyn KeyLog> {
    Arc::new(Keeper(secrets.clone()))
}
