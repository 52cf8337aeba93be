//! polyquic in a simulation: one seeded thread, virtual time, and a model network.
//!
//! An executor like the others: the same application source runs on it, on [`Host`]s that a
//! [`Sim`] makes, over [`Link`]s that are as bad as you like. Time jumps to the next event, so an
//! hour of silence takes no time. Everything follows from the seed: a failure can be replayed.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use polyquic::sim::{Host, Link, Sim, identity};
//! use polyquic::{ClientConfig, Endpoint, ServerConfig, rustls::RootCertStore, spawn};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = Sim::new(1);
//! let server = sim.host("server");
//! let client = sim.host_with("client", Link::lte().loss(0.02));
//! let (certificate, key) = identity();
//! let server_config = ServerConfig::with_single_cert(vec![certificate.clone()], key)?;
//! let mut roots = RootCertStore::empty();
//! roots.add(certificate)?;
//! let client_config = ClientConfig::with_root_certificates(Arc::new(roots))?;
//!
//! let endpoint = Endpoint::server(&server, server_config, server.addr(443))?;
//! spawn(&server, async move {
//!     while let Some(incoming) = endpoint.accept().await {
//!         let Ok(connection) = incoming.await else { continue };
//!         let Ok(mut stream) = connection.open_uni().await else { continue };
//!         let _ = stream.write_all(&[7; 100_000]).await.map(|()| stream.finish());
//!         connection.closed().await;
//!     }
//! });
//! let took = sim.run(async {
//!     let endpoint = Endpoint::client(&client, client.addr(0))?;
//!     let connection = endpoint
//!         .connect_with(client_config, server.addr(443), "localhost")?
//!         .await?;
//!     let received = connection.accept_uni().await?.read_to_end(1 << 20).await?;
//!     assert_eq!(received, [7; 100_000]);
//!     Ok::<_, Box<dyn std::error::Error>>(sim.elapsed())
//! })?;
//! assert!(took > Duration::from_millis(75), "no faster than light");
//! println!("{took:?}, trace {}", sim.trace());
//! # Ok(())
//! # }
//! ```
//!
//! # The network
//!
//! Hosts hang below an internet that is perfect itself, by links that are not; [`Router`]s put
//! several behind one link, [`Nat`]s hide them. [`Link`] says what can go wrong: bandwidth, delay,
//! jitter, queues (drop-tail and CoDel), loss (random, in bursts, or chosen packets by
//! [`Access::filter_up`]), reordering, duplication, corruption, MTU, ECN. Links can be changed, cut
//! and mended at any time; hosts pause, crash, and have clocks that go wrong.
//!
//! # When a test fails
//!
//! A panic during [`Sim::run`], or while a [`Sim`] lives, prints the seed, the virtual time and the
//! commit. [`each_seed`] runs a test for many seeds; with `POLYQUIC_SIM_SEED=N` in the environment it
//! runs that one only.
//!
//! With `POLYQUIC_SIM_CAPTURE=FOLDER` each simulation writes what its hosts sent and received as
//! `FOLDER/TEST-seed-N.pcapng`, which Wireshark and tshark read, and decrypt if configurations log
//! their secrets to [`Sim::key_log`]. `TEST` is the name of the thread, which is that of the test; the
//! main thread's files are `seed-N.pcapng`. A second simulation of the same name and seed gets
//! `seed-N-2`, and so on. Beside it are the event logs of connections that were given a
#![cfg_attr(feature = "qlog", doc = "[`Sim::qlog`].")]
#![cfg_attr(not(feature = "qlog"), doc = "`Sim::qlog` (feature `qlog`).")]
//!
//! # What follows from the seed
//!
//! The order in which tasks run, what the network does, connection ids and all choices of the
//! protocol, and the randomness of TLS as far as [`deterministic_tls`] says; [`Sim::trace`] is a
//! fingerprint of it. What does not: what an application draws from elsewhere, the real clock if it
//! looks at that (rustls does, for the age of tickets and for certificates, unless its configuration has
//! a `time_provider`), hash tables of the standard library if it iterates over them, other threads, and
//! the BBR controller, which draws from the system.
//!
//! The network, clocks and the order of tasks are the same on every machine: they are made of integers
//! and of floating-point operations that are exact. The protocol is the same where the mathematical
//! library is: CUBIC takes cube roots, whose last bit IEEE 754 leaves open.
//!
//! # What it is not
//!
//! Work takes no time but for a fixed cost per task that runs ([`Sim::set_poll_cost`]): it shows what
//! a protocol does, not how fast a processor is. [`Runtime::offload`](polyquic_runtime::Runtime) runs
//! jobs in between, on the same thread. Endpoints have one shard, and sockets of the operating system
//! cannot be adopted.

#![forbid(unsafe_code)]

mod clock;
mod host;
mod net;
mod pcapng;
#[cfg(feature = "qlog")]
mod qlog;
mod queue;
mod random;
mod seeds;
mod socket;
mod timer;
#[cfg(feature = "tls")]
mod tls;
mod topology;
mod trace;
mod world;

