//! noq, a fork of quinn, on tokio's current-thread runtime.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use bytes::Bytes;
use noq::{
    ClientConfig, EndpointConfig, PathId, ServerConfig, TransportConfig, VarInt,
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

fn main() -> ExitCode {
    peer::main(&[("noq-tokio", current_thread)])
}

fn current_thread(peer: Peer) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(peer.run(Noq))
}

#[derive(Clone)]
struct Noq;

impl Stack for Noq {
    type Endpoint = Endpoint;

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<Endpoint> {
        let tls = QuicServerConfig::try_from(settings.server_tls(own_provider())?)?;
        let mut config = ServerConfig::with_crypto(Arc::new(tls));
        config.transport_config(transport_config(settings, None)?);
        endpoint(settings, listen, Some(config))
    }

    fn client(&self, settings: &Settings) -> Result<Endpoint> {
        let tls = QuicClientConfig::try_from(settings.client_tls(own_provider())?)?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(transport_config(settings, settings.keep_alive)?);
        let endpoint = endpoint(settings, "127.0.0.1:0".parse()?, None)?;
        endpoint.0.set_default_client_config(config);
        Ok(endpoint)
    }
}

fn endpoint(
    settings: &Settings,
    address: SocketAddr,
    server: Option<ServerConfig>,
) -> Result<Endpoint> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(settings.max_udp_payload_size())?;
    Ok(Endpoint(noq::Endpoint::new(
        config,
        server,
        settings.socket(address)?,
        Arc::new(noq::TokioRuntime),
    )?))
}

/// Multipath, address discovery and NAT traversal are off by default, and stay so.
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

/// The cryptography that noq takes when it is built with aws-lc-rs.
fn own_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[derive(Clone)]
struct Endpoint(noq::Endpoint);

impl stack::Endpoint for Endpoint {
    type Incoming = noq::Incoming;
    type Connection = Connection;

    fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    async fn accept(&self) -> Option<noq::Incoming> {
        self.0.accept().await
    }

    async fn handshake(incoming: noq::Incoming) -> Result<Connection> {
        Ok(Connection(incoming.accept()?.await?))
    }

    async fn connect(&self, server: SocketAddr) -> Result<Connection> {
        Ok(Connection(self.0.connect(server, "localhost")?.await?))
    }

    async fn ticket(&self, tickets: &Tickets) -> Result<()> {
        tickets.reserve().await;
        Ok(())
    }

    async fn connect_early(
        &self,
        server: SocketAddr,
    ) -> Result<(Connection, BoxFuture<'static, bool>)> {
        let connecting = self.0.connect(server, "localhost")?;
        let Ok((connection, accepted)) = connecting.into_0rtt() else {
            bail!("a connection without a ticket that permits 0-RTT");
        };
        Ok((Connection(connection), Box::pin(accepted)))
    }

    async fn handshake_early(incoming: noq::Incoming) -> Result<Connection> {
        let Ok((connection, _)) = incoming.accept()?.into_0rtt() else {
            bail!("a server that cannot use a connection early");
        };
        Ok(Connection(connection))
    }
}

#[derive(Clone)]
struct Connection(noq::Connection);

impl stack::Connection for Connection {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    const TELLS_PACKET_SIZE: bool = true;
    const COUNTS_PACKETS: bool = true;

    async fn open_bi(&self) -> Result<(SendStream, RecvStream)> {
        let (send, recv) = self.0.open_bi().await?;
        Ok((SendStream(send), RecvStream(recv)))
    }

    async fn accept_bi(&self) -> Result<(SendStream, RecvStream)> {
        let (send, recv) = self.0.accept_bi().await?;
        Ok((SendStream(send), RecvStream(recv)))
    }

    fn close(&self) {
        self.0.close(0u32.into(), &[]);
    }

    async fn closed(&self) {
        self.0.closed().await;
    }

    async fn send_datagram(&self, data: Bytes) -> Result<()> {
        Ok(self.0.send_datagram_wait(data).await?)
    }

    async fn read_datagram(&self) -> Result<Bytes> {
        Ok(self.0.read_datagram().await?)
    }

    /// Of the only path, as multipath is off.
    fn packet_size(&self) -> Option<u64> {
        Some(self.0.path_stats(PathId::ZERO)?.current_mtu.into())
    }

    fn packets_sent(&self) -> Option<u64> {
        Some(self.0.stats().udp_tx.datagrams)
    }
}

struct SendStream(noq::SendStream);

impl stack::SendStream for SendStream {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<()> {
        Ok(self.0.write_chunk(chunk).await?)
    }

    async fn write_all(&mut self, data: &[u8]) -> Result<()> {
        Ok(self.0.write_all(data).await?)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(self.0.finish()?)
    }
}

struct RecvStream(noq::RecvStream);

impl stack::RecvStream for RecvStream {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.read_chunk(usize::MAX).await?)
    }

    async fn read_to_end(&mut self, limit_bytes: usize) -> Result<Vec<u8>> {
        Ok(self.0.read_to_end(limit_bytes).await?)
    }

    fn stop(&mut self) {
        // An error says that the stream has ended already, which is what was wanted.
        let _ = self.0.stop(0u32.into());
    }
}
