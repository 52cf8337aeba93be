//! Many seeds, and what is said when one of them fails.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
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

/// What is to be known when a simulation ends.
pub(crate) struct Ending {
    /// Whether the thread was panicking already when the simulation was made.
    unwinding: bool,
    reported: Cell<bool>,
    /// Of files, without what tells their kinds apart.
    name: OnceCell<String>,
}

impl Ending {
    pub(crate) fn new() -> Self {
        Self {
            unwinding: std::thread::panicking(),
            reported: Cell::new(false),
            name: OnceCell::new(),
        }
    }

    /// A name that no other simulation of this process has: many have the same seed.
    fn name(&self, seed: u64) -> &str {
        static TAKEN: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
        self.name.get_or_init(|| {
            let thread = std::thread::current();
            let name = match thread.name() {
                None | Some("main") => format!("seed-{seed}"),
                Some(test) => format!("{}-seed-{seed}", file_name(test)),
            };
            let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
            let count = taken.entry(name.clone()).or_default();
            *count += 1;
            match count {
                1 => name,
                _ => format!("{name}-{count}"),
            }
        })
    }
}

/// What every file system takes.
fn file_name(text: &str) -> String {
    let good = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    text.replace("::", ".").replace(|c| !good(c), "_")
}

/// Say how to replay a simulation if it ends because of a panic: once, be it that a task or what it
/// ran panicked, or whoever looked at the outcome.
pub(crate) fn report(world: &World) {
    let ending = &world.ending;
    if !std::thread::panicking() || ending.unwinding || ending.reported.replace(true) {
        return;
    }
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
            let name = world.ending.name(world.seed);
            let write = |file: String, contents: &[u8]| {
                let path = Path::new(&folder).join(file);
                match std::fs::write(&path, contents) {
                    Ok(()) => eprintln!("captured to {}", path.display()),
                    Err(error) => eprintln!("cannot write {}: {error}", path.display()),
                }
            };
            write(format!("{name}.pcapng"), &capture(world));
            #[cfg(feature = "qlog")]
            for (log, contents) in world.qlogs.all() {
                write(format!("{name}.{}.sqlog", file_name(&log)), &contents);
            }
        }
        report(world);
    }
}
