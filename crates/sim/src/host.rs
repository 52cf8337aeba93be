//! Hosts: where applications run. A [`Host`] is the handle to the executor.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use polyquic_runtime::{Clock, Job, Runtime, Spawn};
use rand::RngExt;

use crate::net::pipe::nanos;
use crate::net::{HostId, NodeId, PipeId};
use crate::random::generator;
use crate::socket::{RawSocket, SimSocket};
use crate::timer::{self, SimTimer};
use crate::topology::{Access, Below, Interface};
use crate::world::{HostState, World};
use crate::{Link, Verdict};

/// A machine in the simulation, and the handle by which applications run on it: give it to
/// `Endpoint::server` and the like as on any executor.
///
/// Made by [`Sim::host`](crate::Sim::host). It has one interface, and more if it is given some.
#[derive(Clone)]
pub struct Host {
    pub(crate) world: Rc<World>,
    pub(crate) id: HostId,
}

impl Host {
    pub(crate) fn state<T>(&self, f: impl FnOnce(&mut HostState) -> T) -> T {
        f(&mut self.world.hosts.borrow_mut()[self.id])
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.state(|it| it.name.clone())
    }

    /// Its IPv4 address.
    pub fn ip(&self) -> IpAddr {
        self.interface().ip()
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> IpAddr {
        self.interface().ipv6()
    }

    /// Its IPv4 address with a port.
    pub fn addr(&self, port: u16) -> SocketAddr {
        (self.ip(), port).into()
    }

    /// The interface that it prefers: the first one, unless [`prefer`](Self::prefer) said otherwise.
    pub fn interface(&self) -> Interface {
        Interface(Access {
            world: self.world.clone(),
            node: self.state(|it| it.preferred),
        })
    }

    /// The link of that interface.
    pub fn access(&self) -> Access {
        self.interface().0
    }

    /// Give it one more interface, below the internet, a router or a NAT.
    pub fn add_interface(&self, parent: impl Into<Below>, link: Link) -> Interface {
        let Below(parent) = parent.into();
        let mut net = self.world.net.borrow_mut();
        let node = net.add_interface(self.name(), parent, &link, self.id);
        Interface(Access {
            world: self.world.clone(),
            node,
        })
    }

    /// Send by this interface from now on, wherever sockets are bound to no address of their own: as
    /// when a phone leaves its Wi-Fi.
    ///
    /// # Panics
    ///
    /// The interface is another host's.
    pub fn prefer(&self, interface: &Interface) {
        let node = interface.0.node;
        let net = self.world.net.borrow();
        assert!(
            net.interface_of(self.id, net.addresses(node).expect("it has one").0)
                .is_some(),
            "the interface of another host"
        );
        self.state(|it| it.preferred = node);
    }

    /// What packets go through that it sends to itself.
    pub fn set_loopback(&self, link: Link) {
        self.world.net.borrow_mut().loopbacks[self.id].link = link;
    }

    /// As [`Access::filter_up`], for packets that it sends to itself.
    pub fn filter_loopback(&self, filter: impl FnMut(&mut crate::Packet) -> Verdict + 'static) {
        let pipe = PipeId::Loopback(self.id);
        self.world.net.borrow_mut().pipe(pipe).filter = Some(Box::new(filter));
    }

    /// Stop all its tasks, as if the machine was suspended. Its clock goes on, and packets arrive
    /// until its buffers are full.
    pub fn pause(&self) {
        self.state(|it| it.paused = true);
    }

    /// Let its tasks go on.
    pub fn resume(&self) {
        let parked = self.state(|it| {
            it.paused = false;
            std::mem::take(&mut it.parked)
        });
        self.world.unpark(parked);
    }

    /// Drop all its tasks and close all its sockets, without a word to anybody: a power failure.
    /// Afterwards applications can be started on it again, also if it was [paused](Self::pause).
    ///
    /// Not to be called by one of its own tasks, whose future would outlive it until it next waits.
    pub fn crash(&self) {
        self.world.drop_tasks(Some(self.id));
        self.world.net.borrow_mut().sockets.close_all(self.id);
        self.state(|it| {
            it.parked.clear();
            it.paused = false;
        });
    }

    /// How many tasks it has, drivers of endpoints among them.
    pub fn tasks(&self) -> usize {
        self.world.tasks(Some(self.id))
    }

    /// Let its clock go wrong by `ppm` millionths from now on: fast if positive. Crystals of real
    /// machines are off by up to 100. It may not stand still or go back.
    ///
    /// # Panics
    ///
    /// `ppm` is not above -1,000,000.
    pub fn set_clock_rate(&self, ppm: i64) {
        assert!(ppm > -1_000_000, "a clock that stands still or goes back");
        self.state(|it| it.clock.set_rate(ppm));
        timer::clock_changed(self);
    }

    /// Put its calendar ahead. It starts at 2026-01-01, 00:00 UTC.
    pub fn set_calendar_ahead(&self, by: Duration) {
        let by = nanos(by).try_into().unwrap_or(i64::MAX);
        self.state(|it| it.clock.set_calendar(by));
    }

    /// Put its calendar behind.
    pub fn set_calendar_behind(&self, by: Duration) {
        let by = nanos(by).try_into().unwrap_or(i64::MAX);
        self.state(|it| it.clock.set_calendar(-by));
    }

    /// Most datagrams in one send (GSO) and in one receive (GRO) of its sockets, at least 1 each.
    /// Default: 64 each. For sockets that are bound afterwards and before.
    pub fn set_segments(&self, send: usize, receive: usize) {
        self.state(|it| {
            it.send_segments = send.max(1);
            it.recv_segments = receive.max(1);
        });
    }

    /// Bytes that may wait in the queue of the link by which a packet leaves (an interface's, or the
    /// loopback) before sending blocks.
    /// Default: no limit, so that what does not fit into the queue is lost.
    pub fn set_send_buffer(&self, bytes: u64) {
        self.state(|it| it.send_buffer = bytes);
    }

    /// Bytes that a socket keeps until they are received, with IP and UDP headers; more are dropped.
    /// Default: 4 MiB. For sockets that are bound afterwards.
    pub fn set_recv_buffer(&self, bytes: usize) {
        self.state(|it| it.recv_buffer = bytes);
    }

    /// How late its timers may be: each by a random part of it. Default: not at all.
    pub fn set_timer_slack(&self, slack: Duration) {
        self.state(|it| it.slack = nanos(slack));
    }

    /// Start a task on it.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.world.spawn(self.id, future);
    }

