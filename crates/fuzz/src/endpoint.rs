//! Datagrams of any kind into a server's endpoint machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{Dir, Incoming, Instant, TransportConfig, VarInt};

use crate::cursor::Cursor;
use crate::host::{
    Arrival, Host, addr, client_config, converse, epoch, server_config, still_works,
};
use crate::plain::{PlainTls, TAG_BYTES, client_hello};
use crate::wire::{Frame, Kind, Packet, Reader, frame, packet, put_packet, put_varint};

/// Attempts that may wait for a decision.
const MAX_INCOMING: usize = 8;
const MAX_ACTIONS: usize = 300;
/// A datagram of a handshake has no less (RFC 9000 section 14.1).
const FULL: usize = 1200;

/// What went to and came from an address.
#[derive(Default)]
struct Account {
    received: usize,
    sent: usize,
    /// Of the server, to this address.
    challenges: Vec<[u8; 8]>,
    /// Something came that may have proved the address.
    proved: bool,
}

struct Stage {
    now: Instant,
    server: Host,
    client: Host,
    /// What the client sent so far, to be copied.
    genuine: Vec<Vec<u8>>,
    accounts: BTreeMap<SocketAddr, Account>,
    pending: Vec<Incoming>,
    accepted: usize,
}

/// State stays bounded, nobody is answered with much more than they sent, resets are shorter than
/// what they answer, a connection that has nothing to do with it goes on, and the server still takes
/// new ones.
pub fn endpoint(data: &[u8]) {
    let mut c = Cursor::new(data);
    let mut stage = Stage::new();
    for _ in 0..MAX_ACTIONS {
        if c.is_empty() {
            break;
        }
        stage.act(&mut c);
    }
    stage.end();
}

impl Stage {
    fn new() -> Self {
        let now = epoch();
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(None);
        let mut config = server_config(PlainTls::default(), transport);
        config.max_incoming(MAX_INCOMING);
        let mut server = Host::new(2, Some(config));
        let mut client = Host::new(1, None);
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(None);
        let mut genuine = Vec::new();
        client.connect(
            now,
            client_config(PlainTls::default(), transport),
            server.addr,
        );
        converse(now, &mut client, &mut server, |by_client, data| {
            if by_client {
                genuine.push(data.to_vec());
            }
        });
        let (accounts, pending) = (BTreeMap::new(), Vec::new());
        Self {
            now,
            server,
            client,
            genuine,
            accounts,
            pending,
            accepted: 1,
        }
    }

    fn act(&mut self, c: &mut Cursor<'_>) {
        let datagram = match c.byte() % 12 {
            0 => c.slice().to_vec(),
            1..4 => self.copy(c),
            4 | 5 => initial(c),
            // A version that nobody knows, or its negotiation.
            6 => {
                let mut datagram = vec![0x80 | c.byte(), c.byte(), c.byte(), 0, c.byte() & 3];
                datagram.extend_from_slice(c.slice());
                let full = c.flag();
                datagram.resize(datagram.len().max(if full { FULL } else { 7 }), 0);
                datagram
            }
            // For a connection that may exist.
            7 => {
                let mut datagram = vec![0x40 | c.byte() & 0x3f];
                datagram.extend(c.array::<8>());
                let length = usize::from(c.byte()) * 4;
                datagram.resize(datagram.len() + length, c.byte());
                datagram
            }
            8 => [self.copy(c), self.copy(c)].concat(),
            9 => return self.decide(c),
            10 => {
                self.now += Duration::from_millis(1 << c.below(13));
                return self.settle();
            }
            _ => return self.chat(c),
        };
        let from = match c.byte() {
            0..8 => self.client.addr,
            other => addr(10 + (other & 3), 1000),
        };
        self.receive(from, &datagram);
    }

