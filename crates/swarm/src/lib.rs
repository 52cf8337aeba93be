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
mod coverage;
mod dice;
mod fairness;
mod half;
mod keys;
mod meters;
mod model;
mod plan;
mod plant;
mod server;
mod streams;
#[cfg(test)]
mod tests;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

pub use coverage::{COUNTED, Coverage};
pub use plan::{Part, Plan};
pub use plant::Plant;
pub use polyquic::sim::commit;

/// How a simulation went.
#[derive(Debug, Clone, Default)]
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
    /// Timeouts, on either side, for which the plan was a reason.
    pub excused: u64,
    /// How equal shares were, from 0 (one had everything) to 1, if the simulation is about fairness.
    pub fairness: Option<f64>,
    /// What happened, and what was checked.
    pub coverage: Coverage,
    /// The largest shares of what was allowed: of tasks that run, and of memory.
    pub shares: (f64, f64),
    /// Most heap bytes that were in use, if they are counted.
    pub peak: u64,
    /// Heap bytes that were left, if they are counted.
    pub left: isize,
}

impl Outcome {
    /// Of a simulation that did not come to an end.
    fn failed(violation: String) -> Self {
        Self {
            violations: vec![violation],
            ..Self::default()
        }
    }
}

/// How to play a plan.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Print what happens, in virtual time.
    pub verbose: bool,
    /// Where to write what hosts send and receive, as pcapng with the secrets of TLS.
    pub capture: Option<&'a Path>,
    /// Heap bytes that this thread allocated and did not free, if the program counts them.
    pub live_bytes: Option<fn() -> isize>,
    /// A fault that an invariant must find.
    pub plant: Option<Plant>,
}

/// What may be left of a simulation, in bytes: what the stack and its dependencies set up once.
const LEFT_BYTES: isize = 128 << 10;

/// Play a plan.
pub fn run(plan: &Plan, options: &Options<'_>) -> Outcome {
    let before = options.live_bytes.map_or(0, |it| it());
    let mut outcome = match catch_unwind(AssertUnwindSafe(|| play(plan, options))) {
        Ok(outcome) => outcome,
        Err(panic) => Outcome::failed(format!("panics: {}", text(&*panic))),
    };
    // A panic leaves what it was about.
    let panicked = outcome.violations.iter().any(|it| it.starts_with("panics"));
    if let Some(live_bytes) = options.live_bytes.filter(|_| !panicked) {
        outcome.left = live_bytes() - before;
        if outcome.left > LEFT_BYTES {
            let left = outcome.left;
            let what = format!("memory: {left} bytes are left of it, at most {LEFT_BYTES}");
            outcome.violations.push(what);
        }
    }
    outcome
}

/// Draw the plan of a seed and play it. A panic on the way counts as a violation.
pub fn run_seed(seed: u64, options: &Options<'_>) -> Outcome {
    match catch_unwind(|| Plan::new(seed)) {
        Ok(plan) => run(&plan, options),
        Err(panic) => Outcome::failed(format!("panics: while planning: {}", text(&*panic))),
    }
}

/// What a panic says.
fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("with something else than text").to_owned()
}

fn play(plan: &Plan, options: &Options<'_>) -> Outcome {
    let world = world::World::new(plan, options);
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = &result {
        world.model.violation("panics", text(&**panic));
    }
    if let Some(path) = options.capture
        && let Err(error) = std::fs::write(path, world.sim.pcapng())
    {
        eprintln!("cannot write {}: {error}", path.display());
    }
    let model = &world.model;
    let halves = model.halves.take();
    let outcome = Outcome {
        violations: model.violations(),
        polls: world.sim.polls(),
        packets: world.sim.packets(),
        operations: model.operations.get(),
        elapsed: world.sim.elapsed(),
        trace: world.sim.trace().to_string(),
        connections: model.connections.borrow().len() as u64,
        timed_out: check::timed_out(&world),
        halves: halves.len() as u64,
        bytes: halves.iter().map(|it| it.got.get()).sum(),
        excused: model.excused.get(),
        fairness: model.fairness.get(),
        coverage: model.coverage(),
        shares: model.meters.shares.get(),
        peak: model.meters.peak(),
        left: 0,
    };
    // Connections know their streams, which know their connections.
    for conn in model.connections.borrow().iter() {
        conn.halves.take();
    }
    outcome
}

/// The smallest part of a plan that still fails in the same way, by leaving out what can be left out,
/// one after the other.
pub fn shrink(plan: &Plan, mut progress: impl FnMut(&str)) -> Plan {
    let kind = |plan: &Plan| {
        let violations = run(plan, &Options::default()).violations;
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
