//! What simulations did and checked, so that an invariant that is never put to the test shows.

use std::collections::BTreeMap;

/// Everything that is counted.
pub const COUNTED: &[&str] = &[
    "0-RTT accepted",
    "0-RTT rejected",
    "cancelled futures",
    "checks: amplification",
    "checks: connection window",
    "checks: delivery",
    "checks: delivery before a close",
    "checks: fairness of connections",
    "checks: fairness of streams",
    "checks: idle timeout",
    "checks: integrity",
    "checks: memory",
    "checks: stream limits",
    "checks: stream window",
    "checks: timeouts",
    "checks: wake-ups",
    "datagrams",
    "hasty closes",
    "hasty drops",
    "key updates",
    "moves",
    "resets",
    "restarts",
    "slow readers",
    "stateless resets",
    "stops",
];

/// How often each of [`COUNTED`] happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Default for Coverage {
    fn default() -> Self {
        Self(COUNTED.iter().map(|it| (*it, 0)).collect())
    }
}

impl Coverage {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.get_mut(what).expect("it is in the list") += 1;
    }

    /// Count what another simulation did, too.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// What was counted, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(what, count)| (*what, *count))
    }
}
