//! A runtime in memory: threads of shuttle's, a network without delay, and time that passes only when
//! all threads sleep.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use polyquic_endpoint::Driver;
use polyquic_runtime::{
    Capabilities, Clock, DatagramSocket, Job, Received, RecvBatch, RecvMeta, Runtime, SocketGroup,
    Spawn, SteeringFilter, Timer, Transmit,
};
use shuttle::sync::{Condvar, Mutex, MutexGuard};
use shuttle::thread::{self, JoinHandle};

/// Everything in one execution of a model, and the runtime's handle.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    net: Mutex<Net>,
    drivers: Mutex<Vec<Driver<World>>>,
    /// Nanoseconds since [`start`]. Reading a clock gives no other thread a turn.
    now: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Threads that are neither asleep nor over.
    awake: usize,
    time_stands: bool,
    timers: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    deadline: Option<Instant>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Net {
    mailboxes: Vec<Mailbox>,
    /// Which of the sockets on an address gets what is sent there.
    steer: usize,
}

struct Mailbox {
    addr: SocketAddr,
    queue: VecDeque<Received>,
    reader: Option<Waker>,
    failure: Option<Failure>,
}

/// How a socket ends its driver.
#[derive(Clone, Copy)]
pub(crate) enum Failure {
    Error,
    Panic,
}

/// The same in every execution of a process: only differences count.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

