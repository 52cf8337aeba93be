//! polyquic on [smol]'s green threads: one thread, or several that steal work from each other.
//!
//! The facade has this crate as `polyquic::smol`. A server and a client, complete:
//!
//! ```
//! use std::{error::Error, sync::Arc};
//!
//! use polyquic::rustls::{RootCertStore, pki_types::PrivatePkcs8KeyDer};
//! use polyquic::smol::SmolRuntime;
//! use polyquic::{ClientConfig, Endpoint, ServerConfig, spawn};
//!
//! fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
//!     polyquic::smol::run(1, app)?
//! }
//!
//! async fn app(rt: SmolRuntime) -> Result<(), Box<dyn Error + Send + Sync>> {
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
//! # In a program that runs smol already
//!
//! [`SmolRuntime::global`] spawns on smol's global executor, [`SmolRuntime::on`] on an [`Executor`]
//! of yours:
//!
//! ```
//! # use std::sync::Arc;
//! use polyquic::Endpoint;
//! use polyquic::smol::{Executor, SmolRuntime};
//!
//! async fn app(rt: SmolRuntime) -> std::io::Result<()> {
//!     let client = Endpoint::client(&rt, ([127, 0, 0, 1], 0).into())?;
//!     Ok(client.wait_idle().await)
//! }
//!
//! smol::block_on(app(SmolRuntime::global()))?;
//!
//! let executor = Arc::new(Executor::new());
//! smol::block_on(executor.run(app(SmolRuntime::on(&executor))))?;
//! # std::io::Result::Ok(())
//! ```
//!
//! # Tasks may move
//!
//! Even on one thread, so that the same program runs on several. What a task holds over an `.await`
//! must be `Send`, and the compiler says what is not:
//!
//! ```compile_fail
//! # use polyquic::{sleep, spawn};
//! # let rt = polyquic::smol::SmolRuntime::global();
//! # let inner = rt.clone();
//! spawn(&rt, async move {
//!     let shared = std::rc::Rc::new(1); // an `Arc` would do
//!     sleep(&inner, std::time::Duration::ZERO).await;
//!     drop(shared);
//! });
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
use std::num::NonZeroUsize;
use std::sync::{Arc, Weak};

pub use async_executor::Executor;
use polyquic_runtime::{Job, Runtime, SocketGroup, Spawn, SteeringFilter};
use polyquic_udp::{Reactor, UdpIo};

pub use pool::{Builder, run};
pub use socket::SmolSocket;
pub use timer::SmolTimer;

/// A handle to an executor of smol's.
#[derive(Clone)]
pub struct SmolRuntime {
    executor: ExecutorRef,
    /// `None`: async-io's reactor.
    reactor: Option<Arc<Reactor>>,
    shards: NonZeroUsize,
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
            shards: NonZeroUsize::MIN,
        }
    }

    /// An executor that you run yourself. This handle does not keep it alive: futures spawned after
    /// it is gone are dropped.
    pub fn on(executor: &Arc<Executor<'static>>) -> Self {
        Self {
            executor: ExecutorRef::Own(Arc::downgrade(executor)),
            reactor: None,
            shards: NonZeroUsize::MIN,
        }
    }
}

impl SmolRuntime {
    /// A handle whose endpoints have `shards` shards unless they are told otherwise. More than one
    /// makes sense with several threads, which share their drivers. 0 counts as 1.
    pub fn with_shards(mut self, shards: usize) -> Self {
        self.shards = NonZeroUsize::new(shards).unwrap_or(NonZeroUsize::MIN);
        self
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

    fn bind_group(
        &self,
        addr: SocketAddr,
        count: NonZeroUsize,
        filter: Option<&SteeringFilter>,
    ) -> io::Result<SocketGroup> {
        polyquic_udp::bind_group(addr, count, filter)
    }

    fn offload(&self, job: Job) {
        blocking::unblock(job).detach();
    }

    fn default_shards(&self) -> NonZeroUsize {
        self.shards
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
