//! The observer and its checks, put to what must not be.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use polyquic::sim::Sim;
use polyquic::{ApplicationClose, ConnectionError, Runtime, TransportErrorCode, VarInt};

use crate::half::{Half, ReaderEnd, WriterEnd};
use crate::model::{Conn, Model, Side};
use crate::plan::links::LinkPlan;
use crate::plan::work::HalfPlan;
use crate::plan::{Fault, Kind, Node, Place, Plan, What};
use crate::{Options, check};

/// A plan in which nothing may fail, of one client and one server on good links.
fn calm() -> Plan {
    let mut plans = (0..).map(Plan::basic);
    let mut plan = plans
        .find(|it| it.calm && it.kind == Kind::Mixed)
        .expect("a quarter is");
    let hosts = plan.clients.iter_mut().map(|it| &mut it.host);
    for host in hosts.chain(plan.servers.iter_mut().map(|it| &mut it.host)) {
        host.place = Place::Internet;
        host.link = (LinkPlan::clean(), LinkPlan::clean());
        host.second = None;
        host.transport.idle = Some(Duration::from_secs(20));
    }
    plan
}

struct Observer {
    model: Rc<Model>,
    conn: Rc<Conn>,
    _sim: Sim,
}

impl Observer {
    fn new(plan: Plan) -> Self {
        let sim = Sim::new(1);
        let clock = sim.host("observer").clock();
        let model = Model::new(&Rc::new(plan), clock, None, &Options::default());
        let conn = model.connect(0, 0);
        model.register([1; 16], &conn);
        conn.attended.set(true);
        Self {
            model,
            conn,
            _sim: sim,
        }
    }

    /// A stream of 100 bytes from the client, of which 40 may be under way, and 60 of all.
    fn half(&self) -> Rc<Half> {
        let plan = HalfPlan::plain(100);
        Half::new(
            &self.model,
            &self.conn,
            Side::Client,
            plan,
            Vec::new(),
            (40, 60),
        )
    }

    /// The invariants that did not hold.
    #[track_caller]
    fn expect(&self, kinds: &[&str]) {
        let violations = self.model.violations();
        let found: Vec<_> = violations
            .iter()
            .filter_map(|it| it.split(':').next())
            .collect();
        assert_eq!(found, kinds, "{violations:?}");
    }

    fn ended(&self, side: Side, error: ConnectionError) {
        self.model.connection_ended(&self.conn, side, &error);
    }
}

fn content(it: &Half, observer: &Observer, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    Half::content(observer.model.seed, it.index, it.got.get(), &mut content);
    content
}

#[test]
fn datagrams_are_those_that_were_sent_once_each() {
    let it = Observer::new(calm());
    let number = it.conn.sends_datagram(Side::Client, 50);
    assert!(
        it.conn
            .datagram_arrived(Side::Client, number + 1, 50)
            .is_err()
    );
    assert!(it.conn.datagram_arrived(Side::Server, number, 50).is_err());
    assert!(it.conn.datagram_arrived(Side::Client, number, 49).is_err());
    assert!(it.conn.datagram_arrived(Side::Client, number, 50).is_ok());
    assert!(it.conn.datagram_arrived(Side::Client, number, 50).is_err());
}

#[test]
fn bytes_are_those_that_were_written() {
    let it = Observer::new(calm());
    let half = it.half();
    half.wrote(&it.model, 20);
    let mut bytes = content(&half, &it, 10);
    half.reads(&it.model, 0, &bytes);
    it.expect(&[]);
    bytes = content(&half, &it, 10);
    bytes[9] ^= 1;
    half.reads(&it.model, 10, &bytes);
    it.expect(&["integrity"]);
    // More than was written.
    let bytes = content(&half, &it, 1);
    half.reads(&it.model, 20, &bytes);
    it.expect(&["integrity", "integrity"]);
}

#[test]
fn codes_and_ends_are_those_that_were_given() {
    let ends = [
        (WriterEnd::Reset(5), ReaderEnd::Reset(6)),
        (WriterEnd::Finished, ReaderEnd::Reset(0)),
        // 20 bytes are missing.
        (WriterEnd::Finished, ReaderEnd::Finished),
        (WriterEnd::Dropped, ReaderEnd::Finished),
    ];
    for (writer, reader) in ends {
        let it = Observer::new(calm());
        let half = it.half();
        half.wrote(&it.model, 20);
        half.writer_ends(&it.model, writer);
        half.reader_ends(&it.model, reader);
        it.expect(&["codes"]);
    }
    let it = Observer::new(calm());
    let half = it.half();
    half.reader_ends(&it.model, ReaderEnd::Stopped(3));
    half.writer_ends(&it.model, WriterEnd::Stopped(4));
    it.expect(&["codes"]);
}

#[test]
fn windows_hold_for_streams_and_for_connections() {
    let it = Observer::new(calm());
    let (one, other) = (it.half(), it.half());
    one.wrote(&it.model, 40);
    other.wrote(&it.model, 20);
    it.expect(&[]);
    other.wrote(&it.model, 1);
    it.expect(&["flow control"]);
    // What is read makes room, on the connection only.
    let bytes = content(&other, &it, 21);
    other.reads(&it.model, 0, &bytes);
    one.wrote(&it.model, 1);
    it.expect(&["flow control", "flow control"]);
}

