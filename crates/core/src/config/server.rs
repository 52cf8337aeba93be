//! What a server needs to accept connections.

use std::fmt;
use std::net::{SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{TimeSource, ValidationTokenConfig};
use rustls::SignatureAlgorithm;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TransportConfig;
use super::transport::Additions;
use crate::crypto::offload::{Deferring, Seat};
use crate::crypto::{self, HandshakeTokenKey};
use crate::tls;

/// Configuration for incoming connections. The methods and fields are quinn's.
#[derive(Clone)]
pub struct ServerConfig {
    /// The transport's configuration.
    pub transport: Arc<TransportConfig>,
    /// The TLS configuration, usually a [`crypto::rustls::QuicServerConfig`].
    pub crypto: Arc<dyn crypto::ServerConfig>,
    /// Tokens by which clients are known again (RFC 9000 section 8.1.3).
    pub validation_token: ValidationTokenConfig,
    inner: quinn_proto::ServerConfig,
    offload_handshakes: bool,
    has_time_source: bool,
}

impl ServerConfig {
    /// A configuration with this TLS configuration, and a key for tokens that can be kept over
    /// restarts or shared between servers.
    pub fn new(
        crypto: Arc<dyn crypto::ServerConfig>,
        token_key: Arc<dyn HandshakeTokenKey>,
    ) -> Self {
        let inner = quinn_proto::ServerConfig::new(crypto.clone(), token_key);
        Self {
            transport: Arc::default(),
            crypto,
            validation_token: inner.validation_token.clone(),
            inner,
            offload_handshakes: false,
            has_time_source: false,
        }
    }

    /// A configuration with this TLS configuration, and a random key for tokens.
    pub fn with_crypto(crypto: Arc<dyn crypto::ServerConfig>) -> Self {
        Self::new(crypto, tls::random_token_key())
    }

    /// A server that proves its identity by this chain of certificates, its own first, and the key
    /// that belongs to it. Clients stay anonymous. With an RSA key, handshakes are
    /// [off the I/O path](Self::offload_handshakes).
    ///
    /// # Errors
    ///
    /// The key is malformed, of an unsupported kind, or not that of the certificate.
    pub fn with_single_cert(
        cert_chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let provider = tls::crypto_provider();
        let signer = provider.key_provider.load_private_key(key.clone_key())?;
        let slow = signer.algorithm() == SignatureAlgorithm::RSA;
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("every provider of ours has TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(cert_chain, key)?;
        // The only value that QUIC allows besides 0 (RFC 9001 section 4.6.1).
        tls.max_early_data_size = u32::MAX;
        let mut config = Self::with_crypto(Arc::new(tls::quic_server(tls)));
        config.offload_handshakes(slow);
        Ok(config)
    }

    /// Set the transport's configuration.
    pub fn transport_config(&mut self, transport: Arc<TransportConfig>) -> &mut Self {
        self.transport = transport;
        self
    }

    /// Set how clients are known again.
    pub fn validation_token_config(&mut self, config: ValidationTokenConfig) -> &mut Self {
        self.validation_token = config;
        self
    }

    /// Key of Retry and validation tokens. Default: random, so that tokens end with the process.
    pub fn token_key(&mut self, key: Arc<dyn HandshakeTokenKey>) -> &mut Self {
        self.inner.token_key(key);
        self
    }

    /// How long a client may take to come back with a Retry token. Default: 15 seconds.
    pub fn retry_token_lifetime(&mut self, lifetime: Duration) -> &mut Self {
        self.inner.retry_token_lifetime(lifetime);
        self
    }

    /// Whether clients may change their address (RFC 9000 section 9). Default: true.
    pub fn migration(&mut self, allow: bool) -> &mut Self {
        self.inner.migration(allow);
        self
    }

    /// Another IPv4 address of this server that clients should move to (RFC 9000 section 9.6).
    pub fn preferred_address_v4(&mut self, address: Option<SocketAddrV4>) -> &mut Self {
        self.inner.preferred_address_v4(address);
        self
    }

    /// Another IPv6 address of this server that clients should move to (RFC 9000 section 9.6).
    pub fn preferred_address_v6(&mut self, address: Option<SocketAddrV6>) -> &mut Self {
        self.inner.preferred_address_v6(address);
        self
    }

    /// Connection attempts that may wait for a decision. More are dropped. Default: 65,536.
    pub fn max_incoming(&mut self, count: usize) -> &mut Self {
        self.inner.max_incoming(count);
        self
    }

    /// Bytes to keep of what a client sends before it was decided upon. Default: 10 MiB.
    pub fn incoming_buffer_size(&mut self, bytes: u64) -> &mut Self {
        self.inner.incoming_buffer_size(bytes);
        self
    }

    /// The same for all of them together. Default: 100 MiB.
    pub fn incoming_buffer_size_total(&mut self, bytes: u64) -> &mut Self {
        self.inner.incoming_buffer_size_total(bytes);
        self
    }

    /// The calendar by which tokens expire. Default: the system's.
    pub fn time_source(&mut self, source: Arc<dyn TimeSource>) -> &mut Self {
        self.inner.time_source(source);
        self.has_time_source = true;
        self
    }

    /// As [`time_source`](Self::time_source), unless one was set.
    pub fn time_source_if_none(&mut self, source: Arc<dyn TimeSource>) -> &mut Self {
        if !self.has_time_source {
            self.inner.time_source(source);
        }
        self
    }

    /// Whether the answer to a ClientHello, with its certificate look-up and its signature, is worked
    /// out away from the I/O path, so that other connections do not wait for it. Default: with an RSA
    /// key given to [`with_single_cert`](Self::with_single_cert), otherwise not.
    ///
    /// It takes the handshake through another thread and back, which costs more than an ECDSA or
    /// Ed25519 signature does. It is worth it where answers take longer: for RSA keys, and when the
    /// [resolver](rustls::server::ResolvesServerCert) of certificates or the signing key asks a
    /// disk, a database or another machine. Such a callback may block, but as many at a time are
    /// worked on as there are processors, and others wait: one that takes 100 ms lets 20 clients in
    /// each second on two of them. Should it panic, its connection fails with INTERNAL_ERROR.
    ///
    /// The client's further steps stay where they are: the verification of its certificate, if one
    /// is asked for, and a ClientHello that had to be repeated (RFC 8446 section 4.1.4).
    pub fn offload_handshakes(&mut self, offload: bool) -> &mut Self {
        self.offload_handshakes = offload;
        self
    }

    pub(crate) fn offloads_handshakes(&self) -> bool {
        self.offload_handshakes
    }

    /// What connections are accepted with, and the additions on streams to grow to.
    pub(crate) fn parts(&self, seat: &Arc<Seat>) -> (Arc<quinn_proto::ServerConfig>, Additions) {
        let (transport, additions) = self.transport.parts();
        let mut inner = self.inner.clone();
        inner.transport = transport;
        let crypto = self.crypto.clone();
        inner.crypto = Arc::new(Deferring::new(
            crypto,
            self.offload_handshakes,
            seat.clone(),
        ));
        inner.validation_token = self.validation_token.clone();
        (Arc::new(inner), additions)
    }
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("transport", &self.transport)
            .field("validation_token", &self.validation_token)
            .field("offload_handshakes", &self.offload_handshakes)
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
