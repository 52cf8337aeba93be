//! compio-quic, which drives quinn-proto, on compio's runtime and io_uring.
//!
//! Nothing of it is `Send`, and the workloads ask for that, since most executors do. All of it
//! stays on one thread, and a wrapper that checks so on every use makes up the difference.

#![forbid(unsafe_code)]

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
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
    settings::{IDLE_TIMEOUT, SEND_WINDOW_BYTES, STREAM_RECEIVE_WINDOW_BYTES, STREAMS, Settings},
    stack::{self, Stack},
};
use rustls::crypto::CryptoProvider;
use send_wrapper::SendWrapper;

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
        config.transport_config(transport_config(settings)?);
        endpoint(settings, listen, Some(config), None)
    }

    fn client(&self, settings: &Settings) -> Result<Endpoint> {
        let tls = QuicClientConfig::try_from(settings.client_tls(own_provider())?)?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(transport_config(settings)?);
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

fn transport_config(settings: &Settings) -> Result<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    if !settings.own_defaults {
        transport
            .initial_mtu(settings.packet_size)
            .mtu_discovery_config(None)
            .stream_receive_window(STREAM_RECEIVE_WINDOW_BYTES.into())
            .receive_window(VarInt::MAX)
            .send_window(SEND_WINDOW_BYTES)
            .max_concurrent_bidi_streams(STREAMS.into())
            .max_concurrent_uni_streams(STREAMS.into())
            .max_idle_timeout(Some(IDLE_TIMEOUT.try_into()?))
            .keep_alive_interval(None)
            .ack_frequency_config(None)
            .congestion_controller_factory(Arc::new(CubicConfig::default()))
            .enable_segmentation_offload(true);
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
        local(async { Ok(Connection(SendWrapper::new(incoming.take().await?))) })
    }

    fn connect(&self, server: SocketAddr) -> impl Future<Output = Result<Connection>> + Send {
        local(async move {
            let connecting = self.0.connect(server, "localhost", None)?;
            Ok(Connection(SendWrapper::new(connecting.await?)))
        })
    }
}

#[derive(Clone)]
struct Connection(SendWrapper<compio_quic::Connection>);

impl stack::Connection for Connection {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn open_bi(&self) -> impl Future<Output = Result<(SendStream, RecvStream)>> + Send {
        local(async { Ok(halves(self.0.open_bi_wait().await?)) })
    }

    fn accept_bi(&self) -> impl Future<Output = Result<(SendStream, RecvStream)>> + Send {
        local(async { Ok(halves(self.0.accept_bi().await?)) })
    }

    fn close(&self) {
        self.0.close(0u32.into(), &[]);
    }

    fn closed(&self) -> impl Future<Output = ()> + Send {
        local(async {
            self.0.closed().await;
        })
    }
}

fn halves(
    (send, recv): (compio_quic::SendStream, compio_quic::RecvStream),
) -> (SendStream, RecvStream) {
    (
        SendStream(SendWrapper::new(send)),
        RecvStream(SendWrapper::new(recv)),
    )
}

struct SendStream(SendWrapper<compio_quic::SendStream>);

impl stack::SendStream for SendStream {
    fn write_chunk(&mut self, chunk: Bytes) -> impl Future<Output = Result<()>> + Send {
        local(async { Ok(self.0.write_all_chunks(&mut [chunk]).await?) })
    }

    fn write_all(&mut self, data: &[u8]) -> impl Future<Output = Result<()>> + Send {
        self.write_chunk(Bytes::copy_from_slice(data))
    }

    fn finish(&mut self) -> Result<()> {
        Ok(self.0.finish()?)
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