#[test]
fn streams_are_open_until_both_directions_are_over() {
    let it = Observer::new(calm());
    let (there, back) = (it.half(), it.half());
    *there.back.borrow_mut() = Some(back.clone());
    there.writer_ends(&it.model, WriterEnd::Finished);
    assert!(there.is_open(), "the answer is not over");
    back.writer.set(WriterEnd::Finished);
    assert!(!there.is_open());
    there.wrote(&it.model, 1);
    assert!(there.is_open(), "a byte was not read");
    there.reader_ends(&it.model, ReaderEnd::Dropped);
    assert!(!there.is_open());
}

#[test]
fn what_was_finished_is_delivered_or_both_sides_are_told() {
    let finished = || {
        let it = Observer::new(calm());
        let half = it.half();
        half.wrote(&it.model, 20);
        half.writer_ends(&it.model, WriterEnd::Finished);
        half.reader_ends(&it.model, ReaderEnd::Lost);
        (it, half)
    };
    let lost = || ConnectionError::LocallyClosed;
    // Nobody, or only the reader, is told.
    let (it, half) = finished();
    half.check(&it.model);
    it.expect(&["delivery"]);
    let (it, half) = finished();
    it.model.shutdown.set(true);
    it.ended(Side::Server, lost());
    half.check(&it.model);
    it.expect(&["delivery"]);
    it.ended(Side::Client, lost());
    half.check(&it.model);
    it.expect(&["delivery"]);
    // Acknowledged, or owed by a close in haste.
    for flag in [0, 1] {
        let (it, half) = finished();
        it.model.shutdown.set(true);
        it.ended(Side::Server, lost());
        it.ended(Side::Client, lost());
        [&half.confirmed, &half.owed][flag].set(true);
        half.check(&it.model);
        it.expect(&["delivery"]);
    }
}

#[test]
fn rejected_streams_are_not_read() {
    let it = Observer::new(calm());
    let half = it.half();
    half.wrote(&it.model, 8);
    let bytes = content(&half, &it, 8);
    half.reads(&it.model, 0, &bytes);
    half.writer_ends(&it.model, WriterEnd::Rejected);
    half.check(&it.model);
    it.expect(&["0-RTT"]);
}

#[test]
fn connections_end_for_the_reason_that_there_was() {
    let close = |code: u32| {
        ConnectionError::ApplicationClosed(ApplicationClose {
            error_code: VarInt::from_u32(code),
            reason: Bytes::new(),
        })
    };
    let it = Observer::new(calm());
    it.conn.closes(Side::Client, 5);
    it.ended(Side::Client, ConnectionError::LocallyClosed);
    it.ended(Side::Server, close(5));
    it.expect(&[]);
    it.ended(Side::Server, close(6));
    it.expect(&["errors"]);
    for error in [
        ConnectionError::LocallyClosed,
        ConnectionError::TimedOut,
        ConnectionError::VersionMismatch,
        ConnectionError::ConnectionClosed(polyquic::ConnectionClose {
            error_code: TransportErrorCode::FLOW_CONTROL_ERROR,
            frame_type: None,
            reason: Bytes::new(),
        }),
    ] {
        let it = Observer::new(calm());
        it.ended(Side::Client, error);
        it.expect(&["errors"]);
    }
}

#[test]
fn timeouts_have_a_reason_that_is_not_long_ago() {
    let cut = |at| {
        let mut plan = calm();
        plan.faults.push(Fault {
            at: Duration::from_secs(at),
            lasts: Duration::from_secs(1),
            what: What::Cut(Node::Server(0), true, true),
        });
        Observer::new(plan)
    };
    let it = cut(0);
    it.ended(Side::Client, ConnectionError::TimedOut);
    it.expect(&[]);
    // Time stands at 0.
    let it = cut(60);
    it.ended(Side::Client, ConnectionError::TimedOut);
    it.expect(&["errors"]);
    // Nor is it on the way.
    let mut plan = calm();
    plan.faults.push(Fault {
        at: Duration::ZERO,
        lasts: Duration::from_secs(1),
        what: What::Pause(Node::Client(1)),
    });
    let it = Observer::new(plan);
    it.ended(Side::Server, ConnectionError::TimedOut);
    it.expect(&["errors"]);
    // The other side closed it before, or applications say nothing for longer.
    let it = Observer::new(calm());
    it.conn.closes(Side::Client, 0);
    it.ended(Side::Server, ConnectionError::TimedOut);
    it.expect(&[]);
    let mut plan = calm();
    for host in [&mut plan.clients[0].host, &mut plan.servers[0].host] {
        host.transport.keep_alive = None;
    }
    let it = Observer::new(plan);
    it.conn.pauses.set(Duration::from_secs(25));
    it.ended(Side::Server, ConnectionError::TimedOut);
    it.expect(&[]);
}

#[test]
fn no_side_outlives_a_cut_for_long() {
    let cut = |up, down, lasts| {
        let mut plan = calm();
        plan.faults.push(Fault {
            at: Duration::from_secs(1),
            lasts: Duration::from_secs(lasts),
            what: What::Cut(Node::Client(0), up, down),
        });
        let it = Observer::new(plan);
        let fault = &it.model.plan.faults[0];
        [Side::Client, Side::Server].map(|side| {
            let both = check::outlives(&it.model, &it.conn, side, fault);
            it.ended(side, ConnectionError::LocallyClosed);
            let ended = check::outlives(&it.model, &it.conn, side, fault);
            assert!(ended.is_none(), "it did not outlive it");
            both.is_some()
        })
    };
    assert_eq!(cut(true, true, 70), [true, true]);
    assert_eq!(cut(true, true, 30), [false, false]);
    // Who hears waits for the other one to give up.
    assert_eq!(cut(false, true, 70), [true, false]);
    assert_eq!(cut(true, false, 70), [false, true]);
    assert_eq!(cut(false, true, 140), [true, true]);
}
