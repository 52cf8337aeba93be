//! An endpoint machine with its connections, driven as `polyquic_core` asks for, on virtual time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use polyquic_core::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Event,
    Incoming, Instant, ServerConfig, SocketTraits, TimeSource, Transmit, TransportConfig,
};

use crate::plain::{PlainTls, PlainTokens};

/// Datagrams that a connection may send before it is asked again for anything else. More is a loop
/// without end: no congestion window here is as large.
const MAX_DATAGRAMS: usize = 10_000;

/// When virtual time begins.
pub(crate) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// The date at which tokens are judged, in seconds since 1970.
pub(crate) const DATE: u64 = 1_700_000_000;

struct FixedDate;

impl TimeSource for FixedDate {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(DATE)
    }
}

pub(crate) fn addr(host: u8, port: u16) -> SocketAddr {
    ([10, 0, 0, host], port).into()
}

/// A datagram that a host sent.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) to: SocketAddr,
    pub(crate) data: Vec<u8>,
    /// By the endpoint, of no connection: a stateless reset, among others.
    pub(crate) stateless: bool,
}

/// A connection and what it told.
pub(crate) struct Conn {
    pub(crate) machine: Connection,
    pub(crate) events: Vec<Event>,
}

/// What became of a datagram.
pub(crate) enum Arrival {
    Nothing,
    Connection,
    /// Answered without any connection.
    Answered,
    Incoming(Box<Incoming>),
}

pub(crate) struct Host {
    pub(crate) addr: SocketAddr,
    pub(crate) endpoint: Endpoint,
    pub(crate) conns: BTreeMap<usize, Conn>,
    pub(crate) sent: Vec<Sent>,
}

/// A server's configuration with no cryptography.
pub(crate) fn server_config(tls: PlainTls, transport: TransportConfig) -> ServerConfig {
    let mut config = ServerConfig::new(Arc::new(tls), Arc::new(PlainTokens));
    config
        .time_source(Arc::new(FixedDate))
        .transport_config(Arc::new(transport));
    config
}

/// A client's configuration with no cryptography.
pub(crate) fn client_config(tls: PlainTls, transport: TransportConfig) -> ClientConfig {
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport));
    config.initial_dst_cid_provider(Arc::new(|| polyquic_core::ConnectionId::new(&[0xd; 8])));
    config
}

impl Host {
    /// The `number` tells endpoints apart: it is in the address, and the seed of all chance.
    pub(crate) fn new(number: u8, server: Option<ServerConfig>) -> Self {
        let mut config = EndpointConfig::default();
        config.seed([number; 32]);
        let traits = SocketTraits {
            ipv6: false,
            may_fragment: false,
        };
        Self {
            addr: addr(number, 4433),
            endpoint: Endpoint::new(&config, server.map(Arc::new), traits),
            conns: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    pub(crate) fn connect(&mut self, now: Instant, config: ClientConfig, to: SocketAddr) -> usize {
        let (handle, machine) = self
            .endpoint
            .connect(now, config, to, "localhost")
            .expect("the parameters are good");
        self.insert(handle, machine)
    }

    fn insert(&mut self, handle: ConnectionHandle, machine: Connection) -> usize {
        self.conns.insert(
            handle.0,
            Conn {
                machine,
                events: Vec::new(),
            },
        );
        handle.0
    }

    /// Take in a datagram, without driving what it concerns.
    pub(crate) fn receive(&mut self, now: Instant, from: SocketAddr, data: &[u8]) -> Arrival {
        let mut answer = Vec::new();
        let bytes = data.len();
        let data = BytesMut::from(data);
        match self
            .endpoint
            .handle(now, from, None, None, data, &mut answer)
        {
            None => Arrival::Nothing,
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                // Those that are drained are gone for the endpoint as well.
                let conn = self
                    .conns
                    .get_mut(&handle.0)
                    .expect("known to the endpoint");
                conn.machine.handle_datagram(event, from, bytes);
                Arrival::Connection
            }
            Some(DatagramEvent::Response(transmit)) => {
                self.answer(&transmit, answer);
                Arrival::Answered
            }
            Some(DatagramEvent::NewConnection(incoming)) => Arrival::Incoming(Box::new(incoming)),
        }
    }

    /// Accept an attempt to connect.
    pub(crate) fn accept(&mut self, now: Instant, incoming: Incoming) -> Option<usize> {
        let mut answer = Vec::new();
        match self.endpoint.accept(incoming, now, &mut answer, None) {
            Ok((handle, machine)) => Some(self.insert(handle, machine)),
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.answer(&transmit, answer);
                }
                None
            }
        }
    }

    /// Send what the endpoint answered.
    pub(crate) fn answer(&mut self, transmit: &Transmit, mut answer: Vec<u8>) {
        answer.truncate(transmit.size);
        self.sent.push(Sent {
            to: transmit.destination,
            data: answer,
            stateless: true,
        });
    }

    /// Take in a datagram, accept whoever wants to connect, and drive everything.
    pub(crate) fn deliver(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        if let Arrival::Incoming(incoming) = self.receive(now, from, data) {
            self.accept(now, *incoming);
        }
        self.drive(now);
    }

    /// Have all connections do what they have to do.
    pub(crate) fn drive(&mut self, now: Instant) {
        let handles: Vec<_> = self.conns.keys().copied().collect();
        for handle in handles {
            self.drive_connection(now, handle);
        }
    }

    fn drive_connection(&mut self, now: Instant, handle: usize) {
        let Conn { machine, events } = self.conns.get_mut(&handle).expect("just listed");
        if machine.poll_timeout().is_some_and(|at| at <= now) {
            machine.handle_timeout(now);
        }
        for count in 0.. {
            assert!(count < MAX_DATAGRAMS, "a connection sends without end");
            let mut data = Vec::new();
            let Some(transmit) = machine.poll_transmit(now, 1, &mut data) else {
                break;
            };
            data.truncate(transmit.size);
            self.sent.push(Sent {
                to: transmit.destination,
                data,
                stateless: false,
            });
        }
        let _ = machine.poll_timeout();
        let mut drained = false;
        while let Some(event) = machine.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(answer) = self.endpoint.handle_event(ConnectionHandle(handle), event) {
                machine.handle_event(answer);
            }
        }
        while let Some(event) = machine.poll() {
            events.push(event);
        }
        if drained {
            self.conns.remove(&handle);
        }
    }

    /// The next time at which something is due.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        self.conns
            .values_mut()
            .filter_map(|conn| conn.machine.poll_timeout())
            .min()
    }
}

