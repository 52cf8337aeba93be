//! Everything that both sides of a comparison have to agree on.
//!
//! Defaults differ between stacks and between their releases, so nothing that matters is left to
//! them. TLS and sockets are made here for all; the transport's settings are constants here, which
//! [`impl_quinn_names`](crate::impl_quinn_names) applies for the stacks with quinn's names.

use std::{
    fs, io,
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustls::{
    NamedGroup, RootCertStore,
    client::{Resumption, Tls12Resumption, WebPkiServerVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};

use crate::{
    tickets::{CountingVerifier, Tickets},
    workload::Workload,
};

/// Bytes that one stream's receiver lets the peer be ahead; quinn's default.
pub const STREAM_RECEIVE_WINDOW_BYTES: u32 = 1_250_000;
/// Bytes that a sender keeps unacknowledged, over all streams of a connection; quinn's default.
pub const SEND_WINDOW_BYTES: u64 = 10_000_000;
/// Streams that the peer may have open, of each kind; quinn's default.
pub const STREAMS: u32 = 100;
/// Long enough that an idle connection survives the memory workload.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// What a client with idle connections sends something for, so often.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Bytes of datagrams that wait for the application before the oldest is dropped; quinn's default.
pub const DATAGRAM_RECEIVE_BUFFER_BYTES: usize = 1_250_000;
/// Bytes of datagrams that wait for the network before the sender has to; quinn's default.
pub const DATAGRAM_SEND_BUFFER_BYTES: usize = 1 << 20;
/// Tickets that a server sends on each connection of the workloads that resume; rustls's default.
const TICKETS_PER_CONNECTION: usize = 2;
/// quinn-proto's default.
const SMALLEST_INITIAL_WINDOW: u64 = 12_000;
/// The largest UDP payload that IPv4 has: 65,535 less its header and that of UDP. Loopback takes
/// it in one piece.
pub const MAX_PACKET_BYTES: u16 = 65_507;
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
    /// What a client has to send keep-alives at, if it has to; servers send none.
    pub keep_alive: Option<Duration>,
    /// Whether sessions are resumed.
    pub resumption: bool,
    /// Whether 0-RTT is offered and accepted.
    pub early_data: bool,
    provider_name: String,
    provider: Option<Arc<CryptoProvider>>,
    rsa: bool,
    tickets: Arc<Tickets>,
    full_handshakes: Arc<AtomicU64>,
    certificate: CertificateDer<'static>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Settings {
    /// Whether the server's key takes milliseconds to sign with.
    pub fn has_rsa_key(&self) -> bool {
        self.rsa
    }

    /// Settings for `workload` with the certificate and key in `identity`, which are made on
    /// first use.
    pub fn load(
        identity: &Path,
        provider: &str,
        packet_size: u16,
        workload: Workload,
    ) -> Result<Self> {
        let rsa = matches!(workload, Workload::Storm { rsa: true, .. });
        let identity = if rsa {
            &identity.join("rsa-4096")
        } else {
            identity
        };
        let (certificate, key) = load_identity(identity, rsa)
            .with_context(|| format!("certificate and key in {}", identity.display()))?;
        Ok(Self {
            packet_size,
            own_defaults: provider == OWN_DEFAULTS,
            keep_alive: matches!(workload, Workload::Idle { .. }).then_some(KEEP_ALIVE),
            resumption: matches!(
                workload,
                Workload::Resumed { .. } | Workload::ZeroRtt { .. }
            ),
            early_data: matches!(workload, Workload::ZeroRtt { .. }),
            provider_name: provider.into(),
            provider: match provider {
                "aws-lc-rs" => Some(alike(rustls::crypto::aws_lc_rs::default_provider())),
                #[cfg(feature = "ring")]
                "ring" => Some(alike(rustls::crypto::ring::default_provider())),
                OWN_DEFAULTS => None,
                other => bail!("provider {other:?} is not built in"),
            },
            rsa,
            tickets: Arc::default(),
            full_handshakes: Arc::default(),
            certificate,
            key: Arc::new(key),
        })
    }

    /// Where the clients made with [`client_tls`](Self::client_tls) keep their session tickets.
    pub fn tickets(&self) -> &Arc<Tickets> {
        &self.tickets
    }

    /// How many full handshakes those clients have made: how often they looked at a certificate.
    pub fn full_handshakes(&self) -> u64 {
        self.full_handshakes.load(Ordering::Relaxed)
    }

    /// The same settings for a reader, as the peer will really use them.
    pub fn describe(&self) -> Value {
        let certificate = format!(
            "{}, self-signed, verified by the client",
            if self.rsa { "RSA-4096" } else { "ECDSA P-256" },
        );
        let resumption = match (self.resumption, self.early_data) {
            (false, _) => "off".to_owned(),
            (true, false) => {
                format!("sessions that the server remembers, {TICKETS_PER_CONNECTION} tickets each")
            }
            (true, true) => format!(
                "sessions that the server remembers, {TICKETS_PER_CONNECTION} tickets each, 0-RTT"
            ),
        };
        let keep_alive = self.keep_alive.map_or_else(
            || "off".to_owned(),
            |interval| format!("every {} s, by the client", interval.as_secs_f64()),
        );
        if self.own_defaults {
            return json!({
                "tls": "rustls with aws-lc-rs, cipher suites in each stack's own order",
                "certificate": certificate,
                "resumption": resumption,
                "keep_alive": keep_alive,
                "packet_size": "1200 at first, up to 1452 by path MTU discovery",
                "transport": "each stack's own defaults",
                "socket_buffers": self.describe_buffers(),
            });
        }
        json!({
            "tls": format!("rustls, {}", self.provider_name),
            "key_exchange": self.provider.as_ref().and_then(|provider| {
                Some(format!("{:?}", provider.kx_groups.first()?.name()))
            }),
            "certificate": certificate,
            "resumption": resumption,
            "keep_alive": keep_alive,
            "packet_size": self.packet_size,
            "mtu_discovery": "off",
            "stream_receive_window": STREAM_RECEIVE_WINDOW_BYTES,
            "receive_window": "unlimited",
            "send_window": SEND_WINDOW_BYTES,
            "max_concurrent_streams": STREAMS,
            "datagram_buffers": format!(
                "{DATAGRAM_SEND_BUFFER_BYTES} to send, {DATAGRAM_RECEIVE_BUFFER_BYTES} received"
            ),
            "congestion_control": "cubic",
            "initial_window": self.initial_window().map_or_else(
                || "each stack's own".into(),
                |bytes| json!(bytes),
            ),
            "ack_frequency": "off",
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

    /// Bytes that may be in flight at first, if it has to be said: for packets so large that two do
    /// not fit into what stacks have by default, which would let them send nothing at all. The
    /// value is that of RFC 9002, section 7.2.
    pub fn initial_window(&self) -> Option<u64> {
        let two_packets = 2 * u64::from(self.packet_size);
        (two_packets > SMALLEST_INITIAL_WINDOW).then_some(two_packets)
    }

    /// Whether more than one packet can go into one send at all. Where not, quinn would try, and
    /// the kernel refuse.
    pub fn segmentation_offload(&self) -> bool {
        2 * u32::from(self.packet_size) <= u32::from(MAX_PACKET_BYTES)
    }

    /// TLS for a server; `own` is what the stack takes when it is left its own defaults.
    pub fn server_tls(&self, own: Arc<CryptoProvider>) -> Result<rustls::ServerConfig> {
        let provider = self.provider.clone().unwrap_or(own);
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        tls.alpn_protocols = vec![b"bench".to_vec()];
        tls.send_tls13_tickets = TICKETS_PER_CONNECTION;
        if self.early_data {
            // QUIC knows this value and zero (RFC 9001, 4.6.1).
            tls.max_early_data_size = u32::MAX;
        }
        Ok(tls)
    }

    /// TLS for a client; `own` is what the stack takes when it is left its own defaults.
    pub fn client_tls(&self, own: Arc<CryptoProvider>) -> Result<rustls::ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let provider = self.provider.clone().unwrap_or(own);
        let verifier = CountingVerifier {
            inner: WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
                .build()?,
            count: self.full_handshakes.clone(),
        };
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            // Dangerous is only what it can be used for: this one asks the ordinary verifier.
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"bench".to_vec()];
        tls.resumption = if self.resumption {
            Resumption::store(self.tickets.clone()).tls12_resumption(Tls12Resumption::Disabled)
        } else {
            // Every handshake is a full one, and no session cache grows with their number.
            Resumption::disabled()
        };
        tls.enable_early_data = self.early_data;
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

/// The same order of key exchanges for all. Which one rustls prefers is a feature of its
/// (`prefer-post-quantum`) that some stacks turn on for the whole program, and it makes a fifth of a
/// handshake.
fn alike(mut provider: CryptoProvider) -> Arc<CryptoProvider> {
    // Stable: the others keep their order.
    provider
        .kx_groups
        .sort_by_key(|group| group.name() != NamedGroup::X25519MLKEM768);
    Arc::new(provider)
}

/// The certificate and key in `directory`, made if there are none.
fn load_identity(
    directory: &Path,
    rsa: bool,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let certificate_file = directory.join("certificate.der");
    let key_file = directory.join("key.der");
    if !certificate_file.exists() || !key_file.exists() {
        let key = if rsa {
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_4096)?
        } else {
            // What most servers use.
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?
        };
        let certificate =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        fs::create_dir_all(directory)?;
        fs::write(&key_file, key.serialize_der())?;
        // Last, because its presence tells the other process that both files are complete.
        let partial = directory.join("certificate.der.partial");
        fs::write(&partial, certificate.der())?;
        fs::rename(partial, &certificate_file)?;
    }
    let key = PrivatePkcs8KeyDer::from(fs::read(key_file)?);
    Ok((fs::read(certificate_file)?.into(), key.into()))
}
