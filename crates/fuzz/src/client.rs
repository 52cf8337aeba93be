//! What reaches a client before it knows whom it talks to.

use std::collections::BTreeSet;
use std::time::Duration;

use polyquic_core::{Instant, TransportConfig};

use crate::cursor::Cursor;
use crate::host::{Arrival, Host, client_config, converse, epoch, server_config};
use crate::plain::{PlainTls, TAG_BYTES, retry_tag};
use crate::wire::{Kind, Reader, packet, put_packet};

const MAX_ACTIONS: usize = 60;
const VERSION: [u8; 4] = [0, 0, 0, 1];
/// A Retry packet ends in so many bytes that prove that its sender saw what it answers.
const RETRY_TAG_BYTES: usize = 16;

struct Stage {
    now: Instant,
    client: Host,
    server: Host,
    conn: usize,
    /// Where the client sent its first packet, and what it calls itself.
    first_dst_cid: Vec<u8>,
    cid: Vec<u8>,
    /// Those of Retry packets that were right.
    tokens: BTreeSet<Vec<u8>>,
    /// The one that the client has in its packets.
    token: Option<Vec<u8>>,
    /// Nothing came yet that the client may take for an answer.
    fresh: bool,
    /// Nothing came with which whoever sees the first packet can end a handshake.
    harmless: bool,
}

