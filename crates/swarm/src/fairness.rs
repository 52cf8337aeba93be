//! Shares of a bottleneck: between streams of a connection, and between connections.

use std::time::Duration;

use crate::plan::Kind;
use crate::world::World;

/// Jain's index of equal streams of one connection, which take turns, at least.
pub(crate) const STREAMS: f64 = 0.8;

/// The same of equal connections of CUBIC through one drop-tail queue, after half of the transfer:
/// how loss hits them is chance.
pub(crate) const CONNECTIONS: f64 = 0.55;

/// (sum x)^2 / (n * sum x^2): 1 if all are equal, 1/n if one has everything.
pub(crate) fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|it| it * it).sum();
    sum * sum / (shares.len() as f64 * squares)
}

/// Look at the shares when half of the expected time has passed.
pub(crate) async fn watch(world: &World) {
    // Transfers take 20 s at the rate of the bottleneck.
    world.sim.sleep(Duration::from_secs(10)).await;
    let halves = world.model.halves.borrow();
    let got: Vec<_> = halves.iter().map(|it| it.got.get() as f64).collect();
    let (kind, bound) = match world.plan.kind {
        Kind::FairStreams => ("streams", STREAMS),
        _ => ("connections", CONNECTIONS),
    };
    let index = jain(&got);
    world
        .model
        .log(|| format!("shares of {kind}: {got:?}, index {index:.3}"));
    world.model.fairness.set(Some(index));
    // Not NaN, either: something must have arrived.
    if index.is_nan() || index < bound {
        world.model.violation(
            "fairness",
            format_args!("index {index:.3} of {kind}, at least {bound}: {got:?}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::jain;

    #[test]
    fn equal_shares_have_index_1_and_one_for_all_has_1_by_n() {
        assert!((jain(&[3.0, 3.0, 3.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[3.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
    }
}
