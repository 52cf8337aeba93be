//! Many seeds, and what is said when one of them fails.

use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use crate::Sim;
use crate::world::World;

/// Names the only seed to run.
const SEED: &str = "POLYQUIC_SIM_SEED";

/// Names a folder for captures.
pub(crate) const CAPTURE: &str = "POLYQUIC_SIM_CAPTURE";

/// Run `test` in a simulation of its own for each seed, or for the one that `POLYQUIC_SIM_SEED` in the
/// environment names.
///
/// # Panics
///
/// When `test` does, which ends it; the seed was printed.
pub fn each_seed(seeds: impl IntoIterator<Item = u64>, mut test: impl FnMut(&Sim)) {
    match std::env::var(SEED) {
        Ok(seed) => {
            let seed = seed
                .parse()
                .unwrap_or_else(|_| panic!("{SEED} is not a number: {seed}"));
            test(&Sim::new(seed));
        }
        Err(_) => seeds.into_iter().for_each(|seed| test(&Sim::new(seed))),
    }
}

/// The commit of the repository that the current folder is in, or "unknown".
pub fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().into()
        }
        _ => "unknown".into(),
    }
}

/// What was captured.
pub(crate) fn capture(world: &World) -> Vec<u8> {
    let mut trace = world.trace.borrow_mut();
    let Some(capture) = &mut trace.capture else {
        return Vec::new();
    };
    let hosts = world.hosts.borrow();
    capture.hosts = hosts.iter().map(|it| it.name.clone()).collect();
    capture.file(&world.secrets)
}

/// Says at the end of a run that failed how to replay it, and writes captures that were asked for.
pub(crate) struct Report(Rc<World>);

impl Report {
    pub(crate) fn new(world: &Rc<World>) -> Self {
        Self(world.clone())
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let world = &self.0;
        if let Some(folder) = std::env::var_os(CAPTURE) {
            let path = Path::new(&folder).join(format!("seed-{}.pcapng", world.seed));
            match std::fs::write(&path, capture(world)) {
                Ok(()) => eprintln!("captured to {}", path.display()),
                Err(error) => eprintln!("cannot write {}: {error}", path.display()),
            }
        }
        if std::thread::panicking() {
            eprintln!(
                "simulation failed: seed {}, after {:?} of virtual time, trace {}, commit {}; \
                 replay with {SEED}={}",
                world.seed,
                Duration::from_nanos(world.now()),
                world.trace.borrow().hash(),
                commit(),
                world.seed,
            );
        }
    }
}
