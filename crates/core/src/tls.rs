//! Which cryptography TLS uses.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;

use crate::crypto::HandshakeTokenKey;
use crate::crypto::rustls::{QuicClientConfig, QuicServerConfig};

/// The cryptography that polyquic's own configurations use.
///
/// The provider that the process installed (`CryptoProvider::install_default`) if there is one,
/// else AWS-LC with the feature `aws-lc-rs` (the default), else ring. Asking here instead of relying
/// on rustls' process-wide default keeps a program working when both features end up enabled by
/// different dependencies.
///
/// TLS_AES_128_GCM_SHA256 comes first, as it does in browsers, and as every QUIC implementation has
/// it (RFC 9001 section 5.3). rustls by itself prefers AES-256, whose SHA-384 most processors have
/// no instructions for: it costs a full handshake some 15 % more. Reorder the provider's
/// `cipher_suites` to choose otherwise.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    if let Some(provider) = CryptoProvider::get_default() {
        return provider.clone();
    }
    #[cfg(feature = "aws-lc-rs")]
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    let mut provider = rustls::crypto::ring::default_provider();
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    compile_error!("polyquic needs one of the features `aws-lc-rs` and `ring`");
    // Stable: the other suites keep their order.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// Have AWS-LC gather the entropy that its generator starts from, once in the life of a process. It
/// takes some 30 ms, which would otherwise be part of the first handshake, on its I/O path.
pub(crate) fn warm_up() {
    #[cfg(feature = "aws-lc-rs")]
    if let Err(error) = aws_lc_rs::rand::fill(&mut [0]) {
        // Nor will any handshake work then, and each says so.
        debug_assert!(false, "no randomness: {error}");
    }
}

/// `tls` as quinn-proto wants it.
pub(crate) fn quic_client(tls: rustls::ClientConfig) -> QuicClientConfig {
    QuicClientConfig::try_from(tls).expect("every provider of ours has QUIC's initial suite")
}

/// `tls` as quinn-proto wants it.
pub(crate) fn quic_server(tls: rustls::ServerConfig) -> QuicServerConfig {
    QuicServerConfig::try_from(tls).expect("every provider of ours has QUIC's initial suite")
}

/// Random bytes from where TLS takes its own, so that a provider that is made for simulations leaves
/// nothing to chance.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    crypto_provider()
        .secure_random
        .fill(bytes)
        .expect("a system without randomness cannot speak TLS");
}

/// A key for Retry and validation tokens that nobody else has.
pub(crate) fn random_token_key() -> Arc<dyn HandshakeTokenKey> {
    #[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
    use aws_lc_rs::hkdf;
    #[cfg(feature = "ring")]
    use ring::hkdf;
    let mut secret = [0; 64];
    fill_random(&mut secret);
    Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&secret))
}

/// The key with which stateless reset tokens are derived (RFC 9000 section 10.3.2).
pub(crate) fn reset_key(secret: &[u8; 64]) -> Arc<dyn quinn_proto::crypto::HmacKey> {
    // quinn-proto implements its trait for ring's key when both are enabled.
    #[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
    use aws_lc_rs::hmac;
    #[cfg(feature = "ring")]
    use ring::hmac;
    Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret))
}
