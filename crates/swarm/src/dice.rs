//! Seeded choices.

use std::fmt;
use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A generator that follows from a seed and a purpose: what one part of a plan draws does not shift
/// what another gets, so that plans stay alike when something is added to one part.
pub(crate) struct Dice(StdRng);

impl Dice {
    pub(crate) fn new(seed: u64, purpose: impl fmt::Display) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in purpose.to_string().bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&hash.to_le_bytes());
        bytes[16] = b's';
        Self(StdRng::from_seed(bytes))
    }

    /// True with this probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.0.random::<f64>() < probability
    }

    /// Anything from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    /// As [`range`](Self::range), every order of magnitude as likely as the others. `low` is not 0.
    pub(crate) fn scale(&mut self, low: u64, high: u64) -> u64 {
        let (from, to) = ((low as f64).ln(), (high as f64).ln());
        let value = (from + (to - from) * self.0.random::<f64>()).exp();
        (value as u64).clamp(low, high)
    }

    pub(crate) fn probability(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.random::<f64>()
    }

    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.range(low, high))
    }

    /// As [`scale`](Self::scale), in milliseconds.
    pub(crate) fn span(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.scale(low * 1000, high * 1000))
    }

    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.range(0, choices.len() as u64 - 1) as usize].clone()
    }

    /// `Some` with this probability.
    pub(crate) fn maybe<T>(
        &mut self,
        probability: f64,
        draw: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        self.chance(probability).then(|| draw(self))
    }
}
