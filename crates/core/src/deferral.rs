//! A connection whose TLS is done elsewhere, as the machine sees it.

use std::sync::Arc;

use quinn_proto::{ConnectionEvent, ConnectionStats};

use crate::crypto::offload::{HandshakeJob, Link};

/// Most datagrams that wait for TLS. A client that has heard nothing yet sends no more than its
/// first congestion window, and what it repeats.
const MAX_HELD: usize = 32;

/// The least bytes of the datagram that a connection begins with (RFC 9000 section 14.1).
const FIRST_DATAGRAM_BYTES: u64 = 1_200;

/// What a connection needs around a TLS session that may be away.
pub(crate) struct Deferral {
    pub(crate) link: Arc<Link>,
    /// What came in meanwhile.
    held: Vec<ConnectionEvent>,
    /// What quinn-proto was given that did not come from the network, or had been counted before.
    injected_datagrams: u64,
    injected_bytes: u64,
    /// Whether the client's address was proved before the connection was accepted.
    validated: bool,
    /// Whether the application has yet to hear that what was negotiated is known.
    pub(crate) data_ready: bool,
}

impl Deferral {
    pub(crate) fn new(link: Arc<Link>, validated: bool) -> Self {
        Self {
            link,
            held: Vec::new(),
            injected_datagrams: 0,
            injected_bytes: 0,
            validated,
            data_ready: false,
        }
    }

    pub(crate) fn take_job(&self) -> Option<HandshakeJob> {
        self.link.take_job()
    }

    /// Keep an event for when TLS is back.
    pub(crate) fn hold(&mut self, event: ConnectionEvent) {
        if self.held.len() < MAX_HELD {
            self.held.push(event);
        }
    }

    /// What was kept.
    pub(crate) fn release(&mut self) -> Vec<ConnectionEvent> {
        std::mem::take(&mut self.held)
    }

    /// Note that quinn-proto is given a datagram that does not count.
    pub(crate) fn inject(&mut self, bytes: usize) {
        self.injected_datagrams += 1;
        self.injected_bytes += bytes as u64;
    }

    /// Whether nothing may be sent to an address that may be forged: three times what came from
    /// there is the limit (RFC 9000 section 8.1). quinn-proto's own count includes what it was given
    /// twice. Like quinn-proto, a datagram is begun as long as there is anything left.
    pub(crate) fn is_blocked(&self, stats: &ConnectionStats) -> bool {
        // The first datagram is not in these numbers.
        let received = self.link.first_packet_bytes().max(FIRST_DATAGRAM_BYTES)
            + stats.udp_rx.bytes.saturating_sub(self.injected_bytes);
        self.counts_sends() && stats.udp_tx.bytes >= 3 * received
    }

    /// Whether [`is_blocked`](Self::is_blocked) must be asked for each datagram.
    pub(crate) fn counts_sends(&self) -> bool {
        self.injected_bytes > 0 && !self.validated && !self.link.is_validated()
    }

    /// Counters without what quinn-proto was given twice.
    pub(crate) fn corrected(&self, mut stats: ConnectionStats) -> ConnectionStats {
        let received = &mut stats.udp_rx;
        received.datagrams = received.datagrams.saturating_sub(self.injected_datagrams);
        received.bytes = received.bytes.saturating_sub(self.injected_bytes);
        received.ios = received.ios.saturating_sub(self.injected_datagrams);
        stats
    }
}
