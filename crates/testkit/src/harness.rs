//! What runs around each test: a thread of its own, a watchdog, and a process of its own where the
//! memory of one test is to be told from that of others.

use std::cell::RefCell;
use std::fmt::Debug;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a test may take, or each part of it that ends with [`progress`]. Far beyond what any needs:
/// a test that runs into it hangs.
pub const WATCHDOG: Duration = Duration::from_secs(90);

thread_local! {
    /// To the watchdog of the test that runs on this thread.
    static WATCHDOG_OF_THREAD: RefCell<Option<mpsc::Sender<()>>> = const { RefCell::new(None) };
}

/// Tell the watchdog of the test on this thread that a part of it is done, such as one of many seeds:
/// the time begins anew.
pub fn progress() {
    WATCHDOG_OF_THREAD.with_borrow(|watchdog| {
        if let Some(watchdog) = watchdog {
            // It went if it has given this test up.
            let _ = watchdog.send(());
        }
    });
}

const WATCHDOG_VARIABLE: &str = "POLYQUIC_TESTKIT_WATCHDOG_SECS";
const ALONE_VARIABLE: &str = "POLYQUIC_TESTKIT_ALONE";

/// What the closure given to [`conformance!`](crate::conformance) may return.
pub trait Outcome {
    /// Panic if this is a failure.
    fn check(self);
}

impl Outcome for () {
    fn check(self) {}
}

impl<E: Debug> Outcome for Result<(), E> {
    fn check(self) {
        self.expect("the executor failed");
    }
}

/// Run `test` on a thread of its own and wait for it.
///
/// Without threads, in WebAssembly, `test` is called right here, and may return before the promise is
/// kept: there, whoever wrote the closure sees to waiting, and to a watchdog.
///
/// # Panics
///
/// When the test does, or when it takes longer than the watchdog allows; its thread is left behind
/// then, as there is no way to stop it.
pub fn run<O: Outcome>(name: &str, test: impl FnOnce() -> O + Send + 'static) {
    if cfg!(target_family = "wasm") {
        return test().check();
    }
    let start = Instant::now();
    let (done, finished) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            // Dropped when the thread is over, however the test ends.
            WATCHDOG_OF_THREAD.set(Some(done));
            test().check();
        })
        .expect("cannot start a thread for the test");
    let limit = std::env::var(WATCHDOG_VARIABLE)
        .ok()
        .and_then(|secs| secs.parse().ok())
        .map_or(WATCHDOG, Duration::from_secs);
    loop {
        match finished.recv_timeout(limit) {
            Ok(()) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("{name} hangs: nothing heard of it for {limit:?}")
            }
        }
    }
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
    // Shown with `--nocapture`, to find the slow ones.
    println!("{name}: {:?}", start.elapsed());
}

/// Run `test`, and then on this thread what it left to be done, the executor being gone.
pub fn run_and_after<O: Outcome>(
    name: &str,
    test: impl FnOnce(mpsc::Sender<After>) -> O + Send + 'static,
) {
    run(name, move || {
        let (leave, left) = mpsc::channel();
        test(leave).check();
        for after in left {
            after();
        }
    });
}

/// Something to be done when the executor is gone.
pub type After = Box<dyn FnOnce() + Send>;

/// Run `test` in a process that runs nothing else, so that it can look at the process's memory.
///
/// Starts this test binary again for the test of that name, which is how libtest and its
/// replacements name it: the module path without the crate, then the function.
///
/// # Panics
///
/// When the test does in its process.
pub fn run_alone<O: Outcome>(name: &str, test: impl FnOnce() -> O + Send + 'static) {
    if std::env::var_os(ALONE_VARIABLE).is_some() {
        return run(name, test);
    }
    let name = name.split_once("::").map_or(name, |(_crate, name)| name);
    let program = std::env::current_exe().expect("a test binary has a path");
    let output = Command::new(program)
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .env(ALONE_VARIABLE, "1")
        .output()
        .expect("cannot start the test binary again");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    print!("{stdout}");
    eprint!("{stderr}");
    assert!(output.status.success(), "{name} failed in its own process");
    assert!(
        stdout.contains("1 passed"),
        "{name} did not run in its own process"
    );
}