impl World {
    /// A world in which the calling thread is awake, and time passes.
    pub(crate) fn new() -> Self {
        let state = State {
            awake: 1,
            ..State::default()
        };
        Self(Arc::new(Inner {
            state: Mutex::new(state),
            net: Mutex::default(),
            drivers: Mutex::default(),
            now: AtomicU64::new(0),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        self.0.net.lock().unwrap()
    }

    fn now(&self) -> Instant {
        start() + Duration::from_nanos(self.0.now.load(Ordering::Relaxed))
    }

    /// From now on no timer expires: what does not go on by itself is a deadlock, and no probe
    /// timeout hides that a wake-up was lost.
    pub(crate) fn stop_time(&self) {
        self.state().time_stands = true;
    }

    /// Timers expire again.
    pub(crate) fn run_time(&self) {
        self.state().time_stands = false;
    }

    /// Which of the sockets on one address gets what is sent there from now on.
    pub(crate) fn steer(&self, index: usize) {
        self.net().steer = index;
    }

    /// Have the `index`th socket on `addr` fail.
    pub(crate) fn fail(&self, addr: SocketAddr, index: usize, failure: Failure) {
        let waker = {
            let mut net = self.net();
            let mut there = net.mailboxes.iter_mut().filter(|it| it.addr == addr);
            let mailbox = there.nth(index).expect("a socket there");
            mailbox.failure = Some(failure);
            mailbox.reader.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Start a thread.
    pub(crate) fn thread<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.state().awake += 1;
        let world = self.clone();
        thread::spawn(move || {
            let result = run();
            world.fall_asleep();
            result
        })
    }

    /// Start a thread that completes a future.
    pub(crate) fn task<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let world = self.clone();
        self.thread(move || world.block_on(future))
    }

    /// Wait for threads, which is no work.
    pub(crate) fn join<T>(&self, threads: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<T> {
        self.fall_asleep();
        let results = threads.into_iter().map(|it| it.join().unwrap()).collect();
        self.state().awake += 1;
        results
    }

    /// The drivers that were spawned and not yet started.
    pub(crate) fn take_drivers(&self) -> Vec<Driver<Self>> {
        std::mem::take(&mut *self.0.drivers.lock().unwrap())
    }

    /// Start a thread for each driver.
    pub(crate) fn start_drivers(&self) -> Vec<JoinHandle<()>> {
        let drivers = self.take_drivers();
        drivers.into_iter().map(|it| self.task(it)).collect()
    }

    /// Complete a future and a few rounds more with drivers that have no threads yet: what is not the
    /// subject of a model costs no schedules.
    pub(crate) fn settle<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        let mut result = None;
        let mut rounds_left = 100;
        while rounds_left > 0 {
            if result.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(&mut cx)
            {
                result = Some(value);
                rounds_left = rounds_left.min(16);
            }
            // Not under the lock: a driver may be spawned.
            let mut drivers = self.take_drivers();
            for driver in &mut drivers {
                assert!(Pin::new(driver).poll(&mut cx).is_pending());
            }
            self.0.drivers.lock().unwrap().extend(drivers);
            rounds_left -= 1;
        }
        result.expect("no more is needed than drivers do by themselves")
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let sleeper = Arc::new(Sleeper {
            world: self.clone(),
            bed: Mutex::default(),
            condvar: Condvar::new(),
        });
        let waker = Waker::from(sleeper.clone());
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return value;
            }
            sleeper.sleep();
        }
    }

    /// One thread less is awake. With the last one, time passes.
    fn fall_asleep(&self) {
        let waker = {
            let mut state = self.state();
            state.awake -= 1;
            if state.awake > 0 || state.time_stands {
                return;
            }
            let armed = state.timers.iter_mut().filter(|it| it.deadline.is_some());
            let Some(next) = armed.min_by_key(|it| it.deadline) else {
                return;
            };
            let passed = next.deadline.expect("armed") - start();
            let nanos = passed.as_nanos() as u64;
            self.0.now.fetch_max(nanos, Ordering::Relaxed);
            next.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

/// A thread in [`World::block_on`].
struct Sleeper {
    world: World,
    bed: Mutex<Bed>,
    condvar: Condvar,
}

#[derive(Default)]
struct Bed {
    asleep: bool,
    woken: bool,
}

impl Sleeper {
    fn sleep(&self) {
        {
            let mut bed = self.bed.lock().unwrap();
            if std::mem::take(&mut bed.woken) {
                return;
            }
            bed.asleep = true;
        }
        self.world.fall_asleep();
        let mut bed = self.bed.lock().unwrap();
        while bed.asleep {
            bed = self.condvar.wait(bed).unwrap();
        }
        bed.woken = false;
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        let mut bed = self.bed.lock().unwrap();
        bed.woken = true;
        if std::mem::take(&mut bed.asleep) {
            // Counted by who wakes it, lest nobody seem to be awake in between.
            self.world.state().awake += 1;
            self.condvar.notify_one();
        }
    }
}

/// Ends a driver as an executor does that is shut down: by dropping it.
#[derive(Clone, Default)]
pub(crate) struct Switch(Arc<Mutex<(bool, Option<Waker>)>>);

impl Switch {
    pub(crate) fn off(&self) {
        let waker = {
            let mut switch = self.0.lock().unwrap();
            switch.0 = true;
            switch.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Complete `future`, or drop it.
    pub(crate) async fn run(self, future: impl Future<Output = ()>) {
        let mut future = pin!(future);
        poll_fn(|cx| {
            {
                let mut switch = self.0.lock().unwrap();
                if switch.0 {
                    return Poll::Ready(());
                }
                switch.1 = Some(cx.waker().clone());
            }
            future.as_mut().poll(cx)
        })
        .await;
    }
}

impl Runtime for World {
    type Timer = ModelTimer;
    type Socket = ModelSocket;

    fn clock(&self) -> Clock {
        let world = self.clone();
        Clock::custom(move || world.now())
    }

    fn timer(&self) -> ModelTimer {
        let mut state = self.state();
        state.timers.push(Slot::default());
        ModelTimer {
            world: self.clone(),
            index: state.timers.len() - 1,
        }
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<ModelSocket> {
        let mut net = self.net();
        net.mailboxes.push(Mailbox {
            addr,
            queue: VecDeque::new(),
            reader: None,
            failure: None,
        });
        Ok(ModelSocket {
            world: self.clone(),
            index: net.mailboxes.len() - 1,
            addr,
        })
    }

    /// Sockets of the system are tokens here, of which one address is bound for all.
    fn adopt(&self, _: UdpSocket) -> io::Result<ModelSocket> {
        self.bind(GROUP)
    }

    fn offload(&self, job: Job) {
        // Not joined: shuttle waits for all threads.
        drop(self.thread(job));
    }

    fn bind_group(
        &self,
        _: SocketAddr,
        count: NonZeroUsize,
        _: Option<&SteeringFilter>,
    ) -> io::Result<SocketGroup> {
        static TOKEN: OnceLock<UdpSocket> = OnceLock::new();
        let token = TOKEN.get_or_init(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        let tokens: io::Result<_> = (0..count.get()).map(|_| token.try_clone()).collect();
        Ok(SocketGroup::new(tokens?, false))
    }
}

/// Where groups of sockets are, whatever address they asked for.
pub(crate) const GROUP: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(
    std::net::Ipv4Addr::new(10, 0, 0, 3),
    3,
));

impl Spawn<Driver<World>> for World {
    fn spawn(&self, driver: Driver<World>) {
        self.0.drivers.lock().unwrap().push(driver);
    }
}

pub(crate) struct ModelTimer {
    world: World,
    index: usize,
}

impl Timer for ModelTimer {
    fn reset(self: Pin<&mut Self>, deadline: Instant) {
        self.world.state().timers[self.index].deadline = Some(deadline);
    }

    fn poll_expired(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.world.now();
        let slot = &mut self.world.state().timers[self.index];
        match slot.deadline {
            Some(deadline) if deadline <= now => {
                slot.deadline = None;
                Poll::Ready(())
            }
            _ => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for ModelTimer {
    fn drop(&mut self) {
        let slot = std::mem::take(&mut self.world.state().timers[self.index]);
        drop(slot);
    }
}

pub(crate) struct ModelSocket {
    world: World,
    index: usize,
    addr: SocketAddr,
}

impl DatagramSocket for ModelSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        let mut net = self.world.net();
        let mailbox = &mut net.mailboxes[self.index];
        match mailbox.failure {
            Some(Failure::Error) => return Poll::Ready(Err(io::Error::other("planned"))),
            Some(Failure::Panic) => {
                drop(net);
                // Without the panic hook, which would take it for a finding.
                std::panic::resume_unwind(Box::new("planned"));
            }
            None => {}
        }
        if mailbox.queue.is_empty() {
            mailbox.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while batch.remaining() > 0
            && let Some(received) = mailbox.queue.pop_front()
        {
            batch.push(received);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, _: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        let reader = {
            let mut net = self.world.net();
            let steer = net.steer;
            let mut there = (net.mailboxes.iter_mut())
                .filter(|it| it.addr == transmit.destination)
                .collect::<Vec<_>>();
            let Some(count) = NonZeroUsize::new(there.len()) else {
                return Poll::Ready(Ok(()));
            };
            let mailbox = &mut there[steer % count];
            mailbox.queue.push_back(Received {
                data: BytesMut::from(transmit.contents),
                meta: RecvMeta {
                    peer: self.addr,
                    local_ip: None,
                    stride: transmit.contents.len(),
                    ecn: transmit.ecn,
                },
            });
            mailbox.reader.take()
        };
        reader.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::minimal()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

impl Drop for ModelSocket {
    fn drop(&mut self) {
        let mut net = self.world.net();
        // The system gives what arrives from now on to the others on the address, if any.
        net.mailboxes[self.index].addr = SocketAddr::from(([0, 0, 0, 0], 0));
        net.mailboxes[self.index].reader = None;
    }
}
