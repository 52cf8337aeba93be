//! How much, and how many: token buckets, and who is connected.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

/// How long a client may stay silent and then send at once what it saved meanwhile.
const BURST: Duration = Duration::from_millis(250);

/// A rate with a burst: what is taken comes back with time.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    most: f64,
    tokens: f64,
    last: Instant,
}

impl Bucket {
    /// Full at first. At least `least` fit into it, so that no single datagram is too large.
    pub(crate) fn new(per_second: u64, least: u64, now: Instant) -> Self {
        let per_second = per_second as f64;
        let most = (per_second * BURST.as_secs_f64()).max(least as f64);
        Self {
            per_second,
            most,
            tokens: most,
            last: now,
        }
    }

    /// Take `amount`, if there is as much.
    pub(crate) fn take(&mut self, amount: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last);
        self.last = now;
        self.tokens = (self.tokens + passed.as_secs_f64() * self.per_second).min(self.most);
        let enough = self.tokens >= amount as f64;
        if enough {
            self.tokens -= amount as f64;
        }
        enough
    }
}

/// What one direction of one client may carry.
#[derive(Debug)]
pub(crate) struct Meter {
    bytes: Option<Bucket>,
    datagrams: Option<Bucket>,
}

impl Meter {
    /// No limit where there is `None`. `largest` is the size of the largest datagram.
    pub(crate) fn new(
        rate: Option<u64>,
        datagram_rate: Option<u64>,
        largest: u64,
        now: Instant,
    ) -> Self {
        Self {
            bytes: rate.map(|rate| Bucket::new(rate, largest, now)),
            datagrams: datagram_rate.map(|rate| Bucket::new(rate, 1, now)),
        }
    }

    /// Whether a datagram of `length` bytes may pass.
    pub(crate) fn admits(&mut self, length: usize, now: Instant) -> bool {
        let one = self.datagrams.as_mut().is_none_or(|b| b.take(1, now));
        one && self
            .bytes
            .as_mut()
            .is_none_or(|b| b.take(length as u64, now))
    }
}

/// What may arrive for one client in all, from itself and from its target.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Option<u64>,
}

impl Budget {
    /// No limit if there is `None`.
    pub(crate) fn new(most: Option<u64>) -> Self {
        Self { left: most }
    }

    /// Take `length` bytes; `false` if there are not as many left. Then there are none for anything else
    /// either.
    pub(crate) fn take(&mut self, length: usize) -> bool {
        let Some(left) = &mut self.left else {
            return true;
        };
        let enough = *left >= length as u64;
        *left = left.saturating_sub(length as u64);
        enough
    }

    /// Whether nothing is left.
    pub(crate) fn is_used_up(&self) -> bool {
        self.left == Some(0)
    }
}

/// Tells a task that the relay goes away.
#[derive(Debug, Default)]
pub(crate) struct Leave {
    asked: AtomicBool,
    waker: AtomicWaker,
}

impl Leave {
    /// Whether the relay goes away; the task is woken when it does.
    pub(crate) fn asked(&self, cx: &mut std::task::Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.asked.load(Ordering::SeqCst)
    }

    /// Wait until the relay goes away. For one task at a time.
    pub(crate) async fn wait(&self) {
        std::future::poll_fn(|cx| match self.asked(cx) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        })
        .await;
    }

    fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    clients: HashMap<u64, Arc<Leave>>,
    per_address: HashMap<IpAddr, u32>,
    leaving: bool,
    /// Woken when the last client is gone.
    empty: Option<std::task::Waker>,
}

/// Why a client may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// There are as many as there may be.
    Clients,
    /// Of this address, there are.
    Address,
    /// The relay goes away.
    Leaving,
}

/// Counts what is open, by address.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    state: Arc<Mutex<State>>,
    most: u32,
    most_per_address: u32,
}

