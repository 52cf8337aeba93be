//! Streams through the handles, against a model of what was written.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use polyquic_core::{ConnectionError, TransportConfig, TransportErrorCode as Code, VarInt};
use polyquic_endpoint::{
    Connection, Endpoint, ReadError, ReadExactError, ReadToEndError, RecvStream, SendStream,
};
use polyquic_runtime::Spawn;

use crate::cursor::Cursor;
use crate::host::{addr, client_config, server_config};
use crate::model::pattern;
use crate::plain::PlainTls;
use crate::runtime::World;

const MAX_ACTIONS: usize = 200;
/// Small, so that writers wait.
const STREAM_WINDOW: u32 = 3_000;
const WINDOW: u32 = 8_000;
const SEND_WINDOW: u64 = 6_000;
/// More steps than anything takes that ends at all.
const PATIENCE: usize = 200_000;

/// How a sender ended its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Reset(VarInt),
}

/// What is known of a stream.
#[derive(Default)]
struct Known {
    /// Bytes written at least, and at most: a cancelled `write_all` leaves that open.
    written: u64,
    written_at_most: u64,
    ends: Vec<End>,
    /// Before all came to an end.
    was_reset: bool,
    /// Which bytes were read.
    read: Vec<bool>,
    /// Where the next ordered read begins.
    next: u64,
    unordered: bool,
    /// What was read by a cancelled future is lost.
    lossy: bool,
    /// The reader said that it wants no more.
    stopped: bool,
    /// The reader was told of the end.
    ended: bool,
}

impl Known {
    /// Take note of bytes that were read.
    fn read(&mut self, id: u64, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        assert!(
            end <= self.written_at_most,
            "{id}: {offset}..{end} was never written"
        );
        self.read.resize(self.read.len().max(end as usize), false);
        for (at, byte) in (offset..).zip(bytes) {
            assert!(
                !std::mem::replace(&mut self.read[at as usize], true),
                "{id}: {at} twice"
            );
            assert_eq!(*byte, pattern(id, at), "{id}: wrong byte at {at}");
        }
    }

    fn read_ordered(&mut self, id: u64, bytes: &[u8]) {
        if !self.lossy {
            self.read(id, self.next, bytes);
            self.next += bytes.len() as u64;
        }
    }

    /// The reader was told that this is all.
    fn end(&mut self, id: u64) {
        self.ended = true;
        assert!(!self.stopped, "{id}: the end of a stream that was stopped");
        assert!(
            self.ends.contains(&End::Finished),
            "{id}: the end, but nobody finished it"
        );
        if !self.lossy {
            let count = self.read.iter().filter(|read| **read).count() as u64;
            assert!(
                count >= self.written,
                "{id}: {count} of {} bytes",
                self.written
            );
        }
    }

    fn failed(&mut self, id: u64, error: &ReadError) {
        match error {
            ReadError::Reset(code) => {
                self.ended = true;
                assert!(
                    self.ends.contains(&End::Reset(*code)),
                    "{id}: reset with {code} by nobody"
                );
            }
            ReadError::ClosedStream => assert!(self.stopped, "{id}: closed"),
            ReadError::IllegalOrderedRead => assert!(self.unordered, "{id}: nothing was unordered"),
            // Judged once, in `Stage::finish`.
            ReadError::ConnectionLost(_) => self.ended = true,
            error => panic!("{id}: {error}"),
        }
    }
}

/// The bytes that are read are those that were written, each once; the end is only reported when all
/// of them were read; a future that is cancelled loses nothing where it says so; and whoever waits is
/// woken.
pub fn streams(data: &[u8]) {
    let mut c = Cursor::new(data);
    let losses = c.take(8).to_vec();
    let bits = losses
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    // The handshake is not what this is about: some of what follows is lost.
    let world = World::new(std::iter::repeat_n(false, 12).chain(bits));
    let mut stage = Stage::new(&world);
    stage.losses = losses.iter().any(|byte| *byte != 0);
    stage.run(&mut c);
    for _ in 0..200 {
        if !world.step() {
            break;
        }
    }
    world.end();
}

