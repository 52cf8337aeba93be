//! TLS 1.3 by rustls (RFC 9001).
//!
//! Configurations have the names and the conversions that quinn has, and the sessions they start do
//! the same. They cost less:
//!
//! - **rustls' state is dropped once it has done its part**: on the server when the handshake is
//!   complete and the session tickets are written, on the client when tickets have arrived. That is
//!   some 6 KiB of 22 for a connection that may go on for hours. What can still be asked for
//!   afterwards (the peer's certificates, what was negotiated, the exporter's secret) is kept; a
//!   ticket that arrives later is ignored, which TLS allows (RFC 8446 section 4.6.1).
//! - **Keys of the next key update are derived when they are first used**, not with the handshake:
//!   connections of a few packets never see one (RFC 9001 section 6.3 leaves the choice).
//! - **Initial keys are derived once** per connection on the server, not once to look at the
//!   datagram and once to answer it.

use std::sync::Arc;

use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId};
use rustls::CipherSuite;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Connection, ServerConnection, Suite, Version};

pub use quinn_proto::crypto::rustls::HandshakeData;
pub use rustls::Error;

use super::exporter::SecretTap;
use super::keys::InitialKeysCache;
use super::session::TlsSession;
use super::{Keys, Session, UnsupportedVersion, retry};

/// Why a TLS configuration cannot be used for QUIC.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum UnsuitableTls {
    /// Initial packets are protected with TLS_AES_128_GCM_SHA256 (RFC 9001 section 5.2), and the
    /// provider does not have it, or another suite was given for them.
    #[error("initial packets need TLS_AES_128_GCM_SHA256, which is not what the provider has")]
    NoInitialCipherSuite,
    /// rustls would refuse every connection: TLS 1.3 is off, or a server limits early data to
    /// something else than nothing or `u32::MAX` (RFC 9001 section 4.6.1).
    #[error("not for QUIC: {0}")]
    Rejected(Error),
}

/// TLS for clients, from a [`rustls::ClientConfig`].
///
/// Set its `enable_early_data` for 0-RTT; its `resumption` decides how many sessions are kept. For
/// [`export_keying_material`](Session::export_keying_material) its `key_log` is wrapped: the
/// exporter's secret passes through memory of this crate, and goes nowhere else.
#[derive(Debug)]
pub struct QuicClientConfig {
    inner: Arc<::rustls::ClientConfig>,
    initial: Initial,
}

impl QuicClientConfig {
    /// With another implementation of TLS_AES_128_GCM_SHA256 for Initial packets than the
    /// provider's.
    ///
    /// # Errors
    ///
    /// `initial` is another suite, or `tls` does not suit QUIC.
    pub fn with_initial(
        tls: Arc<::rustls::ClientConfig>,
        initial: Suite,
    ) -> Result<Self, UnsuitableTls> {
        let initial = Initial::new(initial)?;
        let mut inner = Arc::unwrap_or_clone(tls);
        inner.key_log = Arc::new(SecretTap::new(inner.key_log));
        // Said once and now, not by every connection. Without resumption: looking for a session takes
        // it out of the store.
        let mut probe = inner.clone();
        probe.resumption = Resumption::disabled();
        let name = ServerName::try_from("localhost").expect("a name");
        ClientConnection::new(Arc::new(probe), Version::V1, name, Vec::new())
            .map_err(UnsuitableTls::Rejected)?;
        Ok(Self {
            inner: Arc::new(inner),
            initial,
        })
    }
}

impl TryFrom<::rustls::ClientConfig> for QuicClientConfig {
    type Error = UnsuitableTls;

    fn try_from(tls: ::rustls::ClientConfig) -> Result<Self, UnsuitableTls> {
        Arc::new(tls).try_into()
    }
}

impl TryFrom<Arc<::rustls::ClientConfig>> for QuicClientConfig {
    type Error = UnsuitableTls;