    /// Start a task on it; what is returned yields its result.
    ///
    /// Cancel-safe in the sense that the task goes on when what is returned is dropped.
    ///
    /// # Panics
    ///
    /// When awaited, if the host crashed before the task was done.
    pub fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        future: F,
    ) -> impl Future<Output = T> + use<T, F> {
        let slot = Rc::new(RefCell::new((None, None::<std::task::Waker>)));
        /// Wakes whoever waits, be it that the task is done or that it was dropped.
        struct Done<T>(Rc<RefCell<(Option<T>, Option<std::task::Waker>)>>);
        impl<T> Drop for Done<T> {
            fn drop(&mut self) {
                if let Some(waker) = self.0.borrow_mut().1.take() {
                    waker.wake();
                }
            }
        }
        let done = Done(slot.clone());
        self.spawn(async move {
            let output = future.await;
            done.0.borrow_mut().0 = Some(output);
        });
        std::future::poll_fn(move |cx| {
            let mut state = slot.borrow_mut();
            if let Some(output) = state.0.take() {
                return std::task::Poll::Ready(output);
            }
            assert!(
                Rc::strong_count(&slot) > 1,
                "the task was dropped: its host crashed"
            );
            state.1 = Some(cx.waker().clone());
            std::task::Poll::Pending
        })
    }

    /// A bare UDP socket, for protocols and attackers of one's own.
    ///
    /// # Errors
    ///
    /// As [`Runtime::bind`].
    pub fn udp(&self, addr: SocketAddr) -> io::Result<RawSocket> {
        Ok(RawSocket(self.bind(addr)?))
    }

    /// The interface and the source address for packets of a socket.
    pub(crate) fn route(&self, source: Option<IpAddr>, dst: IpAddr) -> Option<(NodeId, IpAddr)> {
        let net = self.world.net.borrow();
        let preferred = self.state(|it| it.preferred);
        if dst.is_loopback() {
            let source = source.filter(|ip| !ip.is_unspecified()).unwrap_or(dst);
            return Some((preferred, source));
        }
        match source.filter(|ip| !ip.is_unspecified()) {
            Some(ip) => Some((net.interface_of(self.id, ip)?, ip)),
            None => {
                let (v4, v6) = net.addresses(preferred)?;
                Some((preferred, if dst.is_ipv4() { v4 } else { v6 }))
            }
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.name())
    }
}

impl<F: Future<Output = ()> + 'static> Spawn<F> for Host {
    fn spawn(&self, future: F) {
        self.world.spawn(self.id, future);
    }
}

impl Runtime for Host {
    type Timer = SimTimer;
    type Socket = SimSocket;

    fn clock(&self) -> Clock {
        self.state(|it| it.clock.clock())
    }

    fn timer(&self) -> SimTimer {
        SimTimer::new(self.clone())
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<SimSocket> {
        let capacity = self.state(|it| it.recv_buffer);
        let mut net = self.world.net.borrow_mut();
        let ip = addr.ip();
        let known =
            ip.is_unspecified() || ip.is_loopback() || net.interface_of(self.id, ip).is_some();
        if !known {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        let id = net.sockets.bind(self.id, addr, capacity)?;
        drop(net);
        Ok(SimSocket::new(self.clone(), id))
    }

    /// Runs it as a task, soon.
    fn offload(&self, job: Job) {
        // Whoever waits for the job's result learns that there is none.
        self.spawn(async move { drop(catch_unwind(AssertUnwindSafe(job))) });
    }

    fn seed(&self) -> Option<[u8; 32]> {
        let (name, count) = self.state(|it| {
            it.seeds += 1;
            (it.name.clone(), it.seeds)
        });
        let purpose = format!("endpoint {count} of {name}");
        Some(generator(self.world.seed, &purpose).random())
    }
}
