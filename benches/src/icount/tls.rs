//! TLS for both stacks, from which chance has been removed as far as that goes.

use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::{
    RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// An Ed25519 key in PKCS #8 without the public half (RFC 8410 section 7), up to the key's bytes.
const ED25519_PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// Known to everybody, and so good for nothing else.
const KEY: [u8; 32] = [42; 32];

/// The server's and the client's configuration.
pub(crate) fn configs() -> Result<(rustls::ServerConfig, rustls::ClientConfig)> {
    let (certificate, key) = identity().context("the certificate")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    server.alpn_protocols = vec![b"icount".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"icount".to_vec()];
    // Every handshake is a full one.
    client.resumption = Resumption::disabled();
    Ok((server, client))
}

fn identity() -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let pkcs8 = [&ED25519_PKCS8_PREFIX[..], &KEY].concat();
    let key = PrivatePkcs8KeyDer::from(pkcs8);
    let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)?;
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()])?;
    // A random one may begin with a zero and be a byte shorter.
    params.serial_number = Some(7u64.into());
    let certificate = params.self_signed(&pair)?;
    Ok((certificate.into(), key.into()))
}
