//! tokio-quiche on tokio's current-thread runtime.

#![forbid(unsafe_code)]

mod connection;

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use boring::{
    ssl::{SslContextBuilder, SslMethod},
    x509::X509,
};
use polyquic_bench::{
    peer::{self, Peer},
    settings::{IDLE_TIMEOUT, STREAM_RECEIVE_WINDOW_BYTES, STREAMS, Settings},
    stack::{self, Stack, Value},
};
use tokio::{
    net::UdpSocket,
    sync::{Mutex, mpsc},
};
use tokio_quiche::{
    ConnectionParams, InitialQuicConnection, listen,
    metrics::DefaultMetrics,
    quic::{ConnectionHook, connect_with_config},
    settings::{CertificateKind, Hooks, QuicSettings, TlsCertificatePaths},
    socket::Socket,
};

use connection::{Application, Connection, Shared};

/// More than all streams together may use.
const CONNECTION_WINDOW_BYTES: u64 = 1 << 30;

fn main() -> ExitCode {
    peer::main(&[("tokio-quiche", current_thread)])
}

fn current_thread(peer: Peer) -> Result<()> {
    ensure!(
        peer.options.provider != "ring",
        "quiche is built with BoringSSL"
    );
    let files = PemFiles::write(&peer.options.identity)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(peer.run(TokioQuiche {
        files: Arc::new(files),
    }))
}

/// Certificate and key in files that BoringSSL reads.
struct PemFiles {
    certificate: String,
    key: String,
}

impl PemFiles {
    /// Both processes write the same, and each puts whole files into place.
    fn write(identity: &Path) -> Result<Self> {
        let convert = |name: &str, tag: &str| {
            let der = fs::read(identity.join(name).with_extension("der"))?;
            let file = identity.join(name).with_extension("pem");
            let partial = identity.join(format!("{name}.{}", process::id()));
            fs::write(&partial, pem::encode(&pem::Pem::new(tag, der)))?;
            fs::rename(partial, &file)?;
            let file = file.into_os_string().into_string();
            file.map_err(|_| anyhow!("a path that is not UTF-8"))
        };
        Ok(Self {
            certificate: convert("certificate", "CERTIFICATE")?,
            key: convert("key", "PRIVATE KEY")?,
        })
    }

    fn paths(&self) -> TlsCertificatePaths<'_> {
        TlsCertificatePaths {
            cert: &self.certificate,
            private_key: &self.key,
            kind: CertificateKind::X509,
        }
    }
}

/// Lets the client trust the server's certificate and nothing else, for which there is no setting.
struct Trust;

impl ConnectionHook for Trust {
    fn create_custom_ssl_context_builder(
        &self,
        files: TlsCertificatePaths<'_>,
    ) -> Option<SslContextBuilder> {
        let make = || -> Result<SslContextBuilder> {
            let mut builder = SslContextBuilder::new(SslMethod::tls())?;
            let certificate = X509::from_pem(&fs::read(files.cert)?)?;
            builder.cert_store_mut().add_cert(certificate)?;
            Ok(builder)
        };
        // Without it, no certificate is trusted, and the handshake fails.
        make().ok()
    }
}

#[derive(Clone)]
struct TokioQuiche {
    files: Arc<PemFiles>,
}

impl Stack for TokioQuiche {
    type Endpoint = Endpoint;

    const DIFFERS_BY: &'static str = "TLS and AEAD by BoringSSL, which prefers AES-128-GCM; a \
        client has a socket for each connection, since it cannot share one; streams are queues \
        between the program and the worker's callbacks, and received data is copied once; the \
        send buffer is limited per stream (1,250,000); the connection's window is 1 GiB; HyStart \
        is on, as by default";

