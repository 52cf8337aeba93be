//! polyquic on [glommio]: a thread per core, each with an executor of its own on io_uring.
//!
//! DOCS
#![cfg(target_os = "linux")]

mod core;
mod ring;
mod socket;
mod start;
mod task;
mod timer;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use polyquic_runtime::{Job, Placement, Runtime, Spawn};
use polyquic_udp::UdpIo;

use crate::core::{Local, Run};

pub use socket::GlommioSocket;
pub use start::{Builder, run};
pub use timer::GlommioTimer;

/// A handle to the glommio executor of the thread it is used on, and to the others of its run.
///
/// It may be sent and shared, so that tasks that move between threads elsewhere can hold it; the
/// tasks that it spawns never move.
#[derive(Clone)]
pub struct GlommioRuntime {
    run: Arc<Run>,
    /// The core that it was made for, which is asked on threads that are no cores.
    home: usize,
}

impl GlommioRuntime {
    /// The executor of this thread, in a program that runs glommio already.
    ///
    /// Endpoints have one shard then, and [`place`](Runtime::place) knows no other executor. Make
    /// the executor with a short [`preempt_timer`], a millisecond say: tasks that are always ready
    /// keep timers waiting that long. What polyquic has running is leaked when the executor ends, as
    /// glommio does with all tasks: have the endpoints end first.
    ///
    /// [`preempt_timer`]: https://docs.rs/glommio/latest/glommio/struct.LocalExecutorBuilder.html#method.preempt_timer
    ///
    /// # Panics
    ///
    /// Outside of a glommio executor.
    pub fn current() -> Self {
        let Some(local) = Local::current_or_foreign() else {
            panic!("GlommioRuntime::current() was called outside of a glommio executor");
        };
        Self {
            run: local.run.clone(),
            home: local.index,
        }
    }

    /// How many executors there are.
    pub fn cores(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.run.cores.len()).unwrap_or(NonZeroUsize::MIN)
    }
}

/// Futures need not be `Send`: tasks stay on the thread where they were spawned.
///
/// # Panics
///
/// On threads that run no glommio executor.
impl<F> Spawn<F> for GlommioRuntime
where
    F: Future<Output = ()> + 'static,
{
    fn spawn(&self, future: F) {
        let Some(local) = Local::current_or_foreign() else {
            panic!(
                "a task for glommio was spawned on a thread that runs no glommio executor, where it \
                 could never run, as it must not change threads; `Runtime::place` reaches the others"
            );
        };
        local.tasks.spawn(future);
    }
}

impl Runtime for GlommioRuntime {
    type Timer = GlommioTimer;
    type Socket = GlommioSocket;

    fn timer(&self) -> GlommioTimer {
        match Local::current() {
            Some(local) => local.core().timers.timer(),
            None => self.run.cores[self.home].timers.timer(),
        }
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<GlommioSocket> {
        self.adopt(polyquic_udp::bind(addr)?)
    }

    fn adopt(&self, socket: std::net::UdpSocket) -> io::Result<GlommioSocket> {
        Ok(GlommioSocket::new(UdpIo::new(socket)?))
    }

    fn offload(&self, job: Job) {
        let affinity = self.run.affinity;
        let job = move || {
            // Threads begin where the one runs that started them, which may be pinned.
            if let Some(affinity) = affinity {
                let _ = rustix::thread::sched_setaffinity(None, &affinity);
            }
            job();
        };
        blocking::unblock(job).detach();
    }

    fn default_shards(&self) -> NonZeroUsize {
        self.cores()
    }

    fn place(&self, shard: usize, start: Placement<Self>) -> io::Result<()> {
        let home = shard % self.run.cores.len();
        let rt = Self {
            run: self.run.clone(),
            home,
        };
        match Local::current() {
            Some(local) if Arc::ptr_eq(&local.run, &self.run) && local.index == home => {
                start(rt);
                Ok(())
            }
            _ => self.run.cores[home].post(Box::new(move || start(rt))),
        }
    }
}

impl fmt::Debug for GlommioRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlommioRuntime")
            .field("cores", &self.run.cores.len())
            .field("home", &self.home)
            .finish()
    }
}