use std::cell::Ref;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub use host::Host;
pub use net::link::{Link, Queue, TooLarge};
pub use net::nat::NatConfig;
pub use net::packet::{Packet, Verdict};
pub use net::pipe::LinkStats;
pub use seeds::{commit, each_seed};
pub use socket::{Datagram, RawSocket, SimSocket};
pub use timer::SimTimer;
#[cfg(feature = "tls")]
pub use tls::{deterministic_tls, identity};
pub use topology::{Access, Below, Interface, Internet, Nat, Router};
pub use trace::{Fate, TraceEvent, TraceHash};

use clock::HostClock;
use net::pipe::{Pipe, nanos};
use pcapng::Capture;
use world::{HostState, World};

/// A simulation: hosts, what is between them, and time.
///
/// Dropping it drops all tasks, and prints the seed if that happens because of a panic.
pub struct Sim {
    world: Rc<World>,
    /// Configurations are often made before anything runs.
    #[cfg(feature = "tls")]
    _randomness: tls::Drawing,
}

impl Sim {
    /// A simulation in which everything follows from `seed`.
    pub fn new(seed: u64) -> Self {
        #[cfg(feature = "tls")]
        tls::deterministic_tls();
        let world = World::new(seed);
        if std::env::var_os(seeds::CAPTURE).is_some() {
            world.trace.borrow_mut().capture = Some(Capture::default());
        }
        Self {
            #[cfg(feature = "tls")]
            _randomness: tls::Drawing::from(&world.cryptography),
            world,
        }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.world.seed
    }

    /// A host with a perfect link to the internet.
    pub fn host(&self, name: &str) -> Host {
        self.host_with(name, Link::new())
    }

    /// A host with this link to the internet, both ways.
    pub fn host_with(&self, name: &str, link: Link) -> Host {
        self.host_below(name, Internet, link)
    }

    /// A host below a router or a NAT.
    pub fn host_below(&self, name: &str, parent: impl Into<Below>, link: Link) -> Host {
        let Below(parent) = parent.into();
        let mut net = self.world.net.borrow_mut();
        let mut hosts = self.world.hosts.borrow_mut();
        let id = hosts.len();
        let preferred = net.add_interface(name.into(), parent, &link, id);
        net.loopbacks.push(Pipe::default());
        hosts.push(HostState {
            name: name.into(),
            preferred,
            clock: Arc::new(HostClock::new(self.world.now.clone(), self.world.base)),
            paused: false,
            parked: Vec::new(),
            send_segments: 64,
            recv_segments: 64,
            send_buffer: u64::MAX,
            recv_buffer: 4 << 20,
            slack: 0,
            seeds: 0,
        });
        Host {
            world: self.world.clone(),
            id,
        }
    }

    /// A router below the internet.
    pub fn router(&self, name: &str, link: Link) -> Router {
        self.router_below(name, Internet, link)
    }

    /// A router below another one, or below a NAT.
    pub fn router_below(&self, name: &str, parent: impl Into<Below>, link: Link) -> Router {
        let Below(parent) = parent.into();
        let node = self
            .world
            .net
            .borrow_mut()
            .add_router(name.into(), parent, &link);
        Router(self.access(node))
    }

    /// A NAT below the internet.
    pub fn nat(&self, name: &str, config: NatConfig, link: Link) -> Nat {
        self.nat_below(name, Internet, config, link)
    }

    /// A NAT below a router or another NAT.
    pub fn nat_below(
        &self,
        name: &str,
        parent: impl Into<Below>,
        config: NatConfig,
        link: Link,
    ) -> Nat {
        let Below(parent) = parent.into();
        let mut net = self.world.net.borrow_mut();
        let node = net.add_nat(name.into(), parent, &link, config);
        drop(net);
        Nat(self.access(node))
    }

    fn access(&self, node: usize) -> Access {
        Access {
            world: self.world.clone(),
            node,
        }
    }

    /// Let time pass and tasks run until `app` is done. Can be called again: time goes on.
    ///
    /// `app` runs on no host. It is where a test says what happens when: it awaits what
    /// [`Host::run`] returns, and calls [`sleep`](Self::sleep).
    ///
    /// # Panics
    ///
    /// `app` or a task panics; or nothing can happen any more, as everybody waits for somebody else;
    /// or more time passes than [`set_time_limit`](Self::set_time_limit) allows. The seed is printed.
    pub fn run<F: Future>(&self, app: F) -> F::Output {
        let _report = seeds::Report::new(&self.world);
        #[cfg(feature = "tls")]
        let _randomness = tls::Drawing::from(&self.world.cryptography);
        self.world.run(app)
    }

    /// Wait for this much virtual time. Cancel-safe.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + use<> {
        use polyquic_runtime::Timer;

