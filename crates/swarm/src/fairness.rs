//! Shares of a bottleneck: between streams of a connection, and between connections.

use std::time::Duration;

use crate::plan::Kind;
use crate::world::World;

/// How equal streams of one connection are at least, which take turns.
pub(crate) const STREAMS: f64 = 0.7;

/// The same of equal connections of CUBIC through one drop-tail queue, after half of the transfer:
/// how loss hits them is chance.
pub(crate) const CONNECTIONS: f64 = 0.6;

/// Jain's index, (sum x)^2 / (n * sum x^2), of `planned` shares: 1 if all are equal, 1/n if one has
/// everything. Shares that are missing are nothing.
pub(crate) fn jain(shares: &[f64], planned: usize) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|it| it * it).sum();
    sum * sum / (planned as f64 * squares)
}

/// The same from 0 (one has everything) to 1, whatever the number.
pub(crate) fn equality(shares: &[f64], planned: usize) -> f64 {
    let least = 1.0 / planned as f64;
    (jain(shares, planned) - least) / (1.0 - least)
}

/// Look at the shares when half of the expected time has passed.
pub(crate) async fn watch(world: &World) {
    // Transfers take 20 s at the rate of the bottleneck.
    world.sim.sleep(Duration::from_secs(10)).await;
    let model = &world.model;
    let halves = model.halves.borrow();
    let got: Vec<_> = halves.iter().map(|it| it.got.get() as f64).collect();
    let (kind, counted, bound) = match world.plan.kind {
        Kind::FairStreams => ("streams", "checks: fairness of streams", STREAMS),
        _ => (
            "connections",
            "checks: fairness of connections",
            CONNECTIONS,
        ),
    };
    let planned = world.plan.shares();
    let equality = equality(&got, planned);
    model.count(counted);
    model.log(|| format!("shares of {kind}: {got:?} of {planned}, {equality:.3}"));
    model.fairness.set(Some(equality));
    // Not NaN, either: something must have arrived.
    if got.len() > planned || equality.is_nan() || equality < bound {
        model.violation(
            "fairness",
            format_args!("{equality:.3} between {planned} {kind}, at least {bound}: {got:?}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{CONNECTIONS, equality, jain};

    #[test]
    fn equal_shares_have_index_1_and_one_for_all_has_1_by_n() {
        assert!((jain(&[3.0, 3.0, 3.0], 3) - 1.0).abs() < 1e-9);
        assert!((jain(&[3.0, 0.0, 0.0, 0.0], 4) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn who_starves_counts_even_if_absent() {
        for shares in [&[1.0, 0.0][..], &[1.0], &[20.0, 1.0], &[4.0, 1.0]] {
            let equality = equality(shares, 2);
            assert!(equality < CONNECTIONS, "{shares:?}: {equality}");
        }
        assert!(
            equality(&[5.0, 5.0, 5.0], 4) < 0.9,
            "one of four is missing"
        );
        assert!(equality(&[1.0, 1.0], 2) > 0.99);
    }
}
