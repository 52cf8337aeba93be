//! Certificates and keys: from PEM files, or made up for development.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use polyquic::rustls;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use crate::failure::{Failure, io_reason};

/// How long development certificates are valid.
const DEV_VALIDITY: time::Duration = time::Duration::days(30);

/// A certificate with its key, and the CA that vouches for it if we made it up.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// What the server presents and signs with.
    pub(crate) certified: Arc<CertifiedKey>,
    /// The development CA, as PEM.
    pub(crate) dev_ca_pem: Option<String>,
}

/// Load a certificate chain and its key from PEM files.
///
/// Says which of the files is at fault.
pub(crate) fn load_identity(cert: &Path, key: &Path) -> Result<Identity, Failure> {
    let chain = load_certificates(cert)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        let reason = match error {
            pem::Error::NoItemsFound => "it holds no private key in PEM form".into(),
            other => pem_reason(&other),
        };
        Failure::local(format!("cannot use the key {}: {reason}", key.display()))
    })?;
    // First the certificate by itself, so that an error can name the right file.
    for (n, certificate) in chain.iter().enumerate() {
        rustls::server::ParsedCertificate::try_from(certificate).map_err(|error| {
            Failure::local(format!(
                "cannot use the certificate {}: number {} in it is malformed: {error}",
                cert.display(),
                n + 1,
            ))
        })?;
    }
    let provider = polyquic::crypto_provider();
    provider
        .key_provider
        .load_private_key(private.clone_key())
        .map_err(|error| {
            Failure::local(format!("cannot use the key {}: {error}", key.display()))
        })?;
    let certified = CertifiedKey::from_der(chain, private, &provider).map_err(|error| {
        Failure::local(match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "the key {} does not belong to the certificate {}",
                key.display(),
                cert.display()
            ),
            other => format!(
                "cannot use the certificate {} with the key {}: {other}",
                cert.display(),
                key.display()
            ),
        })
    })?;
    Ok(Identity {
        certified: Arc::new(certified),
        dev_ca_pem: None,
    })
}

/// Load the certificates of CAs to trust.
pub(crate) fn load_roots(path: &Path) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        roots.add(certificate).map_err(|error| {
            Failure::local(format!("cannot use the CA {}: {error}", path.display()))
        })?;
    }
    Ok(roots)
}

/// All certificates of a PEM file; at least one.
pub(crate) fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let fail = |reason: String| {
        Failure::local(format!(
            "cannot use the certificate {}: {reason}",
            path.display()
        ))
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fail(pem_reason(&error)))?;
    if certificates.is_empty() {
        return Err(fail("it holds no certificate in PEM form".into()));
    }
    Ok(certificates)
}

fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => io_reason(error),
        other => format!("broken PEM: {other:?}"),
    }
}

/// Make up a CA and a certificate for `localhost`, the listen addresses and `names`.
pub(crate) fn development_identity(
    listen: &[SocketAddr],
    names: &[String],
) -> Result<Identity, Failure> {
    build_development_identity(subject_names(listen, names))
        .map_err(|error| Failure::usage(format!("cannot make a development certificate: {error}")))
}

/// The names and addresses that a server on `listen` can be reached by, as far as we know them.
fn subject_names(listen: &[SocketAddr], names: &[String]) -> Vec<String> {
    let mut subjects: BTreeSet<String> = names.iter().cloned().collect();
    subjects.insert("localhost".into());
    for address in listen {
        let ip = address.ip();
        if ip.is_unspecified() {
            subjects.insert(Ipv4Addr::LOCALHOST.to_string());
            if ip.is_ipv6() {
                subjects.insert(Ipv6Addr::LOCALHOST.to_string());
            }
        } else {
            subjects.insert(IpAddr::to_string(&ip));
        }
    }
    subjects.into_iter().collect()
}

fn build_development_identity(subjects: Vec<String>) -> Result<Identity, rcgen::Error> {
    let now = time::OffsetDateTime::now_utc();
    // An hour for clocks that are a little off.
    let not_before = now - time::Duration::HOUR;
    let not_after = now + DEV_VALIDITY;

    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.distinguished_name
        .push(DnType::CommonName, "polyquic development CA");
    // It can sign end-entity certificates and nothing below those.
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (ca.not_before, ca.not_after) = (not_before, not_after);
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;
    // The CA's key is dropped when this function returns: nobody can sign more with it.
    let issuer = Issuer::new(ca, ca_key);

    let mut leaf = CertificateParams::new(subjects)?;
    leaf.distinguished_name
        .push(DnType::CommonName, "polyquic development certificate");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = (not_before, not_after);
    let leaf_key = KeyPair::generate()?;
    let leaf_cert = leaf.signed_by(&leaf_key, &issuer)?;

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let certified = CertifiedKey::from_der(
        vec![leaf_cert.der().clone()],
        key,
        &polyquic::crypto_provider(),
    )
    .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok(Identity {
        certified: Arc::new(certified),
        dev_ca_pem: Some(ca_cert.pem()),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};

    /// A self-signed certificate and its key, written as PEM below `dir`.
    pub(crate) fn write_pair(dir: &Path, name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let cert = dir.join(format!("{name}.crt"));
        let key = dir.join(format!("{name}.key"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        (cert, key)
    }

    fn message(result: Result<Identity, Failure>) -> String {
        result.expect_err("should have failed").to_string()
    }

    #[test]
    fn the_file_at_fault_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = write_pair(dir.path(), "one");
        let (_, other_key) = write_pair(dir.path(), "two");
        let junk = dir.path().join("junk");
        std::fs::write(&junk, "junk").unwrap();
        let broken = dir.path().join("broken.crt");
        std::fs::write(
            &broken,
            "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let missing = dir.path().join("missing");

        assert!(load_identity(&cert, &key).is_ok());
        let text = message(load_identity(&cert, &other_key));
        assert!(text.contains("two.key does not belong to"), "{text}");
        assert!(text.contains("one.crt"), "{text}");
        let text = message(load_identity(&missing, &key));
        assert!(
            text.contains("certificate") && text.contains("no such file"),
            "{text}"
        );
        let text = message(load_identity(&cert, &missing));
        assert!(
            text.contains("the key") && text.contains("no such file"),
            "{text}"
        );
        let text = message(load_identity(&junk, &key));
        assert!(text.contains("no certificate"), "{text}");
        let text = message(load_identity(&cert, &junk));
        assert!(text.contains("no private key"), "{text}");
        let text = message(load_identity(&cert, &cert));
        assert!(text.contains("no private key"), "{text}");
        let text = message(load_identity(&broken, &key));
        assert!(
            text.contains("broken.crt") && text.contains("malformed"),
            "{text}"
        );
    }

    #[test]
    fn a_development_certificate_verifies_for_what_the_server_listens_on() {
        let listen = ["127.0.0.2:1".parse().unwrap(), "[::]:2".parse().unwrap()];
        let identity = development_identity(&listen, &["box.example".into()]).unwrap();
        let pem = identity.dev_ca_pem.as_deref().unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
            .unwrap();
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            polyquic::crypto_provider(),
        )
        .build()
        .unwrap();
        let check = |name: &str| {
            verifier.verify_server_cert(
                &identity.certified.cert[0],
                &[],
                &ServerName::try_from(name.to_owned()).unwrap(),
                &[],
                UnixTime::now(),
            )
        };
        for name in ["localhost", "127.0.0.1", "127.0.0.2", "::1", "box.example"] {
            assert!(check(name).is_ok(), "{name}: {:?}", check(name));
        }
        assert!(check("elsewhere.example").is_err());
        assert!(check("127.0.0.3").is_err());
    }
}
