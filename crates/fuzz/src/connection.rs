//! Frames behind the encryption: the fuzzer is the peer of an established connection.
//!
//! The handshake is made by two real machines without cryptography; then one of them is put away, and
//! the fuzzer writes packets in its stead. A model reads everything that goes either way.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use polyquic_core::{Dir, Event, Instant, Side, StreamId, TransportConfig, VarInt};

use crate::cursor::Cursor;
use crate::host::{Host, addr, client_config, converse, epoch, server_config, still_works};
use crate::model::{Model, pattern};
use crate::plain::PlainTls;
use crate::wire::{Kind, put_packet, put_varint};

/// What holds for both sides.
pub(crate) const STREAMS: u32 = 6;
pub(crate) const STREAM_WINDOW: u32 = 8_000;
pub(crate) const WINDOW: u32 = 20_000;
const DATAGRAM_BUFFER: usize = 2_000;
/// Actions of one input, at most.
const MAX_ACTIONS: usize = 600;
/// Bytes of frames in one packet, at most.
const MAX_PAYLOAD: usize = 1_300;

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(WINDOW.into())
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .max_idle_timeout(None);
    transport
}

/// See the module.
pub fn connection(data: &[u8]) {
    let mut c = Cursor::new(data);
    let side = if c.flag() { Side::Client } else { Side::Server };
    let mut stage = Stage::new(side);
    for _ in 0..MAX_ACTIONS {
        if c.is_empty() || stage.victim.conns.is_empty() {
            break;
        }
        stage.act(&mut c);
        stage.settle();
    }
    stage.end();
}

struct Stage {
    now: Instant,
    side: Side,
    victim: Host,
    handle: usize,
    /// Where the puppet is.
    puppet: std::net::SocketAddr,
    model: Model,
    number: u32,
    /// The largest of these so far.
    latest: u32,
    payload: Vec<u8>,
    /// Streams that the application accepted.
    accepted: BTreeSet<StreamId>,
}

impl Stage {
    fn new(side: Side) -> Self {
        let now = epoch();
        let (mut client, mut server) = (
            Host::new(1, None),
            Host::new(2, Some(server_config(PlainTls::default(), transport()))),
        );
        let handle = client.connect(
            now,
            client_config(PlainTls::default(), transport()),
            server.addr,
        );
        let mut model = Model::new(side);
        converse(now, &mut client, &mut server, |by_client, data| {
            if by_client == side.is_client() {
                model.victim_sent(data);
            } else {
                model.puppet_sent(data, false);
            }
        });
        let (victim, handle, puppet) = match side {
            Side::Client => (client, handle, server.addr),
            Side::Server => {
                let handle = *server.conns.keys().next().expect("accepted");
                (server, handle, client.addr)
            }
        };
        let mut stage = Self {
            now,
            side,
            victim,
            handle,
            puppet,
            model,
            number: 1000,
            latest: 0,
            payload: Vec::new(),
            accepted: BTreeSet::new(),
        };
        assert!(!stage.conn().is_handshaking(), "established");
        stage.model.begin();
        stage.settle();
        stage
    }

    fn conn(&mut self) -> &mut polyquic_core::Connection {
        &mut self
            .victim
            .conns
            .get_mut(&self.handle)
            .expect("checked before each action")
            .machine
    }

    fn act(&mut self, c: &mut Cursor<'_>) {
        let action = c.byte();
        match action {
            0..160 => {
                self.put_frame(action % 20, c);
                // Several frames travel in one packet.
                if self.payload.len() > MAX_PAYLOAD - 300 || c.byte() & 3 != 0 {
                    self.send(c);
                }
            }
            160..250 => self.application(action - 160, c),
            _ => {
                let millis = 1u64 << c.below(12);
                self.now += Duration::from_millis(millis);
            }
        }
    }

    /// An id that is often one that means something.
    fn stream_id(c: &mut Cursor<'_>) -> u64 {
        match c.byte() {
            near @ 0..248 => (near % 32).into(),
            _ => c.number(),
        }
    }

