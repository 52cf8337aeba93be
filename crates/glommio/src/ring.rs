//! A small ring per executor, which watches sockets.
//!
//! glommio does not offer to wait for a descriptor's readiness. It does offer to read an eventfd,
//! and this ring signals one. A socket is watched for input once and for all (a multishot poll), so
//! that waiting costs no system call of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use glommio::io::BufferedFile;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, PollFlags, eventfd};

use crate::preempt::Preemption;
use crate::start;
use crate::task::Tasks;

/// Submissions are handed over one at a time.
const ENTRIES: u32 = 64;

/// A flood can bring a completion for each time that the thread enters the kernel, while its tasks
/// do not get to look. That there are more is not lost but costs.
const COMPLETIONS: u32 = 1024;

const INPUT: u64 = 0;
const OUTPUT: u64 = 1;
/// Completions of removals.
const NOBODY: u64 = u64::MAX;

/// Watches sockets for one executor.
pub(crate) struct Ring {
    uring: RefCell<IoUring>,
    watched: RefCell<HashMap<u64, Rc<State>>>,
    ids: Cell<u64>,
    /// Kept for its allocation.
    completed: RefCell<Vec<(u64, i32, u32)>>,
}

/// What is known of a socket.
#[derive(Default)]
struct State {
    fd: RawFd,
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// Why it is not watched any more, as an error number.
    failed: Cell<Option<i32>>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl Ring {
    /// Make a ring, and start the task that listens to it.
    pub(crate) fn start(tasks: &Rc<Tasks>) -> io::Result<Rc<Self>> {
        // Without interrupting the thread: it enters the kernel often enough.
        let uring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_clamp()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)
            // Kernels before 5.19 do not know that.
            .or_else(|_| IoUring::new(ENTRIES))
            .map_err(start::explain)?;
        let signal = eventfd(0, EventfdFlags::CLOEXEC)?;
        uring.submitter().register_eventfd(signal.as_raw_fd())?;
        let ring = Rc::new(Self {
            uring: RefCell::new(uring),
            watched: RefCell::default(),
            ids: Cell::new(0),
            completed: RefCell::default(),
        });
        // SAFETY: the descriptor is ours, and ownership goes over to the file.
        let signal = unsafe { BufferedFile::from_raw_fd(signal.into_raw_fd()) };
        tasks.spawn(listen(
            Rc::downgrade(&ring),
            signal,
            tasks.preemption.clone(),
        ));
        Ok(ring)
    }

    /// Watch a socket, which must stay open until the watch is dropped.
    pub(crate) fn watch(self: &Rc<Self>, socket: BorrowedFd<'_>) -> io::Result<Watch> {
        let id = self.ids.get() + 1;
        self.ids.set(id);
        let state = Rc::new(State {
            fd: socket.as_raw_fd(),
            // Unknown, which is found out by trying.
            readable: Cell::new(true),
            writable: Cell::new(true),
            ..State::default()
        });
        self.watched.borrow_mut().insert(id, state.clone());
        let watch = Watch {
            ring: self.clone(),
            id,
            state,
        };
        self.arm_input(id, &watch.state)?;
        Ok(watch)
    }

    fn arm_input(&self, id: u64, state: &State) -> io::Result<()> {
        let events = PollFlags::IN.bits().into();
        let poll = opcode::PollAdd::new(types::Fd(state.fd), events).multi(true);
        self.submit(&poll.build().user_data(id << 1 | INPUT))
    }

    /// Submit an operation that refers to no memory.
    fn submit(&self, entry: &squeue::Entry) -> io::Result<()> {
        let mut uring = self.uring.borrow_mut();
        // SAFETY: only polls and their removal come here, which have a descriptor and numbers.
        while unsafe { uring.submission().push(entry) }.is_err() {
            submit(&uring)?;
        }
        submit(&uring)
    }

    /// Take note of what the kernel has reported. Costs no system call, unless there was too much.
    pub(crate) fn take_events(&self) {
        let mut completed = std::mem::take(&mut *self.completed.borrow_mut());
        let mut uring = self.uring.borrow_mut();
        loop {
            completed.extend(
                uring
                    .completion()
                    .map(|entry| (entry.user_data(), entry.result(), entry.flags())),
            );
            // What found no room stays in the kernel until somebody enters the ring, and is the end
            // of a watch: without it the socket would stay silent for good.
            if !uring.submission().cq_overflow() {
                break;
            }
            if let Err(error) = submit(&uring) {
                drop(uring);
                tracing::error!(%error, "cannot take what the ring that watches sockets reports");
                return self.fail(error.raw_os_error().unwrap_or(0));
            }
        }
        drop(uring);
        for (user_data, result, flags) in completed.drain(..) {
            if user_data == NOBODY {
                continue;
            }
            let id = user_data >> 1;
            let state = self.watched.borrow().get(&id).cloned();
            // Otherwise it is not watched any more.
            if let Some(state) = state {
                let more = cqueue::more(flags);
                self.take_event(id, &state, user_data & 1, result, more);
            }
        }
        *self.completed.borrow_mut() = completed;
    }

