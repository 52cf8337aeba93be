//! The contract between polyquic and an executor.
//!
//! QUIC needs four things from its surroundings: a clock, a timer, a way to move datagrams, and
//! somewhere to run futures. This crate names these four and nothing else. It knows no protocol,
//! starts no thread, and has one dependency, so that an adapter can be written against it in an
//! afternoon:
//!
//! | you implement | for | it provides |
//! |---|---|---|
//! | [`Runtime`] | a cheap handle to your executor | the clock, timers, sockets, [`offload`](Runtime::offload) |
//! | [`Timer`] | one deadline | an endpoint uses exactly one, however many connections it has |
//! | [`DatagramSocket`] | whatever moves datagrams | batches in, batches out |
//! | [`Spawn`] | each future type that your executor accepts | running it to completion |
//!
//! # Where `Send` comes from
//!
//! Nothing here requires `Send`. A multi-threaded adapter implements
//! `Spawn<F> for F: Future + Send + 'static`; a single-threaded one leaves `Send` out. polyquic
//! spawns its driver through this trait, so the compiler works out from *your* types whether the
//! driver is `Send`: it is when your timer, socket and handle are.
//!
//! # Cancellation and shutdown
//!
//! Tasks are detached. Dropping the executor may drop them at any await point; polyquic's handles
//! then report the endpoint as lost instead of waiting forever.
//!
//! `docs/ADAPTERS.md` in the repository walks through a complete adapter.

#![forbid(unsafe_code)]

mod datagram;
mod group;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

pub use datagram::{Capabilities, DatagramSocket, Ecn, Received, RecvBatch, RecvMeta, Transmit};
pub use group::{FilterInstruction, SocketGroup, SteeringFilter};

/// The types for time used throughout polyquic: those of `std::time`, or their stand-ins in browsers.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub use std::time::{Instant, SystemTime};
/// The types for time used throughout polyquic: those of `std::time`, or their stand-ins in browsers.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub use web_time::{Instant, SystemTime};

/// Tells the time, which never goes backwards.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<Virtual>>);

/// What a simulator says.
struct Virtual {
    now: Box<dyn Fn() -> Instant + Send + Sync>,
    calendar: Option<Box<dyn Fn() -> SystemTime + Send + Sync>>,
}

impl Clock {
    /// The system's monotonic clock.
    pub const fn system() -> Self {
        Self(None)
    }

    /// A clock of one's own, such as a simulator's.
    pub fn custom(now: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(Virtual {
            now: Box::new(now),
            calendar: None,
        })))
    }

    /// The same, with a calendar that goes with it: what tokens expire by.
    pub fn with_calendar(
        now: impl Fn() -> Instant + Send + Sync + 'static,
        calendar: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(Virtual {
            now: Box::new(now),
            calendar: Some(Box::new(calendar)),
        })))
    }

    /// The current time.
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(custom) => (custom.now)(),
        }
    }

    /// The date and time of day, if this clock has a calendar of its own.
    pub fn calendar(&self) -> Option<SystemTime> {
        let calendar = self.0.as_ref()?.calendar.as_ref()?;
        Some(calendar())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Clock::custom"
        } else {
            "Clock::system"
        })
    }
}