/// A client follows the first Retry packet whose tag is right, and no other. What does not authenticate,
/// or says nothing to it, does not keep it from a server that is there.
pub fn client(data: &[u8]) {
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
        let transport = || {
            let mut transport = TransportConfig::default();
            transport.max_idle_timeout(None);
            transport
        };
        let server = server_config(PlainTls::default(), transport());
        let server = Host::new(2, Some(server));
        let mut client = Host::new(1, None);
        let config = client_config(PlainTls::default(), transport());
        let conn = client.connect(now, config, server.addr);
        client.drive(now);
        let first = &client.sent[0].data;
        let first = packet(&mut Reader(first), 8, TAG_BYTES).expect("an Initial packet");
        let (first_dst_cid, cid) = (first.dst_cid.to_vec(), first.src_cid.to_vec());
        Self {
            now,
            client,
            server,
            conn,
            first_dst_cid,
            cid,
            tokens: BTreeSet::new(),
            token: None,
            fresh: true,
            harmless: true,
        }
    }

    fn act(&mut self, c: &mut Cursor<'_>) {
        match c.byte() % 6 {
            0 => {
                let mut datagram = c.slice().to_vec();
                if c.flag() && datagram.len() > 6 {
                    datagram.splice(6..6, self.cid.iter().copied());
                }
                let ours = datagram.windows(self.cid.len()).any(|it| it == self.cid);
                self.spoiled(ours);
                self.receive(&datagram);
            }
            1 => self.retry(c),
            2 => self.negotiation(c),
            3 => {
                let mut datagram = Vec::new();
                let (cid, payload) = (c.slice(), c.slice());
                let cid = &cid[..cid.len().min(20)];
                let number = c.byte().into();
                put_packet(
                    &mut datagram,
                    Kind::Initial,
                    &self.cid,
                    cid,
                    &[],
                    number,
                    payload,
                );
                self.spoiled(true);
                self.receive(&datagram);
            }
            4 => {
                self.now += Duration::from_millis(1 << c.below(13));
                self.settle();
            }
            _ => self.answer(c),
        }
    }

    /// Something came that may have been taken for the server's.
    fn spoiled(&mut self, spoiled: bool) {
        if spoiled {
            self.fresh = false;
            self.harmless = false;
        }
    }

    fn long_header(&self, c: &mut Cursor<'_>, first: u8, version: [u8; 4]) -> Vec<u8> {
        let mut datagram = vec![first];
        datagram.extend(version);
        datagram.push(self.cid.len() as u8);
        datagram.extend_from_slice(&self.cid);
        let src_cid = c.slice();
        let src_cid = &src_cid[..src_cid.len().min(20)];
        datagram.push(src_cid.len() as u8);
        datagram.extend_from_slice(src_cid);
        datagram
    }

    fn retry(&mut self, c: &mut Cursor<'_>) {
        let version = if c.below(8) == 1 { c.array() } else { VERSION };
        let first = 0xf0 | c.byte() & 0x0f;
        let mut datagram = self.long_header(c, first, version);
        let token = c.slice().to_vec();
        datagram.extend_from_slice(&token);
        let mut tag = retry_tag(&self.first_dst_cid, &datagram);
        let damage = c.byte();
        let right = damage & 1 == 0 && version == VERSION && !token.is_empty();
        if damage & 1 == 1 {
            tag[usize::from(damage >> 1) % RETRY_TAG_BYTES] ^= 1 << (damage >> 5);
        }
        datagram.extend(tag);
        let fresh = self.fresh;
        if right {
            self.tokens.insert(token.clone());
            // The server that is there did not send it.
            self.harmless &= !fresh;
            self.fresh = false;
        } else if version == [0; 4] {
            // A negotiation, after all.
            let (versions, _) =
                datagram[datagram.len() - token.len() - RETRY_TAG_BYTES..].as_chunks::<4>();
            self.spoiled(!versions.contains(&VERSION));
        }
        self.receive(&datagram);
        if right && fresh {
            assert_eq!(self.token.as_ref(), Some(&token), "a Retry is not followed");
        }
    }

    fn negotiation(&mut self, c: &mut Cursor<'_>) {
        let first = 0x80 | c.byte();
        let mut datagram = self.long_header(c, first, [0; 4]);
        let mut offered = false;
        for _ in 0..c.below(5) {
            let version = if c.flag() { VERSION } else { c.array() };
            offered |= version == VERSION;
            datagram.extend(version);
        }
        self.spoiled(!offered);
        self.receive(&datagram);
    }

    /// The server that is there answers what the client sent.
    fn answer(&mut self, c: &mut Cursor<'_>) {
        let retries = c.flag();
        for sent in std::mem::take(&mut self.client.sent) {
            match self.server.receive(self.now, self.client.addr, &sent.data) {
                Arrival::Incoming(incoming) if retries && !incoming.remote_address_validated() => {
                    let mut answer = Vec::new();
                    match self.server.endpoint.retry(*incoming, &mut answer) {
                        Ok(transmit) => self.server.answer(&transmit, answer),
                        Err(error) => self.server.endpoint.ignore(error.into_incoming()),
                    }
                }
                Arrival::Incoming(incoming) => {
                    self.server.accept(self.now, *incoming);
                }
                _ => {}
            }
        }
        self.server.drive(self.now);
        for sent in std::mem::take(&mut self.server.sent) {
            if sent.to != self.client.addr {
                continue;
            }
            let answer = packet(&mut Reader(&sent.data), 8, TAG_BYTES);
            if let Some(answer) = answer.filter(|it| it.kind == Kind::Retry) {
                let end = answer.payload.len() - RETRY_TAG_BYTES;
                self.tokens.insert(answer.payload[..end].to_vec());
            }
            self.fresh = false;
            self.receive(&sent.data);
        }
    }

    fn receive(&mut self, datagram: &[u8]) {
        self.client.receive(self.now, self.server.addr, datagram);
        self.settle();
    }

    fn settle(&mut self) {
        self.client.drive(self.now);
        self.client.sent.retain(|it| !it.stateless);
        for sent in &self.client.sent {
            let mut r = Reader(&sent.data);
            let Some(packet) = packet(&mut r, 8, TAG_BYTES) else {
                continue;
            };
            if packet.kind != Kind::Initial || packet.token.is_empty() {
                continue;
            }
            assert!(
                self.tokens.contains(packet.token),
                "a token that no right Retry had"
            );
            let token = self.token.get_or_insert_with(|| packet.token.to_vec());
            assert_eq!(token, packet.token, "a second Retry is followed");
        }
    }

    fn end(mut self) {
        if !self.harmless {
            return;
        }
        for _ in 0..20 {
            converse(self.now, &mut self.client, &mut self.server, |_, _| {});
            let conn = self.client.conns.get(&self.conn).expect("nothing ended it");
            if !conn.machine.is_handshaking() {
                assert!(!conn.machine.is_closed(), "{:?}", conn.events);
                return;
            }
            let deadline = self.client.deadline().expect("it repeats itself");
            self.now = self.now.max(deadline);
        }
        panic!("what says nothing kept a client from its server");
    }
}
