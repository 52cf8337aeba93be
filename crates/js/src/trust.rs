//! Certificates: which ones a client accepts, and what a server shows.

use std::sync::Arc;

use polyquic::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use polyquic::rustls;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CipherSuite, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version::TLS13,
};
use wasm_bindgen::prelude::*;

use crate::error::invalid;
use crate::options::Options;

/// ChaCha20 first: without instructions for AES, and WebAssembly has none, it is several times as
/// fast.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = (*polyquic::crypto_provider()).clone();
    provider
        .cipher_suites
        .sort_by_key(|it| it.suite() != CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    Arc::new(provider)
}

/// TLS of a client: `alpn`, and `ca` (PEM) or `serverCertificateHashes` (SHA-256).
pub(crate) fn client(options: &Options) -> Result<Arc<QuicClientConfig>, JsValue> {
    let provider = provider();
    let hashes = options.hashes("serverCertificateHashes")?;
    let verifier: Arc<dyn ServerCertVerifier> = match options.text("ca")? {
        Some(_) if !hashes.is_empty() => {
            return Err(invalid(
                "`ca` or `serverCertificateHashes`: a server is trusted by one of the two",
            ));
        }
        None if !hashes.is_empty() => Arc::new(ByHash {
            hashes,
            provider: provider.clone(),
        }),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate =
                    certificate.map_err(|error| invalid(format!("`ca` is not PEM: {error}")))?;
                // Of a system's store, some may be of kinds that are not known here.
                let _ = roots.add(certificate);
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|_| invalid("`ca` holds no certificate that could be used"))?
        }
        None => {
            return Err(invalid(
                "say whom to trust: `ca` (certificates in PEM) or `serverCertificateHashes`",
            ));
        }
    };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(invalid)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = options.alpn()?;
    QuicClientConfig::try_from(tls)
        .map(Arc::new)
        .map_err(invalid)
}

/// TLS of a server: `alpn`, `cert` and `key` (PEM).
pub(crate) fn server(options: &Options) -> Result<Arc<QuicServerConfig>, JsValue> {
    let need = |name| {
        options
            .text(name)?
            .ok_or_else(|| invalid(format!("a server needs `{name}`, in PEM")))
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(need("cert")?.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| invalid(format!("`cert` is not PEM: {error}")))?;
    let key = PrivateKeyDer::from_pem_slice(need("key")?.as_bytes())
        .map_err(|error| invalid(format!("`key` is not a private key in PEM: {error}")))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(invalid)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| invalid(format!("`cert` and `key` cannot be used: {error}")))?;
    // Clients usually have the instructions for AES that are missing here.
    tls.ignore_client_order = true;
    tls.alpn_protocols = options.alpn()?;
    QuicServerConfig::try_from(tls)
        .map(Arc::new)
        .map_err(invalid)
}

/// Accepts certificates by their SHA-256 hash, whatever name and dates they bear.
#[derive(Debug)]
struct ByHash {
    hashes: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ByHash {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let suite = self
            .provider
            .cipher_suites
            .iter()
            .filter_map(|it| it.tls13())
            .find(|it| it.common.hash_provider.output_len() == 32)
            .ok_or_else(|| Error::General("there is no SHA-256".into()))?;
        let hash = suite.common.hash_provider.hash(end_entity);
        if self.hashes.iter().any(|known| known[..] == *hash.as_ref()) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
