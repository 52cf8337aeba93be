//! The peer.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use polyquic_core::rustls::pki_types::ServerName;
use polyquic_core::rustls::quic::{
    self, ClientConnection, DirectionalKeys, HeaderProtectionKey, KeyChange, Keys, PacketKeySet,
    Secrets, ServerConnection, Version,
};
use polyquic_core::rustls::{ClientConfig, ServerConfig, Side};

use crate::packet::unmask;
use crate::params::id;
use crate::{Frame, Header, Kind, Packet, Params, Space, initial_keys, space};

/// Frames of the victim that are kept for scripts; older ones are forgotten.
const KEPT_FRAMES: usize = 4096;

/// Bytes of TLS messages in a packet.
const CRYPTO_PIECE_BYTES: usize = 1000;

/// The smallest datagram that may hold an Initial packet, and what this peer's datagrams hold.
const DATAGRAM_BYTES: usize = 1200;

/// What a peer does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manners {
    /// It goes on with the TLS handshake.
    pub handshake: bool,
    /// It sends what TLS puts into Handshake packets: as a client, its Finished.
    pub finished: bool,
    /// It acknowledges what it receives, truthfully and at once.
    pub acks: bool,
    /// It answers PATH_CHALLENGE frames.
    pub path_responses: bool,
    /// It acknowledges the retirement of connection ids.
    pub retirements: bool,
    /// As a server, it confirms the handshake.
    pub handshake_done: bool,
    /// How many bytes of the handshake a packet has at most.
    pub piece_bytes: usize,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            handshake: true,
            finished: true,
            acks: true,
            path_responses: true,
            retirements: true,
            handshake_done: true,
            piece_bytes: CRYPTO_PIECE_BYTES,
        }
    }
}

/// A CONNECTION_CLOSE of the victim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Where it came.
    pub space: Space,
    /// Whether an application closed.
    pub application: bool,
    /// The error code.
    pub code: u64,
    /// What it says.
    pub reason: String,
}

/// What went in and out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams taken in.
    pub datagrams_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Datagrams given out.
    pub datagrams_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Packets that could not be decrypted or decoded.
    pub unreadable: u64,
    /// Version Negotiation packets taken in.
    pub version_negotiations: u64,
    /// Retry packets taken in.
    pub retries: u64,
    /// Stateless resets with a token that the victim had told.
    pub stateless_resets: u64,
    /// CONNECTION_CLOSE frames taken in.
    pub closes: u64,
}

struct OneRtt {
    local_header: Box<dyn HeaderProtectionKey>,
    remote_header: Box<dyn HeaderProtectionKey>,
    generations: Vec<PacketKeySet>,
    next: Secrets,
    sending: usize,
    receiving: usize,
}

impl OneRtt {
    fn generation(&mut self, index: usize) -> &PacketKeySet {
        while self.generations.len() <= index {
            self.generations.push(self.next.next_packet_keys());
        }
        &self.generations[index]
    }
}

/// A peer that completes a handshake, and then does as it is told.
///
/// Scripts alternate between having it say something ([`send`](Self::send) and the like), and
/// moving datagrams ([`handle_datagram`](Self::handle_datagram),
/// [`poll_transmit`](Self::poll_transmit)).
pub struct Peer {
    side: Side,
    tls: Option<quic::Connection>,
    server_config: Option<Arc<ServerConfig>>,
    params: Params,
    local_cid: Vec<u8>,
    remote_cid: Vec<u8>,
    original_dcid: Vec<u8>,
    token: Vec<u8>,
    initial: Option<Keys>,
    early: Option<DirectionalKeys>,
    handshake: Option<Keys>,
    one_rtt: Option<OneRtt>,
    spaces: [space::State; 3],
    hello: Vec<u8>,
    heard_from: bool,
    heard_token: Vec<u8>,
    /// What it does by itself.
    pub manners: Manners,
    outbox: VecDeque<Vec<u8>>,
    seen: VecDeque<(Space, Frame)>,
    close: Option<Close>,
    victim_cids: Vec<(u64, Vec<u8>, [u8; 16])>,
    counters: Counters,
    confirmed: bool,
    alert: Option<String>,
}

