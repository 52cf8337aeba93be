//! Connection ids that name the shard that owns the connection.

mod shard;

use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

pub use shard::{BpfInstruction, ShardKey};

/// Length of the connection ids that polyquic issues, in bytes.
pub(crate) const CID_BYTES: usize = 8;

/// Issues random connection ids, all of which name one shard.
pub struct ShardedCidGenerator {
    rng: StdRng,
    key: ShardKey,
    shards: u16,
    shard: u16,
    lifetime: Option<Duration>,
}

impl ShardedCidGenerator {
    /// Ids of shard number `shard` out of `shards`, drawn from a generator with this seed.
    ///
    /// The seed must be secret and random where ids must not be guessable, which is everywhere but
    /// in a simulation.
    pub fn new(key: ShardKey, shards: u16, shard: u16, seed: [u8; 32]) -> Self {
        let shards = shards.max(1);
        debug_assert!(shard < shards);
        Self {
            rng: StdRng::from_seed(seed),
            key,
            shards,
            shard: shard % shards,
            lifetime: None,
        }
    }

    /// Retire ids and issue new ones after this long. `None` (the default): never.
    pub fn lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// A seed for [`new`](Self::new) from the operating system's randomness.
    pub fn random_seed() -> [u8; 32] {
        rand::rng().random()
    }
}

impl ConnectionIdGenerator for ShardedCidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CID_BYTES];
        // Rejection sampling: `shards` draws on average, at once when there is one shard.
        loop {
            self.rng.fill_bytes(&mut bytes);
            if self.shards == 1 || self.key.shard_of(&bytes, self.shards) == Some(self.shard) {
                return ConnectionId::new(&bytes);
            }
        }
    }

    fn cid_len(&self) -> usize {
        CID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.lifetime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_names_its_shard() {
        let key = ShardKey::new([0x9e37_79b9, 0x85eb_ca6b, 42]);
        for shards in [1, 2, 3, 8, 64] {
            for shard in 0..shards {
                let mut generator = ShardedCidGenerator::new(key, shards, shard, [shard as u8; 32]);
                for _ in 0..20 {
                    assert_eq!(key.shard_of(&generator.generate_cid(), shards), Some(shard));
                }
            }
        }
    }

    /// Seen without the key, ids of two shards are alike: no bit leans to one side.
    #[test]
    fn ids_look_random() {
        let key = ShardKey::new([77, 88, 99]);
        let mut generator = ShardedCidGenerator::new(key, 2, 1, [3; 32]);
        let mut ones = [0u32; CID_BYTES * 8];
        const IDS: u32 = 4000;
        for _ in 0..IDS {
            let cid = generator.generate_cid();
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += u32::from(cid[bit / 8] >> (bit % 8) & 1);
            }
        }
        // Six standard deviations of a fair coin.
        let slack = 6 * (f64::from(IDS).sqrt() / 2.0) as u32;
        for (bit, count) in ones.into_iter().enumerate() {
            assert!(
                count.abs_diff(IDS / 2) < slack,
                "bit {bit}: {count} of {IDS}"
            );
        }
    }

    #[test]
    fn same_seed_same_ids() {
        let key = ShardKey::new([1, 2, 3]);
        let ids = |seed| {
            let mut generator = ShardedCidGenerator::new(key, 1, 0, seed);
            std::array::from_fn::<_, 5, _>(|_| generator.generate_cid())
        };
        assert_eq!(ids([5; 32]), ids([5; 32]));
        assert_ne!(ids([5; 32]), ids([6; 32]));
    }
}
