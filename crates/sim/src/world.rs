//! The executor: tasks, virtual time, and the loop that moves both on.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rustc_hash::FxHashMap;

use crate::clock::HostClock;
use crate::net::pipe::nanos;
use crate::net::{HostId, Net, NodeId};
use crate::pcapng::Secrets;
use crate::queue::{Event, Key, Queue};
use crate::random::{below, generator, happens};
use crate::seeds::Ending;
use crate::trace::Trace;

pub(crate) type TaskId = u64;

/// The future given to [`Sim::run`](crate::Sim::run).
pub(crate) const ROOT: TaskId = 0;

pub(crate) struct World {
    pub(crate) seed: u64,
    /// Nanoseconds since the beginning.
    pub(crate) now: Arc<AtomicU64>,
    pub(crate) base: Instant,
    pub(crate) queue: RefCell<Queue>,
    pub(crate) net: RefCell<Net>,
    pub(crate) trace: RefCell<Trace>,
    pub(crate) hosts: RefCell<Vec<HostState>>,
    pub(crate) timers: RefCell<Timers>,
    pub(crate) secrets: Secrets,
    /// What TLS draws from.
    #[cfg(feature = "tls")]
    pub(crate) cryptography: crate::tls::Source,
    #[cfg(feature = "qlog")]
    pub(crate) qlogs: crate::qlog::Logs,
    pub(crate) ending: Ending,
    tasks: RefCell<Tasks>,
    ready: Arc<Ready>,
    /// Who of those that are ready goes first.
    order: RefCell<StdRng>,
    pub(crate) polls: Cell<u64>,
    pub(crate) poll_cost: Cell<u64>,
    pub(crate) time_limit: Cell<u64>,
    pub(crate) in_order: Cell<bool>,
}

pub(crate) struct HostState {
    pub(crate) name: String,
    /// What sockets send by that are bound to no address.
    pub(crate) preferred: NodeId,
    pub(crate) clock: Arc<HostClock>,
    pub(crate) paused: bool,
    /// Tasks that were woken during a pause.
    pub(crate) parked: Vec<TaskId>,
    pub(crate) send_segments: usize,
    pub(crate) recv_segments: usize,
    pub(crate) send_buffer: u64,
    pub(crate) recv_buffer: usize,
    pub(crate) slack: u64,
    /// How many endpoints got a seed.
    pub(crate) seeds: u64,
}

#[derive(Default)]
struct Tasks {
    entries: FxHashMap<TaskId, Entry>,
    next: TaskId,
}

struct Entry {
    /// `None` while it runs.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Arc<TaskWaker>,
    host: HostId,
    name: &'static str,
}

/// Tasks that are to run. Wakers may come from any thread.
#[derive(Default)]
pub(crate) struct Ready(Mutex<VecDeque<TaskId>>);

impl Ready {
    fn queue(&self) -> MutexGuard<'_, VecDeque<TaskId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct TaskWaker {
    id: TaskId,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.queue().push_back(self.id);
        }
    }
}

#[derive(Default)]
pub(crate) struct Timers {
    pub(crate) entries: FxHashMap<u64, TimerState>,
    pub(crate) next: u64,
}