    /// A genuine datagram with something wrong about it.
    fn copy(&self, c: &mut Cursor<'_>) -> Vec<u8> {
        let index = usize::from(c.byte()) % self.genuine.len();
        let mut datagram = self.genuine[index].clone();
        for _ in 0..c.below(4) {
            // In the headers for the most part.
            let at = if c.flag() {
                c.byte().into()
            } else {
                usize::from(c.u16())
            };
            let at = at % datagram.len();
            match c.below(3) {
                0 => datagram[at] ^= 1 << c.below(8),
                1 => datagram[at] = c.byte(),
                _ => {
                    let bytes = c.slice();
                    let end = (at + bytes.len()).min(datagram.len());
                    datagram.splice(at..end, bytes.iter().copied());
                }
            }
        }
        if c.below(8) == 1 {
            datagram.truncate(c.u16().into());
        }
        datagram
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let account = self.accounts.entry(from).or_default();
        account.received += datagram.len();
        account.proved |= may_prove(datagram, &account.challenges);
        let before = self.server.sent.len();
        match self.server.receive(self.now, from, datagram) {
            Arrival::Answered => {
                for answer in &self.server.sent[before..] {
                    assert_eq!(answer.to, from, "answered to somebody else");
                    let (asked, answered) = (datagram.len(), answer.data.len());
                    if datagram[0] & 0x80 == 0 {
                        assert!(answered < asked, "a reset of {answered} bytes for {asked}");
                    } else {
                        assert!(asked >= FULL, "an answer to a datagram that was not full");
                        assert!(answered <= asked, "{answered} bytes for {asked}");
                    }
                }
            }
            Arrival::Incoming(incoming) => {
                assert!(
                    datagram.len() >= FULL,
                    "an attempt in a datagram that was not full"
                );
                self.pending.push(*incoming);
                assert!(self.pending.len() <= MAX_INCOMING, "too many attempts wait");
            }
            Arrival::Connection | Arrival::Nothing => {}
        }
        self.settle();
    }

    fn decide(&mut self, c: &mut Cursor<'_>) {
        if self.pending.is_empty() {
            return;
        }
        let incoming = self
            .pending
            .swap_remove(usize::from(c.byte()) % self.pending.len());
        let mut answer = Vec::new();
        match c.below(4) {
            0 => self.server.endpoint.ignore(incoming),
            1 => {
                let transmit = self.server.endpoint.refuse(incoming, &mut answer);
                self.server.answer(&transmit, answer);
            }
            2 => match self.server.endpoint.retry(incoming, &mut answer) {
                Ok(transmit) => self.server.answer(&transmit, answer),
                Err(error) => self.server.endpoint.ignore(error.into_incoming()),
            },
            _ => self.accepted += usize::from(self.server.accept(self.now, incoming).is_some()),
        }
        self.settle();
    }

    /// The genuine client says something.
    fn chat(&mut self, c: &mut Cursor<'_>) {
        let Some(conn) = self.client.conns.values_mut().next() else {
            return;
        };
        let machine = &mut conn.machine;
        if let Some(stream) = machine.streams().open(Dir::Uni) {
            let _ = machine.send_stream(stream).write(&vec![7; c.byte().into()]);
            let _ = machine.send_stream(stream).finish();
        } else {
            machine.ping();
        }
        self.client.drive(self.now);
        let to = self.server.addr;
        for sent in std::mem::take(&mut self.client.sent) {
            self.genuine.push(sent.data.clone());
            assert_eq!(sent.to, to);
            // Or held back, for the fuzzer to send.
            if !c.flag() {
                self.receive(self.client.addr, &sent.data);
            }
        }
    }

