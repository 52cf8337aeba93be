//! What must hold of a simulation as a whole.

use std::time::Duration;

use polyquic::ConnectionError;

use crate::model::Side;
use crate::plan::{Fault, Node, What};
use crate::world::World;

/// Tasks may run so often: for each packet sent, each operation of an application, and anyway.
/// Measured over thousands of seeds, see `docs/TESTING.md`.
pub(crate) const POLLS_PER_PACKET: u64 = 6;
pub(crate) const POLLS_PER_OPERATION: u64 = 8;
pub(crate) const POLLS_ANYWAY: u64 = 10_000;

/// What is left to check when everything is over.
pub(crate) fn at_the_end(world: &World) {
    let model = &world.model;
    for half in model.halves.borrow().iter() {
        half.check(model);
    }
    let (polls, packets) = (world.sim.polls(), world.sim.packets());
    let operations = model.operations.get();
    let bound = POLLS_PER_PACKET * packets + POLLS_PER_OPERATION * operations + POLLS_ANYWAY;
    if polls > bound {
        model.violation(
            "wake-ups",
            format_args!("{polls} polls for {packets} packets and {operations} operations"),
        );
    }
}

/// At the end of a cut: no connection of the host may have outlived its idle timeout.
///
/// The bound is two timeouts, because what an application writes starts it once more (RFC 9000
/// section 10.1); each is the idle timeout or three probe timeouts, whichever is longer; by clocks
/// that are wrong by up to 5 %; and 10 s for what was on its way.
pub(crate) fn dead_paths(world: &World, fault: &Fault) {
    let What::Cut(node, true, true) = fault.what else {
        return;
    };
    let (side, index) = match node {
        // The way by the other interface is not cut.
        Node::Client(n) if world.plan.clients[n].host.second.is_none() => (Side::Client, n),
        Node::Server(n) => (Side::Server, n),
        _ => return,
    };
    let ends = fault.at + fault.lasts;
    let disturbed = world.plan.faults().any(|other| {
        let overlaps = other.at < ends && fault.at < other.at + other.lasts;
        match &other.what {
            What::Cut(at, ..) => *at == node && overlaps && !std::ptr::eq(other, fault),
            // A machine that stands still notices later.
            What::Pause(_) => overlaps,
            _ => false,
        }
    });
    if disturbed {
        return;
    }
    for conn in world.model.connections.borrow().iter() {
        let host = match side {
            Side::Client => conn.client,
            Side::Server => conn.server,
        };
        let client = world.plan.clients[conn.client].host.transport.idle;
        let server = world.plan.servers[conn.server].host.transport.idle;
        let Some(idle) = client.into_iter().chain(server).min() else {
            continue;
        };
        let probe = 3 * 3 * world.plan.worst_round_trip() + Duration::from_secs(3);
        let bound = 2 * idle.max(probe) * 105 / 100 + Duration::from_secs(10);
        let lives = conn.established.get()
            && host == index
            && conn.began < fault.at
            && conn.end(Side::Client).is_none()
            && !conn.letting_go.get()
            && !world.model.was_cut_short(conn, Side::Client);
        if lives && fault.lasts > bound {
            let lasts = fault.lasts;
            world.model.violation(
                "idle timeout",
                format_args!("{conn} lives after {lasts:?} without a path, at most {bound:?}"),
            );
        }
    }
}

/// Connections that were lost for lack of packets, for statistics.
pub(crate) fn timed_out(world: &World) -> u64 {
    let connections = world.model.connections.borrow();
    let lost = connections
        .iter()
        .filter(|it| it.end(Side::Client) == Some(ConnectionError::TimedOut));
    lost.count() as u64
}
