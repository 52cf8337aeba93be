//! How many datagrams one send may hold.

/// Most datagrams the kernel takes in one segmented send (`UDP_MAX_SEGMENTS` on Linux).
const MAX_SEGMENTS: usize = 64;

/// Most bytes in one segmented send: an IP packet's 65,535 less the IPv6 and UDP headers.
const MAX_BATCH_BYTES: usize = 65_535 - 40 - 8;

/// Where a batch starts, and where it returns to when the connection has little to send.
const SMALL_SEGMENTS: usize = 10;

/// Decides how many datagrams a connection may put into one send (GSO).
///
/// Measured on loopback: bulk transfer wants as many as fit, because the cost of a send hardly
/// depends on its size; requests and responses want few, because large batches make the two sides
/// take turns, each asleep while the other works. What a connection wants shows in what it fills:
/// the batch starts at 10, doubles whenever it was filled, and halves when less than half of it was
/// used.
///
/// ```
/// let mut sizer = polyquic_core::BatchSizer::default();
/// assert_eq!(sizer.limit(1452, 64), 10);
/// sizer.sent(10);
/// sizer.sent(20);
/// assert_eq!(sizer.limit(1452, 64), 40);
/// sizer.sent(40);
/// // 45 datagrams of 1452 bytes are what fits into one segmented send.
/// assert_eq!(sizer.limit(1452, 64), 45);
/// // A socket without segmentation offload sends one at a time.
/// assert_eq!(sizer.limit(1452, 1), 1);
/// ```
#[derive(Debug, Clone)]
pub struct BatchSizer {
    segments: u8,
}

impl Default for BatchSizer {
    fn default() -> Self {
        Self {
            segments: SMALL_SEGMENTS as u8,
        }
    }
}

impl BatchSizer {
    /// The most datagrams to ask for now, given the size of a datagram in bytes and what the socket
    /// supports. At least 1.
    pub fn limit(&self, datagram_bytes: u16, max_segments: usize) -> usize {
        let fits = MAX_BATCH_BYTES / usize::from(datagram_bytes).max(1);
        usize::from(self.segments)
            .min(fits)
            .min(max_segments)
            .max(1)
    }

    /// Note how many datagrams a send held.
    pub fn sent(&mut self, datagrams: usize) {
        let segments = usize::from(self.segments);
        let next = if datagrams >= segments {
            (segments * 2).min(MAX_SEGMENTS)
        } else if datagrams * 2 < segments {
            (segments / 2).max(SMALL_SEGMENTS)
        } else {
            segments
        };
        self.segments = next as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_while_filled_and_falls_back() {
        let mut sizer = BatchSizer::default();
        for datagrams in [10, 20, 40] {
            sizer.sent(datagrams);
        }
        assert_eq!(sizer.limit(1000, 64), 64);
        sizer.sent(33);
        assert_eq!(sizer.limit(1000, 64), 64, "more than half filled: keep");
        for _ in 0..8 {
            sizer.sent(1);
        }
        assert_eq!(sizer.limit(1000, 64), SMALL_SEGMENTS);
    }

    #[test]
    fn never_exceeds_what_one_ip_packet_holds() {
        let mut sizer = BatchSizer::default();
        for _ in 0..8 {
            let limit = sizer.limit(9000, 64);
            assert!(limit * 9000 <= MAX_BATCH_BYTES);
            sizer.sent(64);
        }
        assert_eq!(sizer.limit(65_000, 64), 1);
        assert_eq!(
            sizer.limit(0, 64),
            64,
            "a zero size must not divide by zero"
        );
    }
}