impl Peer {
    /// A client that wants to talk to `server_name`. It says nothing until [`start`](Self::start).
    ///
    /// `original_dcid` is the connection id that it makes up for the server, of 8 to 20 bytes.
    /// Take other ones for every connection to the same server.
    ///
    /// # Panics
    ///
    /// If TLS does not like the name.
    pub fn client(
        tls: Arc<ClientConfig>,
        server_name: &str,
        local_cid: &[u8],
        original_dcid: &[u8],
        params: &Params,
    ) -> Self {
        let mut params = params.clone();
        if !params.exact {
            params.set(id::INITIAL_SCID, local_cid);
        }
        let name = ServerName::try_from(server_name.to_owned()).expect("the name is well-formed");
        let tls = ClientConnection::new(tls, Version::V1, name, params.encode())
            .expect("the configuration is for QUIC");
        let mut peer = Self::new(Side::Client, local_cid, params);
        peer.tls = Some(tls.into());
        peer.remote_cid = original_dcid.to_vec();
        peer.original_dcid = original_dcid.to_vec();
        peer.initial = Some(initial_keys(original_dcid, Side::Client));
        peer
    }

    /// A server for one connection: the first one that says something.
    pub fn server(tls: Arc<ServerConfig>, local_cid: &[u8], params: &Params) -> Self {
        let mut peer = Self::new(Side::Server, local_cid, params.clone());
        peer.server_config = Some(tls);
        peer
    }

    fn new(side: Side, local_cid: &[u8], params: Params) -> Self {
        Self {
            side,
            tls: None,
            server_config: None,
            params,
            local_cid: local_cid.to_vec(),
            remote_cid: Vec::new(),
            original_dcid: Vec::new(),
            token: Vec::new(),
            initial: None,
            early: None,
            handshake: None,
            one_rtt: None,
            spaces: Default::default(),
            hello: Vec::new(),
            heard_from: false,
            heard_token: Vec::new(),
            manners: Manners::default(),
            outbox: VecDeque::new(),
            seen: VecDeque::new(),
            close: None,
            victim_cids: Vec::new(),
            counters: Counters::default(),
            confirmed: false,
            alert: None,
        }
    }

    /// As a client, send the ClientHello.
    pub fn start(&mut self) {
        self.write_tls();
    }

    /// The ClientHello, to be sent in other ways than [`start`](Self::start) would.
    pub fn client_hello(&mut self) -> Vec<u8> {
        let mut hello = Vec::new();
        if let Some(tls) = &mut self.tls {
            let keys = tls.write_hs(&mut hello);
            debug_assert!(keys.is_none(), "a client has no keys before the answer");
        }
        self.hello.clone_from(&hello);
        hello
    }