    fn put_frame(&mut self, kind: u8, c: &mut Cursor<'_>) {
        let model = &self.model;
        let out = &mut self.payload;
        let mut put = |numbers: &[u64]| numbers.iter().for_each(|number| put_varint(out, *number));
        match kind {
            0..5 => {
                let id = Self::stream_id(c);
                let offset = match c.byte() {
                    // Mostly where the last one ended, or around it.
                    0..128 => model.sent_up_to(id),
                    back @ 128..192 => model
                        .sent_up_to(id)
                        .saturating_sub(u64::from(back - 127) * 7),
                    ahead @ 192..240 => model.sent_up_to(id) + u64::from(ahead - 191) * 50,
                    _ => c.number(),
                };
                let length = u64::from(c.byte()) * if c.below(4) == 0 { 4 } else { 1 };
                let fin = u64::from(c.below(8) == 1);
                put(&[0x0e | fin, id, offset, length]);
                out.extend((0..length).map(|at| pattern(id, offset.wrapping_add(at))));
            }
            5 => {
                let id = Self::stream_id(c);
                let size = if c.flag() {
                    model.sent_up_to(id)
                } else {
                    c.number()
                };
                put(&[0x04, id, c.number(), size]);
            }
            6 => put(&[0x05, Self::stream_id(c), c.number()]),
            7 => put(&[0x10, c.number()]),
            8 => put(&[0x11, Self::stream_id(c), c.number()]),
            9 => put(&[0x12 + u64::from(c.flag()), c.number()]),
            10 | 11 => {
                // What the victim sent last, or anything.
                let (smallest, largest) = model.latest_packets();
                if c.below(8) == 0 {
                    put(&[0x02, c.number(), c.number(), 0, c.number()]);
                } else {
                    put(&[0x02, largest, c.byte().into(), 0, largest - smallest]);
                }
            }
            12 => put(&[0x14 + u64::from(c.byte() & 3), c.number(), c.number()]),
            13 => {
                put(&[0x18, c.number(), c.number()]);
                let length = c.below(22) as u8;
                out.push(length);
                out.extend((0..length).map(|_| c.byte()));
                out.extend([c.byte(); 16]);
            }
            14 => put(&[0x19, c.number()]),
            15 => {
                out.push(0x1a + u8::from(c.flag()));
                out.extend(c.array::<8>());
            }
            16 => {
                let data = c.slice();
                put(&[0x31, data.len() as u64]);
                out.extend_from_slice(data);
            }
            17 => match c.below(8) {
                0 => put(&[0x01]),
                1 => put(&[0x1e]),
                2 => put(&[0x1f]),
                3 => put(&[0xaf, c.number(), c.number(), c.number(), c.number()]),
                4 => put(&[0x1c, c.number(), c.number(), 0]),
                5 => put(&[0x1d, c.number(), 0]),
                6 => {
                    let data = c.slice();
                    put(&[0x07, data.len() as u64]);
                    out.extend_from_slice(data);
                }
                _ => out.extend([0; 8]),
            },
            18 => {
                let data = c.slice();
                put(&[0x06, c.number(), data.len() as u64]);
                out.extend_from_slice(data);
            }
            _ => out.extend_from_slice(c.slice()),
        }
    }

    fn send(&mut self, c: &mut Cursor<'_>) {
        let payload = std::mem::take(&mut self.payload);
        let kind = match c.byte() {
            0 => Kind::Initial,
            1 => Kind::Handshake,
            2 => Kind::ZeroRtt,
            _ => Kind::Short,
        };
        let latest = self.latest;
        self.number = match c.byte() {
            // Again, or long before or after.
            0 => self.number,
            1 => self.number.saturating_sub(c.byte().into()),
            2 => self.number + u32::from(c.u16()),
            _ => latest.max(1000) + 1,
        };
        let fresh = self.number > latest;
        self.latest = latest.max(self.number);
        let (ours, theirs) = self.model.ids();
        let mut datagram = Vec::new();
        put_packet(
            &mut datagram,
            kind,
            &theirs,
            &ours,
            &[],
            self.number,
            &payload,
        );
        match c.byte() {
            // Key phase, spin and reserved bits.
            0 => datagram[0] ^= c.byte() & 0x3c,
            1 => datagram.truncate(c.byte().into()),
            _ => {}
        }
        // Clients may move, servers may not.
        let from = match c.byte() {
            0 if self.side.is_server() => addr(9, 900 + u16::from(c.byte() & 3)),
            _ => self.puppet,
        };
        self.model.puppet_sent(&datagram, fresh);
        self.victim.deliver(self.now, from, &datagram);
        let conn = self.victim.conns.get(&self.handle);
        self.model
            .must_be_closed_if_breached(conn.is_none_or(|conn| conn.machine.is_closed()));
    }

