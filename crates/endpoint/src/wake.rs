//! Wake-ups: of the driver by everybody, of tasks by the driver.

use std::sync::Arc;
use std::task::{Wake, Waker};

use crate::sync::AtomicWaker;
use crate::sync::atomic::{AtomicU8, Ordering};

/// Why the driver was woken.
///
/// A driver that does not know tries everything; receiving from an empty socket at every wake-up
/// alone costs a third of a request.
pub(crate) mod cause {
    /// The socket has something to receive.
    pub(crate) const READABLE: u8 = 1;
    /// The socket has room to send.
    pub(crate) const WRITABLE: u8 = 1 << 1;
    /// The timer expired.
    pub(crate) const TIMER: u8 = 1 << 2;
    /// A handle left work: a connection in the dirty queue, a response, a rebind, a shutdown.
    pub(crate) const HANDLE: u8 = 1 << 3;
    /// The socket that was replaced has something to receive.
    pub(crate) const OLD_READABLE: u8 = 1 << 4;
    /// Another shard handed something over.
    pub(crate) const HANDED: u8 = 1 << 5;
    /// TLS that was done elsewhere is done.
    pub(crate) const OFFLOAD: u8 = 1 << 6;
}

/// The driver's bell: collects causes, and wakes the driver's task once for any number of them.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    causes: AtomicU8,
    task: AtomicWaker,
}

impl Signal {
    /// Wake the driver unless a wake-up is already under way.
    pub(crate) fn raise(&self, cause: u8) {
        if self.causes.fetch_or(cause, Ordering::AcqRel) == 0 {
            self.task.wake();
        }
    }

    /// To be called at the start of each poll, before [`take`](Self::take).
    pub(crate) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Why the driver was woken; from now on the next cause wakes it again.
    pub(crate) fn take(&self) -> u8 {
        self.causes.swap(0, Ordering::AcqRel)
    }

    /// A waker that raises one cause, to be given to a socket or a timer.
    pub(crate) fn waker(self: &Arc<Self>, cause: u8) -> Waker {
        Waker::from(Arc::new(Bell {
            signal: self.clone(),
            cause,
        }))
    }
}

struct Bell {
    signal: Arc<Signal>,
    cause: u8,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.signal.raise(self.cause);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.signal.raise(self.cause);
    }
}

/// Tasks that wait for the same thing. Waking wakes them all.
///
/// Each waiting future owns a [`Ticket`] and takes its waker out when it is dropped, so that futures
/// that are made and dropped in a loop (`select!`) leave nothing behind.
#[derive(Debug, Default)]
pub(crate) struct WakerSet {
    /// Counts [`drain`](Self::drain)s; tickets of an earlier round are void.
    round: u32,
    wakers: Vec<Option<Waker>>,
}

/// A place in a [`WakerSet`], if any.
#[derive(Debug, Default)]
pub(crate) struct Ticket(Option<(u32, u32)>);

impl WakerSet {
    /// Wait here. Replaces the waker that the same ticket registered before.
    pub(crate) fn register(&mut self, ticket: &mut Ticket, waker: &Waker) {
        if let Some((round, index)) = ticket.0
            && round == self.round
        {
            match &mut self.wakers[index as usize] {
                Some(old) if old.will_wake(waker) => {}
                slot => *slot = Some(waker.clone()),
            }
            return;
        }
        let index = match self.wakers.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                if self.wakers.is_empty() {
                    // Most things are waited for by one task; a vector would start with room for 4.
                    self.wakers.reserve_exact(1);
                }
                self.wakers.push(None);
                self.wakers.len() - 1
            }
        };
        self.wakers[index] = Some(waker.clone());
        ticket.0 = Some((self.round, index as u32));
    }

    /// Stop waiting.
    pub(crate) fn deregister(&mut self, ticket: &mut Ticket) {
        if let Some((round, index)) = ticket.0.take()
            && round == self.round
        {
            self.wakers[index as usize] = None;
        }
    }

    /// Move all wakers to `woken`. They are woken once locks are released, lest the woken task run
    /// into the lock on another core.
    pub(crate) fn drain(&mut self, woken: &mut Vec<Waker>) {
        if !self.wakers.is_empty() {
            self.round = self.round.wrapping_add(1);
            woken.extend(self.wakers.drain(..).flatten());
        }
    }
}

impl Ticket {
    /// Whether this ticket may still be in its set.
    pub(crate) fn is_registered(&self) -> bool {
        self.0.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn signal_wakes_once_for_many_causes() {
        let signal = Arc::new(Signal::default());
        let count = Arc::new(Count::default());
        signal.register(&Waker::from(count.clone()));
        signal.raise(cause::HANDLE);
        signal.waker(cause::TIMER).wake();
        signal.raise(cause::HANDLE);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(signal.take(), cause::HANDLE | cause::TIMER);
        signal.register(&Waker::from(count.clone()));
        signal.raise(cause::READABLE);
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn dropped_futures_leave_nothing() {
        let mut set = WakerSet::default();
        let count = Arc::new(Count::default());
        let waker = Waker::from(count.clone());
        for _ in 0..1000 {
            let mut ticket = Ticket::default();
            set.register(&mut ticket, &waker);
            set.register(&mut ticket, &waker);
            set.deregister(&mut ticket);
        }
        assert_eq!(set.wakers.len(), 1);
        let (mut a, mut b) = (Ticket::default(), Ticket::default());
        set.register(&mut a, &waker);
        set.register(&mut b, &waker);
        let mut woken = Vec::new();
        set.drain(&mut woken);
        assert_eq!(woken.len(), 2);
        // A ticket of an earlier round must not remove somebody else's waker.
        let mut c = Ticket::default();
        set.register(&mut c, &waker);
        set.deregister(&mut a);
        set.drain(&mut woken);
        assert_eq!(woken.len(), 3);
    }
}
