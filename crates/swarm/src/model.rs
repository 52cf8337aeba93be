//! What an observer knows who sees everything: kept outside of the hosts, so that their crashes do
//! not touch it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use polyquic::rustls::KeyLog;
use polyquic::{Clock, ConnectionError, StreamId, TransportErrorCode};

use crate::Options;
use crate::coverage::Coverage;
use crate::half::{Half, WriterEnd};
use crate::meters::Meters;
use crate::plan::Plan;
use crate::plan::work::End;
use crate::plant::Plant;

/// How long closing and dropping wait for finished streams to be delivered.
const LINGER: Duration = Duration::from_secs(3);

/// A shorter idle timeout may be over before a packet that was lost again and again gets through.
const LOSSES_COST: Duration = Duration::from_secs(20);

/// With which servers close what is left when everything is over.
pub(crate) const SHUTDOWN: u64 = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Something that tasks wait for.
#[derive(Default)]
pub(crate) struct Event(RefCell<Vec<Waker>>);

impl Event {
    pub(crate) fn notify(&self) {
        self.0.take().into_iter().for_each(Waker::wake);
    }

    /// Until `done`, which is looked at whenever somebody notifies.
    pub(crate) async fn until(&self, done: impl Fn() -> bool) {
        poll_fn(|cx| {
            if done() {
                return Poll::Ready(());
            }
            let mut wakers = self.0.borrow_mut();
            if !wakers.iter().any(|it| it.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// Exported keying material: the same on both sides of a connection, and on no other.
pub(crate) type Key = [u8; 16];

/// A connection, as its client planned it.
pub(crate) struct Conn {
    pub(crate) id: u64,
    pub(crate) client: usize,
    pub(crate) server: usize,
    /// How often client and server had crashed when it began.
    lives: (u32, u32),
    pub(crate) began: Duration,
    pub(crate) halves: RefCell<Vec<Rc<Half>>>,
    pub(crate) changed: Event,
    ends: [RefCell<Option<ConnectionError>>; 2],
    codes: [RefCell<Vec<u64>>; 2],
    /// Whether 0-RTT was tried.
    pub(crate) early: Cell<bool>,
    pub(crate) established: Cell<bool>,
    key: Cell<Option<Key>>,
    /// 0-RTT was rejected.
    pub(crate) rejected: Cell<bool>,
    /// The server is to close it.
    pub(crate) please_close: Cell<bool>,
    /// The client drops its handles.
    pub(crate) letting_go: Cell<bool>,
    /// Streams that the server is going to open.
    pub(crate) pushes: Cell<usize>,
    /// The server's application got it.
    pub(crate) attended: Cell<bool>,
    /// The longest that applications say nothing on it, as planned.
    pub(crate) pauses: Cell<Duration>,
    /// Wake-ups of the server, to update keys, as planned.
    pub(crate) key_updates: RefCell<Vec<Duration>>,
    /// Who updates keys, and datagrams sent and ACK frames received when it last did.
    pub(crate) updated: Cell<Option<(Side, u64, u64)>>,
    /// How long readers of datagrams stand still after each.
    pub(crate) slow_datagrams: Cell<Option<Duration>>,
    /// For [`Plant::Unfair`].
    pub(crate) late: Cell<bool>,
    /// The client does not wait for what it finished.
    pub(crate) hasty: Cell<bool>,
    /// Numbers and sizes of datagrams that were sent, by side, and whether they arrived.
    datagrams: [RefCell<BTreeMap<u64, (usize, bool)>>; 2],
}

impl Conn {
    pub(crate) fn end(&self, side: Side) -> Option<ConnectionError> {
        self.ends[side as usize].borrow().clone()
    }

    /// `side` is about to close it with this code; 0 by dropping it.
    pub(crate) fn closes(&self, side: Side, code: u64) {
        self.codes[side as usize].borrow_mut().push(code);
    }

    pub(crate) fn closed_with(&self, side: Side) -> Vec<u64> {
        self.codes[side as usize].borrow().clone()
    }

    /// Whether everybody knows how everything ended.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pushes.get() == 0 && self.halves.borrow().iter().all(|it| it.is_settled())
    }

    pub(crate) fn by_id(&self, from: Side, id: StreamId) -> Option<Rc<Half>> {
        // Ids of rejected 0-RTT streams are used again: the last one counts.
        let halves = self.halves.borrow();
        let found = halves
            .iter()
            .rev()
            .find(|it| it.from == from && it.id.get() == Some(id));
        found.cloned()
    }

    pub(crate) fn sends_datagram(&self, side: Side, size: usize) -> u64 {
        let mut sent = self.datagrams[side as usize].borrow_mut();
        let number = sent.len() as u64;
        sent.insert(number, (size, false));
        number
    }

    /// A datagram that `from` sent arrived; says what is wrong with that.
    pub(crate) fn datagram_arrived(
        &self,
        from: Side,
        number: u64,
        size: usize,
    ) -> Result<(), String> {
        let mut sent = self.datagrams[from as usize].borrow_mut();
        match sent.get_mut(&number) {
            None => Err(format!("datagram {number} was never sent")),
            Some((_, true)) => Err(format!("datagram {number} arrived twice")),
            Some((sent, _)) if *sent != size => {
                Err(format!("datagram {number}: {size} bytes of {sent}"))
            }
            Some((_, arrived)) => {
                *arrived = true;
                Ok(())
            }
        }
    }
}

impl fmt::Display for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, client, server) = (self.id, self.client, self.server);
        write!(f, "connection {id} (client {client}, server {server})")
    }
}

/// A stream that ended before its reader knew which one it was.
struct Unknown {
    key: Key,
    from: Side,
    id: StreamId,
    end: crate::half::ReaderEnd,
}

pub(crate) struct Model {
    pub(crate) seed: u64,
    pub(crate) verbose: bool,
    /// Nothing may fail.
    pub(crate) calm: bool,
    pub(crate) plan: Rc<Plan>,
    pub(crate) plant: Option<Plant>,
    /// Where TLS logs its secrets, for a capture.
    pub(crate) key_log: Option<Arc<dyn KeyLog>>,
    /// For [`Plant::Memory`].
    pub(crate) hoard: RefCell<Vec<Vec<u8>>>,
    /// Since when all links are good, and stay so.
    pub(crate) good_since: Cell<Option<Duration>>,
    /// When clients moved.
    moved: RefCell<Vec<(usize, Duration)>>,
    coverage: RefCell<Coverage>,
    pub(crate) meters: Meters,
    clock: Clock,
    base: Instant,
    pub(crate) halves: RefCell<Vec<Rc<Half>>>,
    pub(crate) connections: RefCell<Vec<Rc<Conn>>>,
    keys: RefCell<BTreeMap<Key, Rc<Conn>>>,
    /// Handshakes that servers completed.
    pub(crate) attended: RefCell<BTreeSet<Key>>,
    unknown: RefCell<Vec<Unknown>>,
    violations: RefCell<Vec<String>>,
    /// Timeouts for which there was a reason.
    pub(crate) excused: Cell<u64>,
    /// What applications asked the stack to do.
    pub(crate) operations: Cell<u64>,
    going: RefCell<BTreeMap<u64, (Side, String)>>,
    next: Cell<u64>,
    lives: RefCell<BTreeMap<(Side, usize), u32>>,
    pub(crate) refused: Cell<bool>,
    /// Jain's index, where that is what it is about.
    pub(crate) fairness: Cell<Option<f64>>,
    pub(crate) shutdown: Cell<bool>,
    pub(crate) shutting: Event,
}

impl Model {
    pub(crate) fn new(
        plan: &Rc<Plan>,
        clock: Clock,
        key_log: Option<Arc<dyn KeyLog>>,
        options: &Options<'_>,
    ) -> Rc<Self> {
        Rc::new(Self {
            seed: plan.seed,
            verbose: options.verbose,
            calm: plan.calm,
            plan: plan.clone(),
            plant: options.plant,
            key_log,
            hoard: RefCell::default(),
            good_since: Cell::new(None),
            moved: RefCell::default(),
            coverage: RefCell::default(),
            meters: Meters::new(options.live_bytes),
            base: clock.now(),
            clock,
            halves: RefCell::default(),
            connections: RefCell::default(),
            keys: RefCell::default(),
            attended: RefCell::default(),
            unknown: RefCell::default(),
            violations: RefCell::default(),
            excused: Cell::default(),
            operations: Cell::default(),
            going: RefCell::default(),
            next: Cell::default(),
            lives: RefCell::default(),
            refused: Cell::default(),
            fairness: Cell::default(),
            shutdown: Cell::default(),
            shutting: Event::default(),
        })
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.now() - self.base
    }