/// Pass datagrams between two hosts until neither has anything to say; `tap` sees each, with whether
/// the first host sent it.
pub(crate) fn converse(now: Instant, a: &mut Host, b: &mut Host, mut tap: impl FnMut(bool, &[u8])) {
    for _ in 0..1000 {
        a.drive(now);
        b.drive(now);
        if a.sent.is_empty() && b.sent.is_empty() {
            return;
        }
        pass(now, a, b, |data| tap(true, data));
        pass(now, b, a, |data| tap(false, data));
    }
    panic!("two hosts talk without end");
}

fn pass(now: Instant, from: &mut Host, to: &mut Host, mut tap: impl FnMut(&[u8])) {
    for datagram in std::mem::take(&mut from.sent) {
        tap(&datagram.data);
        if datagram.to == to.addr {
            to.deliver(now, from.addr, &datagram.data);
        }
    }
}

/// Whether a connection completes between these two, and one stream's worth of bytes arrives.
pub(crate) fn still_works(now: Instant, client: &mut Host, server: &mut Host) {
    use polyquic_core::Dir;
    let known: Vec<_> = server.conns.keys().copied().collect();
    let mut config = client_config(PlainTls::default(), TransportConfig::default());
    // That of the connection before may still be in use.
    config.initial_dst_cid_provider(Arc::new(|| polyquic_core::ConnectionId::new(&[0xe; 8])));
    let ours = client.connect(now, config, server.addr);
    converse(now, client, server, |_, _| {});
    let machine = &mut client.conns.get_mut(&ours).expect("connected").machine;
    assert!(
        !machine.is_handshaking(),
        "a new connection is not established"
    );
    let stream = machine
        .streams()
        .open(Dir::Uni)
        .expect("a stream may be opened");
    let written = machine
        .send_stream(stream)
        .write(b"still there")
        .expect("there is room");
    assert_eq!(written, 11);
    machine.send_stream(stream).finish().expect("it is open");
    converse(now, client, server, |_, _| {});
    let theirs = server
        .conns
        .iter_mut()
        .find(|(handle, _)| !known.contains(handle));
    let machine = &mut theirs.expect("accepted").1.machine;
    assert_eq!(machine.streams().accept(Dir::Uni), Some(stream));
    let mut received = machine.recv_stream(stream);
    let mut chunks = received.read(true).expect("it is new");
    let chunk = chunks
        .next(usize::MAX)
        .expect("all is there")
        .expect("not empty");
    assert_eq!(&chunk.bytes[..], b"still there");
    let _ = chunks.finalize();
}
