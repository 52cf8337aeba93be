//! polyquic on plain threads.
//!
//! The facade has this crate as `polyquic::blocking`. Two ways to use it:
//!
//! - the synchronous API of this crate ([`Endpoint`], [`Connection`], [`SendStream`],
//!   [`RecvStream`]), for programs without any `async`;
//! - [`BlockingRuntime`], on which the asynchronous API and generic applications run as well: each
//!   task is a thread, and waiting blocks it.
//!
//! # The synchronous API
//!
//! For whoever knows `std::net`: an [`Endpoint`] accepts like a `TcpListener` and connects like
//! `TcpStream::connect`, and streams implement [`Read`](std::io::Read) and
//! [`Write`](std::io::Write). A server and a client, complete:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::{sync::Arc, thread};
//!
//! use polyquic::blocking::Endpoint;
//! use polyquic::rustls::{RootCertStore, pki_types::PrivatePkcs8KeyDer};
//! use polyquic::{ClientConfig, ServerConfig};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // A certificate made on the spot, which the client is told to trust.
//!     let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
//!     let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
//!     let mut roots = RootCertStore::empty();
//!     roots.add(made.cert.der().clone())?;
//!     let server_config = ServerConfig::with_single_cert(vec![made.cert.into()], key.into())?;
//!     let client_config = ClientConfig::with_root_certificates(Arc::new(roots))?;
//!
//!     let server = Endpoint::server(server_config, "127.0.0.1:0")?;
//!     let addr = server.local_addr()?;
//!     thread::spawn(move || {
//!         for connection in server.incoming() {
//!             thread::spawn(move || {
//!                 for (mut send, mut recv) in connection.incoming_bi() {
//!                     let copied = std::io::copy(&mut recv, &mut send);
//!                     let _ = copied.map(|_| send.finish());
//!                 }
//!             });
//!         }
//!     });
//!     let client = Endpoint::client("127.0.0.1:0")?;
//!     let connection = client.connect_with(client_config, addr, "localhost")?;
//!     let (mut send, mut recv) = connection.open_bi()?;
//!     send.write_all(b"hello")?;
//!     send.finish()?;
//!     let mut answer = String::new();
//!     recv.read_to_string(&mut answer)?;
//!     assert_eq!(answer, "hello");
//!     client.close(0u32.into(), b"done");
//!     Ok(client.wait_idle())
//! }
//! ```
//!
//! What is as in `std::net`: calls block; handles are `Send + Sync`, and cloned handles are the same
//! thing; errors are [`std::io::Error`]; a read or write that runs out of time fails with
//! [`WouldBlock`](std::io::ErrorKind::WouldBlock), has taken or written nothing, and can be repeated.
//! What QUIC has to say beyond that is inside the error: [`connection_error`] and
//! [`stream_error_code`] get it out.
//!
//! What is different: a connection has many streams, and a stream has two halves, each a handle of
//! its own; a stream that is dropped without [`finish`](SendStream::finish) is reset; a process
//! should end with [`Endpoint::close`] and [`Endpoint::wait_idle`], because what is on its way is
//! sent by a thread of the process and not by the kernel.
//!
//! The rest has the names and meanings of the asynchronous API, less the `async`. The two convert
//! into each other with `From`.
//!
//! # Applications that are generic over their executor
//!
//! They run here as well, with `.await` blocking a thread:
//!
//! ```
//! use polyquic::{Endpoint, Executor};
//!
//! async fn app<R: Executor>(rt: R) -> std::io::Result<()> {
//!     let client = Endpoint::client(&rt, ([127, 0, 0, 1], 0).into())?;
//!     Ok(client.wait_idle().await)
//! }
//!
//! polyquic::blocking::run(app)??;
//! # std::io::Result::Ok(())
//! ```
//!
//! # Threads
//!
//! A [`BlockingRuntime`] has one I/O thread, which runs the drivers of its endpoints and starts and
//! ends with them; an endpoint with several shards has one for each (see
//! [`BlockingRuntime::with_shards`]). Tasks and offloaded jobs each run on a thread of their own, taken from those that
//! became free recently. There is no limit on them, because a task may wait for another: bound the
//! number of tasks in the application.

#![forbid(unsafe_code)]

mod block_on;
mod connection;
mod endpoint;
mod incoming;
mod io_thread;
mod recv_stream;
mod send_stream;
mod threads;
mod timer;
mod wait;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use polyquic_endpoint::Driver;
use polyquic_runtime::{Job, Placement, Runtime, SocketGroup, Spawn, SteeringFilter, Task};
use polyquic_udp::{ReactorSocket, UdpIo};

pub use block_on::{block_on, block_on_timeout};
pub use connection::{Connection, IncomingBi, IncomingUni};
pub use endpoint::Endpoint;
pub use incoming::{Connecting, Incoming, IncomingConnections, RetryError, ZeroRttAccepted};
pub use recv_stream::RecvStream;
pub use send_stream::SendStream;
pub use timer::BlockingTimer;
pub use wait::{connection_error, stream_error_code};

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
    /// The I/O threads of all shards that were placed so far; those of shard 0 first.
    places: Arc<Mutex<Vec<Arc<IoThread>>>>,
    shards: NonZeroUsize,
}

impl BlockingRuntime {
    /// A runtime with an I/O thread of its own, which is started when there is something to drive.
    ///
    /// # Errors
    ///
    /// No file descriptors to be had.
    pub fn new() -> io::Result<Self> {
        let io = IoThread::new()?;
        Ok(Self {
            places: Arc::new(Mutex::new(vec![io.clone()])),
            io,
            shards: NonZeroUsize::MIN,
        })
    }

    /// A handle whose endpoints have `shards` shards unless they are told otherwise, each on an I/O
    /// thread of its own. 0 counts as 1.
    pub fn with_shards(mut self, shards: usize) -> Self {
        self.shards = NonZeroUsize::new(shards).unwrap_or(NonZeroUsize::MIN);
        self
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
    type Timer = BlockingTimer;
    type Socket = ReactorSocket;

    fn timer(&self) -> BlockingTimer {
        BlockingTimer::new(self.io.clone())
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<ReactorSocket> {
        self.adopt(polyquic_udp::bind(addr)?)
    }

    fn adopt(&self, socket: std::net::UdpSocket) -> io::Result<ReactorSocket> {
        ReactorSocket::new(UdpIo::new(socket)?, self.io.reactor())
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
        threads::spawn(job);
    }

    fn default_shards(&self) -> NonZeroUsize {
        self.shards
    }

    fn place(&self, shard: usize, start: Placement<Self>) -> io::Result<()> {
        let io = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            while places.len() <= shard {
                places.push(IoThread::new()?);
            }
            places[shard].clone()
        };
        start(Self { io, ..self.clone() });
        Ok(())
    }
}

impl fmt::Debug for BlockingRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingRuntime")
    }
}
