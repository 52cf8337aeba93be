//! An executor in memory: one thread, virtual time, and a network that loses what it is told to.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::BytesMut;
use polyquic_runtime::{
    Capabilities, Clock, DatagramSocket, Instant, Job, Received, RecvBatch, RecvMeta, Runtime,
    Spawn, Timer, Transmit,
};

use crate::host::epoch;

/// From one host to the other.
const LATENCY: Duration = Duration::from_millis(10);

type LocalTask = Pin<Box<dyn Future<Output = ()>>>;

/// The handle to the executor.
#[derive(Clone)]
pub(crate) struct World(Rc<RefCell<State>>, Arc<AtomicU64>);

#[derive(Default)]
struct State {
    spawned: Vec<LocalTask>,
    tasks: Vec<(LocalTask, Arc<Flag>)>,
    /// By time and a number, so that none replaces another.
    timers: BTreeMap<(Instant, u64), Waker>,
    network: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sockets: HashMap<SocketAddr, Mailbox>,
    /// A bit for each datagram: whether it is lost. Used up, none is.
    losses: VecDeque<bool>,
    count: u64,
}

#[derive(Default)]
struct Mailbox {
    arrived: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl World {
    pub(crate) fn new(losses: impl IntoIterator<Item = bool>) -> Self {
        let state = State {
            losses: losses.into_iter().collect(),
            ..State::default()
        };
        Self(Rc::new(RefCell::new(state)), Arc::default())
    }

    fn now(&self) -> Instant {
        epoch() + Duration::from_nanos(self.1.load(Ordering::SeqCst))
    }

    /// Poll what was woken, or else let time pass until something is due; false if nothing ever
    /// will be.
    pub(crate) fn step(&self) -> bool {
        let mut state = self.0.borrow_mut();
        let spawned = std::mem::take(&mut state.spawned);
        let woken = |task| (task, Arc::new(Flag(AtomicBool::new(true))));
        let mut tasks = std::mem::take(&mut state.tasks);
        drop(state);
        tasks.extend(spawned.into_iter().map(woken));
        let mut busy = false;
        tasks.retain_mut(|(task, flag)| {
            if !flag.0.swap(false, Ordering::SeqCst) {
                return true;
            }
            busy = true;
            task.as_mut()
                .poll(&mut Context::from_waker(&flag.clone().into()))
                .is_pending()
        });
        let mut state = self.0.borrow_mut();
        state.tasks = tasks;
        if busy || !state.spawned.is_empty() {
            return true;
        }
        let due = [state.timers.keys().next(), state.network.keys().next()];
        let Some(due) = due.into_iter().flatten().map(|(at, _)| *at).min() else {
            return false;
        };
        let now = self.now().max(due);
        self.1
            .store((now - epoch()).as_nanos() as u64, Ordering::SeqCst);
        let mut wakers = Vec::new();
        while let Some(timer) = state.timers.first_entry().filter(|it| it.key().0 <= now) {
            wakers.push(timer.remove());
        }
        while let Some(arrival) = state.network.first_entry().filter(|it| it.key().0 <= now) {
            let (from, to, data) = arrival.remove();
            if let Some(mailbox) = state.sockets.get_mut(&to) {
                mailbox.arrived.push_back((from, data));
                wakers.extend(mailbox.waker.take());
            }
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        true
    }

    /// Drive `future` for so many steps, and give it up then. It is polled only when it was woken.
    pub(crate) fn attempt<T>(&self, steps: usize, future: impl Future<Output = T>) -> Option<T> {
        let (mut future, flag) = (pin!(future), Arc::new(Flag(AtomicBool::new(true))));
        let waker = flag.clone().into();
        for _ in 0..=steps {
            if flag.0.swap(false, Ordering::SeqCst)
                && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Some(output);
            }
            if !self.step() && !flag.0.load(Ordering::SeqCst) {
                return None;
            }
        }
        None
    }

    /// Drop all tasks: they hold the world, and it holds them.
    pub(crate) fn end(&self) {
        let tasks = {
            let mut state = self.0.borrow_mut();
            (
                std::mem::take(&mut state.tasks),
                std::mem::take(&mut state.spawned),
            )
        };
        drop(tasks);
    }
}

impl<F: Future<Output = ()> + 'static> Spawn<F> for World {
    fn spawn(&self, future: F) {
        self.0.borrow_mut().spawned.push(Box::pin(future));
    }
}

impl Runtime for World {
    type Timer = VirtualTimer;
    type Socket = Socket;

    fn clock(&self) -> Clock {
        let nanos = self.1.clone();
        Clock::custom(move || epoch() + Duration::from_nanos(nanos.load(Ordering::SeqCst)))
    }

    fn timer(&self) -> VirtualTimer {
        VirtualTimer {
            world: self.clone(),
            deadline: None,
            armed: None,
        }
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<Socket> {
        self.0.borrow_mut().sockets.insert(addr, Mailbox::default());
        Ok(Socket {
            world: self.clone(),
            addr,
        })
    }

    fn offload(&self, job: Job) {
        job();
    }
}

pub(crate) struct VirtualTimer {
    world: World,
    deadline: Option<Instant>,
    armed: Option<(Instant, u64)>,
}

impl VirtualTimer {
    fn disarm(&mut self) {
        if let Some(key) = self.armed.take() {
            self.world.0.borrow_mut().timers.remove(&key);
        }
    }
}

impl Timer for VirtualTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.disarm();
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        if deadline <= self.world.now() {
            self.deadline = None;
            return Poll::Ready(());
        }
        let key = {
            let mut state = self.world.0.borrow_mut();
            state.count += 1;
            let key = (deadline, state.count);
            state.timers.insert(key, cx.waker().clone());
            key
        };
        self.armed = Some(key);
        Poll::Pending
    }
}

impl Drop for VirtualTimer {
    fn drop(&mut self) {
        self.disarm();
    }
}

pub(crate) struct Socket {
    world: World,
    addr: SocketAddr,
}

impl DatagramSocket for Socket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        let mut state = self.world.0.borrow_mut();
        let mailbox = state.sockets.entry(self.addr).or_default();
        while batch.remaining() > 0
            && let Some((peer, data)) = mailbox.arrived.pop_front()
        {
            let stride = data.len();
            let meta = RecvMeta {
                peer,
                local_ip: None,
                ecn: None,
                stride,
            };
            batch.push(Received {
                data: BytesMut::from(&data[..]),
                meta,
            });
        }
        if batch.is_empty() {
            mailbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, _: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        let arrival = self.world.now() + LATENCY;
        let mut state = self.world.0.borrow_mut();
        if !state.losses.pop_front().unwrap_or(false) {
            state.count += 1;
            let key = (arrival, state.count);
            let datagram = (self.addr, transmit.destination, transmit.contents.to_vec());
            state.network.insert(key, datagram);
        }
        Poll::Ready(Ok(()))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::minimal()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}
