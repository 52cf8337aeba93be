//! Which cryptography TLS uses.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The cryptography that polyquic's own configurations use.
///
/// The provider that the process installed (`CryptoProvider::install_default`) if there is one,
/// else AWS-LC with the feature `aws-lc-rs` (the default), else ring. Asking here instead of relying
/// on rustls' process-wide default keeps a program working when both features end up enabled by
/// different dependencies.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    if let Some(provider) = CryptoProvider::get_default() {
        return provider.clone();
    }
    #[cfg(feature = "aws-lc-rs")]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Arc::new(rustls::crypto::ring::default_provider());
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    compile_error!("polyquic needs one of the features `aws-lc-rs` and `ring`");
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