/// A closure to be run off the I/O path, see [`Runtime::offload`].
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// A handle to an executor: its clock, its timers, its sockets.
///
/// Cloning must be cheap; every endpoint keeps a clone for as long as it lives.
pub trait Runtime: Clone + 'static {
    /// One deadline of this runtime.
    type Timer: Timer;
    /// What moves datagrams.
    type Socket: DatagramSocket;

    /// The clock that this runtime's timers go by. Default: the system's monotonic clock.
    ///
    /// Handles keep it, and use it on whatever thread they are. A simulator returns virtual time.
    fn clock(&self) -> Clock {
        Clock::system()
    }

    /// Make a timer. It is not armed until [`Timer::reset`] is called.
    fn timer(&self) -> Self::Timer;

    /// Bind a datagram socket to a local address.
    ///
    /// Port 0 asks for any free port. An unspecified IPv6 address asks for a dual-stack socket
    /// where the platform has these.
    ///
    /// # Errors
    ///
    /// Whatever the platform reports (address in use, not available, no permission), or
    /// [`io::ErrorKind::Unsupported`] where sockets are not bound but passed in.
    fn bind(&self, addr: SocketAddr) -> io::Result<Self::Socket>;

    /// Turn a UDP socket of the standard library into one of this runtime.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] on runtimes that have no UDP (this is the default), or what
    /// the platform reports while the socket is being set up.
    fn adopt(&self, socket: std::net::UdpSocket) -> io::Result<Self::Socket> {
        let _ = socket;
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this runtime cannot adopt a UDP socket of the operating system; pass it a socket of its own",
        ))
    }

    /// Run a blocking or CPU-heavy closure away from the I/O path.
    ///
    /// Runs it inline where there are no threads. There is no result: the closure sends its own.
    fn offload(&self, job: Job);

    /// What endpoints draw everything random from, if not from the system: connection ids, keys of
    /// reset tokens, and the protocol's own choices. Asked for each endpoint, and different each
    /// time. Default: `None`.
    ///
    /// For simulators only: a seed that an outsider can guess lets him guess connection ids.
    fn seed(&self) -> Option<[u8; 32]> {
        None
    }

    /// How many shards an endpoint gets that was not told: sockets on one address, each with a
    /// driver of its own. Default: 1.
    fn default_shards(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// Bind `count` UDP sockets to one address, among which the system spreads what arrives; by
    /// `filter` where the system takes such programs.
    ///
    /// With port 0 they share a port that was free. The sockets are given to
    /// [`adopt`](Self::adopt), each where [`place`](Self::place) runs its shard.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] where several sockets cannot share an address (this is the
    /// default), or as [`bind`](Self::bind).
    fn bind_group(
        &self,
        addr: SocketAddr,
        count: NonZeroUsize,
        filter: Option<&SteeringFilter>,
    ) -> io::Result<SocketGroup> {
        let _ = (addr, count, filter);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this runtime cannot bind several sockets to one address: use one shard",
        ))
    }

    /// Run `start` where shard number `shard` of an endpoint shall live, with a handle for that
    /// place; it spawns the shard's driver.
    ///
    /// An executor whose threads share their tasks calls `start` at once, with itself: this is the
    /// default. One with a core for each shard calls it there, possibly after this returned. The
    /// same number always means the same place; there may be fewer places than shards.
    ///
    /// # Errors
    ///
    /// There is no such place any more: its thread has ended, or cannot be started. `start` is
    /// dropped then.
    fn place(&self, shard: usize, start: Placement<Self>) -> io::Result<()> {
        let _ = shard;
        start(self.clone());
        Ok(())
    }
}

/// What starts a shard where it shall live, see [`Runtime::place`].
pub type Placement<R> = Box<dyn FnOnce(R) + Send + 'static>;

/// A single deadline that can be moved.
pub trait Timer: 'static {
    /// Arm the timer for `deadline`, replacing an earlier one.
    ///
    /// A deadline in the past expires at the next [`poll_expired`](Self::poll_expired).
    fn reset(self: Pin<&mut Self>, deadline: Instant);

    /// Ready once the deadline has passed.
    ///
    /// Registers the waker otherwise. After it returned `Ready` the timer is disarmed, and stays
    /// pending until the next [`reset`](Self::reset). An adapter may be up to a millisecond late,
    /// never early.
    fn poll_expired(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;
}

/// Runs futures of type `F` to completion, detached.
///
/// Implement it once, generically: for `F: Future<Output = ()> + Send + 'static` when tasks may
/// move between threads, for `F: Future<Output = ()> + 'static` when they stay on one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot spawn `{F}`",
    label = "this executor does not accept that future",
    note = "multi-threaded executors (smol, tokio, blocking) need futures that are `Send`: look for an `Rc`, a `RefCell` or a lock guard that is held across an `.await`",
    note = "thread-per-core executors accept any `'static` future"
)]
pub trait Spawn<F> {
    /// Start `future`; it runs until it completes or the executor goes away.
    fn spawn(&self, future: F);
}

/// The type of an application's own tasks, spawned with `Spawn<Task>`.
///
/// Boxed and `Send`, so that a generic application can be run on every executor.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;
