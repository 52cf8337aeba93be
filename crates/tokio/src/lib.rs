//! polyquic on [tokio], in either flavour of its runtime.
//!
//! The facade has this crate as `polyquic::tokio`. Within `#[tokio::main]`, or any task,
//! [`TokioRuntime::current`] is all that is needed. A server and a client, complete:
//!
//! ```
//! use std::{error::Error, sync::Arc};
//!
//! use polyquic::rustls::{RootCertStore, pki_types::PrivatePkcs8KeyDer};
//! use polyquic::tokio::TokioRuntime;
//! use polyquic::{ClientConfig, Endpoint, ServerConfig};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn Error>> {
//!     let rt = TokioRuntime::current();
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
//!     tokio::spawn(async move {
//!         while let Some(incoming) = server.accept().await {
//!             let Ok(connection) = incoming.await else { continue };
//!             while let Ok((mut send, mut recv)) = connection.accept_bi().await {
//!                 let copied = tokio::io::copy(&mut recv, &mut send).await;
//!                 let _ = copied.map(|_| send.finish());
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
//! # In a program that has no runtime
//!
//! [`run`] starts one, of either flavour:
//!
//! ```
//! use polyquic::Endpoint;
//! use polyquic::tokio::{Flavor, TokioRuntime, run};
//!
//! async fn app(rt: TokioRuntime) -> std::io::Result<()> {
//!     let client = Endpoint::client(&rt, ([127, 0, 0, 1], 0).into())?;
//!     Ok(client.wait_idle().await)
//! }
//!
//! run(Flavor::CurrentThread, app)??;
//! run(Flavor::MultiThread(2), app)??;
//! # std::io::Result::Ok(())
//! ```
//!
//! # What is whose
//!
//! Readiness and timers are tokio's, and its I/O and time drivers must be enabled; the system calls
//! are made by [`polyquic_udp`]. tokio's timers have a resolution of a millisecond. With the facade's
//! feature `tokio`, streams implement tokio's `AsyncRead` and `AsyncWrite`. Tasks may be spawned by
//! polyquic or by tokio, as above: it makes no difference.
//!
//! [tokio]: https://docs.rs/tokio

#![forbid(unsafe_code)]

use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use polyquic_runtime::{
    Capabilities, DatagramSocket, Job, RecvBatch, Runtime, SocketGroup, Spawn, SteeringFilter,
    Timer, Transmit,
};
use polyquic_udp::{Drained, UdpIo};
use tokio::io::Interest;
use tokio::runtime::Handle;
use tokio::time::Sleep;

/// Which of tokio's schedulers [`run`] starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Everything on the calling thread.
    CurrentThread,
    /// Tasks move between this many threads (at least one).
    MultiThread(usize),
}

/// Start a tokio runtime, run `app` on it, and return what it returns.
///
/// When `app` is done, tasks that are still running are dropped, endpoints' drivers among them: call
/// [`wait_idle`] first to let peers hear of closed connections.
///
/// ```no_run
/// use polyquic_tokio::{Flavor, run};
/// let answer = run(Flavor::MultiThread(2), |_rt| async { 42 })?;
/// # std::io::Result::Ok(())
/// ```
///
/// [`wait_idle`]: https://docs.rs/polyquic/latest/polyquic/struct.Endpoint.html#method.wait_idle
///
/// # Errors
///
/// The runtime cannot be started: no threads or no file descriptors.
///
/// # Panics
///
/// When `app` does.
pub fn run<F, Fut>(flavor: Flavor, app: F) -> io::Result<Fut::Output>
where
    F: FnOnce(TokioRuntime) -> Fut,
    Fut: Future<Output: Send> + Send + 'static,
{
    let mut builder = match flavor {
        Flavor::CurrentThread => tokio::runtime::Builder::new_current_thread(),
        Flavor::MultiThread(threads) => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads.max(1));
            builder
        }
    };
    let runtime = builder.enable_io().enable_time().build()?;
    let rt = TokioRuntime::from_handle(runtime.handle().clone());
    // As a task: on the multi-threaded scheduler, the calling thread is not one of its workers, and
    // every wake-up between it and them would cross threads.
    let task = runtime.spawn(app(rt));
    match runtime.block_on(task) {
        Ok(output) => Ok(output),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A handle to a tokio runtime.
#[derive(Debug, Clone)]
pub struct TokioRuntime {
    handle: Handle,
    shards: NonZeroUsize,
}

impl TokioRuntime {
    /// The runtime that the caller runs on.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn current() -> Self {
        Self::from_handle(Handle::current())
    }

    /// The runtime of this handle. Its I/O and time drivers must be enabled.
    pub fn from_handle(handle: Handle) -> Self {
        Self {
            handle,
            shards: NonZeroUsize::MIN,
        }
    }

    /// A handle whose endpoints have `shards` shards unless they are told otherwise. More than one
    /// makes sense on the multi-thread scheduler, whose threads share their drivers. 0 counts as 1.
    pub fn with_shards(mut self, shards: usize) -> Self {
        self.shards = NonZeroUsize::new(shards).unwrap_or(NonZeroUsize::MIN);
        self
    }
}

impl<F> Spawn<F> for TokioRuntime
where
    F: Future<Output = ()> + Send + 'static,
{
    fn spawn(&self, future: F) {
        self.handle.spawn(future);
    }
}

impl Runtime for TokioRuntime {
    type Timer = TokioTimer;
    type Socket = TokioSocket;

    fn timer(&self) -> TokioTimer {
        let _context = self.handle.enter();
        TokioTimer {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: false,
        }
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<TokioSocket> {
        self.adopt(polyquic_udp::bind(addr)?)
    }

    fn adopt(&self, socket: std::net::UdpSocket) -> io::Result<TokioSocket> {
        let _context = self.handle.enter();
        let io = UdpIo::new(socket)?;
        // A second descriptor, which tokio owns and only watches.
        let readiness = tokio::net::UdpSocket::from_std(io.socket().try_clone()?)?;
        Ok(TokioSocket { readiness, io })
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
        self.handle.spawn_blocking(job);
    }

    fn default_shards(&self) -> NonZeroUsize {
        self.shards
    }
}

/// A timer of tokio's.
pub struct TokioTimer {
    sleep: Pin<Box<Sleep>>,
    armed: bool,
}

impl Timer for TokioTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.sleep.as_mut().reset(deadline.into());
        self.armed = true;
    }

    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.armed {
            return Poll::Pending;
        }
        ready!(self.sleep.as_mut().poll(cx));
        self.armed = false;
        Poll::Ready(())
    }
}

impl fmt::Debug for TokioTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokioTimer")
            .field("armed", &self.armed)
            .finish()
    }
}

/// A UDP socket whose readiness tokio watches.
#[derive(Debug)]
pub struct TokioSocket {
    readiness: tokio::net::UdpSocket,
    io: UdpIo,
}

impl DatagramSocket for TokioSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        loop {
            ready!(self.readiness.poll_recv_ready(cx))?;
            let mut received = false;
            let result = self.readiness.try_io(Interest::READABLE, || {
                let drained = self.io.recv(batch)?;
                received = true;
                match drained {
                    Drained::Perhaps => Ok(()),
                    // Makes tokio forget the readiness, which saves asking an empty socket. What has
                    // arrived since is a new event, and does not get lost.
                    Drained::Yes => Err(ErrorKind::WouldBlock.into()),
                }
            });
            match result {
                _ if received => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.readiness.poll_send_ready(cx))?;
            match self
                .readiness
                .try_io(Interest::WRITABLE, || self.io.send(transmit))
            {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.io.capabilities()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}
