//! Transport parameters, by themselves and in a handshake.

use std::collections::BTreeMap;

use polyquic_core::transport_parameters::TransportParameters;
use polyquic_core::{Dir, Event, Side, TransportConfig};

use crate::cursor::Cursor;
use crate::host::{Host, client_config, converse, epoch, server_config, still_works};
use crate::plain::{PlainTls, TAG_BYTES};
use crate::wire::{Frame, Kind, Reader, frame, packet};

const MAX_UDP_PAYLOAD_SIZE: u64 = 0x03;
const INITIAL_MAX_DATA: u64 = 0x04;
const INITIAL_MAX_STREAM_DATA_UNI: u64 = 0x07;
const INITIAL_MAX_STREAMS: [u64; 2] = [0x08, 0x09];
const ACK_DELAY_EXPONENT: u64 = 0x0a;
const MAX_ACK_DELAY: u64 = 0x0b;
const ACTIVE_CONNECTION_ID_LIMIT: u64 = 0x0e;
/// The parameters that are numbers, and their defaults (RFC 9000 section 18.2).
const NUMBERS: &[(u64, u64)] = &[
    (0x01, 0),
    (MAX_UDP_PAYLOAD_SIZE, 65_527),
    (INITIAL_MAX_DATA, 0),
    (0x05, 0),
    (0x06, 0),
    (INITIAL_MAX_STREAM_DATA_UNI, 0),
    (0x08, 0),
    (0x09, 0),
    (ACK_DELAY_EXPONENT, 3),
    (MAX_ACK_DELAY, 25),
    (ACTIVE_CONNECTION_ID_LIMIT, 2),
];

/// What is read is written as the same; what the RFC forbids is refused; a handshake with any
/// parameters either completes, and what they limit is kept, or ends with a proper code.
pub fn transport_parameters(data: &[u8]) {
    let mut c = Cursor::new(data);
    let side = if c.flag() { Side::Client } else { Side::Server };
    let data = c.rest();
    alone(side, data);
    handshake(side, data);
}

fn alone(side: Side, data: &[u8]) {
    let Ok(read) = TransportParameters::read(side, &mut &data[..]) else {
        return;
    };
    let listed = list(data).expect("what was read is well-formed");
    for (id, _) in NUMBERS.iter().chain(&[
        (0x00, 0),
        (0x02, 0),
        (0x0c, 0),
        (0x0d, 0),
        (0x0f, 0),
        (0x10, 0),
    ]) {
        assert!(
            listed.iter().filter(|(other, _)| other == id).count() <= 1,
            "{id:#x} twice"
        );
    }
    if let Some(problem) = problem(&listed) {
        panic!("accepted, although {problem}");
    }
    if side == Side::Server {
        let server_only = [0x00, 0x02, 0x0d, 0x10];
        assert!(
            !listed.iter().any(|(id, _)| server_only.contains(id)),
            "for servers only"
        );
    }
    let mut written = Vec::new();
    read.write(&mut written);
    let again = TransportParameters::read(side, &mut &written[..]);
    assert_eq!(again, Ok(read), "written as {written:x?}");
}

/// The parameters one by one.
fn list(data: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut r = Reader(data);
    let mut listed = Vec::new();
    while !r.0.is_empty() {
        listed.push((r.varint()?, r.counted()?));
    }
    Some(listed)
}

fn number(listed: &[(u64, &[u8])], wanted: u64) -> u64 {
    let default = NUMBERS
        .iter()
        .find(|(id, _)| *id == wanted)
        .map_or(0, |(_, default)| *default);
    let value = listed.iter().find(|(id, _)| *id == wanted);
    value
        .and_then(|(_, value)| Reader(value).varint())
        .unwrap_or(default)
}

/// What RFC 9000 section 18.2 forbids.
fn problem(listed: &[(u64, &[u8])]) -> Option<&'static str> {
    for (id, value) in listed {
        if NUMBERS.iter().any(|(number, _)| number == id) {
            let mut r = Reader(value);
            if r.varint().is_none() || !r.0.is_empty() {
                return Some("a number is none");
            }
        }
    }
    let at = |id| number(listed, id);
    match () {
        _ if at(MAX_UDP_PAYLOAD_SIZE) < 1200 => Some("datagrams would be too small"),
        _ if at(ACK_DELAY_EXPONENT) > 20 => Some("the exponent is too large"),
        _ if at(MAX_ACK_DELAY) >= 1 << 14 => Some("acknowledgements would be late"),
        _ if at(ACTIVE_CONNECTION_ID_LIMIT) < 2 => Some("there would be too few ids"),
        _ if INITIAL_MAX_STREAMS.iter().any(|id| at(*id) > 1 << 60) => Some("too many streams"),
        _ => None,
    }
}

