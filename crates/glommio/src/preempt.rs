//! Has glommio look for I/O while tasks are always ready.
//!
//! glommio looks when no task is ready, and when its preemption timer has fired. It goes to sleep if
//! it ran no task since it looked last, and 0.9 does not ask why it ran none: if that timer has fired
//! before the first task's turn, because the system ran other threads meanwhile, it sleeps with tasks
//! that are ready, until something else happens. A timer of a millisecond makes that common on a busy
//! machine. So the timer is long, and what interrupts glommio is a datagram to ourselves: as it wakes
//! a task, glommio does not sleep.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use glommio::net::UnixDatagram;

/// How long tasks that are always ready keep I/O and timers waiting.
const TURN: Duration = Duration::from_millis(1);

/// Polls of tasks between two looks at the clock.
const POLLS_PER_LOOK: u8 = 8;

/// Interrupts the executor of this thread when its tasks have kept it for long.
pub(crate) struct Preemption {
    bell: UnixDatagram,
    ear: UnixDatagram,
    /// Whether a datagram is on its way.
    rung: Cell<bool>,
    polls: Cell<u8>,
    /// When glommio is known to have looked for I/O.
    looked: Cell<Instant>,
}

impl Preemption {
    /// To be called by a task of the executor.
    pub(crate) fn new() -> io::Result<Rc<Self>> {
        let (bell, ear) = UnixDatagram::pair().map_err(io::Error::from)?;
        Ok(Rc::new(Self {
            bell,
            ear,
            rung: Cell::new(false),
            polls: Cell::new(0),
            looked: Cell::new(Instant::now()),
        }))
    }

    /// A task is about to be polled.
    pub(crate) fn tick(&self) {
        let polls = self.polls.get().wrapping_add(1);
        self.polls.set(polls);
        if !polls.is_multiple_of(POLLS_PER_LOOK)
            || self.rung.get()
            || self.looked.get().elapsed() < TURN
        {
            return;
        }
        self.rung.set(true);
        // Done at once: one datagram has room.
        let _ = pin!(self.bell.send(&[0])).poll(&mut Context::from_waker(Waker::noop()));
    }

    /// glommio has just looked for I/O.
    pub(crate) fn note_look(&self) {
        self.looked.set(Instant::now());
    }

    /// Wait to be interrupted, for ever. There must be two that do: glommio hands a receive to the
    /// kernel only when it looks for I/O next, so the one that has just been interrupted cannot be
    /// the one that brings that about.
    pub(crate) async fn listen(self: Rc<Self>) {
        loop {
            let result = self.ear.recv(&mut [0; 1]).await;
            self.note_look();
            self.rung.set(false);
            if let Err(error) = result {
                let error = io::Error::from(error);
                if error.kind() != io::ErrorKind::Interrupted {
                    tracing::error!(%error, "cannot interrupt tasks that are always ready");
                    return;
                }
            }
        }
    }
}
