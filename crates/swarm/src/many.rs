//! Many seeds, on all cores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use polyquic_swarm::{Outcome, Plan, run};

/// Resident memory may grow by so much after the first seeds, in bytes.
const GROWTH_BYTES: u64 = 200 << 20;

/// Seeds after which memory is looked at: allocators and caches are warm then.
const WARM_SEEDS: u64 = 200;

#[derive(Default)]
struct Sums {
    seeds: u64,
    failed: Vec<u64>,
    virtual_time: Duration,
    packets: u64,
    polls: u64,
    operations: u64,
    connections: u64,
    timed_out: u64,
    bytes: u64,
    known: u64,
    /// Largest of polls beyond 10,000 per packet and operation.
    ratio: (f64, u64),
    fairness: Vec<(f64, u64)>,
    memory: Option<u64>,
    largest: u64,
}

impl Sums {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.virtual_time += outcome.elapsed;
        self.packets += outcome.packets;
        self.polls += outcome.polls;
        self.operations += outcome.operations;
        self.connections += outcome.connections;
        self.timed_out += outcome.timed_out;
        self.bytes += outcome.bytes;
        self.known += outcome.known;
        let work = (outcome.packets + outcome.operations).max(1) as f64;
        let ratio = outcome.polls.saturating_sub(10_000) as f64 / work;
        if ratio > self.ratio.0 {
            self.ratio = (ratio, seed);
        }
        self.fairness.extend(outcome.fairness.map(|it| (it, seed)));
        let memory = resident();
        self.largest = self.largest.max(memory);
        if self.seeds == WARM_SEEDS {
            self.memory = Some(memory);
        }
    }

    /// How much memory grew since it was warm.
    fn growth(&self) -> u64 {
        self.memory.map_or(0, |it| resident().saturating_sub(it))
    }

    fn print(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let lowest = self.fairness.iter().min_by(|a, b| a.0.total_cmp(&b.0));
        let fairness = match lowest {
            Some((index, seed)) => format!("{index:.2} (seed {seed})"),
            None => "not measured".into(),
        };
        println!(
            "{} seeds in {seconds:.0} s ({:.1}/s, {:.0} virtual seconds per second)\n  \
             {} connections ({} timed out), {} MB read, {} packets, {} polls, {} operations\n  \
             polls beyond 10,000 per packet and operation at most {:.2} (seed {}), fairness at least \
             {fairness}, known faults {}, memory {} MB, {} MB more than after {WARM_SEEDS} seeds\n  \
             {} failed",
            self.seeds,
            self.seeds as f64 / seconds,
            self.virtual_time.as_secs_f64() / seconds,
            self.connections,
            self.timed_out,
            self.bytes >> 20,
            self.packets,
            self.polls,
            self.operations,
            self.ratio.0,
            self.ratio.1,
            self.known,
            self.largest >> 20,
            self.growth() >> 20,
            self.failed.len(),
        );
    }
}

/// Resident memory of this process, in bytes; 0 where the system does not tell.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1);
    pages.and_then(|it| it.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn lock(sums: &Mutex<Sums>) -> MutexGuard<'_, Sums> {
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}

/// These seeds. Returns whether all passed.
pub(crate) fn range(from: u64, to: u64, threads: usize) -> bool {
    let next = AtomicU64::new(from);
    each(threads, || {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        (seed < to).then_some(seed)
    })
}

/// Seeds that nobody tried before, for this long. Returns whether all passed.
pub(crate) fn random(time: Duration, threads: usize) -> bool {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let first = since.map_or(0, |it| it.as_millis() as u64) % 1_000_000_000_000 * 1000;
    let (started, next) = (Instant::now(), AtomicU64::new(first));
    println!("seeds from {first} on, for {time:?}, {threads} threads");
    each(threads, || {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        (started.elapsed() < time).then_some(seed)
    })
}

fn each(threads: usize, next: impl Fn() -> Option<u64> + Sync) -> bool {
    let (sums, started) = (Mutex::new(Sums::default()), Instant::now());
    let printed = Mutex::new(Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    let outcome = run(&Plan::new(seed), false, None);
                    let mut sums = lock(&sums);
                    sums.add(seed, &outcome);
                    if !outcome.violations.is_empty() {
                        sums.failed.push(seed);
                        report(seed, &outcome);
                    }
                    let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
                    if printed.elapsed() > Duration::from_secs(10) {
                        *printed = Instant::now();
                        sums.print(started.elapsed());
                    }
                }
            });
        }
    });
    let sums = lock(&sums);
    sums.print(started.elapsed());
    if sums.growth() > GROWTH_BYTES {
        println!("violated: memory: {} MB more", sums.growth() >> 20);
        return false;
    }
    if !sums.failed.is_empty() {
        println!("failed seeds: {:?}", sums.failed);
    }
    sums.failed.is_empty()
}

fn report(seed: u64, outcome: &Outcome) {
    println!(
        "FAILED seed {seed}, commit {}, after {:?} of virtual time",
        polyquic_swarm::commit(),
        outcome.elapsed
    );
    for violation in outcome.violations.iter().take(5) {
        println!("  violated: {violation}");
    }
    println!("  replay with: cargo xtask sim --seed {seed} --verbose");
}
