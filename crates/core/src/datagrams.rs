//! Unreliable datagrams (RFC 9221) that wait for the application.

use std::collections::VecDeque;

use bytes::Bytes;
use quinn_proto::SendDatagramError;

/// So many datagrams stay in the packets that they came in; the application is assumed to be about
/// to read them. What comes on top is copied out, because each may keep a packet alive, and with
/// receive offload a buffer of 64 KiB.
const UNCOPIED_DATAGRAMS: usize = 16;

/// What a datagram costs besides its bytes.
const OVERHEAD_BYTES: usize = size_of::<Bytes>() + 16;

/// Datagrams that arrived and were not read yet. When there is no room, the oldest are dropped.
///
/// quinn-proto has such a queue, too; what it counts are payloads, while what it keeps are packets.
/// It is emptied into this one at once.
#[derive(Debug, Default)]
pub(crate) struct Received {
    queue: VecDeque<Bytes>,
    bytes: usize,
    limit_bytes: usize,
}

impl Received {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self {
            limit_bytes,
            ..Self::default()
        }
    }

    pub(crate) fn push(&mut self, datagram: Bytes) {
        let cost = datagram.len() + OVERHEAD_BYTES;
        while self.bytes + cost > self.limit_bytes && self.pop().is_some() {}
        let datagram = if self.queue.len() < UNCOPIED_DATAGRAMS {
            datagram
        } else {
            Bytes::copy_from_slice(&datagram)
        };
        self.bytes += cost;
        self.queue.push_back(datagram);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let datagram = self.queue.pop_front()?;
        self.bytes -= datagram.len() + OVERHEAD_BYTES;
        if self.queue.is_empty() && self.queue.capacity() > UNCOPIED_DATAGRAMS {
            self.queue = VecDeque::new();
        }
        Some(datagram)
    }
}

/// Unreliable datagrams (RFC 9221) of a connection.
pub struct Datagrams<'a> {
    pub(crate) inner: quinn_proto::Datagrams<'a>,
    pub(crate) received: &'a mut Received,
}

impl Datagrams<'_> {
    /// Queue a datagram to be sent. With `drop`, older ones make room for it if there is none.
    ///
    /// # Errors
    ///
    /// The peer takes no datagrams, or none of this size, or there is no room, or datagrams are
    /// switched off.
    pub fn send(&mut self, data: Bytes, drop: bool) -> Result<(), SendDatagramError> {
        self.inner.send(data, drop)
    }

    /// The largest datagram in bytes that can be sent now; `None` if the peer takes none, or they are
    /// switched off.
    pub fn max_size(&self) -> Option<usize> {
        self.inner.max_size()
    }

    /// The next datagram that was received.
    pub fn recv(&mut self) -> Option<Bytes> {
        self.received.pop()
    }

    /// Bytes that can be queued before older datagrams are dropped.
    pub fn send_buffer_space(&self) -> usize {
        self.inner.send_buffer_space()
    }
}

impl std::fmt::Debug for Datagrams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datagrams")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_lets_go_of_its_packet() {
        let packet = Bytes::from(vec![7; 1200]);
        let mut received = Received::new(1 << 20);
        for _ in 0..1000 {
            received.push(packet.slice(..1));
        }
        drop(packet.clone());
        let kept = |it: &&Bytes| it.as_ptr() == packet.as_ptr();
        assert_eq!(
            received.queue.iter().filter(kept).count(),
            UNCOPIED_DATAGRAMS
        );
        while let Some(datagram) = received.pop() {
            assert_eq!(datagram, [7][..]);
        }
        assert_eq!(received.bytes, 0);
    }

    #[test]
    fn the_oldest_are_dropped() {
        let mut received = Received::new(10 * (100 + OVERHEAD_BYTES));
        for number in 0..25 {
            received.push(vec![number; 100].into());
        }
        let left: Vec<_> = std::iter::from_fn(|| received.pop()).collect();
        let numbers: Vec<_> = left.iter().map(|it| it[0]).collect();
        assert_eq!(numbers, (15..25).collect::<Vec<_>>());
    }
}