    fn try_from(tls: Arc<::rustls::ClientConfig>) -> Result<Self, UnsuitableTls> {
        let initial = initial_suite(tls.crypto_provider())?;
        Self::with_initial(tls, initial)
    }
}

impl super::ClientConfig for QuicClientConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let version = interpret_version(version)?;
        let name = ServerName::try_from(server_name)
            .map_err(|_| ConnectError::InvalidServerName(server_name.into()))?
            .to_owned();
        let tls = ClientConnection::new(self.inner.clone(), version, name, encoded(params))
            // What else can be wrong was found when this configuration was made.
            .map_err(|_| ConnectError::InvalidServerName(server_name.into()))?;
        Ok(Box::new(TlsSession::new(
            Connection::Client(tls),
            version,
            self.initial.0,
            None,
        )))
    }
}

/// TLS for servers, from a [`rustls::ServerConfig`].
///
/// Set its `max_early_data_size` to `u32::MAX` to accept 0-RTT. Its `key_log` is wrapped as
/// [`QuicClientConfig`] says.
#[derive(Debug)]
pub struct QuicServerConfig {
    inner: Arc<::rustls::ServerConfig>,
    initial: Initial,
    initial_keys: Arc<InitialKeysCache>,
}

impl QuicServerConfig {
    /// With another implementation of TLS_AES_128_GCM_SHA256 for Initial packets than the
    /// provider's.
    ///
    /// # Errors
    ///
    /// `initial` is another suite, or `tls` does not suit QUIC.
    pub fn with_initial(
        tls: Arc<::rustls::ServerConfig>,
        initial: Suite,
    ) -> Result<Self, UnsuitableTls> {
        let initial = Initial::new(initial)?;
        let mut inner = Arc::unwrap_or_clone(tls);
        inner.key_log = Arc::new(SecretTap::new(inner.key_log));
        let inner = Arc::new(inner);
        ServerConnection::new(inner.clone(), Version::V1, Vec::new())
            .map_err(UnsuitableTls::Rejected)?;
        Ok(Self {
            inner,
            initial,
            initial_keys: Arc::default(),
        })
    }
}

impl TryFrom<::rustls::ServerConfig> for QuicServerConfig {
    type Error = UnsuitableTls;

    fn try_from(tls: ::rustls::ServerConfig) -> Result<Self, UnsuitableTls> {
        Arc::new(tls).try_into()
    }
}

impl TryFrom<Arc<::rustls::ServerConfig>> for QuicServerConfig {
    type Error = UnsuitableTls;

    fn try_from(tls: Arc<::rustls::ServerConfig>) -> Result<Self, UnsuitableTls> {
        let initial = initial_suite(tls.crypto_provider())?;
        Self::with_initial(tls, initial)
    }
}

impl super::ServerConfig for QuicServerConfig {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        let version = interpret_version(version)?;
        Ok(self.initial_keys.derive(&self.initial.0, version, dst_cid))
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        let version = interpret_version(version).expect("`initial_keys` accepted it before");
        retry::tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        let version = interpret_version(version).expect("`initial_keys` accepted it before");
        let tls = ServerConnection::new(self.inner.clone(), version, encoded(params))
            .expect("tried when this configuration was made");
        Box::new(TlsSession::new(
            Connection::Server(tls),
            version,
            self.initial.0,
            Some(self.initial_keys.clone()),
        ))
    }
}

/// TLS_AES_128_GCM_SHA256 (RFC 9001 section 5.2).
#[derive(Clone, Copy)]
struct Initial(Suite);

impl Initial {
    fn new(suite: Suite) -> Result<Self, UnsuitableTls> {
        if suite.suite.common.suite == CipherSuite::TLS13_AES_128_GCM_SHA256 {
            Ok(Self(suite))
        } else {
            Err(UnsuitableTls::NoInitialCipherSuite)
        }
    }
}

impl std::fmt::Debug for Initial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.suite.common.suite.fmt(f)
    }
}

