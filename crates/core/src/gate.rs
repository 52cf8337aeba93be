//! Three exceptions from congestion control that quinn-proto does not make.
//!
//! quinn-proto asks the congestion controller before every packet, and so leaves unsent what must not
//! wait for the window to open:
//!
//! - A CONNECTION_CLOSE, while there is data that the window holds back. A closed connection does not
//!   look at acknowledgements any more, so the window stays shut, the closing period passes, and the
//!   peer hears nothing until its idle timeout.
//! - The last flight of a handshake, while earlier packets fill the window, which losses have made
//!   small. As it was never sent, nothing asks for it to be probed, and what is in flight will never
//!   be acknowledged by a peer that waits for this flight.
//! - Anything, while acknowledgements fill the window that are padded (`pad_to_mtu`). Padding counts as
//!   in flight, but a packet with nothing else is not acknowledged for its own sake. Two sides whose
//!   windows are full of them wait for each other.
//!
//! Every controller is wrapped here. A [`Gate`], which the connection holds, opens the window in the
//! first case, and in the second widens it by a few packets when a probe timeout fires (RFC 9002
//! section 6.2.4 allows two packets then, whatever the window). In the third it widens it by what
//! those packets take up of it, as if they were not padded.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use crate::Instant;

/// How much more may be in flight after a probe timeout: two datagrams of a probe and two of the
/// flight that must get out, as large as any that are sent during a handshake.
const RELIEF: u64 = 4 * 1500;

/// quinn-proto forgets about packets that nobody acknowledges when there are more of them.
const MAX_PADDED: usize = 1000;

/// quinn-proto doubles the time to the next probe timeout so many times.
const MAX_BACKOFF_EXPONENT: u32 = 16;

thread_local! {
    /// The gate of the connection that this thread is at work for. quinn-proto builds controllers
    /// while it makes a connection and when a peer migrates, and tells nobody for which.
    static CURRENT: RefCell<Option<Arc<Gate>>> = const { RefCell::new(None) };
}

/// What lets a connection change its congestion window: that of all its paths.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The window is never below this.
    floor: AtomicU64,
    /// Bytes sent, and neither acknowledged nor lost. Too much rather than too little: packets whose
    /// keys were discarded stay in it. Looked at only during the handshake, when there is one path.
    outstanding: AtomicU64,
    /// The number of the last packet sent.
    last_sent: AtomicU64,
    /// Bytes of `padded`, by which the window is wider.
    padded_bytes: AtomicU64,
    /// Packets that only acknowledge, with numbers above all that were acknowledged, and their bytes.
    padded: Mutex<VecDeque<(u64, u64)>>,
}

impl Gate {
    /// Do what may build controllers. They get this gate.
    pub(crate) fn around<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        /// Also when `work` panics, so that no other connection gets this gate.
        struct Restore(Option<Arc<Gate>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        work()
    }

    /// Let everything out.
    pub(crate) fn open(&self) {
        self.floor.store(u64::MAX, Ordering::Relaxed);
    }

    /// Let a few packets out, whatever is in flight.
    pub(crate) fn relieve(&self) {
        let outstanding = self.outstanding.load(Ordering::Relaxed);
        self.floor.store(outstanding + RELIEF, Ordering::Relaxed);
    }

    /// The controller alone decides again.
    pub(crate) fn rest(&self) {
        self.floor.store(0, Ordering::Relaxed);
    }

    /// The packet sent last, of so many bytes, counts as in flight, and does not ask for an
    /// acknowledgement.
    pub(crate) fn sent_padded(&self, bytes: u64) {
        let mut padded = self.padded.lock().unwrap_or_else(PoisonError::into_inner);
        if padded.len() == MAX_PADDED {
            padded.pop_front();
        }
        padded.push_back((self.last_sent.load(Ordering::Relaxed), bytes));
        self.count(&padded);
    }

    /// Of those up to this number, all are acknowledged or will soon be lost.
    fn settle_padded(&self, largest_acked: u64) {
        if self.padded_bytes.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut padded = self.padded.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = padded.partition_point(|(number, _)| *number <= largest_acked);
        padded.drain(..settled);
        self.count(&padded);
    }

    fn count(&self, padded: &VecDeque<(u64, u64)>) {
        let bytes = padded.iter().map(|(_, bytes)| bytes).sum();
        self.padded_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Bytes are not in flight any more. What was allowed beyond the window is not allowed again in
    /// their place.
    fn settle(&self, bytes: u64) {
        // Connection and controllers are never in two places at once.
        let outstanding = self.outstanding.load(Ordering::Relaxed);
        self.outstanding
            .store(outstanding.saturating_sub(bytes), Ordering::Relaxed);
        let floor = self.floor.load(Ordering::Relaxed);
        if floor != u64::MAX {
            self.floor
                .store(floor.saturating_sub(bytes), Ordering::Relaxed);
        }
    }
}

/// When probe timeouts may have fired. quinn-proto does not tell which of its timers was due; but its
/// probe timeout is more than a round-trip time, and doubles.
#[derive(Debug)]
pub(crate) struct Probes {
    /// When the last may have fired, or the connection began.
    since: Instant,
    /// How many may have fired since something was acknowledged.
    count: u32,
    /// ACK frames received.
    acks: u64,
}

impl Probes {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            count: 0,
            acks: 0,
        }
    }

    /// Some timer was due. Whether it may have been a probe timeout.
    pub(crate) fn may_be_due(&mut self, now: Instant, rtt: Duration, acks: u64) -> bool {
        if self.acks != acks {
            self.acks = acks;
            self.count = 0;
        }
        // The second comes as long after the first as that after the packet, if none was sent meanwhile.
        let exponent = self.count.saturating_sub(1).min(MAX_BACKOFF_EXPONENT);
        let due = now.saturating_duration_since(self.since) >= rtt.saturating_mul(1 << exponent);
        if due {
            self.since = now;
            self.count += 1;
        }
        due
    }
}

