//! The peer completes real handshakes with the machines, in both roles.

#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::BytesMut;
use polyquic_core::{
    Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Event, Instant,
    SocketTraits, StreamEvent,
};
use polyquic_hostile::{Frame, Kind, Params, Peer};
use polyquic_testkit::fixtures::{
    Certificates, client_config, client_tls, server_config, server_tls,
};

const TRAITS: SocketTraits = SocketTraits {
    ipv6: false,
    may_fragment: false,
};

/// A machine on one side, a peer on the other, and nothing in between.
struct Bench {
    now: Instant,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    events: Vec<Event>,
    peer: Peer,
}

impl Bench {
    fn addr() -> SocketAddr {
        ([127, 0, 0, 1], 4433).into()
    }

    fn with_server() -> Self {
        let config = server_config(server_tls(&Certificates::get().server, false));
        let tls = Arc::new(client_tls(None));
        let mut peer = Peer::client(tls, "localhost", b"client", b"original", &Params::default());
        peer.start();
        Self {
            now: Instant::now(),
            endpoint: Endpoint::new(&EndpointConfig::default(), Some(Arc::new(config)), TRAITS),
            connection: None,
            events: Vec::new(),
            peer,
        }
    }

    fn with_client() -> Self {
        let tls = Arc::new(server_tls(&Certificates::get().server, false));
        let now = Instant::now();
        let mut endpoint = Endpoint::new(&EndpointConfig::default(), None, TRAITS);
        let config = client_config(client_tls(None));
        let connection = endpoint.connect(now, config, Self::addr(), "localhost");
        Self {
            now,
            endpoint,
            connection: Some(connection.unwrap()),
            events: Vec::new(),
            peer: Peer::server(tls, b"server", &Params::default()),
        }
    }

    /// Until neither side has anything to say at this moment.
    fn settle(&mut self) {
        let mut buf = Vec::new();
        loop {
            let mut quiet = true;
            while let Some(datagram) = self.peer.poll_transmit() {
                quiet = false;
                buf.clear();
                let data = BytesMut::from(&datagram[..]);
                let event =
                    self.endpoint
                        .handle(self.now, Self::addr(), None, None, data, &mut buf);
                match event {
                    Some(DatagramEvent::NewConnection(incoming)) => {
                        let accepted = self.endpoint.accept(incoming, self.now, &mut buf, None);
                        self.connection = Some(accepted.unwrap());
                    }
                    Some(DatagramEvent::ConnectionEvent(_, event)) => {
                        self.connection.as_mut().unwrap().1.handle_event(event);
                    }
                    Some(DatagramEvent::Response(_)) => self.peer.handle_datagram(&buf),
                    None => {}
                }
            }
            if let Some((handle, connection)) = &mut self.connection {
                buf.clear();
                while connection.poll_transmit(self.now, 1, &mut buf).is_some() {
                    quiet = false;
                    self.peer.handle_datagram(&buf);
                    buf.clear();
                }
                while let Some(event) = connection.poll_endpoint_events() {
                    if let Some(answer) = self.endpoint.handle_event(*handle, event) {
                        connection.handle_event(answer);
                    }
                }
                self.events.extend(std::iter::from_fn(|| connection.poll()));
            }
            if quiet {
                break;
            }
        }
    }

    fn opened(&self) -> bool {
        let opened = |it: &Event| matches!(it, Event::Stream(StreamEvent::Opened { .. }));
        self.events.iter().any(opened)
    }
}

#[test]
fn a_client_peer_completes_the_handshake_and_is_obeyed() {
    let mut bench = Bench::with_server();
    bench.settle();
    assert!(
        bench.peer.is_connected() && bench.peer.is_confirmed(),
        "{:?}",
        bench.peer
    );
    bench.peer.send([Frame::stream(0, 0, b"hello")]);
    bench.settle();
    assert!(bench.opened());
    assert_eq!(bench.peer.close(), None);
    let mut packet = bench.peer.packet_of(Kind::OneRtt, &[Frame::Ping]);
    packet.reserved = 1;
    bench.peer.send_packet(&packet);
    bench.settle();
    assert_eq!(bench.peer.close_code(), Some(0x0a));
}

#[test]
fn a_server_peer_completes_the_handshake_and_is_obeyed() {
    let mut bench = Bench::with_client();
    bench.settle();
    assert!(bench.peer.is_confirmed(), "{:?}", bench.peer);
    bench.peer.send([Frame::stream(1, 0, b"hello")]);
    bench.settle();
    assert!(bench.opened());
    assert_eq!(bench.peer.counters().unreadable, 0);
    bench.peer.send([Frame::Raw(vec![0x22])]);
    bench.settle();
    assert_eq!(bench.peer.close_code(), Some(0x07));
}

#[test]
fn keys_are_updated_by_either_side() {
    let mut bench = Bench::with_server();
    bench.settle();
    bench.peer.update_keys();
    bench.peer.send([Frame::Ping]);
    bench.settle();
    bench.connection.as_mut().unwrap().1.force_key_update();
    bench.peer.send([Frame::Ping]);
    bench.settle();
    bench.peer.send([Frame::stream(0, 0, b"hello")]);
    bench.settle();
    assert!(bench.opened());
    assert_eq!(bench.peer.counters().unreadable, 0);
}
