//! Seeded randomness.

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A generator that follows from a seed and a purpose, so that what one part draws does not shift
/// what another gets.
pub(crate) fn generator(seed: u64, purpose: &str) -> StdRng {
    let mut hash = Fnv::default();
    hash.write(purpose.as_bytes());
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&hash.0.to_le_bytes());
    StdRng::from_seed(bytes)
}

/// True with this probability. Draws nothing if the answer is certain.
pub(crate) fn happens(rng: &mut StdRng, probability: f64) -> bool {
    probability > 0.0 && (probability >= 1.0 || rng.random::<f64>() < probability)
}

/// Anything below `limit`, which is not 0.
pub(crate) fn below(rng: &mut StdRng, limit: u64) -> u64 {
    rng.random_range(0..limit)
}

/// FNV-1a with 64 bits: the same on every machine and in every version, which no hasher of the
/// standard library promises.
#[derive(Clone, Copy)]
pub(crate) struct Fnv(pub(crate) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }
}
