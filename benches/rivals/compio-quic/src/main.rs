//! compio-quic, which drives quinn-proto, on compio's runtime and io_uring.
//!
//! Nothing of it is `Send`, and the workloads ask for that, since most executors do. All of it
//! stays on one thread, and a wrapper that checks so on every use makes up the difference.

#![forbid(unsafe_code)]

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use compio::{
    buf::BufResult,
    driver::DriverType,
    net::UdpSocket,
    runtime::{self, Runtime},
    time,
};
use compio_quic::{
    ClientConfig, EndpointConfig, ServerConfig, TransportConfig, VarInt,
    congestion::CubicConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use polyquic_bench::{
    peer::{self, Peer},
    settings::{
        DATAGRAM_RECEIVE_BUFFER_BYTES, DATAGRAM_SEND_BUFFER_BYTES, IDLE_TIMEOUT, SEND_WINDOW_BYTES,
        STREAM_RECEIVE_WINDOW_BYTES, STREAMS, Settings,
    },
    stack::{self, BoxFuture, Stack},
    tickets::Tickets,
};
use rustls::crypto::CryptoProvider;
use send_wrapper::SendWrapper;

/// So often, in writes, a connection is asked for the size of its packets.
const WRITES_PER_LOOK: u32 = 64;

fn main() -> ExitCode {
    peer::main(&[("compio-quic", io_uring)])
}

fn io_uring(peer: Peer) -> Result<()> {
    let runtime = Runtime::new()?;
    ensure!(
        runtime.driver_type() == DriverType::IoUring,
        "compio chose {:?} as its driver",
        runtime.driver_type()
    );
    runtime.block_on(peer.run(Compio))
}

/// A future that stays on this thread, for those who want one that could leave it.
fn local<F: Future>(future: F) -> SendWrapper<F> {
    SendWrapper::new(future)
}

#[derive(Clone)]
struct Compio;

impl Stack for Compio {
    type Endpoint = Endpoint;

    const DIFFERS_BY: &'static str = "io_uring, one receive and one send at a time; borrowed \
        data is copied by the program, as the API takes owned buffers only; whole streams are \
        read unordered, as its read_to_end does";

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        runtime::spawn(task).detach();
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        local(time::sleep(duration))
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<Endpoint> {
        let tls = QuicServerConfig::try_from(settings.server_tls(own_provider())?)?;
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        config.transport_config(transport_config(settings, None)?);
        endpoint(settings, listen, Some(config), None)
    }

    fn client(&self, settings: &Settings) -> Result<Endpoint> {
        let tls = QuicClientConfig::try_from(settings.client_tls(own_provider())?)?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(transport_config(settings, settings.keep_alive)?);
        endpoint(settings, "127.0.0.1:0".parse()?, None, Some(config))
    }
}

fn endpoint(
    settings: &Settings,
    address: SocketAddr,
    server: Option<ServerConfig>,
    client: Option<ClientConfig>,
) -> Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(settings.max_udp_payload_size())?;
    let socket = UdpSocket::from_std(settings.socket(address)?)?;
    let endpoint = compio_quic::Endpoint::new(socket, config, server, client)?;
    Ok(Endpoint(SendWrapper::new(endpoint)))
}

fn transport_config(
    settings: &Settings,
    keep_alive: Option<Duration>,
) -> Result<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(keep_alive);
    if !settings.own_defaults {
        let mut cubic = CubicConfig::default();
        if let Some(bytes) = settings.initial_window() {
            cubic.initial_window(bytes);
        }
        transport
            .initial_mtu(settings.packet_size)
            .mtu_discovery_config(None)
            .stream_receive_window(STREAM_RECEIVE_WINDOW_BYTES.into())
            .receive_window(VarInt::MAX)
            .send_window(SEND_WINDOW_BYTES)
            .max_concurrent_bidi_streams(STREAMS.into())
            .max_concurrent_uni_streams(STREAMS.into())
            .max_idle_timeout(Some(IDLE_TIMEOUT.try_into()?))
            .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER_BYTES))
            .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER_BYTES)
            .ack_frequency_config(None)
            .congestion_controller_factory(Arc::new(cubic))
            .enable_segmentation_offload(settings.segmentation_offload());
    }
    Ok(Arc::new(transport))
}

/// The cryptography that quinn-proto takes when it is built with aws-lc-rs.
fn own_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[derive(Clone)]
struct Endpoint(SendWrapper<compio_quic::Endpoint>);

impl stack::Endpoint for Endpoint {
    type Incoming = SendWrapper<compio_quic::Incoming>;
    type Connection = Connection;

    fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    fn accept(&self) -> impl Future<Output = Option<Self::Incoming>> + Send {
        local(async { self.0.wait_incoming().await.map(SendWrapper::new) })
    }

    fn handshake(incoming: Self::Incoming) -> impl Future<Output = Result<Connection>> + Send {
        local(async { Ok(Connection::new(incoming.take().await?)) })
    }

    fn connect(&self, server: SocketAddr) -> impl Future<Output = Result<Connection>> + Send {
        local(async move {
            let connecting = self.0.connect(server, "localhost", None)?;
            Ok(Connection::new(connecting.await?))
        })
    }

