//! Everything that both sides of a comparison have to agree on.
//!
//! Defaults differ between stacks and between their releases, so nothing that matters is left to
//! them. TLS and sockets are made here for all; the transport's settings are constants here, which
//! [`impl_quinn_names`](crate::impl_quinn_names) applies for the stacks with quinn's names.

use std::{
    fs, io,
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustls::{
    RootCertStore,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};

/// Bytes that one stream's receiver lets the peer be ahead; quinn's default.
pub const STREAM_RECEIVE_WINDOW_BYTES: u32 = 1_250_000;
/// Bytes that a sender keeps unacknowledged, over all streams of a connection; quinn's default.
pub const SEND_WINDOW_BYTES: u64 = 10_000_000;
/// Streams that the peer may have open, of each kind; quinn's default.
pub const STREAMS: u32 = 100;
/// Long enough that an idle connection survives the memory workload.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes that a quinn-proto connection may have under way at first.
const DEFAULT_INITIAL_WINDOW_BYTES: u64 = 12_000;
/// What one send can hold, with segmentation offload or without.
const MAX_SEND_BYTES: usize = 65_507;
/// Asked of the kernel for each direction of each socket; it grants what its limit allows.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Room for the largest packet plus what quinn-proto asks for at least.
const MIN_UDP_PAYLOAD_BYTES: u16 = 1_472;

/// The provider's name that stands for comparing stacks as they come: cryptography by aws-lc-rs on
/// all of them, but cipher suites, path MTU discovery, windows and limits as each has them.
pub const OWN_DEFAULTS: &str = "own-defaults";

/// What a peer is configured with.
#[derive(Clone)]
pub struct Settings {
    /// UDP payload of a full packet; there is no search for larger ones.
    pub packet_size: u16,
    /// Whether each stack keeps its own transport settings and cipher suites, see [`OWN_DEFAULTS`].
    pub own_defaults: bool,
    provider_name: String,
    provider: Option<Arc<CryptoProvider>>,
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
            own_defaults: provider == OWN_DEFAULTS,
            provider_name: provider.into(),
            provider: match provider {
                "aws-lc-rs" => Some(rustls::crypto::aws_lc_rs::default_provider().into()),
                #[cfg(feature = "ring")]
                "ring" => Some(rustls::crypto::ring::default_provider().into()),
                OWN_DEFAULTS => None,
                other => bail!("provider {other:?} is not built in"),
            },
            certificate,
            key: Arc::new(key),
        })
    }

    /// The same settings for a reader, as the peer will really use them.
    pub fn describe(&self) -> Value {
        if self.own_defaults {
            return json!({
                "tls": "rustls with aws-lc-rs, cipher suites in each stack's own order",
                "certificate": "ECDSA P-256, self-signed, verified by the client",
                "resumption": "off",
                "packet_size": "1200 at first, up to 1452 by path MTU discovery",
                "transport": "each stack's own defaults",
                "socket_buffers": self.describe_buffers(),
            });
        }
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
            "initial_window": self.initial_window().unwrap_or(DEFAULT_INITIAL_WINDOW_BYTES),
            "segmentation_offload": if self.segmentation_offload() { "on" } else { "off" },
            "socket_buffers": self.describe_buffers(),
        })
    }

    /// What was asked of the kernel and what it gives, which depends on its limits.
    fn describe_buffers(&self) -> String {
        let granted = self
            .socket(SocketAddr::from(([127, 0, 0, 1], 0)))
            .and_then(|socket| {
                let socket = socket2::SockRef::from(&socket);
                Ok((socket.recv_buffer_size()?, socket.send_buffer_size()?))
            });
        match granted {
            // Linux reports twice what it granted, the other half being its own.
            Ok((receive, send)) => {
                format!("{SOCKET_BUFFER_BYTES} asked, kernel reports {receive} and {send}")
            }
            Err(error) => error.to_string(),
        }
    }

    /// The largest UDP payload that the endpoint has to be able to receive.
    pub fn max_udp_payload_size(&self) -> u16 {
        self.packet_size.max(MIN_UDP_PAYLOAD_BYTES)
    }

    /// Bytes that may be under way at first, where that must differ from the default.
    ///
    /// quinn-proto's default is 12,000 whatever the packets' size, and it never sends a packet that
    /// is larger than the window; RFC 9002 (section 7.2) has room for two.
    pub fn initial_window(&self) -> Option<u64> {
        let two = 2 * u64::from(self.packet_size);
        (two > DEFAULT_INITIAL_WINDOW_BYTES).then_some(two)
    }

    /// Whether more than one packet can go into one send at all. Where not, quinn would try, and
    /// the kernel refuse.
    pub fn segmentation_offload(&self) -> bool {
        2 * usize::from(self.packet_size) <= MAX_SEND_BYTES
    }

    /// TLS for a server; `own` is what the stack takes when it is left its own defaults.
    pub fn server_tls(&self, own: Arc<CryptoProvider>) -> Result<rustls::ServerConfig> {
        let provider = self.provider.clone().unwrap_or(own);
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        tls.alpn_protocols = vec![b"bench".to_vec()];
        Ok(tls)
    }

    /// TLS for a client; `own` is what the stack takes when it is left its own defaults.
    pub fn client_tls(&self, own: Arc<CryptoProvider>) -> Result<rustls::ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let provider = self.provider.clone().unwrap_or(own);
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"bench".to_vec()];
        // Every handshake is a full one, and no session cache grows with their number.
        tls.resumption = Resumption::disabled();
        Ok(tls)
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
