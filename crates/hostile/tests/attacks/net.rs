//! A network and an executor in memory, on virtual time and one thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::BytesMut;
use polyquic_runtime::{
    Capabilities, Clock, DatagramSocket, Instant, Job, Received, RecvBatch, RecvMeta, Runtime,
    Spawn, Timer, Transmit,
};

/// One way, for every datagram.
const LATENCY: Duration = Duration::from_millis(5);

/// What an observer remembers.
const OVERHEARD_DATAGRAMS: usize = 64;

/// Polls without time passing after which somebody is thought to spin.
const MAX_POLLS_AT_ONCE: u64 = 1_000_000;

#[derive(Default)]
struct Inbox {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

/// What went through a socket.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

#[derive(Default)]
struct State {
    inboxes: BTreeMap<SocketAddr, Inbox>,
    flying: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    timers: BTreeMap<(Instant, u64), Waker>,
    /// By sender and receiver.
    traffic: BTreeMap<(SocketAddr, SocketAddr), Traffic>,
    /// Of datagrams that are on the wire or in a socket.
    bytes_under_way: usize,
    /// What an observer of these two addresses sees, the latest last.
    tap: Option<(SocketAddr, SocketAddr)>,
    overheard: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
    sequence: u64,
    ports: u16,
}

impl State {
    fn sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

type Tasks = RefCell<BTreeMap<u64, Pin<Box<dyn Future<Output = ()>>>>>;

/// A handle to the world, and a runtime. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    state: Rc<RefCell<State>>,
    tasks: Rc<Tasks>,
    ready: Arc<Mutex<Ready>>,
    now: Arc<Mutex<Instant>>,
    polls: Rc<RefCell<u64>>,
}

/// Tasks to poll, in the order in which they were woken.
#[derive(Default)]
struct Ready {
    order: VecDeque<u64>,
    members: BTreeSet<u64>,
}

impl Ready {
    fn push(&mut self, id: u64) {
        if self.members.insert(id) {
            self.order.push_back(id);
        }
    }

    fn pop(&mut self) -> Option<u64> {
        let id = self.order.pop_front()?;
        self.members.remove(&id);
        Some(id)
    }
}

struct TaskWaker {
    id: u64,
    ready: Arc<Mutex<Ready>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.lock().unwrap().push(self.id);
    }
}

const MAIN: u64 = 0;

impl World {
    pub(crate) fn new() -> Self {
        Self {
            state: Rc::default(),
            tasks: Rc::default(),
            ready: Arc::default(),
            now: Arc::new(Mutex::new(Instant::now())),
            polls: Rc::default(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        *self.now.lock().unwrap()
    }

    /// How often tasks other than the main one were polled.
    pub(crate) fn polls(&self) -> u64 {
        *self.polls.borrow()
    }

    pub(crate) fn traffic(&self, from: SocketAddr, to: SocketAddr) -> Traffic {
        let state = self.state.borrow();
        state.traffic.get(&(from, to)).copied().unwrap_or_default()
    }

    fn waker(&self, id: u64) -> Waker {
        let ready = self.ready.clone();
        Arc::new(TaskWaker { id, ready }).into()
    }

    fn spawn_local(&self, future: impl Future<Output = ()> + 'static) {
        let id = self.state.borrow_mut().sequence();
        self.tasks.borrow_mut().insert(id, Box::pin(future));
        self.ready.lock().unwrap().push(id);
    }

    /// Run until `main` is done.
    pub(crate) fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        self.ready.lock().unwrap().push(MAIN);
        let mut at_once = 0;
        loop {
            let next = self.ready.lock().unwrap().pop();
            let Some(id) = next else {
                at_once = 0;
                self.advance();
                continue;
            };
            at_once += 1;
            assert!(at_once < MAX_POLLS_AT_ONCE, "somebody spins");
            let waker = self.waker(id);
            let mut cx = Context::from_waker(&waker);
            if id == MAIN {
                if let Poll::Ready(output) = main.as_mut().poll(&mut cx) {
                    return output;
                }
                continue;
            }
            let task = self.tasks.borrow_mut().remove(&id);
            if let Some(mut task) = task {
                *self.polls.borrow_mut() += 1;
                if task.as_mut().poll(&mut cx).is_pending() {
                    self.tasks.borrow_mut().insert(id, task);
                }
            }
        }
    }

    /// Go to the next moment at which something happens.
    fn advance(&self) {
        let mut state = self.state.borrow_mut();
        let due = [
            state.flying.keys().next().map(|(at, _)| *at),
            state.timers.keys().next().map(|(at, _)| *at),
        ];
        let due = due.into_iter().flatten().min();
        let due = due.expect("nothing will ever happen again");
        let mut now = self.now.lock().unwrap();
        *now = due.max(*now);
        while let Some(entry) = state.flying.first_entry() {
            if entry.key().0 > due {
                break;
            }
            let (from, to, data) = entry.remove();
            if let Some(inbox) = state.inboxes.get_mut(&to) {
                inbox.datagrams.push_back((from, data));
                inbox.waker.take().map(Waker::wake);
            } else {
                state.bytes_under_way -= data.len();
            }
        }
        while let Some(entry) = state.timers.first_entry() {
            if entry.key().0 > due {
                break;
            }
            entry.remove().wake();
        }
    }

    /// Bytes of datagrams that are on the wire or in a socket.
    pub(crate) fn bytes_under_way(&self) -> usize {
        self.state.borrow().bytes_under_way
    }

    /// Begin to listen to what goes back and forth between two addresses.
    pub(crate) fn listen(&self, a: SocketAddr, b: SocketAddr) {
        self.state.borrow_mut().tap = Some((a, b));
    }

    /// What was heard since the last time: from, to, what.
    pub(crate) fn overheard(&self) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        self.state.borrow_mut().overheard.drain(..).collect()
    }

