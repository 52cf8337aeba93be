//! What is looked at while a simulation goes on: how often tasks run, and how much memory is in use.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use polyquic::sim::Sim;

use crate::model::{Model, Side};
use crate::plan::Plan;
use crate::plan::transport::TransportPlan;

/// Tasks may run so often in a window of a second or more: for each packet sent and each operation of
/// an application, for each connection that there ever was (whose tasks wait for the observer's news,
/// too), in each second, and anyway. Measured over thousands of seeds, see `docs/TESTING.md`.
const POLLS_PER_PACKET: u64 = 4;
const POLLS_PER_CONNECTION: u64 = 40;
const POLLS_PER_SECOND: u64 = 20;
const POLLS_ANYWAY: u64 = 300;

/// A window is closed by the first operation after this.
const WINDOW: Duration = Duration::from_secs(1);

/// Bytes of a connection apart from what its configuration limits: TLS, congestion control, path MTU,
/// packets that were sent, and tasks of applications.
const CONNECTION_BYTES: u64 = 64 << 10;

/// Bytes of a simulation without connections: hosts, endpoints, the observer's notes.
const SIMULATION_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    began: Duration,
    polls: u64,
    packets: u64,
    operations: u64,
}

pub(crate) struct Meters {
    sim: RefCell<Weak<Sim>>,
    window: Cell<Window>,
    live_bytes: Option<fn() -> isize>,
    before: isize,
    peak: Cell<u64>,
    /// The largest shares of what is allowed, of polls in a window and of bytes.
    pub(crate) shares: Cell<(f64, f64)>,
}

impl Meters {
    pub(crate) fn new(live_bytes: Option<fn() -> isize>) -> Self {
        Self {
            sim: RefCell::default(),
            window: Cell::default(),
            live_bytes,
            before: live_bytes.map_or(0, |it| it()),
            peak: Cell::new(0),
            shares: Cell::new((0.0, 0.0)),
        }
    }

    pub(crate) fn start(&self, sim: &Rc<Sim>) {
        *self.sim.borrow_mut() = Rc::downgrade(sim);
    }

    /// An application asks for something: a time to look.
    pub(crate) fn look(&self, model: &Model) {
        let Some(sim) = self.sim.borrow().upgrade() else {
            return;
        };
        let began = self.window.get().began;
        if sim.elapsed() >= began + WINDOW {
            self.close_window(model, &sim);
        }
        if let Some(live_bytes) = self.live_bytes {
            let bytes = u64::try_from(live_bytes() - self.before).unwrap_or(0);
            // Only when it matters: the bound takes a look at all connections.
            if bytes > self.peak.get() + (64 << 10) {
                self.peak.set(bytes);
                self.check_memory(model, bytes);
            }
        }
    }

    /// Whether tasks ran more often than there was a reason to, since the last time.
    pub(crate) fn close_window(&self, model: &Model, sim: &Sim) {
        let now = Window {
            began: sim.elapsed(),
            polls: sim.polls(),
            packets: sim.packets(),
            operations: model.operations.get(),
        };
        let before = self.window.replace(now);
        let work = now.packets - before.packets + now.operations - before.operations;
        let seconds = (now.began - before.began).as_secs() + 1;
        let connections = model.connections.borrow().len() as u64;
        let bound = POLLS_PER_PACKET * work
            + POLLS_PER_CONNECTION * connections
            + POLLS_PER_SECOND * seconds
            + POLLS_ANYWAY;
        let polls = now.polls - before.polls;
        model.count("checks: wake-ups");
        let (share, memory) = self.shares.get();
        self.shares
            .set((share.max(polls as f64 / bound as f64), memory));
        if polls > bound {
            model.violation(
                "wake-ups",
                format_args!(
                    "{polls} polls for {work} packets and operations of {connections} connections \
                     since {:?}, at most {bound}",
                    before.began
                ),
            );
        }
    }

    fn check_memory(&self, model: &Model, bytes: u64) {
        let bound = memory_bound(model);
        model.count("checks: memory");
        let (polls, share) = self.shares.get();
        self.shares
            .set((polls, share.max(bytes as f64 / bound as f64)));
        if bytes > bound {
            let what = format_args!("{bytes} bytes are in use, at most {bound}");
            model.violation("memory", what);
        }
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak.get()
    }
}

/// Bytes that configurations allow to be in use.
fn memory_bound(model: &Model) -> u64 {
    let mut bytes = SIMULATION_BYTES + network(&model.plan);
    for conn in model.connections.borrow().iter() {
        for side in [Side::Client, Side::Server] {
            let transport = match side {
                Side::Client => &model.plan.clients[conn.client].host.transport,
                Side::Server => &model.plan.servers[conn.server].host.transport,
            };
            let over = conn.end(side).is_some() || model.was_cut_short(conn, side);
            // What a connection remembers of itself stays until it is drained.
            bytes += if over {
                CONNECTION_BYTES
            } else {
                configured(transport)
            };
        }
        // What applications hold: a write, and all of what is read to the end.
        let open = conn.halves.borrow();
        let open = open.iter().filter(|it| !it.is_settled());
        bytes += open.map(|it| it.plan.chunk + 2 * it.plan.size).sum::<u64>();
    }
    bytes
}

/// Of one side of a connection.
fn configured(it: &TransportPlan) -> u64 {
    let streams = (it.streams_bi + it.streams_uni) * it.stream_window;
    let datagrams = it.datagram_receive.unwrap_or(0) + it.datagram_send;
    (it.window.min(streams) + it.send_window + datagrams as u64) + CONNECTION_BYTES
}

/// What may be under way: queues of links, and of sockets.
fn network(plan: &Plan) -> u64 {
    let sockets = plan.clients.len() as u64 + plan.servers.len() as u64;
    plan.queues() + sockets * SOCKET_BYTES
}

/// What a socket keeps of what was not received.
const SOCKET_BYTES: u64 = 64 << 10;