    fn take_event(&self, id: u64, state: &State, direction: u64, result: i32, more: bool) {
        let mut failed = (result < 0).then_some(-result);
        // The kernel ends a watch when it has no room for events.
        if direction == INPUT && !more && failed.is_none() {
            failed = self
                .arm_input(id, state)
                .err()
                .map(|error| error.raw_os_error().unwrap_or(0));
        }
        let error_events: i32 = (PollFlags::ERR | PollFlags::HUP).bits().into();
        let both = failed.is_some() || result & error_events != 0;
        if failed.is_some() {
            state.failed.set(failed);
        }
        if both || direction == INPUT {
            state.readable.set(true);
            wake(&state.reader);
        }
        if both || direction == OUTPUT {
            state.writable.set(true);
            wake(&state.writer);
        }
    }

    /// Have everything that is watched fail.
    fn fail(&self, error: i32) {
        let watched: Vec<_> = self.watched.borrow().values().cloned().collect();
        for state in watched {
            state.failed.set(Some(error));
            wake(&state.reader);
            wake(&state.writer);
        }
    }
}

fn submit(uring: &IoUring) -> io::Result<()> {
    loop {
        match uring.submit() {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn wake(waker: &RefCell<Option<Waker>>) {
    let waker = waker.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn register(slot: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    let mut slot = slot.borrow_mut();
    if !slot.as_ref().is_some_and(|old| old.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

/// Reads the eventfd through glommio, for as long as there is a ring.
async fn listen(ring: Weak<Ring>, signal: BufferedFile, preemption: Rc<Preemption>) {
    loop {
        let result = signal.read_at(0, 8).await;
        preemption.note_look();
        let Some(ring) = ring.upgrade() else {
            return;
        };
        ring.take_events();
        if let Err(error) = result {
            let error = io::Error::from(error);
            tracing::error!(%error, "cannot listen to the ring that watches sockets");
            return ring.fail(error.raw_os_error().unwrap_or(0));
        }
    }
}

/// A socket that is watched, until this is dropped.
pub(crate) struct Watch {
    ring: Rc<Ring>,
    id: u64,
    state: Rc<State>,
}

impl Watch {
    /// Ready when there may be input.
    pub(crate) fn poll_readable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, &self.state.readable, &self.state.reader)
    }

    /// Ready when there may be room for output.
    pub(crate) fn poll_writable(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, &self.state.writable, &self.state.writer)
    }

    fn poll(
        &self,
        cx: &Context<'_>,
        ready: &Cell<bool>,
        waiter: &RefCell<Option<Waker>>,
    ) -> Poll<io::Result<()>> {
        if !ready.get() {
            register(waiter, cx);
        }
        // Here, too: tasks that are always ready, such as a driver that sends much, would otherwise
        // keep the others from hearing of theirs until glommio looks for I/O again.
        self.ring.take_events();
        if let Some(error) = self.state.failed.get() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(error)));
        }
        match ready.get() {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Say whether there is input left. Said before an attempt: an arrival in between then counts.
    pub(crate) fn set_readable(&self, readable: bool) {
        self.state.readable.set(readable);
    }

    /// Say that there is no room for output, and have the kernel tell when there is, even if that
    /// was meanwhile.
    pub(crate) fn set_full(&self) -> io::Result<()> {
        if self.state.writable.replace(false) {
            let events = PollFlags::OUT.bits().into();
            let poll = opcode::PollAdd::new(types::Fd(self.state.fd), events);
            self.ring
                .submit(&poll.build().user_data(self.id << 1 | OUTPUT))?;
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ring.watched.borrow_mut().remove(&self.id);
        // Until then the kernel keeps the socket, and its address stays in use.
        for direction in [INPUT, OUTPUT] {
            let remove = opcode::PollRemove::new(self.id << 1 | direction);
            if let Err(error) = self.ring.submit(&remove.build().user_data(NOBODY)) {
                tracing::debug!(%error, "cannot stop watching a socket");
            }
        }
    }
}
