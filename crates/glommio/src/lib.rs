//! polyquic on [glommio]: a thread per core, each with an executor of its own on io_uring.
//!
//! Linux 5.13 or later. The facade has this crate as `polyquic::glommio`. A server and a client,
//! complete:
//!
//! ```
//! use std::{error::Error, sync::Arc};
//!
//! use polyquic::glommio::GlommioRuntime;
//! use polyquic::rustls::{RootCertStore, pki_types::PrivatePkcs8KeyDer};
//! use polyquic::{ClientConfig, Endpoint, ServerConfig, spawn};
//!
//! fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
//!     polyquic::glommio::run(1, app)?
//! }
//!
//! async fn app(rt: GlommioRuntime) -> Result<(), Box<dyn Error + Send + Sync>> {
//!     // A certificate made on the spot, which the client is told to trust.
//!     let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
//!     let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
//!     let mut roots = RootCertStore::empty();
//!     roots.add(made.cert.der().clone())?;
//!     let server_config = ServerConfig::with_single_cert(vec![made.cert.into()], key.into())?;
//!     let client_config = ClientConfig::with_root_certificates(Arc::new(roots))?;
//!
//!     let server = Endpoint::server(&rt, server_config, "127.0.0.1:0".parse()?)?;
//!     let client = Endpoint::client(&rt, "127.0.0.1:0".parse()?)?;
//!     let connecting = client.connect_with(client_config, server.local_addr()?, "localhost")?;
//!     spawn(&rt, async move {
//!         while let Some(incoming) = server.accept().await {
//!             let Ok(connection) = incoming.await else { continue };
//!             while let Ok((mut send, mut recv)) = connection.accept_bi().await {
//!                 let Ok(request) = recv.read_to_end(1000).await else { break };
//!                 let _ = send.write_all(&request).await.map(|()| send.finish());
//!             }
//!         }
//!     });
//!     let connection = connecting.await?;
//!     let (mut send, mut recv) = connection.open_bi().await?;
//!     send.write_all(b"hello").await?;
//!     send.finish()?;
//!     assert_eq!(recv.read_to_end(1000).await?, b"hello");
//!     client.close(0u32.into(), b"done");
//!     Ok(client.wait_idle().await)
//! }
//! ```
//!
//! (It serves one client at a time, to keep it short. Spawn a task for each, as the book does.)
//!
//! # Tasks stay where they are
//!
//! A task runs on the thread that spawned it, to its end. What it holds over an `.await` need not be
//! `Send`, where the executors that move tasks would have the compiler object:
//!
//! ```
//! use std::{cell::RefCell, rc::Rc, time::Duration};
//!
//! use polyquic::{Spawn, sleep};
//!
//! let seen = polyquic::glommio::run(1, |rt| async move {
//!     let counted = Rc::new(RefCell::new(0));
//!     let (shared, inner) = (counted.clone(), rt.clone());
//!     rt.spawn(async move {
//!         sleep(&inner, Duration::from_millis(1)).await;
//!         *shared.borrow_mut() += 1;
//!     });
//!     while *counted.borrow() == 0 {
//!         sleep(&rt, Duration::from_millis(1)).await;
//!     }
//!     *counted.borrow()
//! })?;
//! assert_eq!(seen, 1);
//! # std::io::Result::Ok(())
//! ```
//!
//! A task that panics ends alone: its thread, and what else runs there, goes on.
//!
//! # In a program that runs glommio already
//!
//! [`GlommioRuntime::current`] is the executor of the thread:
//!
//! ```
//! use polyquic::Endpoint;
//! use polyquic::glommio::GlommioRuntime;
//!
//! let executor = glommio::LocalExecutorBuilder::default().io_memory(64 << 10).make()?;
//! executor.run(async {
//!     let rt = GlommioRuntime::current();
//!     let client = Endpoint::client(&rt, ([127, 0, 0, 1], 0).into())?;
//!     std::io::Result::Ok(client.wait_idle().await)
//! })?;
//! # std::io::Result::Ok(())
//! ```
//!
//! # What is whose
//!
//! Tasks, timers and sleeping are glommio's. Its API does not tell of a descriptor's readiness, so
//! sockets are watched by a small ring of ours, one per executor, whose events glommio waits for;
//! the system calls are made by [`polyquic_udp`]. glommio makes some ten system calls of its own for
//! each time it sleeps and wakes, which shows where little is done in between.
//!
//! glommio 0.9 leaves one eventfd open for each executor that ends: do not start them by the
//! thousand. Its build needs a C compiler and the program `git`.
//!
//! [glommio]: https://docs.rs/glommio

#![cfg(target_os = "linux")]

mod core;
mod preempt;
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

use polyquic_runtime::{Job, Placement, Runtime, SocketGroup, Spawn, SteeringFilter};
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
    shards: NonZeroUsize,
}

impl GlommioRuntime {
    /// The executor of this thread, in a program that runs glommio already.
    ///
    /// Endpoints have one shard then, and [`place`](Runtime::place) knows no other executor. Make
    /// the executor with a long [`preempt_timer`], a second say: glommio 0.9 may go to sleep with
    /// tasks that are ready if the system keeps its thread waiting for that long at the wrong moment.
    /// Tasks spawned by polyquic need no short one to take turns with timers and I/O. What polyquic
    /// has running is leaked when the executor ends, as glommio does with all tasks: have the
    /// endpoints end first.
    ///
    /// [`preempt_timer`]: https://docs.rs/glommio/latest/glommio/struct.LocalExecutorBuilder.html#method.preempt_timer
    ///
    /// # Panics
    ///
    /// Outside of a glommio executor, and when there are no descriptors left for a pair of sockets.
    pub fn current() -> Self {
        let Some(local) = Local::current_or_foreign() else {
            panic!("GlommioRuntime::current() was called outside of a glommio executor");
        };
        Self::of(local.run.clone(), local.index)
    }

    fn of(run: Arc<Run>, home: usize) -> Self {
        let shards = NonZeroUsize::new(run.cores.len()).unwrap_or(NonZeroUsize::MIN);
        Self { run, home, shards }
    }

    /// A handle whose endpoints have `shards` shards unless they are told otherwise. Default: as many
    /// as there are cores.
    pub fn with_shards(mut self, shards: usize) -> Self {
        self.shards = NonZeroUsize::new(shards).unwrap_or(NonZeroUsize::MIN);
        self
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

    fn bind_group(
        &self,
        addr: SocketAddr,
        count: NonZeroUsize,
        filter: Option<&SteeringFilter>,
    ) -> io::Result<SocketGroup> {
        polyquic_udp::bind_group(addr, count, filter)
    }

    fn default_shards(&self) -> NonZeroUsize {
        self.shards
    }

    fn place(&self, shard: usize, start: Placement<Self>) -> io::Result<()> {
        let home = shard % self.run.cores.len();
        let rt = Self {
            home,
            ..self.clone()
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
