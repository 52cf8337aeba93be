//! A line of progress on standard error, if that is a terminal and the transfer takes a while.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::stats::{bit_rate, bytes, rate};

/// A transfer that is over sooner needs no progress.
const QUIET_FOR: Duration = Duration::from_secs(1);

const INTERVAL: Duration = Duration::from_millis(200);

/// What has been done so far.
#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    files: AtomicUsize,
}

/// Counts bytes and files, and shows them until dropped.
///
/// A thread of its own does the showing, so that a slow terminal slows nothing else.
#[derive(Debug)]
pub(crate) struct Progress {
    counters: Arc<Counters>,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Count only, or also show if `show` and standard error is a terminal.
    pub(crate) fn start(show: bool, files: usize) -> Self {
        let counters = Arc::new(Counters::default());
        let thread = (show && std::io::stderr().is_terminal())
            .then(|| {
                let (stop, stopped) = channel();
                let counters = counters.clone();
                let spawned =
                    std::thread::Builder::new()
                        .name("progress".into())
                        .spawn(move || {
                            let start = Instant::now();
                            let mut wait = QUIET_FOR;
                            let mut shown = false;
                            while stopped.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                                wait = INTERVAL;
                                shown = true;
                                // A terminal that is gone is no reason to stop the transfer.
                                let _ = write!(
                                    std::io::stderr(),
                                    "\r\x1b[K{}",
                                    line(&counters, files, start.elapsed())
                                );
                            }
                            if shown {
                                let _ = write!(std::io::stderr(), "\r\x1b[K");
                            }
                        });
                spawned.ok().map(|thread| (stop, thread))
            })
            .flatten();
        Self { counters, thread }
    }

    /// So many more bytes have arrived.
    pub(crate) fn add_bytes(&self, count: usize) {
        self.counters
            .bytes
            .fetch_add(count as u64, Ordering::Relaxed);
    }

    /// One more file is complete.
    pub(crate) fn file_done(&self) {
        self.counters.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.counters.bytes.load(Ordering::Relaxed)
    }
}

fn line(counters: &Counters, files: usize, elapsed: Duration) -> String {
    let count = counters.bytes.load(Ordering::Relaxed);
    // No percentage: hq-interop does not tell how long a file will be.
    format!(
        "{} of {files} files, {}, {}, {:.0} s",
        counters.files.load(Ordering::Relaxed),
        bytes(count),
        bit_rate(rate(count, elapsed)),
        elapsed.as_secs_f64(),
    )
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // The line is cleared before anything else is printed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_is_known() {
        let progress = Progress::start(false, 3);
        progress.add_bytes(125_000_000);
        progress.file_done();
        let text = line(&progress.counters, 3, Duration::from_secs(1));
        assert_eq!(text, "1 of 3 files, 119.2 MiB, 1.00 Gbit/s, 1 s");
        assert_eq!(progress.bytes(), 125_000_000);
    }
}