    fn application(&mut self, action: u8, c: &mut Cursor<'_>) {
        let now = self.now;
        let id = VarInt::from_u64(Self::stream_id(c) & 31)
            .map(StreamId::from)
            .expect("small");
        let us = self.side;
        // Applications have no handle to a stream that they neither opened nor accepted.
        let known = self.accepted.contains(&id) || self.model.is_open(id.into());
        let sends = known && (id.dir() == Dir::Bi || id.initiator() == us);
        let receives = known && (id.dir() == Dir::Bi || id.initiator() != us);
        match action % 10 {
            0..4 if receives => {
                let (ordered, max) = (c.flag(), usize::from(c.byte()) * 32 + 1);
                // quinn-proto 0.11.19 delivers bytes twice when a stream is read in order and then out of
                // order, while a duplicate of them is buffered.
                let ordered = self.model.reads_in_order(id.into()).unwrap_or(ordered);
                let machine = &mut self
                    .victim
                    .conns
                    .get_mut(&self.handle)
                    .expect("checked")
                    .machine;
                let mut stream = machine.recv_stream(id);
                let Ok(mut chunks) = stream.read(ordered) else {
                    return;
                };
                for _ in 0..=c.below(4) {
                    match chunks.next(max) {
                        Ok(Some(chunk)) => {
                            assert!(chunk.bytes.len() <= max);
                            self.model
                                .delivered(id.into(), ordered, chunk.offset, &chunk.bytes);
                        }
                        Ok(None) => {
                            self.model.delivered_all(id.into());
                            break;
                        }
                        Err(_) => break,
                    }
                }
                let _ = chunks.finalize();
            }
            4 if receives && c.below(4) == 0 => {
                if self.conn().stop_stream(id, VarInt::from_u32(7)).is_ok() {
                    self.model.stopped(id.into());
                }
            }
            5 => {
                let dir = if c.flag() { Dir::Bi } else { Dir::Uni };
                if let Some(id) = self.conn().streams().open(dir) {
                    self.model.opened(id.into());
                }
            }
            6 | 7 if sends => {
                let (start, length) = (self.model.written(id.into()), u64::from(c.byte()) * 16);
                let bytes: Vec<u8> = (start..start + length)
                    .map(|at| pattern(id.into(), at))
                    .collect();
                if let Ok(count) = self.conn().send_stream(id).write(&bytes) {
                    self.model.wrote(id.into(), count as u64);
                }
            }
            8 if sends => {
                let finish = c.flag();
                let mut stream = self.conn().send_stream(id);
                if finish {
                    let _ = stream.finish();
                } else {
                    let _ = stream.reset(VarInt::from_u32(9));
                }
            }
            _ => match c.below(12) {
                0 => {
                    self.model.application_closed();
                    self.conn()
                        .close(now, VarInt::from_u32(3), Bytes::from_static(b"enough"));
                }
                1 => {
                    self.model.keys_updated();
                    self.conn().force_key_update();
                }
                2 => {
                    let data = vec![0xda; c.byte().into()];
                    let _ = self.conn().datagrams().send(data.into(), c.flag());
                }
                3 => self.conn().ping(),
                4 | 5 => {
                    let dir = if c.flag() { Dir::Bi } else { Dir::Uni };
                    while let Some(id) = self.conn().streams().accept(dir) {
                        assert!(self.accepted.insert(id), "{id} is accepted twice");
                    }
                }
                _ => {
                    while let Some(datagram) = self.conn().datagrams().recv() {
                        self.model.datagram_delivered(&datagram);
                    }
                }
            },
        }
    }

    /// Let the victim do what it has to do, and look at it.
    fn settle(&mut self) {
        self.victim.drive(self.now);
        for sent in std::mem::take(&mut self.victim.sent) {
            if !sent.stateless {
                self.model.victim_sent(&sent.data);
            }
        }
        let Some(conn) = self.victim.conns.get_mut(&self.handle) else {
            return;
        };
        for event in std::mem::take(&mut conn.events) {
            if let Event::ConnectionLost { reason } = event {
                assert!(!self.model.is_legal(), "lost without a reason: {reason}");
            }
        }
        assert_eq!(conn.machine.side(), self.side);
    }

    /// Whatever happened, the endpoint goes on.
    fn end(mut self) {
        if self.victim.conns.contains_key(&self.handle) {
            self.model.application_closed();
            let now = self.now;
            self.conn().close(now, VarInt::from_u32(0), Bytes::new());
            self.settle();
        }
        // Until nothing is left of the connection.
        for _ in 0..20 {
            let Some(deadline) = self.victim.deadline() else {
                break;
            };
            self.now = self.now.max(deadline);
            self.settle();
        }
        assert_eq!(
            self.victim.endpoint.open_connections(),
            0,
            "closed, but not forgotten"
        );
        let now = self.now;
        match self.side {
            Side::Client => {
                let config = server_config(PlainTls::default(), TransportConfig::default());
                still_works(now, &mut self.victim, &mut Host::new(3, Some(config)));
            }
            Side::Server => still_works(now, &mut Host::new(3, None), &mut self.victim),
        }
    }
}
