//! Starting executors, and saying why that failed.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use glommio::{
    CpuSet, GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement,
};
use io_uring::IoUring;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet as Affinity, sched_getaffinity, sched_setaffinity};

use crate::GlommioRuntime;
use crate::core::{Local, Polling, Run};
use crate::task::shielded;

/// What glommio demands of the limit on locked memory.
const MEMLOCK_BYTES: u64 = 512 << 10;

/// glommio's own way to interrupt tasks that are always ready. Longer than the system keeps a thread
/// waiting, and why is said in `preempt.rs`; it matters to tasks that we know nothing of.
const PREEMPT: Duration = Duration::from_secs(1);

/// Start `cores` executors (at least one), each on a thread of its own, run `app` on the first,
/// which is on the calling thread, and return what it returns.
///
/// The threads are not bound to processors; [`Builder::pin`] does that. When `app` is done, tasks
/// that are still running are dropped on all of them, endpoints' drivers among them: call
/// [`wait_idle`] first to let peers hear of closed connections.
///
/// ```no_run
/// let answer = polyquic_glommio::run(2, |_rt| async { 42 })?;
/// # std::io::Result::Ok(())
/// ```
///
/// [`wait_idle`]: https://docs.rs/polyquic/latest/polyquic/struct.Endpoint.html#method.wait_idle
///
/// # Errors
///
/// The system grants no io_uring, no threads or no file descriptors; the message says what to do.
///
/// # Panics
///
/// When `app` does, or on a thread that runs a glommio executor already. A panic of another task
/// ends that task only.
pub fn run<F, Fut>(cores: usize, app: F) -> io::Result<Fut::Output>
where
    F: FnOnce(GlommioRuntime) -> Fut,
    Fut: Future,
{
    Builder::new().cores(cores).run(app)
}

/// Executors with settings, where [`run`] has none.
///
/// ```
/// let builder = polyquic_glommio::Builder::new().cores(2).ring_depth(64);
/// let answer = builder.run(|_rt| async { 42 })?;
/// # assert_eq!(answer, 42);
/// # std::io::Result::Ok(())
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    cores: usize,
    pin: bool,
    busy_poll: Duration,
    ring_depth: usize,
    io_memory: usize,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// One executor, not pinned, which sleeps when it has nothing to do.
    pub fn new() -> Self {
        Self {
            cores: 1,
            pin: false,
            busy_poll: Duration::ZERO,
            ring_depth: 128,
            io_memory: 64 << 10,
        }
    }

    /// Executors, the one on the calling thread included; at least one. Default: 1.
    pub fn cores(mut self, cores: usize) -> Self {
        self.cores = cores.max(1);
        self
    }

    /// Bind the threads to processors, in turn to each of those that the calling thread may run on.
    /// Default: no.
    ///
    /// It pays on machines that do nothing else. Threads that your tasks start are bound to the same
    /// processor, except those of [`offload`](polyquic_runtime::Runtime::offload).
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// Look for I/O again and again for this long before sleeping. Default: 0, sleep at once.
    ///
    /// Buys latency with processor time, all of it while there is traffic.
    pub fn busy_poll(mut self, duration: Duration) -> Self {
        self.busy_poll = duration;
        self
    }

    /// Entries of each of glommio's three rings per executor, at least one. Default: 128.
    ///
    /// It bounds the operations that one submission takes, and is for applications that do more with
    /// glommio: polyquic has one operation under way for each executor.
    pub fn ring_depth(mut self, entries: usize) -> Self {
        self.ring_depth = entries.max(1);
        self
    }

    /// Bytes of locked memory per executor for file I/O by glommio. Default: 64 KiB, the least there
    /// is; glommio's own default is 10 MiB, which many a limit on locked memory does not allow.
    pub fn io_memory(mut self, bytes: usize) -> Self {
        self.io_memory = bytes;
        self
    }

    /// As [`run`](run()), with these settings.
    ///
    /// # Errors
    ///
    /// The system grants no io_uring, no threads or no file descriptors; the message says what to do.
    ///
    /// # Panics
    ///
    /// When `app` does, or on a thread that runs a glommio executor already.
    pub fn run<F, Fut>(&self, app: F) -> io::Result<Fut::Output>
    where
        F: FnOnce(GlommioRuntime) -> Fut,
        Fut: Future,
    {
        check()?;
        // Kept by making an executor, if that binds the thread.
        let before = Restore(sched_getaffinity(None)?);
        let run = Run::new(self.cores, self.pin.then_some(before.0));
        let result = thread::scope(|scope| {
            // Also when the application panics, or when not all could be started.
            let stop = StopOnDrop(&run);
            let mut polling = Polling::all(&run);
            let executor = self.make(0, &before.0)?;
            let (report, reports) = mpsc::channel();
            for (index, polling) in (1..self.cores).zip(polling.drain(1..)) {
                let (report, run, allowed) = (report.clone(), &run, &before.0);
                thread::Builder::new()
                    .name(format!("polyquic-glommio-{index}"))
                    .spawn_scoped(scope, move || match self.make(index, allowed) {
                        Ok(executor) => {
                            executor.run(serve(run.clone(), index, polling, report));
                        }
                        Err(error) => {
                            let _ = report.send(Err(error));
                        }
                    })?;
            }
            drop(report);
            for result in reports.iter().take(self.cores - 1) {
                result?;
            }
            let polling = polling.pop().expect("one for each core");
            let output = executor.run(serve_app(run.clone(), polling, app));
            drop(stop);
            output
        });
        drop(before);
        result?.map_err(|panic| resume_unwind(panic))
    }

    fn make(&self, index: usize, allowed: &Affinity) -> io::Result<LocalExecutor> {
        let cpus: Vec<usize> = (0..Affinity::MAX_CPU)
            .filter(|&cpu| allowed.is_set(cpu))
            .collect();
        let placement = if self.pin && !cpus.is_empty() {
            Placement::Fixed(cpus[index % cpus.len()])
        } else if self.busy_poll.is_zero() {
            Placement::Unbound
        } else {
            // glommio looks around before sleeping only if it is told where it runs.
            let online = CpuSet::online().map_err(explain_glommio)?;
            Placement::Fenced(online.filter(|it| cpus.contains(&it.cpu)))
        };
        let mut builder = LocalExecutorBuilder::new(placement)
            .name("polyquic-glommio")
            .ring_depth(self.ring_depth)
            .io_memory(self.io_memory)
            .preempt_timer(PREEMPT)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(1));
        if !self.busy_poll.is_zero() {
            builder = builder.spin_before_park(self.busy_poll);
        }
        // It panics for want of threads, and when it cannot ask the kernel what it supports.
        match catch_unwind(AssertUnwindSafe(|| builder.make())) {
            Ok(result) => result.map_err(explain_glommio),
            Err(_) => Err(io::Error::other(
                "glommio panicked while it started; the message is above",
            )),
        }
    }
}

