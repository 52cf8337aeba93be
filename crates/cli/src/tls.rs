//! TLS configuration of servers and clients.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use polyquic::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use polyquic::rustls;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureAlgorithm, SignatureScheme};
use sha2::{Digest, Sha256};

use crate::args::ClientArgs;
use crate::certs::{Identity, load_certificates, load_roots};
use crate::failure::Failure;
use crate::out::complain;
use crate::sessions;

/// The server's side of TLS: one certificate, 0-RTT, secrets into SSLKEYLOGFILE.
pub(crate) fn server(identity: &Identity, alpn: &[u8]) -> Result<Arc<QuicServerConfig>, Failure> {
    let mut config = rustls::ServerConfig::builder_with_provider(polyquic::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_failure)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(OneCertificate(identity.certified.clone())));
    config.alpn_protocols = vec![alpn.to_vec()];
    // The only value besides 0 that QUIC allows (RFC 9001 section 4.6.1).
    config.max_early_data_size = u32::MAX;
    config.key_log = Arc::new(rustls::KeyLogFile::new());
    QuicServerConfig::try_from(config)
        .map(Arc::new)
        .map_err(|e| Failure::local(format!("cannot use TLS: {e}")))
}

/// The server's side of TLS over TCP: one certificate, HTTP/1.1.
pub(crate) fn web_server(identity: &Identity) -> Result<Arc<rustls::ServerConfig>, Failure> {
    let mut config = rustls::ServerConfig::builder_with_provider(polyquic::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_failure)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(OneCertificate(identity.certified.clone())));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.key_log = Arc::new(rustls::KeyLogFile::new());
    Ok(Arc::new(config))
}

/// Whether handshakes should not be on the I/O path: an RSA signature takes a millisecond or more.
pub(crate) fn signs_slowly(identity: &Identity) -> bool {
    identity.certified.key.algorithm() == SignatureAlgorithm::RSA
}

fn tls_failure(error: rustls::Error) -> Failure {
    Failure::local(format!("cannot use TLS: {error}"))
}

/// Presents the same certificate to everybody, whatever name they ask for.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Which certificates a client accepts.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    verifier: Arc<dyn ServerCertVerifier>,
    /// Tells one trust from another: sessions must not be resumed under a different one.
    pub(crate) fingerprint: [u8; 32],
}

impl Trust {
    /// What the command line says; warns if that is dangerous.
    pub(crate) fn from_args(args: &ClientArgs) -> Result<Self, Failure> {
        match (&args.ca, args.insecure) {
            (Some(path), _) => Self::ca_file(path),
            (None, true) => {
                complain!(
                    "WARNING: --insecure: certificates are not verified. Anybody between \
                     this machine and the server can read and change everything."
                );
                Ok(Self::new(
                    Arc::new(AcceptAnything(polyquic::crypto_provider())),
                    &[b"insecure"],
                ))
            }
            (None, false) => Self::system(),
        }
    }

    /// The CAs in a PEM file.
    pub(crate) fn ca_file(path: &Path) -> Result<Self, Failure> {
        let certificates = load_certificates(path)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(load_roots(path)?),
            polyquic::crypto_provider(),
        )
        .build()
        .map_err(|e| Failure::local(format!("cannot use the CA {}: {e}", path.display())))?;
        let mut parts: Vec<&[u8]> = vec![b"ca"];
        parts.extend(certificates.iter().map(|c| c.as_ref()));
        Ok(Self::new(verifier, &parts))
    }

    /// What the operating system trusts.
    fn system() -> Result<Self, Failure> {
        let verifier = rustls_platform_verifier::Verifier::new(polyquic::crypto_provider())
            .map_err(|error| {
                Failure::local(format!(
                    "cannot use the CAs of this system: {error} (--ca FILE names others)"
                ))
            })?;
        Ok(Self::new(Arc::new(verifier), &[b"system"]))
    }

    fn new(verifier: Arc<dyn ServerCertVerifier>, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self {
            verifier,
            fingerprint: hash.finalize().into(),
        }
    }
}

/// The client's side of TLS towards one server.
#[derive(Debug)]
pub(crate) struct ClientTls {
    /// What rustls is configured by; the session cache adds to it.
    pub(crate) config: rustls::ClientConfig,
    /// Shared by all connections made with this configuration: rustls resumes a session only under
    /// the very verifier that it was made under.
    pub(crate) verifier: Arc<Verifier>,
}

impl ClientTls {
    /// Offer the protocols in `alpn`, most wanted first.
    pub(crate) fn new(
        trust: &Trust,
        provider: Arc<CryptoProvider>,
        alpn: &[&[u8]],
    ) -> Result<Self, Failure> {
        // The first random number of a process can take AWS-LC 30 ms. Not in the handshake, which
        // is timed; should it fail, the handshake will say so.
        let _ = provider.secure_random.fill(&mut [0; 32]);
        let verifier = Arc::new(Verifier {
            inner: trust.verifier.clone(),
            full_handshakes: AtomicUsize::new(0),
        });
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls_failure)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config.key_log = Arc::new(rustls::KeyLogFile::new());
        Ok(Self { config, verifier })
    }

    /// In the form that QUIC takes.
    pub(crate) fn quic(self) -> Result<Arc<QuicClientConfig>, Failure> {
        QuicClientConfig::try_from(self.config)
            .map(Arc::new)
            .map_err(|e| Failure::local(format!("cannot use TLS: {e}")))
    }
}

/// Verifies by another verifier, and counts how often it had to.
#[derive(Debug)]
pub(crate) struct Verifier {
    inner: Arc<dyn ServerCertVerifier>,
    full_handshakes: AtomicUsize,
}

impl Verifier {
    /// How many handshakes showed a certificate; resumed ones do not.
    pub(crate) fn full_handshakes(&self) -> usize {
        self.full_handshakes.load(Ordering::Relaxed)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // A session being revived brings the time at which it was made, but its certificate must
        // be good today.
        let now = if sessions::reviving() {
            UnixTime::now()
        } else {
            self.full_handshakes.fetch_add(1, Ordering::Relaxed);
            now
        };
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if sessions::reviving() {
            // No network is involved: see `sessions::revive`.
            return Ok(HandshakeSignatureValid::assertion());
        }
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// `--insecure`: any certificate will do, though its owner must still prove to have the key.
#[derive(Debug)]
struct AcceptAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