        // No host's clock, which may go wrong, counts here.
        let deadline = self.world.now().saturating_add(nanos(duration));
        let clockwork = self.clockwork();
        let mut timer = Box::pin(SimTimer::new(clockwork.clone()));
        let at = clockwork.state(|it| it.clock.instant());
        let left = Duration::from_nanos(deadline - self.world.now());
        timer.as_mut().reset(at + left);
        std::future::poll_fn(move |cx| timer.as_mut().poll_expired(cx))
    }

    /// A host without a network, whose clock is the simulation's.
    fn clockwork(&self) -> Host {
        const NAME: &str = "(simulation)";
        let known = self
            .world
            .hosts
            .borrow()
            .iter()
            .position(|host| host.name == NAME);
        match known {
            Some(id) => Host {
                world: self.world.clone(),
                id,
            },
            None => self.host(NAME),
        }
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.world.now())
    }

    /// A fingerprint of everything that happened so far.
    pub fn trace(&self) -> TraceHash {
        self.world.trace.borrow().hash()
    }

    /// How many times tasks ran.
    pub fn polls(&self) -> u64 {
        self.world.polls.get()
    }

    /// How many packets were sent.
    pub fn packets(&self) -> u64 {
        self.world.trace.borrow().packets
    }

    /// How many tasks there are, drivers of endpoints among them.
    pub fn tasks(&self) -> usize {
        self.world.tasks(None)
    }

    /// Let no more virtual time pass than this. Default: a week.
    pub fn set_time_limit(&self, limit: Duration) {
        self.world.time_limit.set(nanos(limit));
    }

    /// How long it takes a task to run once. Default: 1 µs.
    ///
    /// Not 0, if anybody waits by asking again and again.
    pub fn set_poll_cost(&self, cost: Duration) {
        self.world.poll_cost.set(nanos(cost));
    }

    /// Whether tasks run strictly in the order in which they were woken. Default: mostly, but at
    /// times in another one, as the seed has it.
    pub fn set_in_order(&self, in_order: bool) {
        self.world.in_order.set(in_order);
    }

    /// Keep a list of what happens to packets from now on, for [`events`](Self::events).
    pub fn record(&self) {
        self.world.trace.borrow_mut().events = Some(Vec::new());
    }

    /// What happened to packets since [`record`](Self::record) was called.
    pub fn events(&self) -> Ref<'_, [TraceEvent]> {
        Ref::map(self.world.trace.borrow(), |it| {
            it.events.as_deref().unwrap_or_default()
        })
    }

    /// Keep a capture of what hosts send and receive from now on, for [`pcapng`](Self::pcapng).
    pub fn capture(&self) {
        self.world.trace.borrow_mut().capture = Some(Capture::default());
    }

    /// What was captured, as a file that Wireshark and tshark read; each host is an interface. Empty
    /// unless [`capture`](Self::capture) was called. It holds the secrets that were logged to
    /// [`key_log`](Self::key_log).
    pub fn pcapng(&self) -> Vec<u8> {
        seeds::capture(&self.world)
    }

    /// A log of events (qlog) for a transport configuration: its times are virtual, counted from the
    /// beginning of the simulation, so that it is the same in every run.
    ///
    /// `None`, so that nothing is logged, unless there is a capture ([`capture`](Self::capture), or
    /// `POLYQUIC_SIM_CAPTURE` in the environment). Then it is kept for [`qlogs`](Self::qlogs), and
    /// written beside the capture as `...-seed-N.NAME.sqlog`.
    ///
    /// All connections made with one configuration write to one log, where `group_id` tells them apart;
    /// a server that shall have one for each accepts with a configuration for each
    /// (`Incoming::accept_with`). A host whose clock goes wrong logs what that clock shows.
    ///
    /// ```
    /// # use polyquic::{TransportConfig, sim::Sim};
    /// let sim = Sim::new(1);
    /// let mut transport = TransportConfig::default();
    /// transport.qlog_stream(sim.qlog("client"));
    /// ```
    #[cfg(feature = "qlog")]
    pub fn qlog(&self, name: &str) -> Option<quinn_proto::QlogStream> {
        qlog::stream(&self.world, name)
    }

    /// What was logged to each [`qlog`](Self::qlog), by name, in the order in which they were made: JSON
    /// text sequences (RFC 7464).
    #[cfg(feature = "qlog")]
    pub fn qlogs(&self) -> Vec<(String, Vec<u8>)> {
        self.world.qlogs.all()
    }

    /// Where configurations of rustls can log their secrets to (`key_log`), so that captures can be
    /// decrypted.
    #[cfg(feature = "tls")]
    pub fn key_log(&self) -> Arc<dyn rustls::KeyLog> {
        tls::key_log(&self.world.secrets)
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // What a test asserts after a run fails here.
        seeds::report(&self.world);
        self.world.drop_tasks(None);
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim")
            .field("seed", &self.seed())
            .field("elapsed", &self.elapsed())
            .field("hosts", &self.world.hosts.borrow().len())
            .field("tasks", &self.tasks())
            .finish()
    }
}

/// Run an application on one host with a network that consists of itself, as other adapters' `run`
/// do.
///
/// # Panics
///
/// As [`Sim::run`].
pub fn run<F: Future>(seed: u64, app: impl FnOnce(Host) -> F) -> F::Output {
    let sim = Sim::new(seed);
    let host = sim.host("host");
    sim.run(app(host))
}