fn initial_suite(provider: &CryptoProvider) -> Result<Suite, UnsuitableTls> {
    let tls13 = provider.cipher_suites.iter().filter_map(|it| it.tls13());
    tls13
        .filter(|suite| suite.common.suite == CipherSuite::TLS13_AES_128_GCM_SHA256)
        .find_map(|suite| suite.quic_suite())
        .ok_or(UnsuitableTls::NoInitialCipherSuite)
}

fn encoded(params: &TransportParameters) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    params.write(&mut bytes);
    bytes
}

/// QUIC v1, and the drafts that differ from it in nothing but their number.
pub(super) fn interpret_version(version: u32) -> Result<Version, UnsupportedVersion> {
    match version {
        1 | 0xff00_0021..=0xff00_0022 => Ok(Version::V1),
        0xff00_001d..=0xff00_0020 => Ok(Version::V1Draft),
        _ => Err(UnsupportedVersion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(
        early_data: u32,
        protocol: &'static ::rustls::SupportedProtocolVersion,
    ) -> Result<QuicServerConfig, UnsuitableTls> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let key = ::rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut tls = ::rustls::ServerConfig::builder_with_provider(crate::crypto_provider())
            .with_protocol_versions(&[protocol])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.into()], key.into())
            .unwrap();
        tls.max_early_data_size = early_data;
        tls.try_into()
    }

    #[test]
    fn what_no_connection_would_survive_is_refused_at_once() {
        use ::rustls::version::TLS13;
        assert!(server(0, &TLS13).is_ok());
        assert!(server(u32::MAX, &TLS13).is_ok());
        let error = server(1000, &TLS13).unwrap_err();
        assert!(matches!(error, UnsuitableTls::Rejected(_)), "{error}");
    }

    #[test]
    fn making_a_configuration_leaves_sessions_in_their_store() {
        #[derive(Debug)]
        struct Untouched;
        impl ::rustls::client::ClientSessionStore for Untouched {
            fn set_kx_hint(&self, _: ServerName<'static>, _: ::rustls::NamedGroup) {}
            fn kx_hint(&self, _: &ServerName<'_>) -> Option<::rustls::NamedGroup> {
                panic!("asked for a hint");
            }
            fn set_tls12_session(
                &self,
                _: ServerName<'static>,
                _: ::rustls::client::Tls12ClientSessionValue,
            ) {
            }
            fn tls12_session(
                &self,
                _: &ServerName<'_>,
            ) -> Option<::rustls::client::Tls12ClientSessionValue> {
                None
            }
            fn remove_tls12_session(&self, _: &ServerName<'static>) {}
            fn insert_tls13_ticket(
                &self,
                _: ServerName<'static>,
                _: ::rustls::client::Tls13ClientSessionValue,
            ) {
            }
            fn take_tls13_ticket(
                &self,
                _: &ServerName<'static>,
            ) -> Option<::rustls::client::Tls13ClientSessionValue> {
                panic!("took a ticket");
            }
        }
        let mut tls = ::rustls::ClientConfig::builder_with_provider(crate::crypto_provider())
            .with_protocol_versions(&[&::rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(::rustls::RootCertStore::empty())
            .with_no_client_auth();
        tls.resumption = Resumption::store(Arc::new(Untouched));
        QuicClientConfig::try_from(tls).unwrap();
    }

    #[test]
    fn initial_packets_take_one_suite_only() {
        let provider = crate::crypto_provider();
        let other = provider
            .cipher_suites
            .iter()
            .filter_map(|suite| suite.tls13())
            .find(|suite| suite.common.suite == CipherSuite::TLS13_AES_256_GCM_SHA384)
            .and_then(|suite| suite.quic_suite())
            .unwrap();
        assert_eq!(
            Initial::new(other).unwrap_err(),
            UnsuitableTls::NoInitialCipherSuite
        );
        let mut poor = CryptoProvider::clone(&provider);
        poor.cipher_suites
            .retain(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert!(initial_suite(&poor).is_err());
    }
}
