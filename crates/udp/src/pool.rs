//! Receive buffers.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Size of a receive buffer in bytes: the most that the kernel coalesces into one message.
pub(crate) const SLOT_BYTES: usize = 1 << 16;

/// Messages up to this many bytes are copied out, and their buffer is used again at once. Above it,
/// copying costs more than a buffer; below it, a short frame that the application has not read yet
/// would keep 64 KiB alive.
const COPY_BREAK_BYTES: usize = 8 << 10;

/// Most buffers to remember for reuse. More may be in use; they are freed when they come back.
const MAX_RECYCLED: usize = 64;

/// Buffers for one socket.
///
/// A filled buffer is split: the payload goes to the protocol, and through it to the application,
/// without being copied; what is left of the buffer stays here. When the last piece of the payload
/// has been dropped, that rest is all there is, and grows back into a whole buffer.
#[derive(Debug, Default)]
pub struct RecvPool {
    /// To receive into; each `SLOT_BYTES` long.
    slots: Vec<BytesMut>,
    /// What is left of buffers whose payload is still in use, oldest first.
    lent: VecDeque<BytesMut>,
}

impl RecvPool {
    /// The first `count` buffers, whole.
    pub(crate) fn slots(&mut self, count: usize) -> &mut [BytesMut] {
        while self.slots.len() < count {
            let slot = self.take_slot();
            self.slots.push(slot);
        }
        &mut self.slots[..count]
    }

    /// Take the first `len` bytes out of buffer `index`.
    pub(crate) fn take(&mut self, index: usize, len: usize) -> BytesMut {
        if len <= COPY_BREAK_BYTES {
            // One allocation per message; it is what keeps small messages small.
            return BytesMut::from(&self.slots[index][..len]);
        }
        let next = self.take_slot();
        let mut slot = std::mem::replace(&mut self.slots[index], next);
        let payload = slot.split_to(len);
        slot.clear();
        if self.lent.len() < MAX_RECYCLED {
            self.lent.push_back(slot);
        }
        payload
    }

    /// A whole buffer: the oldest one if it has come back, else a new one.
    fn take_slot(&mut self) -> BytesMut {
        // Looking at two keeps one slow reader from hiding all buffers behind its own.
        for _ in 0..self.lent.len().min(2) {
            let Some(mut slot) = self.lent.pop_front() else {
                break;
            };
            if slot.try_reclaim(SLOT_BYTES) {
                // SAFETY: `slot` is empty and has at least `SLOT_BYTES` of capacity. It was split
                // from a buffer made by `BytesMut::zeroed(SLOT_BYTES)` below, and `try_reclaim`
                // never allocates: this is that same allocation, every byte of which was
                // initialised when it was made, whatever was written to it since.
                unsafe { slot.set_len(SLOT_BYTES) };
                return slot;
            }
            self.lent.push_back(slot);
        }
        BytesMut::zeroed(SLOT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pool: &mut RecvPool, len: usize, value: u8) -> BytesMut {
        pool.slots(1)[0][..len].fill(value);
        pool.take(0, len)
    }

    #[test]
    fn large_payloads_are_not_copied_and_come_back() {
        let mut pool = RecvPool::default();
        let address = pool.slots(1)[0].as_ptr();
        let payload = fill(&mut pool, 60_000, 7);
        assert_eq!(payload.as_ptr(), address);
        assert!(payload.iter().all(|&byte| byte == 7));
        // In use: the next slot is another buffer.
        assert_ne!(pool.slots(1)[0].as_ptr(), address);
        drop(payload);
        drop(fill(&mut pool, 60_000, 8));
        assert_eq!(
            pool.slots(1)[0].as_ptr(),
            address,
            "the first buffer was not used again"
        );
        assert_eq!(pool.slots(1)[0].len(), SLOT_BYTES);
    }

    #[test]
    fn a_kept_piece_keeps_its_buffer_out_of_use() {
        let mut pool = RecvPool::default();
        let kept = fill(&mut pool, 60_000, 1).split_to(100);
        for round in 0..200u8 {
            drop(fill(&mut pool, 60_000, round));
        }
        assert!(
            kept.iter().all(|&byte| byte == 1),
            "a buffer in use was overwritten"
        );
        assert!(pool.lent.len() <= 4, "buffers pile up: {}", pool.lent.len());
    }

    #[test]
    fn small_payloads_do_not_hold_buffers() {
        let mut pool = RecvPool::default();
        let address = pool.slots(1)[0].as_ptr();
        let payloads: Vec<_> = (0..100).map(|i| fill(&mut pool, 1200, i)).collect();
        assert_eq!(pool.slots(1)[0].as_ptr(), address);
        assert!(
            payloads
                .iter()
                .zip(0..)
                .all(|(p, i)| p.len() == 1200 && p[0] == i)
        );
        assert!(payloads.iter().all(|p| p.capacity() < 4096));
    }
}
