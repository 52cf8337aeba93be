//! One direction of one stream, as both sides see it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use polyquic::StreamId;

use crate::model::{Conn, Model, Side};
use crate::plan::work::{End, HalfPlan, ReadMode, StreamPlan};
use crate::plant::Plant;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriterEnd {
    Open,
    Finished,
    Reset(u64),
    Dropped,
    /// By the reader.
    Stopped(u64),
    Lost,
    /// It was opened in 0-RTT, which was rejected.
    Rejected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReaderEnd {
    Open,
    Finished,
    Reset(u64),
    Stopped(u64),
    Dropped,
    Lost,
    Rejected,
}

/// One direction of a stream.
pub(crate) struct Half {
    /// Counts all halves of a simulation.
    pub(crate) index: u64,
    pub(crate) conn: Rc<Conn>,
    pub(crate) from: Side,
    pub(crate) plan: HalfPlan,
    /// The other direction.
    pub(crate) back: RefCell<Option<Rc<Self>>>,
    pub(crate) pushes: Vec<StreamPlan>,
    pub(crate) id: Cell<Option<StreamId>>,
    pub(crate) writer: Cell<WriterEnd>,
    pub(crate) reader: Cell<ReaderEnd>,
    pub(crate) written: Cell<u64>,
    pub(crate) got: Cell<u64>,
    /// The writer was told that the peer has everything.
    pub(crate) confirmed: Cell<bool>,
    /// Its client ended the connection in haste after it was finished, and there was nothing that could
    /// keep it from being delivered.
    pub(crate) owed: Cell<bool>,
    /// It was opened before the handshake was complete.
    early: bool,
    /// More than this cannot be under way, in bytes: of it, and of all streams of the connection.
    bounds: (u64, u64),
}

impl Half {
    pub(crate) fn new(
        model: &Model,
        conn: &Rc<Conn>,
        from: Side,
        plan: HalfPlan,
        pushes: Vec<StreamPlan>,
        bounds: (u64, u64),
    ) -> Rc<Self> {
        let mut halves = model.halves.borrow_mut();
        let half = Rc::new(Self {
            index: halves.len() as u64,
            conn: conn.clone(),
            from,
            plan,
            back: RefCell::default(),
            pushes,
            id: Cell::new(None),
            writer: Cell::new(WriterEnd::Open),
            reader: Cell::new(ReaderEnd::Open),
            written: Cell::new(0),
            got: Cell::new(0),
            confirmed: Cell::new(false),
            owed: Cell::new(false),
            early: !conn.established.get(),
            bounds,
        });
        halves.push(half.clone());
        conn.halves.borrow_mut().push(half.clone());
        half
    }

    /// The code that its writer resets it with: nobody else's.
    pub(crate) fn reset_code(&self) -> u32 {
        1000 + 2 * self.index as u32
    }

    /// The code that its reader stops it with.
    pub(crate) fn stop_code(&self) -> u32 {
        1001 + 2 * self.index as u32
    }

    /// What it carries at `offset`: first its name, then what follows from that.
    pub(crate) fn content(seed: u64, index: u64, offset: u64, bytes: &mut [u8]) {
        let mut offset = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = match offset / 8 {
                0 => name(seed, index),
                n => mix(name(seed, index) ^ mix(n)),
            };
            let word = &word.to_le_bytes()[(offset % 8) as usize..];
            let (now, later) = rest.split_at_mut(word.len().min(rest.len()));
            now.copy_from_slice(&word[..now.len()]);
            offset += now.len() as u64;
            rest = later;
        }
    }

    /// The stream that is called this.
    pub(crate) fn by_name(model: &Model, bytes: [u8; 8]) -> Option<Rc<Self>> {
        let index = u64::from_le_bytes(bytes) ^ mix(model.seed);
        model.halves.borrow().get(index as usize).cloned()
    }

    pub(crate) fn wrote(&self, model: &Model, count: u64) {
        self.written.set(self.written.get() + count);
        let under_way = |it: &Self| it.written.get().saturating_sub(it.got.get());
        if self.is_visible() {
            model.count("checks: stream window");
            let (bytes, bound) = (under_way(self), self.bounds.0);
            if bytes > bound {
                model.violation(
                    "flow control",
                    format_args!("{self}: {bytes} bytes under way, allowed are {bound}"),
                );
            }
        }
        model.count("checks: connection window");
        let halves = self.conn.halves.borrow();
        let others = halves
            .iter()
            .filter(|it| it.from == self.from && it.is_visible());
        let (bytes, bound) = (others.map(|it| under_way(it)).sum::<u64>(), self.bounds.1);
        if bytes > bound {
            model.violation(
                "flow control",
                format_args!(
                    "{}: {bytes} bytes under way, allowed are {bound}",
                    self.conn
                ),
            );
        }
    }

    /// Whether what was not read yet is known: not if it goes into a buffer until the end, or was
    /// discarded by either side.
    fn is_visible(&self) -> bool {
        let rejected = self.early && self.conn.rejected.get();
        let writes = matches!(self.writer.get(), WriterEnd::Open | WriterEnd::Finished);
        let exact = self.plan.exact && matches!(self.plan.mode, ReadMode::Slice(_));
        let reads = self.plan.mode != ReadMode::ToEnd && !exact;
        writes && reads && self.reader.get() == ReaderEnd::Open && !rejected
    }

    /// The reader got bytes that belong at `offset`.
    pub(crate) fn reads(&self, model: &Model, offset: u64, bytes: &[u8]) {
        model.count("checks: integrity");
        let mut expected = vec![0; bytes.len()];
        Self::content(model.seed, self.index, offset, &mut expected);
        if let Some(byte) = expected.last_mut().filter(|_| model.has(Plant::Byte)) {
            // As if something else was what came.
            *byte ^= 1;
        }
        if expected != bytes {
            let len = bytes.len();
            model.violation(
                "integrity",
                format_args!("{self}: {len} bytes at {offset} are not what was written"),
            );
        }
        self.got.set(self.got.get() + bytes.len() as u64);
        let (got, written) = (self.got.get(), self.written.get());
        if got > written {
            model.violation(
                "integrity",
                format_args!("{self}: {got} bytes were read, {written} written"),
            );
        }
    }

    pub(crate) fn writer_ends(&self, model: &Model, end: WriterEnd) {
        model.log(|| format!("{self}: writer: {end:?} after {} bytes", self.written.get()));
        self.writer.set(end);
        if matches!(end, WriterEnd::Stopped(_)) {
            model.count("stops");
        }
        if let WriterEnd::Stopped(code) = end {
            let ok = match self.reader.get() {
                ReaderEnd::Stopped(stopped) => stopped == code,
                // By a drop, perhaps because its connection is lost, or a crash of its task.
                ReaderEnd::Dropped | ReaderEnd::Lost | ReaderEnd::Open => code == 0,
                _ => false,
            };
            if !ok {
                let reader = self.reader.get();
                model.violation(
                    "codes",
                    format_args!("{self}: stopped with {code}, but the reader: {reader:?}"),
                );
            }
        }
        self.conn.changed.notify();
    }

    pub(crate) fn reader_ends(&self, model: &Model, end: ReaderEnd) {
        model.log(|| format!("{self}: reader: {end:?} after {} bytes", self.got.get()));
        self.reader.set(end);
        if matches!(end, ReaderEnd::Reset(_)) {
            model.count("resets");
        }
        let writer = self.writer.get();
        let whole = self.got.get() == self.written.get();
        let ok = match end {
            ReaderEnd::Finished => writer == WriterEnd::Finished && whole,
            ReaderEnd::Reset(0) => {
                // Dropped, or never begun.
                matches!(
                    writer,
                    WriterEnd::Dropped | WriterEnd::Lost | WriterEnd::Open
                )
            }
            ReaderEnd::Reset(code) => writer == WriterEnd::Reset(code),
            _ => true,
        };
        if !ok {
            let (got, written) = (self.got.get(), self.written.get());
            model.violation(
                "codes",
                format_args!(
                    "{self}: {end:?} after {got} bytes; writer: {writer:?}, {written} bytes"
                ),
            );
        }
        self.conn.changed.notify();
    }

    /// Whether this is the direction from whoever opened the stream.
    pub(crate) fn is_opener(&self) -> bool {
        self.id.get().is_some_and(|id| {
            (id.initiator() == polyquic::Side::Client) == (self.from == Side::Client)
        })
    }

    /// Whether the stream is bidirectional.
    pub(crate) fn is_both(&self) -> bool {
        self.id
            .get()
            .is_some_and(|id| id.dir() == polyquic::Dir::Bi)
    }

    /// Whether the stream that this opened is known to be open: one of its directions is.
    pub(crate) fn is_open(&self) -> bool {
        let writes = self.back.borrow().as_ref().is_some_and(|back| {
            // Who is told to stop may forget it before the application knows.
            back.writer.get() == WriterEnd::Open && back.reader.get() == ReaderEnd::Open
        });
        !(self.early && self.conn.rejected.get()) && (writes || !self.may_be_freed())
    }

    /// Whether the reader's stack may have forgotten it: the application learns of the end at its next
    /// read.
    pub(crate) fn may_be_freed(&self) -> bool {
        let whole = self.got.get() == self.written.get();
        self.reader.get() != ReaderEnd::Open
            || match self.writer.get() {
                WriterEnd::Open => false,
                WriterEnd::Finished => whole,
                _ => true,
            }
    }

    pub(crate) fn is_settled(&self) -> bool {
        let (writer, reader) = (self.writer.get(), self.reader.get());
        writer == WriterEnd::Rejected
            || reader == ReaderEnd::Rejected
            || (self.early && self.conn.rejected.get())
            || (writer != WriterEnd::Open && reader != ReaderEnd::Open)
    }

    /// What must hold when everything is over.
    pub(crate) fn check(&self, model: &Model) {
        let (writer, reader) = (self.writer.get(), self.reader.get());
        if writer == WriterEnd::Rejected && self.got.get() > 0 {
            model.violation("0-RTT", format_args!("{self}: was rejected, and read"));
        }
        if writer != WriterEnd::Finished || self.plan.read_end != End::Regular {
            return;
        }
        model.count("checks: delivery");
        let conn = &self.conn;
        let crashed = [Side::Client, Side::Server].map(|side| model.was_cut_short(conn, side));
        if reader == ReaderEnd::Finished || crashed[0] || crashed[1] {
            return;
        }
        let got = self.got.get();
        // The stack acknowledges 0-RTT data, but the application only gets connections whose
        // handshake is complete.
        let unseen =
            self.from == Side::Client && conn.early.get() && conn.end(Side::Server).is_none();
        // Who ends in haste does not read what came for it.
        let ignored = self.from == Side::Server && conn.hasty.get();
        if self.confirmed.get() && !unseen && !ignored {
            model.violation(
                "delivery",
                format_args!("{self}: acknowledged, but the reader: {reader:?} after {got} bytes"),
            );
        }
        if self.owed.get() {
            model.violation(
                "delivery",
                format_args!(
                    "{self}: finished before the end, but the reader: {reader:?} after {got} bytes"
                ),
            );
        }
        // Whoever does not have all of it is told, and so is who wrote it, unless they ended it.
        let told = |side| conn.end(side).is_some() || !conn.closed_with(side).is_empty();
        let alive = conn.attended.get() && !(self.early && conn.rejected.get());
        if alive && !(told(Side::Client) && told(Side::Server)) {
            model.violation(
                "delivery",
                format_args!(
                    "{self}: the reader: {reader:?} after {got} bytes, and nobody is told why"
                ),
            );
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} half {}", self.conn.id, self.index)?;
        if let Some(id) = self.id.get() {
            write!(f, " ({id})")?;
        }
        write!(f, " from the {:?}", self.from)
    }
}

fn name(seed: u64, index: u64) -> u64 {
    index ^ mix(seed)
}

/// splitmix64's finalizer.
pub(crate) fn mix(value: u64) -> u64 {
    let mut it = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    it ^ (it >> 31)
}
