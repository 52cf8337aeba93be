//! What an observer knows who sees everything: kept outside of the hosts, so that their crashes do
//! not touch it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use polyquic::{Clock, ConnectionError, StreamId, TransportErrorCode};

use crate::half::Half;

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

    fn closed_with(&self, side: Side) -> Vec<u64> {
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
    clock: Clock,
    base: Instant,
    pub(crate) halves: RefCell<Vec<Rc<Half>>>,
    pub(crate) connections: RefCell<Vec<Rc<Conn>>>,
    keys: RefCell<BTreeMap<Key, Rc<Conn>>>,
    /// Handshakes that servers completed.
    pub(crate) attended: RefCell<BTreeSet<Key>>,
    unknown: RefCell<Vec<Unknown>>,
    violations: RefCell<Vec<String>>,
    /// Known faults of others that were met.
    pub(crate) known: Cell<u64>,
    /// What applications asked the stack to do.
    pub(crate) operations: Cell<u64>,
    going: RefCell<BTreeMap<u64, String>>,
    next: Cell<u64>,
    lives: RefCell<BTreeMap<(Side, usize), u32>>,
    pub(crate) refused: Cell<bool>,
    /// Jain's index, where that is what it is about.
    pub(crate) fairness: Cell<Option<f64>>,
    pub(crate) shutdown: Cell<bool>,
    pub(crate) shutting: Event,
}

impl Model {
    pub(crate) fn new(seed: u64, calm: bool, verbose: bool, clock: Clock) -> Rc<Self> {
        Rc::new(Self {
            seed,
            verbose,
            calm,
            base: clock.now(),
            clock,
            halves: RefCell::default(),
            connections: RefCell::default(),
            keys: RefCell::default(),
            attended: RefCell::default(),
            unknown: RefCell::default(),
            violations: RefCell::default(),
            known: Cell::default(),
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
    }

    /// Note a task until what is returned is dropped.
    pub(crate) fn begin(self: &Rc<Self>, what: String) -> Going {
        let id = self.next.get();
        self.next.set(id + 1);
        self.going.borrow_mut().insert(id, what);
        Going(self.clone(), id)
    }

    /// What goes on.
    pub(crate) fn going(&self) -> Vec<String> {
        self.going.borrow().values().cloned().collect()
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
            datagrams: Default::default(),
        });
        connections.push(conn.clone());
        conn
    }

    /// The client knows the connection's key.
    pub(crate) fn register(&self, key: Key, conn: &Rc<Conn>) {
        conn.established.set(true);
        conn.key.set(Some(key));
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
                    back.writer_ends(self, crate::half::WriterEnd::Dropped);
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
                // The other side may be done with it, and its CONNECTION_CLOSE lost.
                let excused = !self.calm || !codes.is_empty() || self.shutdown.get();
                // quinn-proto does not repeat the end of a handshake while other data fill the
                // congestion window (see the stepping tests of polyquic-core): the server waits.
                let attended = self.attended.borrow();
                let known = conn.key.get().is_none_or(|key| !attended.contains(&key));
                if !excused && known {
                    self.known.set(self.known.get() + 1);
                }
                excused || known
            }
            ConnectionError::Reset => {
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