    /// The next datagram to put on the wire.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let datagram = self.outbox.pop_front()?;
        self.counters.datagrams_out += 1;
        self.counters.bytes_out += datagram.len() as u64;
        Some(datagram)
    }

    /// Send frames in a 1-RTT packet, or in several where they do not fit into one.
    pub fn send(&mut self, frames: impl IntoIterator<Item = Frame>) {
        self.send_in(Kind::OneRtt, frames);
    }

    /// Send frames in packets of this type, each in a datagram of its own. Initial packets are
    /// padded.
    pub fn send_in(&mut self, kind: Kind, frames: impl IntoIterator<Item = Frame>) {
        let room = (DATAGRAM_BYTES - 100).saturating_sub(self.token.len());
        let mut payload = Vec::new();
        for frame in frames {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            if !payload.is_empty() && payload.len() + bytes.len() > room {
                let full = self.packet(kind, std::mem::take(&mut payload));
                self.send_packet(&full);
            }
            payload.extend_from_slice(&bytes);
        }
        let packet = self.packet(kind, payload);
        self.send_packet(&packet);
    }

    /// A packet without lies, with the next packet number. Change it, then
    /// [`send_packet`](Self::send_packet) it.
    pub fn packet(&mut self, kind: Kind, payload: Vec<u8>) -> Packet {
        let space = &mut self.spaces[kind.space() as usize];
        let pn = space.next_pn;
        space.next_pn += 1;
        let (dcid, scid) = (&self.remote_cid, &self.local_cid);
        let mut packet = Packet::new(kind, dcid, scid, pn, payload);
        if kind == Kind::Initial {
            packet.token.clone_from(&self.token);
            packet = packet.padded_to(DATAGRAM_BYTES);
        }
        if let (Kind::OneRtt, Some(keys)) = (kind, &self.one_rtt) {
            packet.key_phase = keys.sending % 2 == 1;
        }
        packet
    }

    /// A packet of these frames.
    pub fn packet_of(&mut self, kind: Kind, frames: &[Frame]) -> Packet {
        self.packet(kind, Frame::encode_all(frames))
    }

    /// Protect a packet.
    ///
    /// # Panics
    ///
    /// If there are no keys for its type (yet, or as a server, for 0-RTT).
    pub fn seal(&mut self, packet: &Packet) -> Vec<u8> {
        match packet.kind {
            Kind::Initial => packet.seal(&self.initial.as_ref().expect(NO_KEYS).local),
            Kind::Handshake => packet.seal(&self.handshake.as_ref().expect(NO_KEYS).local),
            Kind::ZeroRtt => packet.seal(self.early.as_ref().expect(NO_KEYS)),
            Kind::OneRtt => {
                let keys = self.one_rtt.as_mut().expect(NO_KEYS);
                let sending = keys.sending;
                keys.generation(sending);
                packet.seal_with(&*keys.generations[sending].local, &*keys.local_header)
            }
        }
    }

    /// Send a packet in a datagram of its own.
    pub fn send_packet(&mut self, packet: &Packet) {
        let datagram = self.seal(packet);
        self.send_datagram(datagram);
    }

    /// Send packets in one datagram.
    pub fn send_coalesced(&mut self, packets: &[Packet]) {
        let datagram = packets.iter().flat_map(|it| self.seal(it)).collect();
        self.send_datagram(datagram);
    }

    /// Send bytes as they are.
    pub fn send_datagram(&mut self, datagram: Vec<u8>) {
        self.outbox.push_back(datagram);
    }

    /// Update the sending keys (RFC 9001 section 6), whether or not that is allowed now.
    ///
    /// # Panics
    ///
    /// Before the handshake is over.
    pub fn update_keys(&mut self) {
        self.one_rtt.as_mut().expect(NO_KEYS).sending += 1;
    }

    /// Continue with other packet numbers, for example after one that was left out.
    pub fn skip_packet_numbers(&mut self, space: Space, count: u64) {
        self.spaces[space as usize].next_pn += count;
    }

    /// The number that the next packet of this space gets.
    pub fn next_packet_number(&self, space: Space) -> u64 {
        self.spaces[space as usize].next_pn
    }

    /// The packet numbers of the victim that arrived, ascending.
    pub fn received(&self, space: Space) -> &[RangeInclusive<u64>] {
        self.spaces[space as usize].received()
    }

    /// Whether there are keys for 1-RTT packets.
    pub fn is_connected(&self) -> bool {
        self.one_rtt.is_some()
    }

    /// Whether the victim knows that the handshake is complete: as a client, it said so; as a
    /// server, its Finished arrived.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// The first CONNECTION_CLOSE of the victim.
    pub fn close(&self) -> Option<&Close> {
        self.close.as_ref()
    }

    /// The error code of a transport's CONNECTION_CLOSE.
    pub fn close_code(&self) -> Option<u64> {
        let close = self.close.as_ref().filter(|it| !it.application);
        close.map(|it| it.code)
    }

    /// What TLS did not like, on this side.
    pub fn alert(&self) -> Option<&str> {
        self.alert.as_deref()
    }

    /// What went in and out.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Take the frames that the victim sent since the last time.
    pub fn take_frames(&mut self) -> Vec<(Space, Frame)> {
        self.seen.drain(..).collect()
    }

    /// The connection id that the victim is addressed by.
    pub fn remote_cid(&self) -> &[u8] {
        &self.remote_cid
    }

    /// Address the victim by another one.
    pub fn set_remote_cid(&mut self, cid: &[u8]) {
        self.remote_cid = cid.to_vec();
    }

    /// This peer's own connection id.
    pub fn local_cid(&self) -> &[u8] {
        &self.local_cid
    }

    /// The id that the client made up for the server.
    pub fn original_dcid(&self) -> &[u8] {
        &self.original_dcid
    }

    /// The ids that the victim has issued: number, id, stateless reset token.
    pub fn victim_cids(&self) -> &[(u64, Vec<u8>, [u8; 16])] {
        &self.victim_cids
    }

    /// The token of a Retry packet, sent in each Initial.
    pub fn token(&self) -> &[u8] {
        &self.token
    }

    /// The token in the latest Initial packet of the victim.
    pub fn heard_token(&self) -> &[u8] {
        &self.heard_token
    }

    /// Send this token in Initial packets.
    pub fn set_token(&mut self, token: &[u8]) {
        self.token = token.to_vec();
    }

    /// Take in a datagram of the victim.
    pub fn handle_datagram(&mut self, datagram: &[u8]) {
        self.counters.datagrams_in += 1;
        self.counters.bytes_in += datagram.len() as u64;
        let mut rest = datagram.to_vec();
        while !rest.is_empty() {
            let Some(header) = Header::decode(&rest, self.local_cid.len()) else {
                self.counters.unreadable += 1;
                break;
            };
            if let Header::Protected {
                kind: Kind::Initial,
                token,
                ..
            } = &header
            {
                self.heard_token.clone_from(token);
            }
            let Header::Protected { len, .. } = header else {
                self.handle_unprotected(header);
                break;
            };
            let next = rest.split_off(len);
            self.handle_packet(&header, rest);
            // Before the next packet, which may need the keys.
            self.write_tls();
            rest = next;
        }
        if self.manners.acks {
            self.acknowledge();
        }
    }

    fn handle_unprotected(&mut self, header: Header) {
        match header {
            Header::VersionNegotiation { .. } => self.counters.version_negotiations += 1,
            Header::Retry { scid, token, .. } => {
                self.counters.retries += 1;
                if self.heard_from || !self.token.is_empty() || !self.manners.handshake {
                    return;
                }
                self.token = token;
                self.initial = Some(initial_keys(&scid, self.side));
                self.remote_cid = scid;
                let hello = std::mem::take(&mut self.hello);
                self.spaces[0].crypto_written = 0;
                self.write_crypto(Space::Initial, &hello);
            }
            Header::Protected { .. } => {}
        }
    }

    fn handle_packet(&mut self, header: &Header, mut packet: Vec<u8>) {
        let whole = packet.clone();
        let Some((space, pn, frames)) = self.open(header, &mut packet) else {
            self.counters.unreadable += 1;
            let token = whole.last_chunk::<16>();
            if self.victim_cids.iter().any(|it| Some(&it.2) == token) {
                self.counters.stateless_resets += 1;
            }
            return;
        };
        if !self.spaces[space as usize].note(pn) {
            return;
        }
        if let (Header::Protected { scid, kind, .. }, false) = (header, self.heard_from) {
            if *kind == Kind::Initial {
                self.remote_cid.clone_from(scid);
            }
            self.heard_from = true;
        }
        if frames.iter().any(Frame::is_ack_eliciting) {
            self.spaces[space as usize].ack_due = true;
        }
        for frame in frames {
            self.handle_frame(space, &frame);
            if self.seen.len() == KEPT_FRAMES {
                self.seen.pop_front();
            }
            self.seen.push_back((space, frame));
        }
    }

    fn open(&mut self, header: &Header, packet: &mut [u8]) -> Option<(Space, u64, Vec<Frame>)> {
        let Header::Protected {
            kind,
            dcid,
            scid,
            pn_offset,
            ..
        } = header
        else {
            return None;
        };
        if self.initial.is_none() && self.side == Side::Server && *kind == Kind::Initial {
            self.meet(dcid, scid);
        }
        let space = kind.space();
        let largest = self.spaces[space as usize].largest();
        let (pn, payload) = if *kind == Kind::OneRtt {
            let keys = self.one_rtt.as_mut()?;
            let (pn, start) = unmask(packet, *pn_offset, largest, &*keys.remote_header)?;
            let phase = usize::from(packet[0] >> 2 & 1);
            let generation = match (keys.receiving % 2 == phase, keys.receiving) {
                (true, now) => now,
                (false, now) => now + 1,
            };
            let (head, body) = packet.split_at_mut(start);
            let key = &keys.generation(generation).remote;
            let payload = key.decrypt_in_place(pn, head, body).ok()?.to_vec();
            keys.receiving = generation;
            keys.sending = keys.sending.max(generation);
            (pn, payload)
        } else {
            let keys = match kind {
                Kind::Initial => &self.initial.as_ref()?.remote,
                Kind::Handshake => &self.handshake.as_ref()?.remote,
                Kind::ZeroRtt | Kind::OneRtt => self.early.as_ref()?,
            };
            let (pn, start) = unmask(packet, *pn_offset, largest, &*keys.header)?;
            let (head, body) = packet.split_at_mut(start);
            (
                pn,
                keys.packet.decrypt_in_place(pn, head, body).ok()?.to_vec(),
            )
        };
        Some((space, pn, Frame::decode_all(&payload).ok()?))
    }

    /// As a server, meet the client.
    fn meet(&mut self, dcid: &[u8], scid: &[u8]) {
        let Some(config) = self.server_config.take() else {
            return;
        };
        self.original_dcid = dcid.to_vec();
        self.remote_cid = scid.to_vec();
        if !self.params.exact {
            self.params.set(id::ORIGINAL_DCID, dcid);
            self.params.set(id::INITIAL_SCID, &self.local_cid);
        }
        let tls = ServerConnection::new(config, Version::V1, self.params.encode())
            .expect("the configuration is for QUIC");
        self.tls = Some(tls.into());
        self.initial = Some(initial_keys(dcid, Side::Server));
    }

    fn handle_frame(&mut self, space: Space, frame: &Frame) {
        match frame {
            Frame::Crypto { offset, data } => {
                let ready = self.spaces[space as usize].crypto(*offset, data);
                if self.manners.handshake
                    && let Some(tls) = &mut self.tls
                    && let Err(error) = tls.read_hs(&ready)
                {
                    self.alert.get_or_insert(error.to_string());
                }
            }
            Frame::Close {
                code,
                frame_type,
                reason,
            } => {
                self.counters.closes += 1;
                self.close.get_or_insert_with(|| Close {
                    space,
                    application: frame_type.is_none(),
                    code: *code,
                    reason: String::from_utf8_lossy(reason).into_owned(),
                });
            }
            Frame::NewConnectionId {
                sequence,
                cid,
                token,
                ..
            } => self.victim_cids.push((*sequence, cid.clone(), *token)),
            Frame::PathChallenge(data) if self.manners.path_responses => {
                self.send([Frame::PathResponse(*data)]);
            }
            Frame::HandshakeDone => self.confirmed = true,
            _ => {}
        }
    }

    /// Have TLS say what it has to say.
    fn write_tls(&mut self) {
        while self.manners.handshake {
            let space = match (&self.handshake, &self.one_rtt) {
                (None, _) => Space::Initial,
                (Some(_), None) => Space::Handshake,
                (Some(_), Some(_)) => Space::Data,
            };
            let Some(tls) = &mut self.tls else {
                return;
            };
            let mut bytes = Vec::new();
            let change = tls.write_hs(&mut bytes);
            if self.early.is_none() && self.side == Side::Client {
                self.early = tls.zero_rtt_keys();
            }
            if space == Space::Initial && self.hello.is_empty() {
                self.hello.clone_from(&bytes);
            }
            if space != Space::Handshake || self.manners.finished {
                self.write_crypto(space, &bytes);
            }
            match change {
                None if bytes.is_empty() => break,
                None => {}
                Some(KeyChange::Handshake { keys }) => self.handshake = Some(keys),
                Some(KeyChange::OneRtt { keys, next }) => {
                    let Keys { local, remote } = keys;
                    self.one_rtt = Some(OneRtt {
                        local_header: local.header,
                        remote_header: remote.header,
                        generations: vec![PacketKeySet {
                            local: local.packet,
                            remote: remote.packet,
                        }],
                        next,
                        sending: 0,
                        receiving: 0,
                    });
                }
            }
        }
        let finished = self.tls.as_ref().is_some_and(|it| !it.is_handshaking());
        if self.side == Side::Server && finished && self.one_rtt.is_some() && !self.confirmed {
            self.confirmed = true;
            if self.manners.handshake_done {
                self.send([Frame::HandshakeDone]);
            }
        }
    }

    fn write_crypto(&mut self, space: Space, bytes: &[u8]) {
        let kind = match space {
            Space::Initial => Kind::Initial,
            Space::Handshake => Kind::Handshake,
            Space::Data => Kind::OneRtt,
        };
        let limit = self.manners.piece_bytes.saturating_sub(self.token.len());
        for piece in bytes.chunks(limit.max(1)) {
            let state = &mut self.spaces[space as usize];
            let offset = state.crypto_written;
            state.crypto_written += piece.len() as u64;
            self.send_in(kind, [Frame::crypto(offset, piece)]);
        }
    }

    fn acknowledge(&mut self) {
        for (space, kind, ready) in [
            (Space::Initial, Kind::Initial, self.initial.is_some()),
            (Space::Handshake, Kind::Handshake, self.handshake.is_some()),
            (Space::Data, Kind::OneRtt, self.one_rtt.is_some()),
        ] {
            if std::mem::take(&mut self.spaces[space as usize].ack_due) && ready {
                let received = self.spaces[space as usize].received();
                // More would not fit, and the victim skips few numbers.
                let recent = &received[received.len().saturating_sub(32)..];
                let ack = Frame::ack(recent);
                self.send_in(kind, [ack]);
            }
        }
    }
}

const NO_KEYS: &str = "there are no keys for packets of this type";

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("side", &self.side)
            .field("connected", &self.is_connected())
            .field("confirmed", &self.confirmed)
            .field("close", &self.close)
            .field("alert", &self.alert)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