    fn settle(&mut self) {
        self.server.drive(self.now);
        for sent in std::mem::take(&mut self.server.sent) {
            if sent.to == self.client.addr {
                self.client.deliver(self.now, self.server.addr, &sent.data);
                continue;
            }
            // Each is no larger than what it answers, see `receive`.
            if sent.stateless {
                continue;
            }
            let account = self.accounts.entry(sent.to).or_default();
            // quinn-proto begins a datagram as long as anything is left of what it may send, and so
            // exceeds the limit by less than one.
            let (received, before) = (account.received, account.sent);
            account.sent += sent.data.len();
            account.challenges.extend(challenges(&sent.data));
            assert!(
                account.proved || before < 3 * received,
                "{before} bytes and then more sent to {}, {received} received",
                sent.to
            );
        }
        let open = self.server.endpoint.open_connections();
        assert!(
            open <= self.accepted,
            "{open} connections, {} were accepted",
            self.accepted
        );
        assert_eq!(open, self.server.conns.len());
    }

    fn end(mut self) {
        for incoming in std::mem::take(&mut self.pending) {
            self.server.endpoint.ignore(incoming);
        }
        for conn in self.server.conns.values_mut() {
            conn.machine
                .close(self.now, VarInt::from_u32(1), Bytes::new());
        }
        for _ in 0..1000 {
            self.server.drive(self.now);
            let Some(deadline) = self.server.deadline() else {
                break;
            };
            self.now = self.now.max(deadline);
        }
        self.server.drive(self.now);
        self.server.sent.clear();
        assert_eq!(
            self.server.endpoint.open_connections(),
            0,
            "closed, but not forgotten"
        );
        still_works(self.now, &mut Host::new(3, None), &mut self.server);
    }
}

/// A client's first packet, with what the fuzzer says in it.
fn initial(c: &mut Cursor<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    if c.flag() {
        let parameters = c.slice();
        let hello = client_hello(parameters);
        put_varint(&mut payload, 0x06);
        put_varint(&mut payload, c.below(3) as u64);
        put_varint(&mut payload, hello.len() as u64);
        payload.extend_from_slice(&hello);
    }
    payload.extend_from_slice(c.slice());
    payload.resize(payload.len().max(FULL), 0);
    // Few ids, so that attempts meet.
    let dst_cid = [c.byte() & 3; 8];
    let src_cid = [c.byte() & 3; 4];
    let token = if c.below(4) == 0 { c.slice() } else { &[] };
    let mut datagram = Vec::new();
    put_packet(
        &mut datagram,
        Kind::Initial,
        &dst_cid,
        &src_cid,
        token,
        c.byte().into(),
        &payload,
    );
    if c.below(8) == 1 {
        datagram.truncate(c.u16().into());
    }
    datagram
}

/// Whether a server may take this as a proof that the sender receives at its address: a token, a
/// packet of the handshake, or the answer to one of the challenges that were sent there.
fn may_prove(datagram: &[u8], challenges: &[[u8; 8]]) -> bool {
    let mut proves = false;
    for_packets(datagram, 8, |packet| match packet.kind {
        Kind::Handshake => proves = true,
        Kind::Initial => proves |= !packet.token.is_empty(),
        Kind::Short => {
            let mut frames = Reader(packet.payload);
            while let Some(frame) = frame(&mut frames) {
                if let Frame::PathResponse(token) = frame {
                    proves |= challenges.contains(&token);
                }
            }
        }
        _ => {}
    });
    proves
}

/// The challenges in what the server sent.
fn challenges(datagram: &[u8]) -> Vec<[u8; 8]> {
    let mut found = Vec::new();
    // The genuine client's ids are longer than those that the fuzzer makes up.
    for cid_length in [4, 8] {
        for_packets(datagram, cid_length, |packet| {
            let mut frames = Reader(packet.payload);
            while packet.kind == Kind::Short
                && let Some(frame) = frame(&mut frames)
            {
                if let Frame::PathChallenge(token) = frame {
                    found.push(token);
                }
            }
        });
    }
    found
}

fn for_packets(datagram: &[u8], cid_length: usize, mut visit: impl FnMut(&Packet<'_>)) {
    let mut r = Reader(datagram);
    while !r.0.is_empty() {
        let Some(packet) = packet(&mut r, cid_length, TAG_BYTES) else {
            return;
        };
        visit(&packet);
    }
}
