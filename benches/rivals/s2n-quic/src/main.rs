//! s2n-quic on tokio's current-thread runtime, with either of its TLS providers.

#![forbid(unsafe_code)]

mod tls;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use polyquic_bench::{
    peer::{self, Peer, Start},
    settings::{IDLE_TIMEOUT, STREAM_RECEIVE_WINDOW_BYTES, STREAMS, Settings},
    stack::{self, Stack, Value},
};
use s2n_quic::{
    Client, Server,
    client::Connect,
    connection::{self, Handle, StreamAcceptor},
    provider::{
        congestion_controller::Cubic,
        event::{ConnectionInfo, ConnectionMeta, Subscriber, events::MtuUpdated},
        io::tokio::Provider as Io,
        limits::Limits,
    },
    stream::{BidirectionalStream, ReceiveStream, SendStream},
};
use tokio::sync::Mutex;

/// What s2n-quic counts as part of a packet's size and the other stacks do not: the headers of
/// IPv4 and UDP.
const HEADER_BYTES: u16 = 28;

fn main() -> ExitCode {
    let subjects: &[(&str, Start)] = &[
        ("s2n-quic", |peer| run(peer, tls::Provider::Rustls)),
        #[cfg(feature = "s2n-tls")]
        ("s2n-quic-s2ntls", |peer| {
            let files = tls::Pem::load(&peer.options)?;
            run(peer, tls::Provider::S2n(files))
        }),
    ];
    peer::main(subjects)
}

fn run(peer: Peer, tls: tls::Provider) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(peer.run(S2n { tls }))
}

#[derive(Clone)]
struct S2n {
    tls: tls::Provider,
}

impl Stack for S2n {
    type Endpoint = Endpoint;

    const DIFFERS_BY: &'static str = "the connection's receive window is 4 GiB, the most that can \
        be set; the send buffer is limited per stream (1,250,000) and not per connection; \
        borrowed data is copied by the program, as the API takes owned buffers only; it batches \
        up to 64 segments a send; s2n-quic-s2ntls does TLS with s2n-tls (policy 20250414, \
        AES-256-GCM only) and AEAD with aws-lc-rs";

    fn correct(&self, settings: &Settings, described: &mut Value) {
        #[cfg(feature = "s2n-tls")]
        if matches!(self.tls, tls::Provider::S2n(_)) {
            described["tls"] = match settings.own_defaults {
                true => "s2n-tls with aws-lc, its default policy".into(),
                false => format!("s2n-tls with aws-lc, policy {}", tls::POLICY).into(),
            };
        }
        if settings.own_defaults {
            described["packet_size"] = "its own path MTU discovery".into();
            return;
        }
        described["receive_window"] = u32::MAX.into();
        described["send_window"] = format!("{STREAM_RECEIVE_WINDOW_BYTES} per stream").into();
        described["datagram_buffers"] = "no datagrams here".into();
        described["initial_window"] = "its own".into();
        described["ack_frequency"] = "its own".into();
        described["segmentation_offload"] = "on, up to 64 segments".into();
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<Endpoint> {
        // The builder's type changes with each provider.
        let builder = Server::builder()
            .with_io(io(settings, listen)?)?
            .with_limits(limits(settings)?)?
            .with_congestion_controller(Cubic::default())?
            .with_event(PacketSizes)?;
        let server = match &self.tls {
            tls::Provider::Rustls => builder.with_tls(tls::rustls_server(settings)?)?.start()?,
            #[cfg(feature = "s2n-tls")]
            tls::Provider::S2n(files) => builder.with_tls(files.server(settings)?)?.start()?,
        };
        Ok(Endpoint::Server {
            address: server.local_addr()?,
            server: Arc::new(Mutex::new(server)),
        })
    }

    fn client(&self, settings: &Settings) -> Result<Endpoint> {
        let builder = Client::builder()
            .with_io(io(settings, "127.0.0.1:0".parse()?)?)?
            .with_limits(limits(settings)?)?
            .with_congestion_controller(Cubic::default())?
            .with_event(PacketSizes)?;
        let client = match &self.tls {
            tls::Provider::Rustls => builder.with_tls(tls::rustls_client(settings)?)?.start()?,
            #[cfg(feature = "s2n-tls")]
            tls::Provider::S2n(files) => builder.with_tls(files.client(settings)?)?.start()?,
        };
        Ok(Endpoint::Client {
            client,
            keep_alive: settings.keep_alive.is_some(),
        })
    }
}

/// Keeps the size of each connection's packets. It hears of nothing else, as counting packets would
/// cost something for each of them.
struct PacketSizes;

struct PacketSize(u16);

impl Subscriber for PacketSizes {
    type ConnectionContext = PacketSize;

    fn create_connection_context(
        &mut self,
        _meta: &ConnectionMeta,
        _info: &ConnectionInfo,
    ) -> PacketSize {
        PacketSize(0)
    }