pub(crate) struct TimerState {
    pub(crate) host: HostId,
    /// By the host's clock.
    pub(crate) deadline: Option<u64>,
    /// How often it was set.
    pub(crate) set: u64,
    /// The event that is going to happen.
    pub(crate) event: Option<Key>,
    pub(crate) waker: Option<Waker>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            seed,
            now: Arc::default(),
            base: Instant::now(),
            queue: RefCell::default(),
            net: RefCell::new(Net::new(generator(seed, "network"))),
            trace: RefCell::default(),
            hosts: RefCell::default(),
            timers: RefCell::default(),
            secrets: Secrets::default(),
            #[cfg(feature = "tls")]
            cryptography: Rc::new(RefCell::new(generator(seed, "cryptography"))),
            #[cfg(feature = "qlog")]
            qlogs: Default::default(),
            ending: Ending::new(),
            tasks: RefCell::default(),
            ready: Arc::default(),
            order: RefCell::new(generator(seed, "order")),
            polls: Cell::new(0),
            poll_cost: Cell::new(1_000),
            time_limit: Cell::new(nanos(Duration::from_secs(7 * 24 * 3600))),
            in_order: Cell::new(false),
        })
    }

    /// Nanoseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(&self, host: HostId, future: F) {
        let mut tasks = self.tasks.borrow_mut();
        tasks.next += 1;
        let id = tasks.next;
        let waker = self.waker(id);
        tasks.entries.insert(
            id,
            Entry {
                future: Some(Box::pin(future)),
                waker: waker.clone(),
                host,
                name: type_name::<F>(),
            },
        );
        waker.wake();
    }

    fn waker(&self, id: TaskId) -> Arc<TaskWaker> {
        Arc::new(TaskWaker {
            id,
            queued: AtomicBool::new(false),
            ready: self.ready.clone(),
        })
    }

    pub(crate) fn tasks(&self, host: Option<HostId>) -> usize {
        let tasks = self.tasks.borrow();
        let of = |entry: &&Entry| host.is_none_or(|host| entry.host == host);
        tasks.entries.values().filter(of).count()
    }

    /// Drop the tasks of a host, or all.
    pub(crate) fn drop_tasks(&self, host: Option<HostId>) {
        // In the order in which they were started, because they may wake others. They may start
        // others, too.
        loop {
            let mut tasks = self.tasks.borrow_mut();
            let mut ids: Vec<_> = tasks
                .entries
                .iter()
                .filter(|(_, entry)| host.is_none_or(|host| entry.host == host))
                .map(|(id, _)| *id)
                .collect();
            if ids.is_empty() {
                return;
            }
            ids.sort_unstable();
            let dropped: Vec<_> = ids
                .into_iter()
                .map(|id| tasks.entries.remove(&id))
                .collect();
            drop(tasks);
            drop(dropped);
        }
    }

    /// Let time pass and tasks run until `app` is done.
    pub(crate) fn run<F: Future>(&self, app: F) -> F::Output {
        let mut app = std::pin::pin!(app);
        let waker = self.waker(ROOT);
        waker.wake_by_ref();
        loop {
            self.happen();
            match self.pick() {
                Some(ROOT) => {
                    waker.queued.store(false, Ordering::Release);
                    self.count(ROOT);
                    let waker = waker.clone().into();
                    let mut cx = Context::from_waker(&waker);
                    if let std::task::Poll::Ready(output) = app.as_mut().poll(&mut cx) {
                        return output;
                    }
                }
                Some(id) => self.poll(id),
                None => {
                    let next = self.queue.borrow().next();
                    let Some(next) = next else { self.stuck() };
                    assert!(
                        next <= self.time_limit.get(),
                        "the simulation takes longer than its limit of {:?}\n{}",
                        Duration::from_nanos(self.time_limit.get()),
                        self.waiting(),
                    );
                    self.now.store(next.max(self.now()), Ordering::Relaxed);
                }
            }
        }
    }

    /// Whatever is due by now.
    fn happen(&self) {
        let now = self.now();
        loop {
            let Some(event) = self.queue.borrow_mut().due(now) else {
                return;
            };
            let mut queue = self.queue.borrow_mut();
            let mut trace = self.trace.borrow_mut();
            match event {
                Event::Arrival(from, packet) => {
                    let mut net = self.net.borrow_mut();
                    net.arrive(from, *packet, now, &mut queue, &mut trace);
                }
                Event::Transmitted(pipe) => {
                    let mut net = self.net.borrow_mut();
                    net.transmitted(pipe, now, &mut queue, &mut trace);
                }
                Event::Timer(id) => {
                    let mut timers = self.timers.borrow_mut();
                    let timer = timers.entries.get_mut(&id).expect("or it had no event");
                    timer.event = None;
                    if let Some(waker) = timer.waker.take() {
                        waker.wake();
                    }
                }
            }
        }
    }

    /// The next task to run.
    fn pick(&self) -> Option<TaskId> {
        let mut ready = self.ready.queue();
        loop {
            let len = ready.len() as u64;
            // Mostly in order, as executors do; at times not, as they may.
            let mut order = self.order.borrow_mut();
            if len > 1 && !self.in_order.get() && happens(&mut order, 0.25) {
                ready.swap(0, below(&mut order, len) as usize);
            }
            let id = ready.pop_front()?;
            if id == ROOT {
                return Some(id);
            }
            let tasks = self.tasks.borrow();
            // Its host may have crashed.
            let Some(entry) = tasks.entries.get(&id) else {
                continue;
            };
            let host = &mut self.hosts.borrow_mut()[entry.host];
            if !host.paused {
                return Some(id);
            }
            host.parked.push(id);
        }
    }

    /// Tasks that were woken during a pause run now.
    pub(crate) fn unpark(&self, tasks: Vec<TaskId>) {
        self.ready.queue().extend(tasks);
    }

    fn poll(&self, id: TaskId) {
        let mut tasks = self.tasks.borrow_mut();
        let Some(entry) = tasks.entries.get_mut(&id) else {
            return;
        };
        let waker = entry.waker.clone();
        let mut future = entry.future.take().expect("it does not run");
        drop(tasks);
        waker.queued.store(false, Ordering::Release);
        self.count(id);
        let waker = waker.into();
        let done = future.as_mut().poll(&mut Context::from_waker(&waker));
        let mut tasks = self.tasks.borrow_mut();
        if done.is_ready() {
            tasks.entries.remove(&id);
        } else if let Some(entry) = tasks.entries.get_mut(&id) {
            entry.future = Some(future);
            return;
        }
        // It may start and wake others when it is dropped.
        drop(tasks);
        drop(future);
    }

    fn count(&self, id: TaskId) {
        let now = self.now();
        self.trace.borrow_mut().poll(now, id);
        self.polls.set(self.polls.get() + 1);
        // Work takes time. Whoever waits by asking again and again would otherwise wait forever.
        self.now
            .store(now + self.poll_cost.get(), Ordering::Relaxed);
    }

    fn stuck(&self) -> ! {
        panic!(
            "nothing can happen any more: no packet is on its way, no timer is set, and everything \
             waits\n{}",
            self.waiting()
        );
    }

    /// Who waits, by host.
    fn waiting(&self) -> String {
        let tasks = self.tasks.borrow();
        let hosts = self.hosts.borrow();
        let mut lines: Vec<_> = tasks
            .entries
            .iter()
            .map(|(id, it)| format!("  task {id} on {}: {}", hosts[it.host].name, it.name))
            .collect();
        lines.sort();
        lines.join("\n")
    }
}
