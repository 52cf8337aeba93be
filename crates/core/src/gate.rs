//! Two exceptions from congestion control that quinn-proto does not make.
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
//!
//! Every controller is wrapped here. A [`Gate`], which the connection holds, opens the window in the
//! first case, and in the second widens it by a few packets whenever a probe timeout fires
//! (RFC 9002 section 6.2.4 allows two packets then, whatever the window).

use std::any::Any;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use crate::Instant;

/// How much more may be in flight after a probe timeout: two datagrams of a probe and two of the
/// flight that must get out, as large as any that are sent during a handshake.
const RELIEF: u64 = 4 * 1500;

thread_local! {
    /// The gate of the controller that was built last on this thread. quinn-proto builds controllers
    /// while it makes a connection and when a peer migrates, and tells nobody for which.
    static BUILT: RefCell<Option<Arc<Gate>>> = const { RefCell::new(None) };
}

/// What lets a connection change its congestion window.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    /// The window is never below this.
    floor: AtomicU64,
    /// Bytes sent, and neither acknowledged nor lost. Too much rather than too little: packets whose
    /// keys were discarded stay in it.
    outstanding: AtomicU64,
}

impl Gate {
    /// The one of the controller built since this was last called.
    pub(crate) fn take_built() -> Option<Arc<Self>> {
        BUILT.take()
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

    fn settle(&self, bytes: u64) {
        // Only the controller writes it, and it is never in two places at once.
        let outstanding = self.outstanding.load(Ordering::Relaxed);
        self.outstanding
            .store(outstanding.saturating_sub(bytes), Ordering::Relaxed);
    }
}

/// Makes controllers with gates.
pub(crate) struct GatedFactory(pub(crate) Arc<dyn ControllerFactory + Send + Sync>);

impl ControllerFactory for GatedFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let gate = Arc::new(Gate::default());
        BUILT.set(Some(gate.clone()));
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
        self.controller.window().max(floor)
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
