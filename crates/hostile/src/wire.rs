//! Integers of variable length (RFC 9000 section 16).

/// Append `value` in its shortest form.
///
/// # Panics
///
/// If it does not fit into 62 bits. What cannot be said is sent as raw bytes.
pub fn put_varint(buf: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3f => buf.push(value as u8),
        0x40..=0x3fff => buf.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3fff_ffff => {
            buf.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes());
        }
        _ => {
            assert!(value < 1 << 62, "{value} does not fit into 62 bits");
            buf.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes());
        }
    }
}

/// Takes bytes from the front of a slice; `None` when there are too few.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next byte.
    pub fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    /// The next integer of variable length.
    pub fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let more = self.take((1 << (first >> 6)) - 1)?;
        let start = u64::from(first & 0x3f);
        Some(
            more.iter()
                .fold(start, |value, byte| value << 8 | u64::from(*byte)),
        )
    }

    /// Bytes preceded by their number, as an integer of variable length.
    pub fn prefixed(&mut self) -> Option<&'a [u8]> {
        let count = self.varint()?;
        self.take(usize::try_from(count).ok()?)
    }

    /// Bytes preceded by their number in one byte: a connection id.
    pub fn short(&mut self) -> Option<&'a [u8]> {
        let count = self.byte()?;
        self.take(count.into())
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_the_trip_at_every_length() {
        for value in [0, 63, 64, 16_383, 16_384, 1 << 29, 1 << 30, (1 << 62) - 1] {
            let mut buf = Vec::new();
            put_varint(&mut buf, value);
            let mut reader = Reader(&buf);
            assert_eq!(reader.varint(), Some(value));
            assert!(reader.0.is_empty());
            assert_eq!(Reader(&buf[..buf.len() - 1]).varint(), None);
        }
    }
}