fn handshake(side: Side, data: &[u8]) {
    let now = epoch();
    let odd = PlainTls {
        parameters: data.to_vec(),
    };
    let (client_tls, server_tls) = match side {
        Side::Client => (PlainTls::default(), odd),
        Side::Server => (odd, PlainTls::default()),
    };
    let mut client = Host::new(1, None);
    let mut server = Host::new(
        2,
        Some(server_config(server_tls, TransportConfig::default())),
    );
    client.connect(
        now,
        client_config(client_tls, TransportConfig::default()),
        server.addr,
    );
    let mut ours = Ours {
        side,
        closed: None,
        largest: 0,
        streams: BTreeMap::new(),
    };
    converse(now, &mut client, &mut server, |by_client, data| {
        if by_client == side.is_client() {
            ours.note(data);
        }
    });
    let (host, other) = match side {
        Side::Client => (&mut client, &mut server),
        Side::Server => (&mut server, &mut client),
    };
    let established = host.conns.values().any(|conn| {
        conn.events
            .iter()
            .any(|event| matches!(event, Event::Connected))
            && !conn.machine.is_closed()
    });
    if established {
        let listed = list(data).expect("or there would be no connection");
        assert_eq!(problem(&listed), None);
        // What is not given is as the other side means it.
        let given = |id, default| {
            let given = listed.iter().any(|(other, _)| *other == id);
            if given { number(&listed, id) } else { default }
        };
        let conn = host.conns.values_mut().next().expect("established");
        for (dir, id) in [Dir::Bi, Dir::Uni].into_iter().zip(INITIAL_MAX_STREAMS) {
            let initial = if dir == Dir::Bi { 16 } else { 8 };
            let limit = given(id, initial).min(40);
            let opened = (0..40)
                .map_while(|_| conn.machine.streams().open(dir))
                .count() as u64;
            assert_eq!(opened, limit, "streams of {dir:?}");
        }
        // One unidirectional stream with more than may be sent.
        if given(INITIAL_MAX_STREAMS[1], 8) > 0 {
            let id = polyquic_core::StreamId::new(side, Dir::Uni, 0);
            let _ = conn.machine.send_stream(id).write(&[1; 20_000]);
        }
        let by_us = side.is_client();
        let (client, server) = if by_us { (host, other) } else { (other, host) };
        converse(now, client, server, |by_client, data| {
            if by_client == by_us {
                ours.note(data);
            }
        });
        let total: u64 = ours.streams.values().sum();
        // The other side is genuine, and raises what it granted only when something is read.
        assert!(
            total <= given(INITIAL_MAX_DATA, u64::MAX),
            "{total} bytes sent"
        );
        for (id, bytes) in &ours.streams {
            let limit = given(INITIAL_MAX_STREAM_DATA_UNI, 1_250_000);
            assert!(
                *bytes <= limit,
                "{bytes} bytes sent on {id}, {limit} allowed"
            );
        }
        assert!(ours.largest as u64 <= number(&listed, MAX_UDP_PAYLOAD_SIZE).max(1200));
        return;
    }
    if let Some(code) = ours.closed {
        assert!(
            code <= 0x10 || (0x100..0x200).contains(&code),
            "code {code:#x}"
        );
    }
    match side {
        Side::Client => {
            let config = server_config(PlainTls::default(), TransportConfig::default());
            still_works(now, host, &mut Host::new(3, Some(config)));
        }
        Side::Server => still_works(now, &mut Host::new(3, None), host),
    }
}

/// What the side under test sent.
struct Ours {
    side: Side,
    closed: Option<u64>,
    /// Bytes of the largest datagram.
    largest: usize,
    /// By stream, bytes.
    streams: BTreeMap<u64, u64>,
}

impl Ours {
    fn note(&mut self, datagram: &[u8]) {
        self.largest = self.largest.max(datagram.len());
        let mut r = Reader(datagram);
        while !r.0.is_empty() {
            let packet = packet(&mut r, 8, TAG_BYTES).expect("well-formed");
            if matches!(packet.kind, Kind::Retry | Kind::VersionNegotiation) {
                continue;
            }
            let mut frames = Reader(packet.payload);
            while !frames.0.is_empty() {
                match frame(&mut frames).expect("well-formed") {
                    Frame::Close { code, application } => {
                        assert!(!application, "no application is involved");
                        self.closed = Some(code);
                    }
                    Frame::Stream {
                        id, offset, data, ..
                    } => {
                        assert_eq!(id & 1 == 0, self.side.is_client());
                        let end = self.streams.entry(id).or_default();
                        *end = (*end).max(offset + data.len() as u64);
                    }
                    _ => {}
                }
            }
        }
    }
}
