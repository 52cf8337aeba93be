//! What must hold of a simulation as a whole.

use std::time::Duration;

use polyquic::ConnectionError;

use crate::model::{Conn, Model, Side};
use crate::plan::{Fault, Node, What};
use crate::world::World;

/// What is left to check when everything is over.
pub(crate) fn at_the_end(world: &World) {
    let model = &world.model;
    for half in model.halves.borrow().iter() {
        half.check(model);
    }
    model.meters.close_window(model, &world.sim);
}

/// The sides of connections that hear nothing during a cut, and those that only answer to them.
fn deaf(model: &Model, conn: &Conn, fault: &Fault) -> Option<[bool; 2]> {
    let What::Cut(node, up, down) = fault.what else {
        return None;
    };
    let plan = &model.plan;
    if !plan.path(conn.client, conn.server).contains(&node) {
        return None;
    }
    // A router may be on the way twice.
    let twice = matches!(node, Node::Router(_))
        && plan
            .path(conn.client, conn.server)
            .iter()
            .filter(|it| **it == node)
            .count()
            > 1;
    match node {
        _ if twice => Some([true, true]),
        Node::Server(_) => Some([up, down]),
        Node::Router(_) if plan.serves(node, conn.server) => Some([up, down]),
        // The way by the other interface is not cut.
        _ if plan.has_second(conn.client) => None,
        _ => Some([down, up]),
    }
}

/// Whether a connection is still there at one of its sides, although that heard nothing for the
/// duration of a cut: an idle timeout twice over at the most.
///
/// Twice, because what an application writes starts it once more (RFC 9000 section 10.1). 10 s are for
/// what was on its way. Who hears, but is not heard, gives up when the other side has done so.
pub(crate) fn outlives(model: &Model, conn: &Conn, side: Side, fault: &Fault) -> Option<Duration> {
    let deaf = deaf(model, conn, fault)?;
    let ends = fault.at + fault.lasts;
    let patience = model.plan.patience(conn.client, conn.server, ends, false)?;
    let once = 2 * patience + Duration::from_secs(10);
    let bound = if deaf[side as usize] { once } else { 2 * once };
    let paused = model.plan.faults().any(|it| match it.what {
        // A machine that stands still notices later.
        What::Pause(Node::Client(n)) => n == conn.client && it.overlaps(fault.at, ends),
        What::Pause(Node::Server(n)) => n == conn.server && it.overlaps(fault.at, ends),
        // One that ends meanwhile.
        What::Cut(..) => !std::ptr::eq(it, fault) && shares_a_node(it, fault),
        _ => false,
    });
    let began = match side {
        Side::Client => conn.established.get(),
        Side::Server => conn.attended.get(),
    };
    if fault.lasts <= bound || paused || !began || conn.began >= fault.at {
        return None;
    }
    model.count("checks: idle timeout");
    let lives = conn.end(side).is_none()
        && !(side == Side::Client && conn.letting_go.get())
        && !model.was_cut_short(conn, side);
    lives.then_some(bound)
}

/// Whether one of two cuts mends what the other one cut.
fn shares_a_node(one: &Fault, other: &Fault) -> bool {
    match (&one.what, &other.what) {
        (What::Cut(a, ..), What::Cut(b, ..)) => {
            a == b && one.overlaps(other.at, other.at + other.lasts)
        }
        _ => false,
    }
}

/// At the end of a cut: no connection may have outlived it for long.
pub(crate) fn dead_paths(model: &Model, fault: &Fault) {
    for conn in model.connections.borrow().iter() {
        for side in [Side::Client, Side::Server] {
            if let Some(bound) = outlives(model, conn, side, fault) {
                let lasts = fault.lasts;
                model.violation(
                    "idle timeout",
                    format_args!(
                        "{conn} lives at the {side:?} after {lasts:?} of {fault}, at most {bound:?}"
                    ),
                );
            }
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
