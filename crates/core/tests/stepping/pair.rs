//! A client and a server, stepped against each other on virtual time.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{
    ClientConfig, ConnectionError, Dir, EndpointConfig, Instant, ServerConfig, StreamId,
    TransportConfig, VarInt,
};

use crate::app::{App, Received};
use crate::fixtures::{client_config, derive, endpoint_config, server_config};
use crate::link::{Datagram, Link, Network};
use crate::peer::{Conn, Peer};

/// No test runs longer than this in virtual time.
const LIMIT: Duration = Duration::from_secs(600);

/// When virtual time begins. The only look at a clock; nothing sleeps.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// What a test wants to be different from the default.
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) client_transport: TransportConfig,
    pub(crate) server_transport: TransportConfig,
    pub(crate) client_endpoint: EndpointConfig,
    pub(crate) server_endpoint: EndpointConfig,
    /// Both directions.
    pub(crate) network: Network,
    /// Change the server's configuration.
    pub(crate) server: Box<dyn Fn(&mut ServerConfig)>,
}

impl Setup {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            client_transport: TransportConfig::default(),
            server_transport: TransportConfig::default(),
            client_endpoint: endpoint_config(seed, "client"),
            server_endpoint: endpoint_config(seed, "server"),
            network: Network::default(),
            server: Box::new(|_| {}),
        }
    }

    pub(crate) fn build(self) -> Pair {
        let mut server = server_config(self.server_transport);
        (self.server)(&mut server);
        Pair {
            seed: self.seed,
            now: epoch(),
            client_config: client_config(self.seed, self.client_transport),
            client: Peer::new(addr(1, 1000), &self.client_endpoint, None),
            server: Peer::new(addr(2, 4433), &self.server_endpoint, Some(server)),
            up: Link::new(self.network.clone(), derive(self.seed, "up")),
            down: Link::new(self.network, derive(self.seed, "down")),
            tap: None,
        }
    }
}

pub(crate) fn addr(host: u8, port: u16) -> SocketAddr {
    ([10, 0, 0, host], port).into()
}

pub(crate) struct Pair {
    seed: u64,
    pub(crate) now: Instant,
    pub(crate) client_config: ClientConfig,
    pub(crate) client: Peer,
    pub(crate) server: Peer,
    /// From client to server.
    pub(crate) up: Link,
    /// From server to client.
    pub(crate) down: Link,
    /// If set: everything that arrived anywhere.
    pub(crate) tap: Option<Vec<Datagram>>,
}

impl Pair {
    pub(crate) fn new(seed: u64) -> Self {
        Setup::new(seed).build()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - epoch()
    }

    // Time

    /// Go on to the next moment at which something is due, but not beyond `until`. False when there
    /// is none.
    fn step_until(&mut self, until: Instant) -> bool {
        self.drive();
        let next = [
            self.up.next_arrival(),
            self.down.next_arrival(),
            self.client.next_deadline(),
            self.server.next_deadline(),
        ];
        let Some(next) = next.into_iter().flatten().min().filter(|&at| at <= until) else {
            return false;
        };
        self.now = self.now.max(next);
        while let Some(datagram) = self.up.receive(self.now) {
            self.deliver(datagram);
        }
        while let Some(datagram) = self.down.receive(self.now) {
            self.deliver(datagram);
        }
        self.client.expire_timers(self.now);
        self.server.expire_timers(self.now);
        self.drive();
        true
    }

    fn deliver(&mut self, datagram: Datagram) {
        if let Some(tap) = &mut self.tap {
            tap.push(datagram.clone());
        }
        // Nobody is at an address that was left.
        if datagram.to == self.server.addr {
            self.server.handle(self.now, datagram, &mut self.down);
        } else if datagram.to == self.client.addr {
            self.client.handle(self.now, datagram, &mut self.up);
        }
    }

    fn drive(&mut self) {
        self.client.drive(self.now, &mut self.up);
        self.server.drive(self.now, &mut self.down);
    }

