//! What a client needs to connect.

use std::fmt;
use std::sync::Arc;

use quinn_proto::{ConnectionId, TokenMemoryCache, TokenStore};

use super::TransportConfig;
use super::endpoint::QUIC_V1;
use super::tokens::Fitting;
use super::transport::Additions;
use crate::{crypto, tls};

/// RFC 9000 section 17.2.
const MAX_CID_SIZE: usize = 20;

/// Configuration for outgoing connections. The methods are quinn's.
#[derive(Clone)]
pub struct ClientConfig {
    inner: quinn_proto::ClientConfig,
    /// Where a connection's first Initial packet is sent to.
    dst_cids: Arc<dyn Fn() -> ConnectionId + Send + Sync>,
    version: u32,
    additions: Additions,
}

impl ClientConfig {
    /// A configuration with this TLS configuration, usually a
    /// [`crypto::rustls::QuicClientConfig`] made from a `rustls::ClientConfig`.
    pub fn new(crypto: Arc<dyn crypto::ClientConfig>) -> Self {
        let (transport, additions) = TransportConfig::default().parts();
        let mut inner = quinn_proto::ClientConfig::new(crypto);
        inner.transport_config(transport);
        let mut this = Self {
            inner,
            dst_cids: Arc::new(random_cid),
            version: QUIC_V1,
            additions,
        };
        this.token_store(Arc::new(TokenMemoryCache::default()));
        this
    }

    /// Trust servers whose certificates are signed by one of `roots`.
    ///
    /// # Errors
    ///
    /// There is no root.
    pub fn with_root_certificates(
        roots: Arc<rustls::RootCertStore>,
    ) -> Result<Self, rustls::client::VerifierBuilderError> {
        let provider = tls::crypto_provider();
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()?;
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("every provider of ours has TLS 1.3")
            .with_webpki_verifier(verifier)
            .with_no_client_auth();
        tls.enable_early_data = true;
        Ok(Self::new(Arc::new(tls::quic_client(tls))))
    }

    /// Trust the servers that the operating system trusts.
    ///
    /// # Errors
    ///
    /// Its store of certificates cannot be read.
    #[cfg(feature = "platform-verifier")]
    pub fn try_with_platform_verifier() -> Result<Self, rustls::Error> {
        let inner = quinn_proto::ClientConfig::try_with_platform_verifier()?;
        let (transport, additions) = TransportConfig::default().parts();
        let mut this = Self {
            inner,
            dst_cids: Arc::new(random_cid),
            version: QUIC_V1,
            additions,
        };
        this.inner.transport_config(transport);
        this.token_store(Arc::new(TokenMemoryCache::default()));
        Ok(this)
    }

    /// Set the transport's configuration.
    pub fn transport_config(&mut self, transport: Arc<TransportConfig>) -> &mut Self {
        let (transport, additions) = transport.parts();
        self.inner.transport_config(transport);
        self.additions = additions;
        self
    }

    /// Where to keep the tokens by which servers know us again (RFC 9000 section 8.1.3), so that
    /// they need no Retry. Default: in memory, for 256 servers. Tokens of more than 512 bytes, which
    /// leave too little room in a first packet, are neither kept nor used.
    pub fn token_store(&mut self, store: Arc<dyn TokenStore>) -> &mut Self {
        self.inner.token_store(Arc::new(Fitting(store)));
        self
    }

    /// How to choose the connection id that the first packet is addressed to: at least 8 bytes, and
    /// unpredictable (RFC 9000 section 7.2). Default: 20 random bytes.
    pub fn initial_dst_cid_provider(
        &mut self,
        provider: Arc<dyn Fn() -> ConnectionId + Send + Sync>,
    ) -> &mut Self {
        self.dst_cids = provider;
        self
    }

    /// The QUIC version to use. Default: 1.
    pub fn version(&mut self, version: u32) -> &mut Self {
        self.inner.version(version);
        self.version = version;
        self
    }

    /// For one connection.
    pub(crate) fn into_parts(mut self) -> (quinn_proto::ClientConfig, Additions, FirstPacket) {
        let dst_cid = (self.dst_cids)();
        (self.inner).initial_dst_cid_provider(Arc::new(move || dst_cid));
        let first = FirstPacket {
            version: self.version,
            dst_cid,
        };
        (self.inner, self.additions, first)
    }
}

/// What a client says in its first Initial packet, and answers are checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstPacket {
    pub(crate) version: u32,
    pub(crate) dst_cid: ConnectionId,
}

fn random_cid() -> ConnectionId {
    let mut cid = [0; MAX_CID_SIZE];
    tls::fill_random(&mut cid);
    ConnectionId::new(&cid)
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
