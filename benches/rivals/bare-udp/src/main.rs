//! The floor under all stacks: UDP with segmentation offload, AES-128-GCM per packet, and nothing
//! else. No handshake, no acknowledgements, no flow or congestion control; what is lost stays
//! lost, and only what arrives is counted. The key is in this file: it costs what encryption
//! costs, and protects nothing.
//!
//! Calls block, on a thread for each task, since no executor at all is the least that one can have.

#![forbid(unsafe_code)]

mod packets;

use std::{
    net::{SocketAddr, UdpSocket},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use futures_executor::block_on;
use polyquic_bench::{
    peer::{self, Peer},
    settings::Settings,
    stack::{self, Stack, Value},
};

use packets::{Receiver, Sender, Socket};

/// Why most workloads end at once.
const NO_CONNECTIONS: &str = "bare UDP has no connections: one exchange between two sockets is all";
const NO_STREAMS: &str = "bare UDP has no streams: one exchange between two sockets is all";

/// What each side sends first, so that the server knows where its client is.
const HELLO: &[u8] = b"hello";

fn main() -> ExitCode {
    peer::main(&[("bare-udp", |peer: Peer| block_on(peer.run(Threads)))])
}

#[derive(Clone)]
struct Threads;

impl Stack for Threads {
    type Endpoint = Endpoint;

    const DIFFERS_BY: &'static str = "no protocol at all: AES-128-GCM with a fixed key per \
        packet, as many segments a send as fit 65,507 bytes, blocking calls on threads; no \
        handshake, acknowledgement, retransmission, flow or congestion control";

    fn correct(&self, settings: &Settings, described: &mut Value) {
        described["tls"] = "none: AES-128-GCM by aws-lc-rs, with a fixed key".into();
        described["packet_size"] = settings.packet_size.into();
        for absent in [
            "certificate",
            "resumption",
            "keep_alive",
            "stream_receive_window",
            "receive_window",
            "send_window",
            "max_concurrent_streams",
            "datagram_buffers",
            "congestion_control",
            "initial_window",
            "ack_frequency",
        ] {
            described[absent] = "none".into();
        }
        if settings.own_defaults {
            described["transport"] = "none".into();
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        thread::spawn(move || block_on(task));
    }

    async fn sleep(&self, duration: Duration) {
        thread::sleep(duration);
    }

    fn server(&self, settings: &Settings, listen: SocketAddr) -> Result<Endpoint> {
        Endpoint::new(settings, settings.socket(listen)?)
    }

    fn client(&self, settings: &Settings) -> Result<Endpoint> {
        Endpoint::new(settings, settings.socket("127.0.0.1:0".parse()?)?)
    }
}

#[derive(Clone)]
struct Endpoint {
    socket: Arc<Socket>,
    /// Whether there is a peer already.
    taken: Arc<AtomicBool>,
}

impl Endpoint {
    fn new(settings: &Settings, socket: UdpSocket) -> Result<Self> {
        Ok(Self {
            socket: Arc::new(Socket::new(socket, settings.packet_size)?),
            taken: Arc::default(),
        })
    }
}

impl stack::Endpoint for Endpoint {
    type Incoming = Connection;
    type Connection = Connection;

    fn local_addr(&self) -> Result<SocketAddr> {
        self.socket.local_addr()
    }

    async fn accept(&self) -> Option<Connection> {
        if self.taken.swap(true, Ordering::Relaxed) {
            // There will be no second peer; the driver ends this process.
            loop {
                thread::park();
            }
        }
        let mut receiver = Receiver::new(self.socket.clone());
        loop {
            // What is not from a client of ours does not decrypt.
            if let Ok(hello) = receiver.next()
                && hello == HELLO
            {
                break;
            }
        }
        let peer = receiver.last_sender()?;
        Some(Connection::new(self.socket.clone(), peer, receiver))
    }

    async fn handshake(incoming: Connection) -> Result<Connection> {
        Sender::new(incoming.socket.clone(), incoming.peer).write(HELLO, true)?;
        Ok(incoming)
    }

    async fn connect(&self, server: SocketAddr) -> Result<Connection> {
        ensure!(!self.taken.swap(true, Ordering::Relaxed), NO_CONNECTIONS);
        Sender::new(self.socket.clone(), server).write(HELLO, true)?;
        let mut receiver = Receiver::new(self.socket.clone());
        let hello = receiver.next()?;
        ensure!(hello == HELLO, "the server does not say hello");
        Ok(Connection::new(self.socket.clone(), server, receiver))
    }
}

#[derive(Clone)]
struct Connection {
    socket: Arc<Socket>,
    peer: SocketAddr,
    /// Taken by the only exchange.
    receiver: Arc<std::sync::Mutex<Option<Receiver>>>,
}

impl Connection {
    fn new(socket: Arc<Socket>, peer: SocketAddr, receiver: Receiver) -> Self {
        Self {
            socket,
            peer,
            receiver: Arc::new(std::sync::Mutex::new(Some(receiver))),
        }
    }

    fn halves(&self) -> Result<(Outgoing, Incoming)> {
        let receiver = self
            .receiver
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        let Some(receiver) = receiver else {
            bail!(NO_STREAMS);
        };
        let sender = Sender::new(self.socket.clone(), self.peer);
        Ok((Outgoing(sender), Incoming(receiver)))
    }
}

impl stack::Connection for Connection {
    type SendStream = Outgoing;
    type RecvStream = Incoming;

    const TELLS_PACKET_SIZE: bool = true;

    async fn open_bi(&self) -> Result<(Outgoing, Incoming)> {
        self.halves()
    }

    async fn accept_bi(&self) -> Result<(Outgoing, Incoming)> {
        self.halves()
    }

    /// Nothing ever changes it.
    fn packet_size(&self) -> Option<u64> {
        Some(self.socket.packet_size() as u64)
    }

    /// Nobody would hear of it.
    fn close(&self) {}

    async fn closed(&self) {
        loop {
            thread::park();
        }
    }
}

struct Outgoing(Sender);

impl stack::SendStream for Outgoing {
    /// What does not fill a batch waits for the next chunk: bulk transfers do not end.
    async fn write_chunk(&mut self, chunk: Bytes) -> Result<()> {
        self.0.write(&chunk, false)
    }

    async fn write_all(&mut self, data: &[u8]) -> Result<()> {
        self.0.write(data, true)
    }

    fn finish(&mut self) -> Result<()> {
        bail!(NO_STREAMS)
    }
}

struct Incoming(Receiver);

impl stack::RecvStream for Incoming {
    async fn read_chunk(&mut self) -> Result<Option<Bytes>> {
        self.0.next().map(Some)
    }

    async fn read_to_end(&mut self, _limit_bytes: usize) -> Result<Vec<u8>> {
        bail!(NO_STREAMS)
    }

    /// Nobody would hear of it.
    fn stop(&mut self) {}
}