    /// Put a datagram on the wire, from any address.
    pub(crate) fn send(&self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let at = self.now() + LATENCY;
        let mut state = self.state.borrow_mut();
        let traffic = state.traffic.entry((from, to)).or_default();
        traffic.datagrams += 1;
        traffic.bytes += data.len() as u64;
        if state
            .tap
            .is_some_and(|(a, b)| (a, b) == (from, to) || (b, a) == (from, to))
        {
            if state.overheard.len() == OVERHEARD_DATAGRAMS {
                state.overheard.pop_front();
            }
            state.overheard.push_back((from, to, data.to_vec()));
        }
        let key = (at, state.sequence());
        state.bytes_under_way += data.len();
        state.flying.insert(key, (from, to, data.to_vec()));
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        let mut timer = pin!(self.timer());
        timer.as_mut().reset(self.now() + time);
        poll_fn(|cx| timer.as_mut().poll_expired(cx)).await;
    }
}

/// A socket, of an endpoint or a script.
pub(crate) struct Socket {
    world: World,
    addr: SocketAddr,
}

impl Socket {
    pub(crate) fn send(&self, to: SocketAddr, data: &[u8]) {
        self.world.send(self.addr, to, data);
    }

    pub(crate) fn try_recv(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut state = self.world.state.borrow_mut();
        let inbox = state.inboxes.get_mut(&self.addr)?;
        let (from, data) = inbox.datagrams.pop_front()?;
        state.bytes_under_way -= data.len();
        Some((from, data))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.world.state.borrow_mut();
        if let Some(inbox) = state.inboxes.remove(&self.addr) {
            let left = inbox.datagrams.iter().map(|it| it.1.len());
            state.bytes_under_way -= left.sum::<usize>();
        }
    }
}

impl DatagramSocket for Socket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        let state = &mut *self.world.state.borrow_mut();
        let inbox = state.inboxes.get_mut(&self.addr).expect("bound");
        if inbox.datagrams.is_empty() {
            inbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while batch.remaining() > 0 {
            let Some((peer, data)) = inbox.datagrams.pop_front() else {
                break;
            };
            state.bytes_under_way -= data.len();
            let meta = RecvMeta {
                peer,
                local_ip: Some(self.addr.ip()),
                ecn: None,
                stride: data.len(),
            };
            let data = BytesMut::from(&data[..]);
            batch.push(Received { data, meta });
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, _: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        let stride = transmit.segment_size.unwrap_or(transmit.contents.len());
        for datagram in transmit.contents.chunks(stride.max(1)) {
            self.send(transmit.destination, datagram);
        }
        Poll::Ready(Ok(()))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::minimal()
            .with_send_segments(10)
            .with_may_fragment(false)
    }
}

pub(crate) struct VirtualTimer {
    world: World,
    deadline: Option<Instant>,
    registered: Option<(Instant, u64)>,
}

impl Timer for VirtualTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut state = this.world.state.borrow_mut();
        if let Some(key) = this.registered.take() {
            state.timers.remove(&key);
        }
        let Some(deadline) = this.deadline else {
            return Poll::Pending;
        };
        if deadline <= this.world.now() {
            this.deadline = None;
            return Poll::Ready(());
        }
        let key = (deadline, state.sequence());
        state.timers.insert(key, cx.waker().clone());
        this.registered = Some(key);
        Poll::Pending
    }
}

impl Drop for VirtualTimer {
    fn drop(&mut self) {
        if let Some(key) = self.registered {
            self.world.state.borrow_mut().timers.remove(&key);
        }
    }
}

impl Runtime for World {
    type Timer = VirtualTimer;
    type Socket = Socket;

    fn clock(&self) -> Clock {
        let now = self.now.clone();
        Clock::custom(move || *now.lock().unwrap())
    }

    fn timer(&self) -> VirtualTimer {
        VirtualTimer {
            world: self.clone(),
            deadline: None,
            registered: None,
        }
    }

    fn bind(&self, mut addr: SocketAddr) -> io::Result<Socket> {
        let mut state = self.state.borrow_mut();
        if addr.port() == 0 {
            state.ports += 1;
            addr.set_port(40_000 + state.ports);
        }
        let old = state.inboxes.insert(addr, Inbox::default());
        assert!(old.is_none(), "{addr} is taken");
        let world = self.clone();
        Ok(Socket { world, addr })
    }

    fn offload(&self, job: Job) {
        job();
    }
}

impl<F: Future<Output = ()> + 'static> Spawn<F> for World {
    fn spawn(&self, future: F) {
        self.spawn_local(future);
    }
}
