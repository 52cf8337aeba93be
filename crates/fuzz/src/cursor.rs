//! Turns the fuzzer's bytes into decisions.

/// Reads decisions off the fuzzer's input; when that is used up, every decision is 0.
#[derive(Debug)]
pub(crate) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether there are no more decisions to be had.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    /// A number below `end`, which is at most 256.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Up to `count` bytes as they are.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// As many bytes as the next one says.
    pub(crate) fn slice(&mut self) -> &'a [u8] {
        let length = self.byte();
        self.take(length.into())
    }

    /// A number for a field of QUIC's: mostly small, at times at the edges of what is encodable.
    pub(crate) fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..=127 => small.into(),
            128..=191 => self.u16().into(),
            192..=223 => u32::from_be_bytes(self.array()).into(),
            224..=239 => u64::from_be_bytes(self.array()) >> 2,
            edge => [
                63,
                64,
                16_383,
                16_384,
                0xffff,
                0x10_0000,
                0x3fff_ffff,
                0x4000_0000,
                1 << 31,
                (1 << 32) - 1,
                1 << 32,
                (1 << 60) - 1,
                1 << 60,
                (1 << 60) + 1,
                (1 << 62) - 2,
                (1 << 62) - 1,
            ][usize::from(edge & 15)],
        }
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