    async fn ticket(&self, tickets: &Tickets) -> Result<()> {
        tickets.reserve().await;
        Ok(())
    }

    fn connect_early(
        &self,
        server: SocketAddr,
    ) -> impl Future<Output = Result<(Connection, BoxFuture<'static, bool>)>> + Send {
        local(async move {
            let connecting = self.0.connect(server, "localhost", None)?;
            let Ok(connection) = connecting.into_0rtt() else {
                bail!("a connection without a ticket that permits 0-RTT");
            };
            let waiting = connection.clone();
            // An error ends the workload elsewhere.
            let accepted = local(async move { waiting.accepted_0rtt().await.unwrap_or(false) });
            let accepted: BoxFuture<'static, bool> = Box::pin(accepted);
            Ok((Connection::new(connection), accepted))
        })
    }

    async fn handshake_early(incoming: Self::Incoming) -> Result<Connection> {
        let Ok(connection) = incoming.take().accept()?.into_0rtt() else {
            bail!("a server that cannot use a connection early");
        };
        Ok(Connection::new(connection))
    }
}

#[derive(Clone)]
struct Connection {
    inner: SendWrapper<compio_quic::Connection>,
    /// Zero before the first look. Whoever wants to know it is on another thread.
    packet_size: Arc<AtomicU64>,
}

impl Connection {
    fn new(inner: compio_quic::Connection) -> Self {
        Self {
            inner: SendWrapper::new(inner),
            packet_size: Arc::default(),
        }
    }

    fn halves(
        &self,
        (send, recv): (compio_quic::SendStream, compio_quic::RecvStream),
    ) -> (SendStream, RecvStream) {
        let send = SendStream {
            inner: SendWrapper::new(send),
            connection: self.clone(),
            writes: 0,
        };
        (send, RecvStream(SendWrapper::new(recv)))
    }

    fn look_at_packet_size(&self) {
        let size = self.inner.stats().path.current_mtu;
        self.packet_size.store(size.into(), Ordering::Relaxed);
    }
}

impl stack::Connection for Connection {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    const TELLS_PACKET_SIZE: bool = true;
    const COUNTS_PACKETS: bool = true;

    fn open_bi(&self) -> impl Future<Output = Result<(SendStream, RecvStream)>> + Send {
        local(async { Ok(self.halves(self.inner.open_bi_wait().await?)) })
    }

    fn accept_bi(&self) -> impl Future<Output = Result<(SendStream, RecvStream)>> + Send {
        local(async { Ok(self.halves(self.inner.accept_bi().await?)) })
    }

    fn close(&self) {
        self.inner.close(0u32.into(), &[]);
    }

    fn closed(&self) -> impl Future<Output = ()> + Send {
        local(async {
            self.inner.closed().await;
        })
    }

    fn send_datagram(&self, data: Bytes) -> impl Future<Output = Result<()>> + Send {
        // Once, as a look at each would cost some.
        if self.packet_size.load(Ordering::Relaxed) == 0 {
            self.look_at_packet_size();
        }
        local(async { Ok(self.inner.send_datagram_wait(data).await?) })
    }

    fn read_datagram(&self) -> impl Future<Output = Result<Bytes>> + Send {
        local(async { Ok(self.inner.recv_datagram().await?) })
    }

    fn packet_size(&self) -> Option<u64> {
        let size = self.packet_size.load(Ordering::Relaxed);
        (size > 0).then_some(size)
    }

    fn packets_sent(&self) -> Option<u64> {
        Some(self.inner.stats().udp_tx.datagrams)
    }
}

struct SendStream {
    inner: SendWrapper<compio_quic::SendStream>,
    connection: Connection,
    writes: u32,
}

impl stack::SendStream for SendStream {
    fn write_chunk(&mut self, chunk: Bytes) -> impl Future<Output = Result<()>> + Send {
        if self.writes.is_multiple_of(WRITES_PER_LOOK) {
            self.connection.look_at_packet_size();
        }
        self.writes = self.writes.wrapping_add(1);
        local(async { Ok(self.inner.write_all_chunks(&mut [chunk]).await?) })
    }

    fn write_all(&mut self, data: &[u8]) -> impl Future<Output = Result<()>> + Send {
        self.write_chunk(Bytes::copy_from_slice(data))
    }

    fn finish(&mut self) -> Result<()> {
        Ok(self.inner.finish()?)
    }
}

struct RecvStream(SendWrapper<compio_quic::RecvStream>);

impl stack::RecvStream for RecvStream {
    fn read_chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>>> + Send {
        local(async {
            let chunk = self.0.read_chunk(usize::MAX, true).await?;
            Ok(chunk.map(|chunk| chunk.bytes))
        })
    }

    fn read_to_end(&mut self, limit_bytes: usize) -> impl Future<Output = Result<Vec<u8>>> + Send {
        local(async move {
            let buffer = Vec::with_capacity(limit_bytes);
            let BufResult(result, data) = self.0.read_to_end(buffer).await;
            result?;
            ensure!(data.len() <= limit_bytes, "more than asked for");
            Ok(data)
        })
    }

    fn stop(&mut self) {
        // An error says that the stream has ended already, which is what was wanted.
        let _ = self.0.stop(0u32.into());
    }
}
