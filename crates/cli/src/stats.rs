//! Percentiles, and numbers in words.

use std::time::Duration;

use serde::Serialize;

/// A summary of durations: what a person asks of a latency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// How many samples there were.
    pub(crate) count: usize,
    pub(crate) min_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Summary {
    /// Summarise; `None` without samples.
    pub(crate) fn of(mut samples: Vec<Duration>) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        samples.sort_unstable();
        Some(Self {
            count: samples.len(),
            min_ms: ms(samples[0]),
            p50_ms: ms(percentile(&samples, 50)),
            p90_ms: ms(percentile(&samples, 90)),
            p99_ms: ms(percentile(&samples, 99)),
            max_ms: ms(samples[samples.len() - 1]),
        })
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "min {:.3}  p50 {:.3}  p90 {:.3}  p99 {:.3}  max {:.3} ms",
            self.min_ms, self.p50_ms, self.p90_ms, self.p99_ms, self.max_ms
        )
    }
}

/// The nearest-rank percentile: the smallest sample that at least `percent` % do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

/// Durations by the million in bounded memory, to within 2 %.
///
/// Each power of two of nanoseconds is divided into 64 parts of equal width.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    min: Duration,
    max: Duration,
}

impl Histogram {
    const PARTS_BITS: u32 = 6;

    /// Without samples.
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; Self::bucket(u64::MAX) + 1],
            count: 0,
            min: Duration::MAX,
            max: Duration::ZERO,
        }
    }

    fn bucket(nanos: u64) -> usize {
        // Below 64 the buckets are one wide; above, the top seven bits say which.
        let shift = (64 - nanos.leading_zeros()).saturating_sub(Self::PARTS_BITS + 1);
        ((u64::from(shift) << Self::PARTS_BITS) + (nanos >> shift)) as usize
    }

    /// The largest value that falls into `bucket`.
    fn upper(bucket: usize) -> Duration {
        let bucket = bucket as u64;
        let parts = 1 << Self::PARTS_BITS;
        let shift = (bucket >> Self::PARTS_BITS).saturating_sub(1);
        let top = bucket - shift * parts;
        Duration::from_nanos((((u128::from(top) + 1) << shift) - 1) as u64)
    }

    /// Add a sample.
    pub(crate) fn record(&mut self, sample: Duration) {
        let nanos = u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX);
        self.counts[Self::bucket(nanos)] += 1;
        self.count += 1;
        self.min = self.min.min(sample);
        self.max = self.max.max(sample);
    }

    /// Add all samples of `other`.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// How many samples there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Summarise; `None` without samples.
    pub(crate) fn summary(&self) -> Option<Summary> {
        if self.count == 0 {
            return None;
        }
        let percentile = |percent: u64| {
            let rank = (u128::from(self.count) * u128::from(percent))
                .div_ceil(100)
                .max(1);
            let mut seen = 0u128;
            let bucket = self.counts.iter().position(|count| {
                seen += u128::from(*count);
                seen >= rank
            });
            ms(Self::upper(bucket.unwrap_or(0)).clamp(self.min, self.max))
        };
        Some(Summary {
            count: self.count as usize,
            min_ms: ms(self.min),
            p50_ms: percentile(50),
            p90_ms: percentile(90),
            p99_ms: percentile(99),
            max_ms: ms(self.max),
        })
    }
}

/// Milliseconds, for people and for JSON.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A number of bytes with three digits and a unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else if value < 10.0 {
        format!("{value:.2} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Bytes per second over `elapsed`; 0 when no time has passed.
pub(crate) fn rate(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() {
        0.0
    } else {
        count as f64 / elapsed.as_secs_f64()
    }
}

/// A rate in Mbit/s or Gbit/s.
pub(crate) fn bit_rate(bytes_per_second: f64) -> String {
    let mbit = bytes_per_second * 8.0 / 1e6;
    if mbit >= 1000.0 {
        format!("{:.2} Gbit/s", mbit / 1000.0)
    } else {
        format!("{mbit:.1} Mbit/s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let samples: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        let s = Summary::of(samples).unwrap();
        assert_eq!(s.count, 100);
        assert_eq!((s.min_ms, s.max_ms), (1.0, 100.0));
        assert_eq!((s.p50_ms, s.p90_ms, s.p99_ms), (50.0, 90.0, 99.0));
        let one = Summary::of(vec![Duration::from_millis(7)]).unwrap();
        assert_eq!((one.p50_ms, one.p99_ms), (7.0, 7.0));
        let two: Vec<_> = [1, 9].map(Duration::from_millis).to_vec();
        assert_eq!(Summary::of(two).unwrap().p50_ms, 1.0);
        assert!(Summary::of(vec![]).is_none());
    }

    #[test]
    fn a_histogram_agrees_with_the_samples_to_within_two_percent() {
        let samples: Vec<_> = (1..=10_000u64)
            .map(|n| Duration::from_nanos(n * n * 37 % 50_000_000 + n))
            .collect();
        let mut halves = [Histogram::new(), Histogram::new()];
        for (n, sample) in samples.iter().enumerate() {
            halves[n % 2].record(*sample);
        }
        let [mut histogram, other] = halves;
        histogram.merge(&other);
        let (a, b) = (histogram.summary().unwrap(), Summary::of(samples).unwrap());
        assert_eq!((a.count, a.min_ms, a.max_ms), (b.count, b.min_ms, b.max_ms));
        for (a, b) in [
            (a.p50_ms, b.p50_ms),
            (a.p90_ms, b.p90_ms),
            (a.p99_ms, b.p99_ms),
        ] {
            assert!((a / b - 1.0).abs() < 0.02, "{a} {b}");
        }
        assert!(Histogram::new().summary().is_none());
    }

    #[test]
    fn every_duration_has_its_bucket() {
        for nanos in [0, 1, 63, 64, 127, 128, 129, 1 << 40, u64::MAX - 1, u64::MAX] {
            let bucket = Histogram::bucket(nanos);
            let upper = Histogram::upper(bucket).as_nanos() as u64;
            assert!(
                upper >= nanos && upper - nanos <= nanos / 64,
                "{nanos} {upper}"
            );
            assert!(bucket == 0 || Histogram::upper(bucket - 1) < Duration::from_nanos(nanos));
        }
        let mut histogram = Histogram::new();
        histogram.record(Duration::MAX);
        assert_eq!(histogram.count(), 1);
    }

    #[test]
    fn sizes_and_rates_are_readable() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes(64 << 20), "64.0 MiB");
        assert_eq!(bit_rate(125_000_000.0), "1.00 Gbit/s");
        assert_eq!(rate(10, Duration::ZERO), 0.0);
    }
}
