//! A complete adapter: one thread, the standard library, and nothing else.
//!
//! It is written to be read. Its sockets and timers are asked again and again, at least once a
//! millisecond, instead of being waited for; a real adapter has somebody who tells it.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use polyquic_runtime::{
    Capabilities, DatagramSocket, Job, Received, RecvBatch, RecvMeta, Runtime, Spawn, Timer,
    Transmit,
};

/// How long the thread sleeps when nobody was woken.
const TICK: Duration = Duration::from_millis(1);

/// The handle to the executor. Neither it nor its tasks ever leave their thread.
#[derive(Clone, Default)]
pub(crate) struct Local(Rc<Shared>);

#[derive(Default)]
struct Shared {
    /// Tasks that have not been polled yet.
    spawned: RefCell<Vec<LocalTask>>,
    /// Who waits for a socket or for time to pass.
    waiting: RefCell<Vec<Waker>>,
}

type LocalTask = Pin<Box<dyn Future<Output = ()>>>;

impl Local {
    /// Wake this task soon, to ask again.
    fn ask_again(&self, cx: &mut Context<'_>) {
        self.0.waiting.borrow_mut().push(cx.waker().clone());
    }
}

/// Run `app` and whatever it spawns on the calling thread.
pub(crate) fn run<F: Future>(app: impl FnOnce(Local) -> F) -> F::Output {
    let rt = Local::default();
    let (mut app, app_flag) = (pin!(app(rt.clone())), Flag::new());
    let mut tasks: Vec<(LocalTask, Arc<Flag>)> = Vec::new();
    let output = loop {
        if let Some(Poll::Ready(output)) = app_flag.poll_if_woken(app.as_mut()) {
            break output;
        }
        tasks.extend(rt.0.spawned.take().into_iter().map(|it| (it, Flag::new())));
        tasks.retain_mut(|(task, flag)| flag.poll_if_woken(task.as_mut()) != Some(Poll::Ready(())));
        let woken = app_flag.is_set() || tasks.iter().any(|(_, flag)| flag.is_set());
        if !woken && rt.0.spawned.borrow().is_empty() {
            wait();
        }
        rt.0.waiting.take().into_iter().for_each(Waker::wake);
    };
    // Tasks hold the handle, and the handle holds tasks: whoever leaves must break the circle.
    drop(tasks);
    rt.0.spawned.take();
    output
}

/// Sleep a little. Returns at once if a flag was set in the meantime, even by another thread.
fn wait() {
    if cfg!(target_family = "wasm") {
        thread::sleep(TICK); // there is no other thread
    } else {
        thread::park_timeout(TICK);
    }
}

/// Whether a task was woken. May be set from any thread: handles to connections travel.
struct Flag {
    woken: AtomicBool,
    thread: Thread,
}

impl Flag {
    /// Set at first, so that a new task is polled.
    fn new() -> Arc<Self> {
        Arc::new(Self {
            woken: AtomicBool::new(true),
            thread: thread::current(),
        })
    }

    fn is_set(&self) -> bool {
        self.woken.load(Ordering::SeqCst)
    }

    fn poll_if_woken<T>(
        self: &Arc<Self>,
        task: Pin<&mut (impl Future<Output = T> + ?Sized)>,
    ) -> Option<Poll<T>> {
        // Cleared before the poll: whoever wakes the task during it means the next one.
        let woken = self.woken.swap(false, Ordering::SeqCst);
        woken.then(|| task.poll(&mut Context::from_waker(&self.clone().into())))
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl<F: Future<Output = ()> + 'static> Spawn<F> for Local {
    fn spawn(&self, future: F) {
        self.0.spawned.borrow_mut().push(Box::pin(future));
    }
}

impl Runtime for Local {
    type Timer = LocalTimer;
    type Socket = LocalSocket;

    fn timer(&self) -> LocalTimer {
        LocalTimer {
            rt: self.clone(),
            deadline: None,
        }
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<LocalSocket> {
        self.adopt(UdpSocket::bind(addr)?)
    }

    fn adopt(&self, socket: UdpSocket) -> io::Result<LocalSocket> {
        socket.set_nonblocking(true)?;
        Ok(LocalSocket {
            rt: self.clone(),
            socket,
            buffer: vec![0; 1 << 16],
        })
    }

    fn offload(&self, job: Job) {
        if cfg!(target_family = "wasm") {
            job(); // there are no threads
        } else {
            thread::spawn(job);
        }
    }
}

pub(crate) struct LocalTimer {
    rt: Local,
    deadline: Option<Instant>,
}

impl Timer for LocalTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => {
                self.deadline = None;
                return Poll::Ready(());
            }
            Some(_) => self.rt.ask_again(cx),
            // Not armed: nothing to wait for.
            None => {}
        }
        Poll::Pending
    }
}

pub(crate) struct LocalSocket {
    rt: Local,
    socket: UdpSocket,
    buffer: Vec<u8>,
}

impl DatagramSocket for LocalSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        for _ in 0..batch.remaining() {
            match self.socket.recv_from(&mut self.buffer) {
                // Empty datagrams mean nothing to QUIC.
                Ok((0, _)) => {}
                Ok((len, peer)) => batch.push(Received {
                    data: BytesMut::from(&self.buffer[..len]),
                    meta: RecvMeta {
                        peer,
                        local_ip: None,
                        ecn: None,
                        stride: len,
                    },
                }),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => break,
                    // What a peer can cause must not end the driver.
                    ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => {}
                    _ => return Poll::Ready(Err(error)),
                },
            }
        }
        if batch.is_empty() {
            self.rt.ask_again(cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        match self.socket.send_to(transmit.contents, transmit.destination) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.rt.ask_again(cx);
                Poll::Pending
            }
            // What the network refuses counts as lost, and QUIC copes with losses.
            _ => Poll::Ready(Ok(())),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::minimal()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}
