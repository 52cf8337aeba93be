//! TLS over TCP on tokio's current-thread runtime: what one would use instead of QUIC.
//!
//! Such a user has one TCP connection for each exchange that is under way, keeps it for the next
//! one, and sends messages with their length first. So a connection here is a pool of TLS
//! connections to the same server, and a stream is one of them until both sides are done with it;
//! see [`pool`].

#![forbid(unsafe_code)]

mod message;
mod pool;

use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use polyquic_bench::{
    peer::{self, Peer},
    settings::Settings,
    stack::{self, Stack, Value},
};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use pool::{Connection, Dialer};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: u32 = 1_024;

fn main() -> ExitCode {
    peer::main(&[("tls-tcp", current_thread)])
}

fn current_thread(peer: Peer) -> Result<()> {
    // A connection is a file here, and the memory workload has two thousand.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(peer.run(TlsTcp))
}

#[derive(Clone)]
struct TlsTcp;

impl Stack for TlsTcp {
    type Endpoint = Endpoint;

    const DIFFERS_BY: &'static str = "TCP (cubic) with windows and buffers as the kernel tunes \
        them; packet sizes do not apply; memory that the kernel holds is not counted; \
        a stream is a TCP connection with TLS from a pool of kept connections (TCP_NODELAY), so \
        16 streams or 64 concurrent requests are as many connections; every write is a message \
        with its length (4 bytes) first";

    fn correct(&self, settings: &Settings, described: &mut Value) {
        for (name, value) in [
            ("packet_size", "the kernel's choice"),
            ("mtu_discovery", "the kernel's"),
            ("socket_buffers", "as the kernel tunes them"),
            ("keep_alive", "none"),
        ] {
            described[name] = value.into();
        }
        if settings.own_defaults {
            described["transport"] = "TCP (cubic), otherwise as the kernel has it".into();
            return;
        }
        for (name, value) in [
            ("stream_receive_window", "as the kernel tunes it"),
            ("receive_window", "none, a stream is a connection"),
            ("send_window", "as the kernel tunes it"),
            ("max_concurrent_streams", "no limit"),
            ("datagram_buffers", "no datagrams"),
            ("initial_window", "the kernel's"),
            ("ack_frequency", "the kernel's"),
            ("segmentation_offload", "the kernel's"),
        ] {
            described[name] = value.into();
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<Endpoint> {
        let socket = socket()?;
        socket.bind(listen)?;
        let tls = settings.server_tls(own_provider())?;
        Ok(Endpoint::Server {
            listener: Arc::new(socket.listen(BACKLOG)?),
            acceptor: Arc::new(tls).into(),
        })
    }

    fn client(&self, settings: &Settings) -> Result<Endpoint> {
        ensure!(settings.keep_alive.is_none(), "no keep-alives here");
        let tls = settings.client_tls(own_provider())?;
        Ok(Endpoint::Client(Arc::new(tls).into()))
    }
}

/// With the congestion control that all stacks have, whatever the system's default is. Connections
/// that are accepted inherit it.
fn socket() -> Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    SockRef::from(&socket)
        .set_tcp_congestion(b"cubic")
        .context("setting TCP's congestion control to cubic")?;
    Ok(socket)
}

/// The cryptography that rustls takes when it is not told otherwise.
fn own_provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[derive(Clone)]
enum Endpoint {
    Server {
        listener: Arc<TcpListener>,
        acceptor: TlsAcceptor,
    },
    Client(TlsConnector),
}

impl stack::Endpoint for Endpoint {
    type Incoming = (TcpStream, TlsAcceptor);
    type Connection = Connection;

    fn local_addr(&self) -> Result<SocketAddr> {
        match self {
            Self::Server { listener, .. } => Ok(listener.local_addr()?),
            Self::Client(_) => anyhow::bail!("a client has an address for each connection"),
        }
    }

    async fn accept(&self) -> Option<Self::Incoming> {
        let Self::Server { listener, acceptor } = self else {
            return None;
        };
        loop {
            // An error here is about one connection, which its client will notice.
            if let Ok((stream, _)) = listener.accept().await {
                return Some((stream, acceptor.clone()));
            }
        }
    }

    async fn handshake((stream, acceptor): Self::Incoming) -> Result<Connection> {
        stream.set_nodelay(true)?;
        let stream = acceptor.accept(stream).await?;
        Ok(Connection::accepted(TlsStream::Server(stream)))
    }

    async fn connect(&self, server: SocketAddr) -> Result<Connection> {
        let Self::Client(connector) = self else {
            anyhow::bail!("a server does not connect");
        };
        let dialer = Dialer::new(connector.clone(), server);
        let first = dialer.dial().await.context("the first connection")?;
        Ok(Connection::dialed(first, dialer))
    }
}
