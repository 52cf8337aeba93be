//! Threads for tasks and jobs.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polyquic_runtime::Job;

/// How long a thread waits for its next job before it ends.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// Shared by the process, as threads have no owner.
static POOL: Pool = Pool {
    state: Mutex::new(State {
        jobs: VecDeque::new(),
        waiting: 0,
    }),
    work: Condvar::new(),
};

struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job.
    waiting: usize,
}

/// Run `job` on a thread of its own.
pub(crate) fn spawn(job: Job) {
    let mut state = POOL.lock();
    state.jobs.push_back(job);
    // A waiting thread that was told of a job still counts as waiting, and its job as queued, until
    // it has taken it; likewise when a thread that just became free takes the job instead.
    let enough = state.jobs.len() <= state.waiting;
    drop(state);
    if enough {
        POOL.work.notify_one();
        return;
    }
    let thread = std::thread::Builder::new()
        .name("polyquic-task".into())
        .spawn(|| POOL.run());
    if let Err(error) = thread {
        // The job stays queued for the next thread that becomes free, if any.
        tracing::error!(%error, "cannot start a thread for a task");
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A task that panics has printed why; its thread goes on with the next.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                state = self.lock();
                continue;
            }
            state.waiting += 1;
            (state, _) = self
                .work
                .wait_timeout_while(state, IDLE_TIME, |state| state.jobs.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
            if state.jobs.is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A thread that becomes free may take a job that another was woken for. That must not make
    /// the pool believe that it has fewer threads than it has.
    #[test]
    fn threads_are_used_again() {
        let seen = std::sync::Arc::new(Mutex::new(std::collections::HashSet::new()));
        let (done, finished) = mpsc::channel();
        for _ in 0..3000 {
            let (seen, done) = (seen.clone(), done.clone());
            spawn(Box::new(move || {
                seen.lock().unwrap().insert(std::thread::current().id());
                done.send(()).unwrap();
            }));
            finished.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        let threads = seen.lock().unwrap().len();
        assert!(threads < 100, "{threads} threads for one job at a time");
    }

    #[test]
    fn as_many_threads_as_tasks_wait() {
        let (ready, arrived) = mpsc::channel();
        let mut releases = Vec::new();
        for _ in 0..20 {
            let (release, wait) = mpsc::channel::<()>();
            releases.push(release);
            let ready = ready.clone();
            spawn(Box::new(move || {
                ready.send(()).unwrap();
                let _ = wait.recv();
            }));
        }
        // All of them start, though none of them ends.
        for _ in 0..20 {
            arrived.recv_timeout(Duration::from_secs(10)).unwrap();
        }
        drop(releases);
        spawn(Box::new(|| panic!("expected by the test")));
        let (done, finished) = mpsc::channel();
        spawn(Box::new(move || done.send(()).unwrap()));
        finished.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
