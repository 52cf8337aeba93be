//! The swarm: random simulations of polyquic.
//!
//! Each seed stands for a [`Plan`]: a topology, transport configurations, a timeline of faults, and
//! what applications do. [`run`] plays it on the simulator and says which invariants did not hold.
//! Everything follows from the seed, and is played again the same by it.
//!
//! The observer (`model.rs`) is outside of the hosts: it knows what was written and what was read,
//! who gave which code, and what goes on. `docs/TESTING.md` lists the invariants.

#![forbid(unsafe_code)]

mod amplify;
mod app;
mod check;
mod client;
mod dice;
mod fairness;
mod half;
mod model;
mod plan;
mod server;
mod streams;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

pub use plan::{Part, Plan};
pub use polyquic::sim::commit;

/// How a simulation went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What did not hold.
    pub violations: Vec<String>,
    /// How often tasks ran.
    pub polls: u64,
    /// Packets sent.
    pub packets: u64,
    /// What applications asked for.
    pub operations: u64,
    /// Virtual time that passed.
    pub elapsed: Duration,
    /// The fingerprint of everything that happened, see `Sim::trace`.
    pub trace: String,
    /// Connections tried.
    pub connections: u64,
    /// Those of them that timed out.
    pub timed_out: u64,
    /// Halves of streams.
    pub halves: u64,
    /// Bytes that applications read from streams.
    pub bytes: u64,
    /// How often known faults of others were met.
    pub known: u64,
    /// Jain's index, if the simulation is about fairness.
    pub fairness: Option<f64>,
}

/// Play a plan. `verbose` prints what happens, in virtual time; what hosts send and receive is written
/// to `capture`, as pcapng.
pub fn run(plan: &Plan, verbose: bool, capture: Option<&Path>) -> Outcome {
    let world = world::World::new(plan, verbose, capture.is_some());
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = &result {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("with something else than text");
        world.model.violation("panics", text);
    }
    if let Some(path) = capture
        && let Err(error) = std::fs::write(path, world.sim.pcapng())
    {
        eprintln!("cannot write {}: {error}", path.display());
    }
    let halves = world.model.halves.take();
    let outcome = Outcome {
        violations: world.model.violations(),
        polls: world.sim.polls(),
        packets: world.sim.packets(),
        operations: world.model.operations.get(),
        elapsed: world.sim.elapsed(),
        trace: world.sim.trace().to_string(),
        connections: world.model.connections.borrow().len() as u64,
        timed_out: check::timed_out(&world),
        halves: halves.len() as u64,
        bytes: halves.iter().map(|it| it.got.get()).sum(),
        known: world.model.known.get(),
        fairness: world.model.fairness.get(),
    };
    // Connections know their streams, which know their connections.
    for conn in world.model.connections.borrow().iter() {
        conn.halves.take();
    }
    outcome
}

/// The smallest part of a plan that still fails in the same way, by leaving out what can be left out,
/// one after the other.
pub fn shrink(plan: &Plan, mut progress: impl FnMut(&str)) -> Plan {
    let kind = |plan: &Plan| {
        let violations = run(plan, false, None).violations;
        let kinds = violations.iter().filter_map(|it| it.split(':').next());
        kinds.map(str::to_owned).collect::<Vec<_>>()
    };
    let Some(wanted) = kind(plan).into_iter().next() else {
        return plan.clone();
    };
    let mut smallest = plan.clone();
    for part in plan.parts() {
        let mut without = smallest.clone();
        without.remove(part);
        if kind(&without).contains(&wanted) {
            progress(&format!("without {part}: still {wanted}"));
            smallest = without;
        }
    }
    smallest
}
