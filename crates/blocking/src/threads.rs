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
        idle: 0,
    }),
    work: Condvar::new(),
};

struct Pool {
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job, less those that have been told of one.
    idle: usize,
}

/// Run `job` on a thread of its own.
pub(crate) fn spawn(job: Job) {
    let mut state = POOL.lock();
    state.jobs.push_back(job);
    if state.idle > 0 {
        state.idle -= 1;
        drop(state);
        POOL.work.notify_one();
        return;
    }
    drop(state);
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
            state.idle += 1;
            let (guard, waited) = self
                .work
                .wait_timeout_while(state, IDLE_TIME, |state| state.jobs.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if waited.timed_out() && state.jobs.is_empty() {
                // Nobody told us of a job, so we still count as idle.
                state.idle = state.idle.saturating_sub(1);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

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
