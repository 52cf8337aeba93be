//! polyquic on [smol]'s green threads.
//!
//! [`run`] starts an executor for a program that has none, on one thread or several with work
//! stealing. In a program that runs smol already, [`SmolRuntime::global`] spawns on smol's global
//! executor and [`SmolRuntime::on`] on an [`Executor`] of your own:
//!
//! ```no_run
//! # async fn app() {
//! let rt = polyquic_smol::SmolRuntime::global();
//! # let _ = rt;
//! # }
//! ```
//!
//! # Two ways of waiting
//!
//! Under [`run`], an idle thread waits in the [`Reactor`] that it shares with the sockets: one
//! system call per wait, and no other thread involved. With an executor of your own, readiness comes
//! from [async-io], as for everything else in smol; there each wait costs about five system calls
//! and sometimes a hop from async-io's helper thread. Both are complete; the first is faster. Timers
//! and sockets of async-io that an application uses besides work under [`run`] too.
//!
//! [smol]: https://docs.rs/smol
//! [async-io]: https://docs.rs/async-io
//! [`Reactor`]: polyquic_udp::Reactor

#![forbid(unsafe_code)]

mod pool;
mod socket;
mod timer;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

pub use async_executor::Executor;
use polyquic_runtime::{Job, Runtime, Spawn};
use polyquic_udp::{Reactor, UdpIo};

pub use pool::run;
pub use socket::SmolSocket;
pub use timer::SmolTimer;

/// A handle to an executor of smol's.
#[derive(Clone)]
pub struct SmolRuntime {
    executor: ExecutorRef,
    /// `None`: async-io's reactor.
    reactor: Option<Arc<Reactor>>,
}

#[derive(Clone)]
enum ExecutorRef {
    Global,
    // Weak, because tasks hold this handle, and the executor holds the tasks.
    Own(Weak<Executor<'static>>),
}

impl SmolRuntime {
    /// smol's global executor, the one that `smol::spawn` uses.
    pub fn global() -> Self {
        Self {
            executor: ExecutorRef::Global,
            reactor: None,
        }
    }

    /// An executor that you run yourself. This handle does not keep it alive: futures spawned after
    /// it is gone are dropped.
    pub fn on(executor: &Arc<Executor<'static>>) -> Self {
        Self {
            executor: ExecutorRef::Own(Arc::downgrade(executor)),
            reactor: None,
        }
    }
}

impl<F> Spawn<F> for SmolRuntime
where
    F: Future<Output = ()> + Send + 'static,
{
    fn spawn(&self, future: F) {
        match &self.executor {
            ExecutorRef::Global => smol::spawn(future).detach(),
            ExecutorRef::Own(executor) => {
                if let Some(executor) = executor.upgrade() {
                    executor.spawn(future).detach();
                }
            }
        }
    }
}

impl Runtime for SmolRuntime {
    type Timer = SmolTimer;
    type Socket = SmolSocket;

    fn timer(&self) -> SmolTimer {
        SmolTimer::new(self.reactor.as_ref())
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<SmolSocket> {
        self.adopt(polyquic_udp::bind(addr)?)
    }

    fn adopt(&self, socket: std::net::UdpSocket) -> io::Result<SmolSocket> {
        SmolSocket::new(UdpIo::new(socket)?, self.reactor.as_ref())
    }

    fn offload(&self, job: Job) {
        blocking::unblock(job).detach();
    }
}

impl fmt::Debug for SmolRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let executor = match &self.executor {
            ExecutorRef::Global => "global",
            ExecutorRef::Own(_) => "own",
        };
        f.debug_struct("SmolRuntime")
            .field("executor", &executor)
            .field(
                "reactor",
                &if self.reactor.is_some() {
                    "polyquic"
                } else {
                    "async-io"
                },
            )
            .finish()
    }
}
