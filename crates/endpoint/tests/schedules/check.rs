//! Runs a model under many schedules, or under one that failed.

use std::env;
use std::path::PathBuf;

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, FailurePersistence, Runner};

/// Schedules of each model, unless the environment says how many.
const ITERATIONS: u64 = 400;

/// How many times PCT changes its mind about who goes first.
const PCT_DEPTH: usize = 4;

/// TLS in an unoptimised build needs more than shuttle's 60 KiB.
const STACK_BYTES: usize = 512 << 10;

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
    )
}

/// What shuttle does when a schedule fails: a file if there is a directory for them, else a text.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.silence_warnings = true;
    if let Some(directory) = env::var_os("POLYQUIC_SCHEDULES_DIR") {
        config.failure_persistence = FailurePersistence::File(Some(PathBuf::from(directory)));
    }
    config
}

/// Run `model` under many schedules: half of them drawn at random at every step, half by PCT, which
/// runs threads by priority and so gets further ahead with one of them.
pub(crate) fn check(name: &str, model: impl Fn() + Clone + Send + Sync + 'static) {
    if let Ok(path) = env::var("POLYQUIC_SCHEDULES_REPLAY") {
        let scheduler = ReplayScheduler::new_from_file(&path).expect("a schedule that was kept");
        Runner::new(scheduler, config()).run(model);
        println!("schedules: 1 of {name}, replayed");
        return;
    }
    let iterations = number("POLYQUIC_SCHEDULES").unwrap_or(ITERATIONS) as usize;
    let seed = number("POLYQUIC_SCHEDULES_SEED").unwrap_or(1);
    let random = RandomScheduler::new_from_seed(seed, iterations.div_ceil(2));
    let mut ran = Runner::new(random, config()).run(model.clone());
    let pct = PctScheduler::new_from_seed(seed, PCT_DEPTH, iterations / 2);
    ran += Runner::new(pct, config()).run(model);
    println!("schedules: {ran} of {name}");
}