    fn correct(&self, settings: &Settings, described: &mut Value) {
        described["keep_alive"] = "none, it has no setting for that".into();
        if settings.own_defaults {
            described["tls"] = "BoringSSL, cipher suites in its own order".into();
            described["packet_size"] = "its own default, without path MTU discovery".into();
            return;
        }
        described["tls"] = "BoringSSL, AES-128-GCM first".into();
        described["receive_window"] = CONNECTION_WINDOW_BYTES.into();
        described["send_window"] = format!("{STREAM_RECEIVE_WINDOW_BYTES} per stream").into();
        described["datagram_buffers"] = "no datagrams here".into();
        described["congestion_control"] = "cubic, with HyStart".into();
        described["initial_window"] = "its own".into();
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn server(&self, settings: &Settings, listening: SocketAddr) -> Result<Endpoint> {
        let socket = settings.socket(listening)?;
        let address = socket.local_addr()?;
        let params = ConnectionParams::new_server(
            quic_settings(settings, false)?,
            self.files.paths(),
            Hooks::default(),
        );
        let mut listeners = listen([socket], params, DefaultMetrics)?;
        let accepted = listeners.pop().context("no listener")?;
        Ok(Endpoint::Server {
            address,
            accepted: Arc::new(Mutex::new(accepted.into_inner())),
        })
    }

    fn client(&self, settings: &Settings) -> Result<Endpoint> {
        ensure!(
            settings.keep_alive.is_none(),
            "tokio-quiche has no setting for keep-alives"
        );
        Ok(Endpoint::Client {
            settings: Arc::new(settings.clone()),
            files: self.files.clone(),
        })
    }
}

fn quic_settings(settings: &Settings, verify_peer: bool) -> Result<QuicSettings> {
    let mut quic = QuicSettings::default();
    quic.alpn = vec![b"bench".to_vec()];
    quic.verify_peer = verify_peer;
    // No other stack asks for a Retry.
    quic.disable_client_ip_validation = true;
    if settings.own_defaults {
        return Ok(quic);
    }
    let window = STREAM_RECEIVE_WINDOW_BYTES.into();
    quic.enable_dgram = false;
    quic.initial_max_data = CONNECTION_WINDOW_BYTES;
    quic.max_connection_window = CONNECTION_WINDOW_BYTES;
    quic.initial_max_stream_data_bidi_local = window;
    quic.initial_max_stream_data_bidi_remote = window;
    quic.initial_max_stream_data_uni = window;
    quic.max_stream_window = window;
    quic.initial_max_streams_bidi = STREAMS.into();
    quic.initial_max_streams_uni = STREAMS.into();
    quic.max_idle_timeout = Some(IDLE_TIMEOUT);
    quic.max_recv_udp_payload_size = settings.max_udp_payload_size().into();
    quic.max_send_udp_payload_size = settings.packet_size.into();
    quic.discover_path_mtu = false;
    quic.cc_algorithm = "cubic".into();
    Ok(quic)
}

#[derive(Clone)]
enum Endpoint {
    Server {
        address: SocketAddr,
        /// Only the task that accepts ever locks it.
        accepted: Arc<Mutex<mpsc::Receiver<std::io::Result<Handshake>>>>,
    },
    Client {
        settings: Arc<Settings>,
        files: Arc<PemFiles>,
    },
}

type Handshake = InitialQuicConnection<UdpSocket, DefaultMetrics>;

impl stack::Endpoint for Endpoint {
    type Incoming = Handshake;
    type Connection = Connection;

    fn local_addr(&self) -> Result<SocketAddr> {
        match self {
            Self::Server { address, .. } => Ok(*address),
            Self::Client { .. } => bail!("a client has an address for each connection"),
        }
    }

    async fn accept(&self) -> Option<Handshake> {
        let Self::Server { accepted, .. } = self else {
            return None;
        };
        let mut accepted = accepted.lock().await;
        loop {
            // An error is about one packet, not about the listener.
            if let Ok(incoming) = accepted.recv().await? {
                return Some(incoming);
            }
        }
    }

    async fn handshake(incoming: Handshake) -> Result<Connection> {
        let shared = Arc::new(Shared::default());
        incoming.start(Application(shared.clone()));
        Connection::established(shared, true).await
    }

    async fn connect(&self, server: SocketAddr) -> Result<Connection> {
        let Self::Client { settings, files } = self else {
            bail!("a server does not connect");
        };
        let socket = settings.socket("127.0.0.1:0".parse()?)?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.connect(server).await?;
        let mut socket = Socket::try_from(socket)?;
        socket.apply_max_capabilities();
        let params = ConnectionParams::new_client(
            quic_settings(settings, true)?,
            Some(files.paths()),
            Hooks {
                connection_hook: Some(Arc::new(Trust)),
            },
        );
        let shared = Arc::new(Shared::default());
        let application = Application(shared.clone());
        connect_with_config(socket, Some("localhost"), &params, application)
            .await
            .map_err(|error| anyhow!("{error}"))?;
        Connection::established(shared, false).await
    }
}
