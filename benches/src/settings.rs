//! Everything that both sides of a comparison have to agree on.
//!
//! Defaults differ between stacks and between their releases, so nothing is left to them: what is
//! not set here cannot influence a stack that is built on quinn-proto, and is set to the same
//! value in every other one.

use std::{
    fs, io,
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use quinn_proto::{
    TransportConfig, VarInt, congestion,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    RootCertStore,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};

/// Bytes that one stream's receiver lets the peer be ahead; quinn's default.
const STREAM_RECEIVE_WINDOW_BYTES: u32 = 1_250_000;
/// Bytes that a sender keeps unacknowledged, over all streams of a connection; quinn's default.
const SEND_WINDOW_BYTES: u64 = 10_000_000;
/// Streams that the peer may have open, of each kind; quinn's default.
const STREAMS: u32 = 100;
/// Long enough that an idle connection survives the memory workload.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Asked of the kernel for each direction of each socket; it grants what its limit allows.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Room for the largest packet plus what quinn-proto asks for at least.
const MIN_UDP_PAYLOAD_BYTES: u16 = 1_472;

/// What a peer is configured with.
#[derive(Clone)]
pub struct Settings {
    /// UDP payload of a full packet; there is no search for larger ones.
    pub packet_size: u16,
    provider_name: String,
    provider: Arc<CryptoProvider>,
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Settings {
    /// Settings with the certificate and key in `identity`, which are made on first use.
    pub fn load(identity: &Path, provider: &str, packet_size: u16) -> Result<Self> {
        let (certificate, key) = load_identity(identity)
            .with_context(|| format!("certificate and key in {}", identity.display()))?;
        Ok(Self {
            packet_size,
            provider_name: provider.into(),
            provider: Arc::new(match provider {
                "aws-lc-rs" => rustls::crypto::aws_lc_rs::default_provider(),
                #[cfg(feature = "ring")]
                "ring" => rustls::crypto::ring::default_provider(),
                other => bail!("provider {other:?} is not built in"),
            }),
            certificate,
            key: Arc::new(key),
        })
    }

    /// The same settings for a reader, as the peer will really use them.
    pub fn describe(&self) -> Value {
        json!({
            "tls": format!("rustls, {}", self.provider_name),
            "certificate": "ECDSA P-256, self-signed, verified by the client",
            "resumption": "off",
            "packet_size": self.packet_size,
            "mtu_discovery": "off",
            "stream_receive_window": STREAM_RECEIVE_WINDOW_BYTES,
            "receive_window": "unlimited",
            "send_window": SEND_WINDOW_BYTES,
            "max_concurrent_streams": STREAMS,
            "congestion_control": "cubic",
            "ack_frequency": "off",
            "segmentation_offload": "on",
            "socket_buffer_asked": SOCKET_BUFFER_BYTES,
        })
    }

    /// The largest UDP payload that the endpoint has to be able to receive.
    pub fn max_udp_payload_size(&self) -> u16 {
        self.packet_size.max(MIN_UDP_PAYLOAD_BYTES)
    }

    /// The settings of a connection.
    pub fn transport(&self) -> Arc<TransportConfig> {
        let mut transport = TransportConfig::default();
        transport
            .initial_mtu(self.packet_size)
            // Probes would cost packets and CPU, and end at a size that depends on the stack.
            .mtu_discovery_config(None)
            .stream_receive_window(STREAM_RECEIVE_WINDOW_BYTES.into())
            .receive_window(VarInt::MAX)
            .send_window(SEND_WINDOW_BYTES)
            .max_concurrent_bidi_streams(STREAMS.into())
            .max_concurrent_uni_streams(STREAMS.into())
            .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("fits in a varint")))
            .keep_alive_interval(None)
            .ack_frequency_config(None)
            .congestion_controller_factory(Arc::new(congestion::CubicConfig::default()))
            .enable_segmentation_offload(true);
        Arc::new(transport)
    }

    /// A complete server configuration.
    pub fn server_config(&self) -> Result<quinn_proto::ServerConfig> {
        let mut tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        tls.alpn_protocols = vec![b"bench".to_vec()];
        let mut config =
            quinn_proto::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        config.transport_config(self.transport());
        Ok(config)
    }

    /// A complete client configuration.
    pub fn client_config(&self) -> Result<quinn_proto::ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let mut tls = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"bench".to_vec()];
        // Every handshake is a full one, and no session cache grows with their number.
        tls.resumption = Resumption::disabled();
        let mut config = quinn_proto::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(self.transport());
        Ok(config)
    }

    /// A socket with the buffers that every stack gets.
    pub fn socket(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::DGRAM,
            Some(socket2::Protocol::UDP),
        )?;
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.bind(&address.into())?;
        Ok(socket.into())
    }
}

/// The certificate and key in `directory`, made if there are none.
fn load_identity(directory: &Path) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let certificate_file = directory.join("certificate.der");
    let key_file = directory.join("key.der");
    if !certificate_file.exists() || !key_file.exists() {
        // P-256 is what rcgen makes unless told otherwise, and what most servers use.
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        fs::create_dir_all(directory)?;
        fs::write(&key_file, made.signing_key.serialize_der())?;
        // Last, because its presence tells the other process that both files are complete.
        let partial = directory.join("certificate.der.partial");
        fs::write(&partial, made.cert.der())?;
        fs::rename(partial, &certificate_file)?;
    }
    let key = PrivatePkcs8KeyDer::from(fs::read(key_file)?);
    Ok((fs::read(certificate_file)?.into(), key.into()))
}