    fn on_mtu_updated(
        &mut self,
        context: &mut PacketSize,
        _meta: &ConnectionMeta,
        event: &MtuUpdated,
    ) {
        context.0 = event.mtu;
    }
}

fn io(settings: &Settings, address: SocketAddr) -> Result<Io> {
    let socket = settings.socket(address)?;
    socket.set_nonblocking(true)?;
    let mut builder = Io::builder().with_rx_socket(socket)?;
    if !settings.own_defaults {
        // Three equal sizes leave nothing to search for.
        let size = settings
            .packet_size
            .checked_add(HEADER_BYTES)
            .context("a packet size beyond UDP's")?;
        builder = builder
            .with_max_mtu(size)?
            .with_initial_mtu(size)?
            .with_base_mtu(size)?;
    }
    Ok(builder.build()?)
}

fn limits(settings: &Settings) -> Result<Limits> {
    let mut limits = Limits::new();
    if let Some(interval) = settings.keep_alive {
        limits = limits.with_max_keep_alive_period(interval)?;
    }
    if settings.own_defaults {
        return Ok(limits);
    }
    let (window, streams) = (STREAM_RECEIVE_WINDOW_BYTES.into(), STREAMS.into());
    Ok(limits
        .with_data_window(u32::MAX.into())?
        .with_bidirectional_local_data_window(window)?
        .with_bidirectional_remote_data_window(window)?
        .with_unidirectional_data_window(window)?
        // quinn does not take more than the peer's window lets it send.
        .with_max_send_buffer_size(STREAM_RECEIVE_WINDOW_BYTES)?
        .with_max_open_local_bidirectional_streams(streams)?
        .with_max_open_remote_bidirectional_streams(streams)?
        .with_max_open_local_unidirectional_streams(streams)?
        .with_max_open_remote_unidirectional_streams(streams)?
        .with_max_idle_timeout(IDLE_TIMEOUT)?)
}

#[derive(Clone)]
enum Endpoint {
    Server {
        address: SocketAddr,
        /// Only the task that accepts ever locks it.
        server: Arc<Mutex<Server>>,
    },
    Client {
        client: Client,
        keep_alive: bool,
    },
}

impl stack::Endpoint for Endpoint {
    type Incoming = s2n_quic::Connection;
    type Connection = Connection;

    fn local_addr(&self) -> Result<SocketAddr> {
        match self {
            Self::Server { address, .. } => Ok(*address),
            Self::Client { client, .. } => Ok(client.local_addr()?),
        }
    }

    async fn accept(&self) -> Option<s2n_quic::Connection> {
        match self {
            Self::Server { server, .. } => server.lock().await.accept().await,
            Self::Client { .. } => None,
        }
    }

    /// It accepts a connection when its handshake is over.
    async fn handshake(incoming: s2n_quic::Connection) -> Result<Connection> {
        Ok(incoming.into())
    }

    async fn connect(&self, server: SocketAddr) -> Result<Connection> {
        let Self::Client { client, keep_alive } = self else {
            anyhow::bail!("a server does not connect");
        };
        let connect = Connect::new(server).with_server_name("localhost");
        let mut connection = client.connect(connect).await?;
        if *keep_alive {
            connection.keep_alive(true)?;
        }
        Ok(connection.into())
    }
}

#[derive(Clone)]
struct Connection {
    handle: Handle,
    /// Only one task at a time accepts streams or waits for the end.
    acceptor: Arc<Mutex<StreamAcceptor>>,
}

impl From<s2n_quic::Connection> for Connection {
    fn from(connection: s2n_quic::Connection) -> Self {
        let (handle, acceptor) = connection.split();
        Self {
            handle,
            acceptor: Arc::new(Mutex::new(acceptor)),
        }
    }
}

impl stack::Connection for Connection {
    type SendStream = Outgoing;
    type RecvStream = Incoming;

    const TELLS_PACKET_SIZE: bool = true;

    async fn open_bi(&self) -> Result<(Outgoing, Incoming)> {
        Ok(halves(
            self.handle.clone().open_bidirectional_stream().await?,
        ))
    }

    async fn accept_bi(&self) -> Result<(Outgoing, Incoming)> {
        let mut acceptor = self.acceptor.lock().await;
        let stream = acceptor.accept_bidirectional_stream().await?;
        Ok(halves(stream.context("the connection is closed")?))
    }

    fn close(&self) {
        self.handle.close(0u32.into());
    }

    async fn closed(&self) {
        let mut acceptor = self.acceptor.lock().await;
        // No stream is expected; one that comes anyway is dropped, and so reset.
        while let Ok::<_, connection::Error>(Some(_)) = acceptor.accept().await {}
    }

    fn packet_size(&self) -> Option<u64> {
        let size = |size: &PacketSize| size.0.into();
        self.handle.query_event_context(size).ok()
    }
}

fn halves(stream: BidirectionalStream) -> (Outgoing, Incoming) {
    let (receive, send) = stream.split();
    (Outgoing(send), Incoming(receive))
}

struct Outgoing(SendStream);

impl stack::SendStream for Outgoing {
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<()> {
        Ok(self.0.send(chunk).await?)
    }

    async fn write_all(&mut self, data: &[u8]) -> Result<()> {
        Ok(self.0.send(Bytes::copy_from_slice(data)).await?)
    }

    fn finish(&mut self) -> Result<()> {
        Ok(self.0.finish()?)
    }
}

struct Incoming(ReceiveStream);

impl stack::RecvStream for Incoming {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(self.0.receive().await?)
    }

    async fn read_to_end(&mut self, limit_bytes: usize) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        while let Some(chunk) = self.0.receive().await? {
            anyhow::ensure!(
                data.len() + chunk.len() <= limit_bytes,
                "more than asked for"
            );
            data.extend_from_slice(&chunk);
        }
        Ok(data)
    }

    fn stop(&mut self) {
        // An error says that the stream has ended already, which is what was wanted.
        let _ = self.0.stop_sending(0u32.into());
    }
}
