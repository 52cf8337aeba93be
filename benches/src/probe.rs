//! What a peer knows about itself: work done, processor time and memory.

use std::{
    fmt, fs,
    io::{self, BufRead, Write},
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

/// How long a client goes on after the measurement, at most, for the driver to look at the server,
/// which must still be under load then.
const LINGER: Duration = Duration::from_secs(2);

/// The process at one moment. Two of them make a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Since the process started measuring time.
    pub elapsed: Duration,
    /// Processor time in user mode, over all threads.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Application bytes received.
    pub bytes: u64,
    /// Things begun, where that is counted.
    pub begun: u64,
    /// Requests, round trips or handshakes completed.
    pub operations: u64,
    /// Memory that is resident.
    pub resident_bytes: u64,
    /// UDP payload of the full packets of a connection, where the stack tells.
    pub packet_size: Option<u64>,
}

impl Snapshot {
    fn to_json(self) -> Value {
        json!({
            "elapsed": self.elapsed.as_secs_f64(),
            "user": self.user.as_secs_f64(),
            "system": self.system.as_secs_f64(),
            "bytes": self.bytes,
            "begun": self.begun,
            "operations": self.operations,
            "resident": self.resident_bytes,
            "packet_size": self.packet_size,
        })
    }
}

const WARMING_UP: u8 = 0;
const MEASURING: u8 = 1;
const STOPPED: u8 = 2;

/// Counters that the workload's tasks increment, and the clock that tells them when to stop.
///
/// Time is kept by a thread of its own rather than by the executor that is measured, and tasks
/// learn of it by reading an atomic: they would otherwise ask for the time once per chunk.
#[derive(Debug)]
pub struct Probe {
    started: Instant,
    phase: AtomicU8,
    bytes: AtomicU64,
    begun: AtomicU64,
    operations: AtomicU64,
    stop_wanted: Mutex<bool>,
    stop_signal: Condvar,
    packet_size: Mutex<PacketSize>,
}

/// Asks a connection for the size of its packets.
#[derive(Default)]
struct PacketSize(Option<Box<dyn Fn() -> Option<u64> + Send>>);

impl fmt::Debug for PacketSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PacketSize")
            .field(&self.0.is_some())
            .finish()
    }
}

impl Probe {
    /// A probe whose counters are zero.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            phase: AtomicU8::new(WARMING_UP),
            bytes: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            stop_wanted: Mutex::new(false),
            stop_signal: Condvar::new(),
            packet_size: Mutex::default(),
        })
    }

    /// Sets what each snapshot asks for the size of packets; the last of several counts.
    pub fn watch_packet_size(&self, ask: impl Fn() -> Option<u64> + Send + 'static) {
        lock(&self.packet_size).0 = Some(Box::new(ask));
    }

    /// Counts application bytes that arrived.
    pub fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts one thing begun, where it matters how many of them are completed.
    pub fn began(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one thing done.
    pub fn completed(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether what happens now belongs to the measured interval.
    pub fn measuring(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == MEASURING
    }

    /// Whether tasks should end.
    pub fn stopped(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == STOPPED
    }

    /// Asks without the lock: a stack may have to wait for a thread that is about to set another
    /// connection to be asked.
    fn ask_packet_size(&self) -> Option<u64> {
        let ask = lock(&self.packet_size).0.take()?;
        let size = ask();
        lock(&self.packet_size).0.get_or_insert(ask);
        size
    }

    /// The process as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
        let time = |value: Option<nix::sys::time::TimeVal>| {
            value.map_or(Duration::ZERO, |value| {
                Duration::new(
                    value.tv_sec().try_into().unwrap_or(0),
                    u32::try_from(value.tv_usec()).unwrap_or(0) * 1_000,
                )
            })
        };
        Snapshot {
            elapsed: self.started.elapsed(),
            user: time(usage.map(|usage| usage.user_time())),
            system: time(usage.map(|usage| usage.system_time())),
            bytes: self.bytes.load(Ordering::Relaxed),
            begun: self.begun.load(Ordering::Relaxed),
            operations: self.operations.load(Ordering::Relaxed),
            resident_bytes: resident_bytes(),
            packet_size: self.ask_packet_size(),
        }
    }

    /// Starts the clock of a client under load: warm up, measure, and then run on until the
    /// driver has seen the server.
    pub fn start_clock(self: &Arc<Self>, warmup: Duration, duration: Duration) {
        let probe = self.clone();
        thread::spawn(move || {
            thread::sleep(warmup);
            probe.begin();
            thread::sleep(duration);
            probe.end();
        });
    }

    /// Announces the start of the measured interval.
    pub fn begin(&self) {
        emit("begin", json!({ "snapshot": self.snapshot().to_json() }));
        self.phase.store(MEASURING, Ordering::Relaxed);
    }

    /// Announces its end, and returns when nothing depends on this process any more.
    pub fn end(&self) {
        emit("end", json!({ "snapshot": self.snapshot().to_json() }));
        let wanted = lock(&self.stop_wanted);
        let wait = self
            .stop_signal
            .wait_timeout_while(wanted, LINGER, |wanted| !*wanted);
        drop(wait);
        self.phase.store(STOPPED, Ordering::Relaxed);
    }

    /// Ends at once at the end of the measured interval, as there is no driver to wait for.
    pub fn without_driver(&self) {
        *lock(&self.stop_wanted) = true;
    }

    /// Obeys the driver on standard input, and exits with it.
    pub fn listen_to_driver(self: &Arc<Self>) {
        let probe = self.clone();
        thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                match line.trim() {
                    "snapshot" => {
                        emit(
                            "snapshot",
                            json!({ "snapshot": probe.snapshot().to_json() }),
                        );
                    }
                    "stop" => {
                        *lock(&probe.stop_wanted) = true;
                        probe.stop_signal.notify_all();
                    }
                    _ => {}
                }
            }
            process::exit(0);
        });
    }
}

/// Nothing here can be left half-written by a thread that panicked.
fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one line to the driver.
pub fn emit(event: &str, mut fields: Value) {
    fields["event"] = event.into();
    // A driver that has gone away is noticed on standard input.
    let _ = writeln!(io::stdout().lock(), "{fields}");
}

/// Resident memory of this process, or 0 where the kernel does not tell.
fn resident_bytes() -> u64 {
    // `statm` lags behind by per-processor counters; this file is exact.
    let exact = fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let field = exact.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kibibytes = field.and_then(|field| field.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