impl Registry {
    pub(crate) fn new(most: u32, most_per_address: u32) -> Self {
        Self {
            state: Arc::default(),
            most,
            most_per_address,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Let somebody from `ip` in, if there is room; he leaves when the guard is dropped.
    pub(crate) fn enter(&self, ip: IpAddr) -> Result<Entered, Full> {
        let address = group(ip);
        let mut state = self.lock();
        if state.leaving {
            return Err(Full::Leaving);
        }
        if state.clients.len() >= self.most as usize {
            return Err(Full::Clients);
        }
        let here = state.per_address.entry(address).or_default();
        if *here >= self.most_per_address {
            return Err(Full::Address);
        }
        *here += 1;
        state.next += 1;
        let (id, leave) = (state.next, Arc::new(Leave::default()));
        state.clients.insert(id, leave.clone());
        Ok(Entered {
            registry: self.clone(),
            id,
            address,
            leave,
        })
    }

    /// Ask everybody to leave, and let nobody in any more.
    pub(crate) fn leave(&self) {
        let clients: Vec<_> = {
            let mut state = self.lock();
            state.leaving = true;
            state.clients.values().cloned().collect()
        };
        clients.iter().for_each(|leave| leave.ask());
    }

    /// Wait until everybody has left. For one task at a time; cancel-safe.
    pub(crate) async fn empty(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            if state.clients.is_empty() {
                return std::task::Poll::Ready(());
            }
            state.empty = Some(cx.waker().clone());
            std::task::Poll::Pending
        })
        .await;
    }
}

/// Somebody who was let in.
#[derive(Debug)]
pub(crate) struct Entered {
    registry: Registry,
    id: u64,
    address: IpAddr,
    /// Told when the relay goes away.
    pub(crate) leave: Arc<Leave>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.registry.lock();
            state.clients.remove(&self.id);
            if let Some(here) = state.per_address.get_mut(&self.address) {
                *here -= 1;
                if *here == 0 {
                    state.per_address.remove(&self.address);
                }
            }
            if state.clients.is_empty() {
                state.empty.take()
            } else {
                None
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Who counts as one: an IPv4 address, or an IPv6 /64, as one customer has at least that.
fn group(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, 100, start);
        assert!(bucket.take(250, start), "a quarter of a second's worth");
        assert!(!bucket.take(1, start));
        let later = start + Duration::from_millis(100);
        assert!(bucket.take(100, later));
        assert!(!bucket.take(1, later));
        let much_later = start + Duration::from_secs(1000);
        assert!(
            !bucket.take(251, much_later),
            "no more than the burst is saved"
        );
        assert!(bucket.take(250, much_later));
    }

    #[test]
    fn the_largest_datagram_fits_into_the_smallest_bucket() {
        let start = Instant::now();
        let mut meter = Meter::new(Some(1), None, 1500, start);
        assert!(meter.admits(1500, start));
        assert!(!meter.admits(1, start));
        let mut meter = Meter::new(None, Some(1), 1500, start);
        assert!(meter.admits(1500, start));
        assert!(!meter.admits(1, start));
    }

    #[test]
    fn no_byte_passes_that_is_not_left() {
        let mut budget = Budget::new(Some(3000));
        assert!(budget.take(2999) && !budget.is_used_up());
        assert!(budget.take(1) && budget.is_used_up());
        let mut budget = Budget::new(Some(3000));
        assert!(budget.take(1000));
        assert!(!budget.take(2001), "more than is left");
        assert!(budget.is_used_up() && !budget.take(1), "and then nothing");
        let mut budget = Budget::new(None);
        assert!(budget.take(usize::MAX) && budget.take(usize::MAX));
    }

    #[test]
    fn clients_are_counted_in_all_and_by_address() {
        let registry = Registry::new(3, 2);
        let (one, two): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let first = registry.enter(one).unwrap();
        let _second = registry.enter(one).unwrap();
        assert_eq!(registry.enter(one).unwrap_err(), Full::Address);
        let _third = registry.enter(two).unwrap();
        assert_eq!(registry.enter(two).unwrap_err(), Full::Clients);
        drop(first);
        let _again = registry.enter(one).unwrap();
        registry.leave();
        assert_eq!(registry.enter(two).unwrap_err(), Full::Leaving);
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let registry = Registry::new(9, 1);
        let _one = registry.enter("2001:db8::1".parse().unwrap()).unwrap();
        let same = registry.enter("2001:db8::2".parse().unwrap());
        assert_eq!(same.unwrap_err(), Full::Address);
        assert!(registry.enter("2001:db8:0:1::1".parse().unwrap()).is_ok());
        let _old = registry.enter("10.0.0.1".parse().unwrap()).unwrap();
        let mapped = registry.enter("::ffff:10.0.0.1".parse().unwrap());
        assert_eq!(mapped.unwrap_err(), Full::Address);
    }
}