    /// Tell whoever watches.
    pub(crate) fn log(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>14.6} {}", self.now().as_secs_f64(), what());
        }
    }

    /// An invariant does not hold.
    pub(crate) fn violation(&self, invariant: &str, what: impl fmt::Display) {
        let line = format!("{invariant}: {what} (at {:?})", self.now());
        if self.verbose {
            println!("VIOLATION {line}");
        }
        self.violations.borrow_mut().push(line);
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.borrow().clone()
    }

    pub(crate) fn operation(&self) {
        self.operations.set(self.operations.get() + 1);
        self.meters.look(self);
    }

    /// Count something of [`COUNTED`](crate::coverage::COUNTED).
    pub(crate) fn count(&self, what: &'static str) {
        self.coverage.borrow_mut().count(what);
    }

    pub(crate) fn coverage(&self) -> Coverage {
        self.coverage.borrow().clone()
    }

    /// Whether this fault was planted.
    pub(crate) fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// Note a task of an application until what is returned is dropped.
    pub(crate) fn begin(self: &Rc<Self>, side: Side, what: String) -> Going {
        let id = self.next.get();
        self.next.set(id + 1);
        self.going.borrow_mut().insert(id, (side, what));
        Going(self.clone(), id)
    }

    /// What goes on.
    pub(crate) fn going(&self) -> Vec<String> {
        let going = self.going.borrow();
        going
            .values()
            .map(|(side, it)| format!("{side:?}: {it}"))
            .collect()
    }

    /// Whether anything goes on at this side.
    pub(crate) fn is_busy(&self, side: Side) -> bool {
        self.going.borrow().values().any(|it| it.0 == side)
    }

    pub(crate) fn moves(&self, client: usize) {
        self.count("moves");
        self.moved.borrow_mut().push((client, self.now()));
    }

    /// How often a host has crashed.
    pub(crate) fn life(&self, side: Side, index: usize) -> u32 {
        self.lives
            .borrow()
            .get(&(side, index))
            .copied()
            .unwrap_or(0)
    }

    pub(crate) fn crashed(&self, side: Side, index: usize) {
        *self.lives.borrow_mut().entry((side, index)).or_default() += 1;
        for conn in self.connections.borrow().iter() {
            conn.changed.notify();
        }
    }

    /// Whether one side of a connection is not what it was when that began.
    pub(crate) fn was_cut_short(&self, conn: &Conn, side: Side) -> bool {
        match side {
            Side::Client => self.life(side, conn.client) != conn.lives.0,
            Side::Server => self.life(side, conn.server) != conn.lives.1,
        }
    }

    pub(crate) fn connect(&self, client: usize, server: usize) -> Rc<Conn> {
        let mut connections = self.connections.borrow_mut();
        let conn = Rc::new(Conn {
            id: connections.len() as u64,
            client,
            server,
            lives: (
                self.life(Side::Client, client),
                self.life(Side::Server, server),
            ),
            began: self.now(),
            halves: RefCell::default(),
            changed: Event::default(),
            ends: Default::default(),
            codes: Default::default(),
            early: Cell::new(false),
            established: Cell::new(false),
            key: Cell::new(None),
            rejected: Cell::new(false),
            please_close: Cell::new(false),
            letting_go: Cell::new(false),
            pushes: Cell::new(0),
            attended: Cell::new(false),
            pauses: Cell::new(Duration::ZERO),
            key_updates: RefCell::default(),
            updated: Cell::new(None),
            slow_datagrams: Cell::new(None),
            late: Cell::new(true),
            hasty: Cell::new(false),
            datagrams: Default::default(),
        });
        connections.push(conn.clone());
        conn
    }

    /// The client knows the connection's key.
    pub(crate) fn register(&self, key: Key, conn: &Rc<Conn>) {
        conn.established.set(true);
        conn.key.set(Some(key));
        conn.attended.set(self.attended.borrow().contains(&key));
        self.keys.borrow_mut().insert(key, conn.clone());
        let unknown = self.unknown.take();
        for it in unknown {
            self.ended(it.key, it.from, it.id, it.end);
        }
    }

    pub(crate) fn by_key(&self, key: &Key) -> Option<Rc<Conn>> {
        self.keys.borrow().get(key).cloned()
    }

    /// A stream ended before its reader knew which one it was.
    pub(crate) fn ended(&self, key: Key, from: Side, id: StreamId, end: crate::half::ReaderEnd) {
        match self.by_key(&key).map(|conn| conn.by_id(from, id)) {
            Some(Some(half)) => {
                half.reader_ends(self, end);
                // Without knowing it, nobody answers.
                if let Some(back) = &*half.back.borrow() {
                    back.writer_ends(self, WriterEnd::Dropped);
                }
            }
            Some(None) => {
                self.violation("streams", format_args!("{id} was never opened, {end:?}"));
            }
            None => self
                .unknown
                .borrow_mut()
                .push(Unknown { key, from, id, end }),
        }
    }

    /// The client is about to end a connection in haste: note which streams must be delivered first,
    /// where the way is so good that the three seconds for it are more than enough.
    pub(crate) fn owe(&self, conn: &Conn) {
        let (plan, now) = (&self.plan, self.now());
        let (client, server) = (conn.client, conn.server);
        let before = plan.patience(client, server, now, false).unwrap_or(now);
        let from = now.saturating_sub(before);
        let moved = self
            .moved
            .borrow()
            .iter()
            .any(|(index, _)| *index == client);
        let good = self.good_since.get().is_some_and(|it| it <= from);
        let fails = plan.is_disturbed((client, server), (from, now + LINGER))
            || moved
            || plan.nat_forgets(client, now - conn.began)
            || (plan.loses(client, server) && !good);
        let halves = conn.halves.borrow();
        let ours: Vec<_> = halves.iter().filter(|it| it.from == Side::Client).collect();
        let waiting = |it: &Rc<Half>| it.written.get() - it.got.get().min(it.written.get());
        let bytes: u64 = ours.iter().map(|it| waiting(it)).sum();
        let reader = &plan.servers[server].host.transport;
        // All of it may be sent, whatever is read meanwhile.
        let fits = bytes <= reader.window / 2
            && ours
                .iter()
                .all(|it| waiting(it) <= reader.stream_window / 2);
        // By a small congestion window; and what was lost once or twice.
        let rounds = (bytes / 4_800 + 6) as u32;
        let round_trip = plan.worst_round_trip(client, server) + Duration::from_millis(50);
        let takes = round_trip * rounds + plan.transmission(client, server, bytes);
        if fails || !fits || takes > LINGER || !conn.attended.get() {
            return;
        }
        for half in ours {
            let read = half.plan.read_end == End::Regular;
            if half.writer.get() == WriterEnd::Finished && read {
                self.count("checks: delivery before a close");
                half.owed.set(true);
            }
        }
    }

    /// Why one side of a connection may have heard nothing for as long as it is patient.
    pub(crate) fn reason_for_silence(&self, conn: &Conn, side: Side) -> Option<&'static str> {
        let (plan, now, other) = (&self.plan, self.now(), side.other());
        let (client, server) = (conn.client, conn.server);
        // It may be done with it, and its CONNECTION_CLOSE lost. If it timed out, it had a reason
        // itself.
        if !conn.closed_with(other).is_empty() || self.shutdown.get() || conn.end(other).is_some() {
            return Some("the other side is done with it");
        }
        if self.was_cut_short(conn, other) {
            return Some("the other side crashed");
        }
        if plan.servers[server].ignore > 0.0 && !conn.attended.get() {
            return Some("the server ignores some");
        }
        let alone = !conn.established.get();
        let patience = plan.patience(client, server, now, alone)?;
        // A server that gave the handshake up before tells nobody.
        let patience = if conn.attended.get() {
            patience
        } else {
            2 * patience
        };
        let since = now.saturating_sub(patience);
        if plan.is_disturbed((client, server), (since, now)) {
            return Some("a fault is not long ago");
        }
        let moved = self.moved.borrow();
        let mut moved = moved.iter().filter(|(index, _)| *index == client);
        // Nor may it before the handshake is confirmed (RFC 9000 section 9).
        let forbidden = !plan.servers[server].migration || !conn.attended.get();
        if moved.any(|(_, at)| *at >= if forbidden { conn.began } else { since }) {
            return Some("the client moved");
        }
        let quiet = conn.pauses.get() + Duration::from_secs(1);
        if plan.nat_forgets(client, if forbidden { now - conn.began } else { quiet }) {
            return Some("a NAT forgets");
        }
        let idle = plan.idle(client, server).unwrap_or(Duration::MAX);
        let spoken = plan.keep_alive(client, server).unwrap_or(Duration::MAX);
        if quiet.min(spoken.saturating_mul(2)) >= idle {
            return Some("applications had nothing to say");
        }
        let links_are_good = self.good_since.get().is_some_and(|it| it <= since);
        if !links_are_good {
            if plan.is_harsh(client, server) {
                return Some("links lose much");
            }
            if idle < LOSSES_COST {
                return Some("links lose something, and the idle timeout is short");
            }
        }
        None
    }

    /// One side learned how its connection ended.
    pub(crate) fn connection_ended(&self, conn: &Conn, side: Side, error: &ConnectionError) {
        if conn.ends[side as usize]
            .replace(Some(error.clone()))
            .is_none()
        {
            self.log(|| format!("{conn}: {side:?}: {error}"));
        }
        conn.changed.notify();
        let other = side.other();
        let gone = self.was_cut_short(conn, other);
        let codes = conn.closed_with(other);
        let ok = match error {
            ConnectionError::LocallyClosed => {
                !conn.closed_with(side).is_empty() || self.shutdown.get()
            }
            ConnectionError::ApplicationClosed(close) => {
                let code = close.error_code.into_inner();
                codes.contains(&code) || (self.shutdown.get() && code == SHUTDOWN)
            }
            ConnectionError::TimedOut => {
                self.count("checks: timeouts");
                let reason = self.reason_for_silence(conn, side);
                self.log(|| format!("{conn}: {side:?} timed out because {reason:?}"));
                self.excused
                    .set(self.excused.get() + u64::from(reason.is_some()));
                reason.is_some()
            }
            ConnectionError::Reset => {
                self.count("stateless resets");
                // Of the server: if it gave the handshake up, nobody else is told.
                let attended = self.attended.borrow();
                let known = conn.key.get().is_some_and(|key| attended.contains(&key));
                gone || !codes.is_empty()
                    || self.shutdown.get()
                    || (side == Side::Client && !known)
                    || conn.end(other) == Some(ConnectionError::TimedOut)
            }
            ConnectionError::ConnectionClosed(close) => {
                let refused = self.refused.get() || self.shutdown.get();
                match close.error_code {
                    TransportErrorCode::CONNECTION_REFUSED => refused,
                    // Of a server that has another key since it crashed, or when the client's
                    // address changed since the Retry.
                    TransportErrorCode::INVALID_TOKEN => !self.calm,
                    // Closed by an application during the handshake (RFC 9000 section 10.2.3).
                    TransportErrorCode::APPLICATION_ERROR => {
                        !codes.is_empty() || self.shutdown.get()
                    }
                    _ => false,
                }
            }
            _ => false,
        };
        if !ok {
            self.violation("errors", format_args!("{conn}: {side:?} is told: {error}"));
        }
    }
}

/// A task that goes on.
pub(crate) struct Going(Rc<Model>, u64);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.going.borrow_mut().remove(&self.1);
    }
}
