//! Many seeds, on all cores.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use polyquic_swarm::{Coverage, Options, Outcome, commit, run_seed};

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
    excused: u64,
    /// Largest shares of what was allowed, and of which seed: of tasks that run, and of memory.
    shares: [(f64, u64); 2],
    peak: u64,
    left: isize,
    coverage: Coverage,
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
        self.excused += outcome.excused;
        let (polls, memory) = outcome.shares;
        for (largest, share) in self.shares.iter_mut().zip([polls, memory]) {
            if share > largest.0 {
                *largest = (share, seed);
            }
        }
        self.peak = self.peak.max(outcome.peak);
        self.left = self.left.max(outcome.left);
        self.coverage.add(&outcome.coverage);
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
             {} connections ({} timed out, {} timeouts of either side for a reason), {} MB read, \
             {} packets, {} polls, {} operations\n  \
             of what is allowed at most {:.0} % of polls (seed {}), {:.0} % of memory (seed {}); \
             equality of shares at least {fairness}\n  \
             heap at most {} kB, {} kB left; resident {} MB, {} MB more than after {WARM_SEEDS} seeds\n  \
             {} failed",
            self.seeds,
            self.seeds as f64 / seconds,
            self.virtual_time.as_secs_f64() / seconds,
            self.connections,
            self.timed_out,
            self.excused,
            self.bytes >> 20,
            self.packets,
            self.polls,
            self.operations,
            self.shares[0].0 * 100.0,
            self.shares[0].1,
            self.shares[1].0 * 100.0,
            self.shares[1].1,
            self.peak >> 10,
            self.left >> 10,
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

/// How seeds are played.
pub(crate) struct Settings {
    pub(crate) threads: usize,
    /// In real time, for one seed.
    pub(crate) limit: Duration,
    pub(crate) options: Options<'static>,
}

/// These seeds. Returns whether all passed.
pub(crate) fn range(from: u64, to: u64, settings: &Settings) -> bool {
    let next = AtomicU64::new(from);
    each(settings, || {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        (seed < to).then_some(seed)
    })
}

/// Seeds that nobody tried before, for this long. Returns whether all passed.
pub(crate) fn random(time: Duration, settings: &Settings) -> bool {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let first = since.map_or(0, |it| it.as_millis() as u64) % 1_000_000_000_000 * 1000;
    let (started, next) = (Instant::now(), AtomicU64::new(first));
    let threads = settings.threads;
    println!(
        "seeds from {first} on, for {time:?}, {threads} threads, commit {}",
        commit()
    );
    each(settings, || {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        (started.elapsed() < time).then_some(seed)
    })
}

/// What each thread plays, and since when.
type Playing = Mutex<Vec<Option<(u64, Instant)>>>;

/// Tell which seed goes on for longer than `limit`, and end the process: its thread cannot be ended.
fn watch(playing: &Playing, limit: Duration, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_secs(1));
        let playing = playing.lock().unwrap_or_else(PoisonError::into_inner);
        let hangs = playing.iter().flatten().find(|it| it.1.elapsed() > limit);
        if let Some((seed, _)) = hangs {
            println!(
                "HANGS seed {seed}, commit {}, for more than {limit:?}",
                commit()
            );
            println!("  replay with: cargo xtask sim --seed {seed} --verbose");
            std::process::abort();
        }
    }
}

/// Have `play` done on this thread; if it takes longer than `limit`, the seed is printed and the
/// process ends.
pub(crate) fn watched<T>(seed: u64, limit: Duration, play: impl FnOnce() -> T) -> T {
    let (playing, over) = (
        Mutex::new(vec![Some((seed, Instant::now()))]),
        AtomicBool::new(false),
    );
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&playing, limit, &over));
        let result = play();
        over.store(true, Ordering::Relaxed);
        watching.thread().unpark();
        result
    })
}

fn each(settings: &Settings, next: impl Fn() -> Option<u64> + Sync) -> bool {
    let (sums, started) = (Mutex::new(Sums::default()), Instant::now());
    let printed = Mutex::new(Instant::now());
    let playing: Playing = Mutex::new(vec![None; settings.threads]);
    let (over, players) = (AtomicBool::new(false), AtomicUsize::new(settings.threads));
    std::thread::scope(|scope| {
        let watching = scope
            .spawn(|| watch(&playing, settings.limit, &over))
            .thread()
            .clone();
        for index in 0..settings.threads {
            let (watching, playing, over, players) = (watching.clone(), &playing, &over, &players);
            let (sums, printed, next) = (&sums, &printed, &next);
            scope.spawn(move || {
                let note = |seed: Option<u64>| {
                    let mut playing = playing.lock().unwrap_or_else(PoisonError::into_inner);
                    playing[index] = seed.map(|it| (it, Instant::now()));
                };
                while let Some(seed) = next() {
                    note(Some(seed));
                    let outcome = run_seed(seed, &settings.options);
                    note(None);
                    let mut sums = lock(sums);
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
                if players.fetch_sub(1, Ordering::Relaxed) == 1 {
                    over.store(true, Ordering::Relaxed);
                    watching.unpark();
                }
            });
        }
    });
    let sums = lock(&sums);
    sums.print(started.elapsed());
    for (what, count) in sums.coverage.iter() {
        println!("  {count:>10} {what}");
    }
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
        commit(),
        outcome.elapsed
    );
    for violation in outcome.violations.iter().take(5) {
        println!("  violated: {violation}");
    }
    println!("  replay with: cargo xtask sim --seed {seed} --verbose");
}