/// The executors but the first.
async fn serve(
    run: Arc<Run>,
    index: usize,
    polling: Polling,
    report: mpsc::Sender<io::Result<()>>,
) {
    let local = match Local::enter(run.clone(), index) {
        Ok(local) => local,
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    let _ = report.send(Ok(()));
    drop(report);
    run.cores[index].read_inbox().await;
    local.leave(polling).await;
}

/// The first.
async fn serve_app<F, Fut>(
    run: Arc<Run>,
    polling: Polling,
    app: F,
) -> io::Result<thread::Result<Fut::Output>>
where
    F: FnOnce(GlommioRuntime) -> Fut,
    Fut: Future,
{
    let local = Local::enter(run.clone(), 0)?;
    let inbox = run.clone();
    local
        .tasks
        .spawn(async move { inbox.cores[0].read_inbox().await });
    let rt = GlommioRuntime::of(run.clone(), 0);
    // With a waker of its own, like all tasks.
    let app = async { app(rt).await };
    let preemption = local.tasks.preemption.clone();
    let output = shielded(app, Arc::default(), &preemption, || false).await;
    drop(preemption);
    // Before this one leaves, which waits for the others.
    drop(StopOnDrop(&run));
    local.leave(polling).await;
    Ok(output.expect("nobody ends the application but itself"))
}

struct StopOnDrop<'a>(&'a Run);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.cores.iter().for_each(|core| core.stop());
    }
}

/// Lets the calling thread run where it ran before.
struct Restore(Affinity);

impl Drop for Restore {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// Find out in advance what glommio would report badly, or panic about.
fn check() -> io::Result<()> {
    if let Some(bytes) = getrlimit(Resource::Memlock).current
        && bytes < MEMLOCK_BYTES
    {
        let message = format!(
            "glommio needs to lock at least {MEMLOCK_BYTES} bytes of memory for its rings, and the \
             limit (RLIMIT_MEMLOCK) is {bytes}: raise it with `ulimit -l`, with LimitMEMLOCK= in a \
             systemd unit, or with --ulimit memlock=-1 for a container"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    IoUring::new(8).map(drop).map_err(explain)
}

fn explain_glommio(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(error) => explain(error),
        other => io::Error::other(format!("cannot start a glommio executor: {other}")),
    }
}

/// Say that there is no ring, and what can be done about it.
pub(crate) fn explain(error: io::Error) -> io::Error {
    with_advice("cannot make an io_uring", error)
}

/// Say what went wrong, and what can be done about it.
pub(crate) fn with_advice(what: &str, error: io::Error) -> io::Error {
    let advice = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSYS) => {
            "the kernel has no io_uring, or hides it: this needs Linux 5.13 or later, and in a \
             container a seccomp profile that allows io_uring_setup, io_uring_enter and \
             io_uring_register"
        }
        Some(Errno::PERM | Errno::ACCESS) => {
            "it is forbidden here: by the seccomp profile of a container, which has to allow \
             io_uring_setup, io_uring_enter and io_uring_register, or by the sysctl \
             kernel.io_uring_disabled, which has to be 0"
        }
        Some(Errno::NOMEM) => {
            "there is not enough memory, or too little of it may be locked: raise RLIMIT_MEMLOCK with \
             `ulimit -l`, or with LimitMEMLOCK= in a systemd unit"
        }
        Some(Errno::MFILE | Errno::NFILE) => {
            "too many files are open: each executor takes eight descriptors; raise RLIMIT_NOFILE with \
             `ulimit -n`, or with LimitNOFILE= in a systemd unit"
        }
        _ => "this comes from the system",
    };
    io::Error::new(error.kind(), format!("{what}: {error}: {advice}"))
}