    /// Let that much time pass.
    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step_until(end) {}
        self.now = end;
    }

    /// Let time pass until `done`.
    pub(crate) fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = epoch() + LIMIT;
        self.drive();
        while !done(self) {
            assert!(
                self.step_until(limit),
                "{what}: not before {:?}, and nothing will happen any more (client {:?}, server {:?})",
                self.elapsed(),
                self.client.conns.last().map(|conn| &conn.app.lost),
                self.server.conns.last().map(|conn| &conn.app.lost),
            );
        }
    }

    // Connections

    /// Start a connection and run until both sides have completed the handshake; returns its number
    /// on both sides.
    pub(crate) fn handshake(&mut self) -> (usize, usize) {
        let client = self.connect();
        let server = self.server.conns.len();
        self.run_until("handshake", |pair| {
            pair.client.conns[client].app.connected.is_some()
                && (pair.server.conns.get(server)).is_some_and(|conn| conn.app.connected.is_some())
        });
        (client, server)
    }

    /// Start a connection.
    pub(crate) fn connect(&mut self) -> usize {
        let config = self.client_config.clone();
        self.client.connect(self.now, config, self.server.addr)
    }

    /// The first connection, as the client sees it, with something about to be done to it.
    pub(crate) fn client_conn(&mut self) -> &mut Conn {
        self.client.touch(0)
    }

    /// The first connection, as the server sees it, with something about to be done to it.
    pub(crate) fn server_conn(&mut self) -> &mut Conn {
        self.server.touch(0)
    }

    pub(crate) fn client_app(&self) -> &App {
        &self.client.conns[0].app
    }

    pub(crate) fn server_app(&self) -> &App {
        &self.server.conns[0].app
    }

    /// The client closes its first connection.
    pub(crate) fn close(&mut self, code: u32, reason: &'static str) {
        let now = self.now;
        let reason = Bytes::from_static(reason.as_bytes());
        let machine = &mut self.client_conn().machine;
        machine.close(now, VarInt::from_u32(code), reason);
    }

    /// Until nothing is left of any connection.
    pub(crate) fn run_until_drained(&mut self) {
        self.run_until("drained", |pair| {
            (pair.client.conns.iter())
                .chain(&pair.server.conns)
                .all(|conn| conn.drained)
        });
        for peer in [&self.client, &self.server] {
            assert_eq!(peer.core.open_connections(), 0);
            assert_eq!(peer.scheduled(), 0, "no timer without a connection");
        }
    }

    // Streams

    /// The client sends `data` on a stream of its own.
    pub(crate) fn upload(&mut self, data: &Bytes) -> StreamId {
        send(self.client_conn(), Dir::Uni, data)
    }

    /// The server sends `data` on a stream of its own.
    pub(crate) fn download(&mut self, data: &Bytes) -> StreamId {
        send(self.server_conn(), Dir::Uni, data)
    }

    /// The client sends `data` on a bidirectional stream.
    pub(crate) fn request(&mut self, data: &Bytes) -> StreamId {
        send(self.client_conn(), Dir::Bi, data)
    }

    /// Both directions at once, complete and correct.
    pub(crate) fn transfer(&mut self, up: &Bytes, down: &Bytes) {
        let (upload, download) = (self.upload(up), self.download(down));
        self.run_until("transfer", |pair| {
            is_finished(pair.server_app(), upload) && is_finished(pair.client_app(), download)
        });
        assert_received(self.server_app(), upload, up);
        assert_received(self.client_app(), download, down);
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, elapsed) = (self.seed, self.elapsed());
            eprintln!("failed after {elapsed:?}; replay with POLYQUIC_SEED={seed}");
        }
    }
}

/// Open a stream and send `data` on it.
pub(crate) fn send(conn: &mut Conn, dir: Dir, data: &Bytes) -> StreamId {
    let id = conn.machine.streams().open(dir).expect("a free stream");
    conn.app.write(&mut conn.machine, id, data.clone());
    id
}

/// Whether everything on this stream has been read.
pub(crate) fn is_finished(app: &App, id: StreamId) -> bool {
    app.received.get(&id).is_some_and(|stream| stream.finished)
}

pub(crate) fn assert_received(app: &App, id: StreamId, data: &[u8]) {
    let Received { data: received, .. } = &app.received[&id];
    // Not `assert_eq`, which would print megabytes.
    assert!(
        received == data,
        "{id}: {} bytes, which differ",
        received.len()
    );
}

/// The application's view of how the connection ended.
pub(crate) fn lost(app: &App) -> Option<&ConnectionError> {
    app.lost.as_ref().map(|(_, error)| error)
}
