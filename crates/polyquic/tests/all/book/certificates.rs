use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polyquic::crypto::rustls::QuicServerConfig;
use polyquic::rustls::RootCertStore;
use polyquic::rustls::pki_types::pem::PemObject;
use polyquic::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use polyquic::{
    ClientConfig, Endpoint, Runtime, ServerConfig, crypto, crypto_provider, offload, rustls,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::app::Result;

fn for_development() -> Result<(ServerConfig, ClientConfig)> {
    // A CA,
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate()?;
    let ca_cert = params.self_signed(&ca_key)?;
    let ca = Issuer::new(params, ca_key);
    // and a certificate that it signed.
    let key = KeyPair::generate()?;
    let cert = CertificateParams::new(["localhost".into()])?.signed_by(&key, &ca)?;

    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let server = ServerConfig::with_single_cert(vec![cert.into()], key.into())?;
    // The client trusts the CA, and so the server.
    let mut roots = RootCertStore::empty();
    roots.add(ca_cert.into())?;
    let client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    Ok((server, client))
}

fn server_from_files(cert: &Path, key: &Path) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    Ok(ServerConfig::with_single_cert(chain, key)?)
}

fn client_from_file(ca: &Path) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(ca)? {
        roots.add(cert?)?;
    }
    Ok(ClientConfig::with_root_certificates(Arc::new(roots))?)
}

#[cfg(feature = "platform-verifier")]
fn client_that_trusts_the_system() -> Result<ClientConfig> {
    Ok(ClientConfig::try_with_platform_verifier()?)
}

fn with_alpn(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig> {
    let mut tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"my-protocol/1".to_vec()];
    tls.max_early_data_size = u32::MAX; // 0-RTT; the only other value that QUIC allows is 0
    let crypto = QuicServerConfig::try_from(tls)?;
    Ok(ServerConfig::with_crypto(Arc::new(crypto)))
}

async fn renew<R: Runtime>(
    rt: &R,
    server: &Endpoint,
    config: &mut ServerConfig,
    files: (PathBuf, PathBuf),
) -> Result<()> {
    // Files are read and keys are checked where nobody waits for it.
    let new = offload(rt, move || server_from_files(&files.0, &files.1)).await??;
    // All else stays as it is, and so does the key of the tokens that clients hold.
    config.crypto = new.crypto;
    server.set_server_config(Some(config.clone()));
    Ok(())
}

fn with_slow_certificates(crypto: Arc<dyn crypto::ServerConfig>) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(crypto);
    config.offload_handshakes(true);
    config
}

#[test]
fn certificates_made_up_are_good() -> Result<()> {
    for_development().map(drop)
}

#[test]
fn certificates_come_from_files() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
    std::fs::write(&cert, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;

    let mut config = server_from_files(&cert, &key)?;
    with_slow_certificates(config.crypto.clone());
    client_from_file(&cert)?;
    let chain = CertificateDer::pem_file_iter(&cert)?.collect::<Result<Vec<_>, _>>()?;
    with_alpn(chain, PrivateKeyDer::from_pem_file(&key)?)?;
    crate::adapter::run(async |rt| {
        let server = Endpoint::server(&rt, config.clone(), "127.0.0.1:0".parse()?)?;
        renew(&rt, &server, &mut config, (cert, key)).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    })
}

/// The system's certificates are there, or they are missed with an error.
#[cfg(feature = "platform-verifier")]
#[test]
fn the_systems_certificates() {
    drop(client_that_trusts_the_system());
}
