//! Makes rustls accept a session of an earlier process; see the parent module.

use std::sync::Arc;
use std::time::Duration;

use polyquic::rustls;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::quic::{ClientConnection, ServerConnection, Version};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::{Session, capture};
use crate::tls::ClientTls;

/// Messages that the two sides exchange at most; a handshake takes four.
const MAX_FLIGHTS: usize = 16;

/// Put `session` into the store of `tls`.
pub(super) fn revive(session: &Session, tls: &ClientTls, host: &str) -> Result<(), String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    capture::with_key(&session.key.0, || handshake(session, tls, name))
        .map_err(|error| error.to_string())
}

fn handshake(
    session: &Session,
    tls: &ClientTls,
    name: ServerName<'static>,
) -> Result<(), rustls::Error> {
    // The same verifier and store as the real configuration's, as rustls insists on the former.
    let mut config = tls.config.clone();
    config.enable_early_data = false;
    // The ticket's age is counted from when it really came.
    config.time_provider = Arc::new(At(session.made_at));
    // Nobody can use these secrets for anything.
    config.key_log = Arc::new(rustls::NoKeyLog);
    let alpn = config.alpn_protocols.clone();
    let mut client = ClientConnection::new(Arc::new(config), Version::V1, name, Vec::new())?;
    let server_config = Arc::new(server_config(session, alpn)?);
    let parameters = session.transport_parameters.0.clone();
    let mut server = ServerConnection::new(server_config, Version::V1, parameters)?;

    for _ in 0..MAX_FLIGHTS {
        for message in flight(|buf| client.write_hs(buf).is_some()) {
            server.read_hs(&message)?;
        }
        for message in flight(|buf| server.write_hs(buf).is_some()) {
            client.read_hs(&message)?;
        }
        if !client.is_handshaking() && !server.is_handshaking() {
            // Here rustls derives the key, and stores the session.
            return client.read_hs(&session.ticket.0);
        }
    }
    Err(rustls::Error::General(
        "the handshake in memory did not finish".into(),
    ))
}

/// What one side has to say, cut where its keys change: a reader changes them at the same places.
///
/// `write` appends to the buffer and tells whether the keys changed.
pub(super) fn flight(mut write: impl FnMut(&mut Vec<u8>) -> bool) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    loop {
        let mut message = Vec::new();
        let changed = write(&mut message);
        if !changed && message.is_empty() {
            return messages;
        }
        if !message.is_empty() {
            messages.push(message);
        }
    }
}

/// A server that has nothing but the recorded certificates, and chooses the recorded suite.
fn server_config(
    session: &Session,
    alpn: Vec<Vec<u8>>,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut provider = rustls::crypto::CryptoProvider::clone(&polyquic::crypto_provider());
    provider
        .cipher_suites
        .retain(|suite| u16::from(suite.suite()) == session.cipher_suite);
    let chain = session
        .certificates
        .iter()
        .map(|c| CertificateDer::from(c.0.clone()))
        .collect();
    let certified = Arc::new(CertifiedKey::new(chain, Arc::new(NoKey)));
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Recorded(certified)));
    config.alpn_protocols = alpn;
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A fixed time, in seconds since 1970.
#[derive(Debug)]
struct At(u64);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
    }
}

#[derive(Debug)]
struct Recorded(Arc<CertifiedKey>);

impl ResolvesServerCert for Recorded {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Stands in for the server's key, which only the server has. Its signatures convince nobody but
/// [`Verifier`](crate::tls::Verifier) during a revival.
#[derive(Debug, Clone)]
struct NoKey;

impl SigningKey for NoKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *offered.first()?;
        Some(Box::new(NoSignature(scheme)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

#[derive(Debug)]
struct NoSignature(SignatureScheme);

impl Signer for NoSignature {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(vec![0; 64])
    }

    fn scheme(&self) -> SignatureScheme {
        self.0
    }
}