struct Stage {
    world: World,
    sides: [Connection; 2],
    endpoints: [Endpoint; 2],
    known: Rc<RefCell<BTreeMap<u64, Known>>>,
    /// With whether the client sends.
    senders: Vec<(SendStream, bool)>,
    /// With whether the client sends what is read.
    readers: Vec<(RecvStream, bool)>,
    losses: bool,
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(4u32.into())
        .max_concurrent_uni_streams(4u32.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(SEND_WINDOW)
        .max_idle_timeout(None);
    transport
}

/// A stream's id, and whether it is the client's half of a bidirectional one.
fn key(id: impl Into<u64>, by_client: bool) -> u64 {
    id.into() << 1 | u64::from(by_client)
}

impl Stage {
    fn new(world: &World) -> Self {
        let server_config = server_config(PlainTls::default(), transport());
        let mut server_endpoint = polyquic_core::EndpointConfig::default();
        server_endpoint.seed([2; 32]);
        let server = Endpoint::builder()
            .config(server_endpoint)
            .server_config(server_config);
        let server = server
            .bind(world, addr(2, 4433))
            .expect("a socket in memory");
        let mut client_endpoint = polyquic_core::EndpointConfig::default();
        client_endpoint.seed([1; 32]);
        let client = Endpoint::builder().config(client_endpoint);
        let mut client = client
            .bind(world, addr(1, 4433))
            .expect("a socket in memory");
        client.set_default_client_config(client_config(PlainTls::default(), transport()));
        let connecting = client
            .connect(addr(2, 4433), "localhost")
            .expect("sound parameters");
        let accepting = async {
            server
                .accept()
                .await
                .expect("the server is open")
                .await
                .expect("sound")
        };
        // Both at once, by hand.
        let mut connecting = Box::pin(connecting.into_future());
        let mut accepting = Box::pin(accepting);
        let (mut ours, mut theirs) = (None, None);
        let both = std::future::poll_fn(|cx| {
            if ours.is_none()
                && let std::task::Poll::Ready(connected) = connecting.as_mut().poll(cx)
            {
                ours = Some(connected.expect("sound"));
            }
            if theirs.is_none()
                && let std::task::Poll::Ready(connection) = accepting.as_mut().poll(cx)
            {
                theirs = Some(connection);
            }
            if ours.is_some() && theirs.is_some() {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        });
        world.attempt(PATIENCE, both).expect("the handshake stalls");
        drop(accepting);
        let sides = [ours.expect("connected"), theirs.expect("accepted")];
        Self {
            world: world.clone(),
            sides,
            endpoints: [client, server],
            known: Rc::default(),
            senders: Vec::new(),
            readers: Vec::new(),
            losses: false,
        }
    }

    fn run(mut self, c: &mut Cursor<'_>) {
        for _ in 0..MAX_ACTIONS {
            if c.is_empty() {
                break;
            }
            self.act(c);
        }
        self.finish();
    }

    fn act(&mut self, c: &mut Cursor<'_>) {
        let action = c.byte() % 24;
        let steps = c.below(64);
        match action {
            0 | 1 => self.open(c.flag(), c.flag(), steps),
            2 | 3 => self.accept(c.flag(), c.flag(), steps),
            4..10 if !self.senders.is_empty() => {
                let index = usize::from(c.byte()) % self.senders.len();
                self.send(index, action, steps, c);
            }
            10..22 if !self.readers.is_empty() => {
                let index = usize::from(c.byte()) % self.readers.len();
                self.read(index, action, steps, c);
            }
            _ => (0..steps).for_each(|_| {
                self.world.step();
            }),
        }
    }

    fn open(&mut self, by_client: bool, bi: bool, steps: usize) {
        let side = self.sides[usize::from(!by_client)].clone();
        let opened = self.world.attempt(steps, async {
            if bi {
                side.open_bi().await.map(|(send, recv)| (send, Some(recv)))
            } else {
                side.open_uni().await.map(|send| (send, None))
            }
        });
        if let Some(Ok((send, recv))) = opened {
            self.known
                .borrow_mut()
                .entry(key(send.id(), by_client))
                .or_default();
            self.readers.extend(recv.map(|recv| (recv, !by_client)));
            self.senders.push((send, by_client));
        }
    }

    fn accept(&mut self, by_client: bool, bi: bool, steps: usize) {
        let side = self.sides[usize::from(!by_client)].clone();
        let accepted = self.world.attempt(steps, async {
            if bi {
                side.accept_bi()
                    .await
                    .map(|(send, recv)| (Some(send), recv))
            } else {
                side.accept_uni().await.map(|recv| (None, recv))
            }
        });
        if let Some(Ok((send, recv))) = accepted {
            if let Some(send) = send {
                self.known
                    .borrow_mut()
                    .entry(key(send.id(), by_client))
                    .or_default();
                self.senders.push((send, by_client));
            }
            self.readers.push((recv, !by_client));
        }
    }

    fn send(&mut self, index: usize, action: u8, steps: usize, c: &mut Cursor<'_>) {
        let (stream, by_client) = &mut self.senders[index];
        let id = key(stream.id(), *by_client);
        let mut known = self.known.borrow_mut();
        let known = known.get_mut(&id).expect("noted when it was opened");
        let (start, count) = (known.written, u64::from(c.byte()) * 20);
        let bytes: Vec<u8> = (start..start + count).map(|at| pattern(id, at)).collect();
        // After a cancelled `write_all` nobody knows what to write next.
        let clear = known.written == known.written_at_most;
        match action {
            // May be cancelled, and has then written nothing. What it would have written can be
            // read before it is known to be.
            4 | 5 if clear && count > 0 => {
                known.written_at_most = start + count;
                let written = if action == 4 {
                    self.world
                        .attempt(steps, stream.write(&bytes))
                        .and_then(Result::ok)
                } else {
                    let half = bytes.len() / 2;
                    let bytes = Bytes::from(bytes);
                    let mut parts = [bytes.slice(..half), bytes.slice(half..)];
                    let written = self.world.attempt(steps, stream.write_chunks(&mut parts));
                    written.and_then(Result::ok).map(|written| written.bytes)
                };
                known.written += written.unwrap_or(0) as u64;
                known.written_at_most = known.written;
            }
            6 if clear => {
                known.written_at_most = start + count;
                let written = self.world.attempt(steps, stream.write_all(&bytes));
                if matches!(written, Some(Ok(()))) {
                    known.written = start + count;
                }
            }
            7 => known
                .ends
                .extend(stream.finish().is_ok().then_some(End::Finished)),
            8 if c.below(4) == 0 => {
                let code = VarInt::from_u32(u32::from(c.byte()) + 1);
                if stream.reset(code).is_ok() {
                    known.ends.push(End::Reset(code));
                    known.was_reset = true;
                }
            }
            9 => match c.below(4) {
                0 => {
                    let _ = self.world.attempt(steps, stream.stopped());
                }
                1 => {
                    let _ = stream.set_priority(c.byte().into());
                }
                2 => {
                    // Resets what was not finished: with 0, or with the code of a reader that
                    // stopped it.
                    known.was_reset = true;
                    known
                        .ends
                        .extend([0, 77].map(|code| End::Reset(VarInt::from_u32(code))));
                    drop(self.senders.swap_remove(index));
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn read(&mut self, index: usize, action: u8, steps: usize, c: &mut Cursor<'_>) {
        let (stream, from_client) = &mut self.readers[index];
        let id = key(stream.id(), *from_client);
        let mut all = self.known.borrow_mut();
        let known = all.entry(id).or_default();
        let max = usize::from(c.byte()) * 8 + 1;
        match action {
            10..13 => {
                let mut buf = vec![0; max];
                match self.world.attempt(steps, stream.read(&mut buf)) {
                    Some(Ok(Some(count))) => known.read_ordered(id, &buf[..count]),
                    Some(Ok(None)) => known.end(id),
                    Some(Err(error)) => known.failed(id, &error),
                    None => {}
                }
            }
            13..17 => {
                let ordered = action < 15;
                known.unordered |= !ordered;
                match self.world.attempt(steps, stream.read_chunk(max, ordered)) {
                    Some(Ok(Some(chunk))) => {
                        assert!(chunk.bytes.len() <= max && !chunk.bytes.is_empty());
                        if ordered && !known.lossy {
                            assert_eq!(chunk.offset, known.next, "{id}: a gap");
                        }
                        known.read(id, chunk.offset, &chunk.bytes);
                        known.next = known.next.max(chunk.offset + chunk.bytes.len() as u64);
                    }
                    Some(Ok(None)) => known.end(id),
                    Some(Err(error)) => known.failed(id, &error),
                    None => {}
                }
            }
            17 => {
                let mut buf = vec![0; max];
                match self.world.attempt(steps, stream.read_exact(&mut buf)) {
                    Some(Ok(())) => known.read_ordered(id, &buf),
                    Some(Err(ReadExactError::FinishedEarly(count))) => {
                        known.read_ordered(id, &buf[..count]);
                        known.end(id);
                    }
                    Some(Err(ReadExactError::ReadError(error))) => {
                        known.failed(id, &error);
                        known.lossy = true;
                    }
                    None => known.lossy = true,
                }
            }
            18 => {
                let limit = max * 8;
                let fresh = !known.unordered && !known.lossy;
                match self.world.attempt(steps, stream.read_to_end(limit)) {
                    Some(Ok(bytes)) => {
                        assert!(bytes.len() <= limit);
                        if fresh {
                            known.read_ordered(id, &bytes);
                        } else {
                            known.lossy = true;
                        }
                        known.end(id);
                    }
                    Some(Err(ReadToEndError::TooLong)) => {
                        let left = known.written_at_most.saturating_sub(known.next);
                        assert!(
                            !fresh || left > limit as u64,
                            "{id}: {left} are not too many"
                        );
                        known.lossy = true;
                    }
                    Some(Err(ReadToEndError::Read(error))) => {
                        known.failed(id, &error);
                        known.lossy = true;
                    }
                    None => known.lossy = true,
                }
            }
            19 => {
                let reset = self.world.attempt(steps, stream.received_reset());
                if let Some(Ok(Some(code))) = reset {
                    assert!(
                        known.ends.contains(&End::Reset(code)),
                        "{id}: reset by nobody"
                    );
                }
            }
            20 if c.below(4) == 0 => {
                known.stopped |= stream.stop(VarInt::from_u32(77)).is_ok();
            }
            21 if c.below(8) == 0 => {
                known.stopped = true;
                drop(self.readers.swap_remove(index));
            }
            _ => {}
        }
    }

    /// A RESET_STREAM that comes twice is counted twice against the connection's window, while the
    /// application has not read the first (quinn-proto 0.11.19, `Recv::reset`).
    fn resets_repeated(&self, lost: &[ConnectionError]) -> bool {
        let overrun = lost.iter().any(|error| match error {
            ConnectionError::TransportError(error) => error.code == Code::FLOW_CONTROL_ERROR,
            ConnectionError::ConnectionClosed(close) => {
                close.error_code == Code::FLOW_CONTROL_ERROR
            }
            // The other side may have lost the close, and be told by a reset.
            _ => false,
        });
        let known = self.known.borrow();
        overrun
            && self.losses
            && known
                .values()
                .any(|stream| stream.was_reset || stream.stopped)
    }

    /// Finish what is open, read all that is left, at the same time, and see that it comes to an end.
    fn finish(mut self) {
        for (mut stream, by_client) in std::mem::take(&mut self.senders) {
            let id = key(stream.id(), by_client);
            let mut all = self.known.borrow_mut();
            let known = all.get_mut(&id).expect("noted when it was opened");
            if stream.finish().is_ok() {
                known.ends.push(End::Finished);
            }
            // Those that the peer stopped are reset when they are dropped.
            known
                .ends
                .extend([0, 77].map(|code| End::Reset(VarInt::from_u32(code))));
        }
        let left = Rc::new(RefCell::new(0usize));
        for stream in std::mem::take(&mut self.readers) {
            *left.borrow_mut() += 1;
            self.world
                .spawn(drain(stream, self.known.clone(), left.clone()));
        }
        for (index, side) in self.sides.clone().into_iter().enumerate() {
            let (known, world) = (self.known.clone(), self.world.clone());
            let (uni, by_client) = (side.clone(), index == 0);
            // Streams that nobody has accepted yet.
            let drained = {
                let (known, left, world) = (known.clone(), left.clone(), world.clone());
                move |stream| {
                    *left.borrow_mut() += 1;
                    world.spawn(drain((stream, !by_client), known.clone(), left.clone()));
                }
            };
            let drained_too = drained.clone();
            self.world.spawn(async move {
                while let Ok(stream) = uni.accept_uni().await {
                    drained(stream);
                }
            });
            self.world.spawn(async move {
                while let Ok((mut send, recv)) = side.accept_bi().await {
                    let mut all = known.borrow_mut();
                    let known = all.entry(key(send.id(), by_client)).or_default();
                    if send.finish().is_ok() {
                        known.ends.push(End::Finished);
                    }
                    known
                        .ends
                        .extend([0, 77].map(|code| End::Reset(VarInt::from_u32(code))));
                    drop(all);
                    drained_too(recv);
                }
            });
        }
        let mut patience = PATIENCE;
        while self.world.step() {
            patience -= 1;
            assert!(patience > 0, "busy without end");
        }
        assert_eq!(*left.borrow(), 0, "somebody waits for ever");
        let lost: Vec<_> = self
            .sides
            .iter()
            .filter_map(Connection::close_reason)
            .collect();
        assert!(lost.is_empty() || self.resets_repeated(&lost), "{lost:?}");
        for side in &self.sides {
            side.close(0u32.into(), b"");
        }
        drop(self.endpoints);
    }
}

async fn drain(
    (mut stream, from_client): (RecvStream, bool),
    known: Rc<RefCell<BTreeMap<u64, Known>>>,
    left: Rc<RefCell<usize>>,
) {
    let id = key(stream.id(), from_client);
    loop {
        let unordered = known.borrow().get(&id).is_some_and(|known| known.unordered);
        let result = stream.read_chunk(usize::MAX, !unordered).await;
        let mut all = known.borrow_mut();
        let known = all.entry(id).or_default();
        match result {
            Ok(Some(chunk)) => known.read(id, chunk.offset, &chunk.bytes),
            Ok(None) if known.ended => break,
            Ok(None) => {
                known.end(id);
                break;
            }
            Err(error) => {
                known.failed(id, &error);
                break;
            }
        }
    }
    *left.borrow_mut() -= 1;
}