/// Makes controllers with gates.
pub(crate) struct GatedFactory(pub(crate) Arc<dyn ControllerFactory + Send + Sync>);

impl ControllerFactory for GatedFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let gate = CURRENT.with_borrow(Clone::clone);
        debug_assert!(gate.is_some(), "a controller for nobody");
        let gate = gate.unwrap_or_default();
        let controller = self.0.clone().build(now, current_mtu);
        Box::new(Gated { controller, gate })
    }
}

struct Gated {
    controller: Box<dyn Controller>,
    gate: Arc<Gate>,
}

impl Controller for Gated {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        let outstanding = self.gate.outstanding.load(Ordering::Relaxed);
        self.gate
            .outstanding
            .store(outstanding + bytes, Ordering::Relaxed);
        self.gate
            .last_sent
            .store(last_packet_number, Ordering::Relaxed);
        self.controller.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.gate.settle(bytes);
        self.controller.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        if let Some(largest) = largest_packet_num_acked {
            self.gate.settle_padded(largest);
        }
        self.controller
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.gate.settle(lost_bytes);
        self.controller
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.controller.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        let floor = self.gate.floor.load(Ordering::Relaxed);
        let padded = self.gate.padded_bytes.load(Ordering::Relaxed);
        self.controller.window().saturating_add(padded).max(floor)
    }

    fn metrics(&self) -> ControllerMetrics {
        self.controller.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            controller: self.controller.clone_box(),
            gate: self.gate.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.controller.initial_window()
    }

    /// Applications look for the controller that they chose.
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.controller.into_any()
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::congestion::NewRenoConfig;

    use super::*;

    fn build(now: Instant) -> Box<dyn Controller> {
        let factory = GatedFactory(Arc::new(NewRenoConfig::default()));
        Arc::new(factory).build(now, 1200)
    }

    #[test]
    fn all_controllers_of_a_connection_have_its_gate() {
        let now = Instant::now();
        let (ours, others) = (Arc::<Gate>::default(), Arc::<Gate>::default());
        let first = ours.around(|| build(now));
        // A controller of a connection that came to nothing, and a failure in the middle of the work.
        drop(others.around(|| build(now)));
        let result = std::panic::catch_unwind(|| others.around(|| panic!("on purpose")));
        assert!(result.is_err());
        assert!(CURRENT.with_borrow(Option::is_none));
        let second = ours.around(|| build(now));
        let moved = second.clone_box();
        ours.open();
        for controller in [first, second, moved] {
            assert_eq!(controller.window(), u64::MAX);
        }
        assert_eq!(Arc::strong_count(&others), 1);
        assert_eq!(Arc::strong_count(&ours), 1);
    }

    #[test]
    fn relief_is_for_so_many_bytes_once() {
        let now = Instant::now();
        let gate = Arc::<Gate>::default();
        let mut controller = gate.around(|| build(now));
        controller.on_sent(now, 100_000, 1);
        // Down to the least window.
        let sent = now + Duration::from_millis(1);
        controller.on_congestion_event(sent, sent, true, 20_000);
        let least = controller.window();
        assert!(least < 3000);
        gate.relieve();
        assert_eq!(controller.window(), 80_000 + RELIEF);
        gate.relieve();
        assert_eq!(controller.window(), 80_000 + RELIEF, "not once more");
        controller.on_congestion_event(now, now, false, 30_000);
        assert_eq!(controller.window(), 50_000 + RELIEF);
        controller.on_congestion_event(now, now, false, 50_000);
        assert_eq!(controller.window(), RELIEF);
        gate.rest();
        assert_eq!(controller.window(), least);
    }

    #[test]
    fn padded_acknowledgements_do_not_count() {
        let now = Instant::now();
        let gate = Arc::<Gate>::default();
        let mut controller = gate.around(|| build(now));
        let window = controller.window();
        for number in 0..MAX_PADDED as u64 + 10 {
            controller.on_sent(now, 1200, number);
            gate.sent_padded(1200);
        }
        assert_eq!(controller.window(), window + 1200 * MAX_PADDED as u64);
        controller.on_end_acks(now, 0, false, Some(MAX_PADDED as u64));
        assert_eq!(controller.window(), window + 1200 * 9);
        controller.on_end_acks(now, 0, false, Some(MAX_PADDED as u64 + 9));
        assert_eq!(controller.window(), window);
    }

    #[test]
    fn other_timers_are_no_probe_timeouts() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let mut probes = Probes::new(begin);
        let mut due = |at, acks| probes.may_be_due(begin + ms(at), ms(10), acks);
        assert!(!due(9, 0));
        assert!(due(30, 0));
        assert!(!due(31, 0) && !due(39, 0));
        // As long again, then twice, four times as long.
        assert!(due(60, 0));
        assert!(!due(75, 0));
        assert!(due(120, 0) && due(240, 0));
        assert!(!due(270, 0), "less than eight round trips");
        assert!(due(271, 1), "it begins anew");
    }
}
