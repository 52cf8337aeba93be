//! polyquic on plain threads.
//!
//! Two ways to use it:
//!
//! - the synchronous API of this crate, for programs without any `async`;
//! - [`BlockingRuntime`], on which the asynchronous API and generic applications run as well: each
//!   task is a thread, and waiting blocks it.
//!
//! # Threads
//!
//! A [`BlockingRuntime`] has one I/O thread, which runs the drivers of its endpoints and starts and
//! ends with them. Tasks and offloaded jobs each run on a thread of their own, taken from those that
//! became free recently. There is no limit on them, because a task may wait for another: bound the
//! number of tasks in the application.

#![forbid(unsafe_code)]

mod block_on;
mod io_thread;
mod threads;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use polyquic_endpoint::Driver;
use polyquic_runtime::{Job, Runtime, Spawn, Task};
use polyquic_udp::{ReactorSocket, ReactorTimer, UdpIo};

pub use block_on::{block_on, block_on_timeout};

use io_thread::IoThread;

/// Run `app` on the calling thread, its tasks on threads of their own.
///
/// ```no_run
/// let answer = polyquic_blocking::run(|_rt| async { 42 })?;
/// # std::io::Result::Ok(())
/// ```
///
/// # Errors
///
/// No file descriptors to be had.
pub fn run<F, Fut>(app: F) -> io::Result<Fut::Output>
where
    F: FnOnce(BlockingRuntime) -> Fut,
    Fut: Future,
{
    Ok(block_on(app(BlockingRuntime::new()?)))
}

/// A handle to a runtime of plain threads.
#[derive(Clone)]
pub struct BlockingRuntime {
    io: Arc<IoThread>,
}

impl BlockingRuntime {
    /// A runtime with an I/O thread of its own, which is started when there is something to drive.
    ///
    /// # Errors
    ///
    /// No file descriptors to be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            io: IoThread::new()?,
        })
    }
}

impl Spawn<Driver<Self>> for BlockingRuntime {
    fn spawn(&self, driver: Driver<Self>) {
        self.io.drive(Box::pin(driver));
    }
}

impl Spawn<Task> for BlockingRuntime {
    fn spawn(&self, task: Task) {
        threads::spawn(Box::new(move || block_on(task)));
    }
}

impl Runtime for BlockingRuntime {
    type Timer = ReactorTimer;
    type Socket = ReactorSocket;

    fn timer(&self) -> ReactorTimer {
        self.io.reactor().timer()
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<ReactorSocket> {
        self.adopt(polyquic_udp::bind(addr)?)
    }

    fn adopt(&self, socket: std::net::UdpSocket) -> io::Result<ReactorSocket> {
        ReactorSocket::new(UdpIo::new(socket)?, self.io.reactor())
    }

    fn offload(&self, job: Job) {
        threads::spawn(job);
    }
}

impl fmt::Debug for BlockingRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingRuntime")
    }
}
