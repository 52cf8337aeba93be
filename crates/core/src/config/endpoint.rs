//! What holds for a whole endpoint.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{ConfigError, ConnectionIdGenerator, crypto::HmacKey};
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[cfg(feature = "quic-lb")]
use crate::cid::{QuicLbCidGenerator, QuicLbConfig, QuicLbError};
use crate::cid::{ShardKey, ShardedCidGenerator};
use crate::tls;

/// QUIC version 1 (RFC 9000). Drafts are not offered: no peer of today needs them, and each is
/// another way in.
pub(super) const QUIC_V1: u32 = 1;

type CidGeneratorFactory = Arc<dyn Fn() -> Box<dyn ConnectionIdGenerator> + Send + Sync>;

/// Configuration of an endpoint, independent of its connections.
///
/// The defaults suit the open internet. The setters are quinn's, plus [`seed`](Self::seed),
/// [`shard`](Self::shard) and, with the feature `quic-lb`, `quic_lb`.
#[derive(Clone)]
pub struct EndpointConfig {
    max_udp_payload_size: u16,
    supported_versions: Vec<u32>,
    grease_quic_bit: bool,
    min_reset_interval: Duration,
    reset_key: Option<Arc<dyn HmacKey>>,
    cid_generator: Option<CidGeneratorFactory>,
    cid_lifetime: Option<Duration>,
    shard: Option<(ShardKey, u16, u16)>,
    #[cfg(feature = "quic-lb")]
    quic_lb: Option<QuicLbConfig>,
    seed: Option<[u8; 32]>,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            max_udp_payload_size: 1500 - 28, // Ethernet less the IPv4 and UDP headers
            supported_versions: vec![QUIC_V1],
            grease_quic_bit: true,
            min_reset_interval: Duration::from_millis(20),
            reset_key: None,
            cid_generator: None,
            cid_lifetime: None,
            shard: None,
            #[cfg(feature = "quic-lb")]
            quic_lb: None,
            seed: None,
        }
    }
}

impl EndpointConfig {
    /// Largest UDP payload in bytes to accept, told to the peer as `max_udp_payload_size`
    /// (RFC 9000 section 18.2). Default 1472, which is what Ethernet carries; raise it on links
    /// with larger packets.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfBounds`] below 1200 or above 65,527.
    pub fn max_udp_payload_size(&mut self, bytes: u16) -> Result<&mut Self, ConfigError> {
        if !(1200..=65_527).contains(&bytes) {
            return Err(ConfigError::OutOfBounds);
        }
        self.max_udp_payload_size = bytes;
        Ok(self)
    }

    /// The current [`max_udp_payload_size`](Self::max_udp_payload_size) in bytes.
    pub fn get_max_udp_payload_size(&self) -> u64 {
        self.max_udp_payload_size.into()
    }

    /// QUIC versions to speak, most wanted first. Default: version 1 only.
    pub fn supported_versions(&mut self, versions: Vec<u32>) -> &mut Self {
        self.supported_versions = versions;
        self
    }

    /// Whether to accept packets whose fixed bit is 0 and to tell the peer so (RFC 9287).
    /// Default: true.
    pub fn grease_quic_bit(&mut self, value: bool) -> &mut Self {
        self.grease_quic_bit = value;
        self
    }

    /// Least time between two stateless resets (RFC 9000 section 10.3). Default: 20 ms.
    pub fn min_reset_interval(&mut self, value: Duration) -> &mut Self {
        self.min_reset_interval = value;
        self
    }

    /// Key from which stateless reset tokens are derived. Keep it over restarts, and peers of the
    /// previous run learn at once that their connection is gone. Default: random.
    pub fn reset_key(&mut self, key: Arc<dyn HmacKey>) -> &mut Self {
        self.reset_key = Some(key);
        self
    }

    /// Make connection ids with a generator of your own; called once per endpoint.
    ///
    /// Overrides [`shard`](Self::shard), `quic_lb` and [`cid_lifetime`](Self::cid_lifetime).
    pub fn cid_generator<F>(&mut self, factory: F) -> &mut Self
    where
        F: Fn() -> Box<dyn ConnectionIdGenerator> + Send + Sync + 'static,
    {
        self.cid_generator = Some(Arc::new(factory));
        self
    }

    /// Replace connection ids after this long, so that observers cannot link a connection over
    /// time. Default: `None`, never.
    pub fn cid_lifetime(&mut self, lifetime: Option<Duration>) -> &mut Self {
        self.cid_lifetime = lifetime;
        self
    }

    /// Make connection ids that name shard `shard` out of `shards`, see [`ShardKey`].
    ///
    /// # Panics
    ///
    /// Ids of the configuration for load balancers that was set cannot name a shard, which
    /// `check_shards` tells before.
    pub fn shard(&mut self, key: ShardKey, shards: u16, shard: u16) -> &mut Self {
        #[cfg(feature = "quic-lb")]
        if let Err(error) = self.check_shards(shards) {
            panic!("{error}");
        }
        self.shard = Some((key, shards, shard));
        self
    }

    /// Make connection ids by which a load balancer knows this server (QUIC-LB); they name the
    /// [`shard`](Self::shard) as well.
    ///
    /// # Errors
    ///
    /// As [`QuicLbConfig::check_shards`], for the number of shards set before.
    #[cfg(feature = "quic-lb")]
    pub fn quic_lb(&mut self, config: QuicLbConfig) -> Result<&mut Self, QuicLbError> {
        if let Some((_, shards, _)) = self.shard {
            config.check_shards(shards)?;
        }
        self.quic_lb = Some(config);
        Ok(self)
    }

    /// Whether connection ids as configured can name one of `shards`.
    ///
    /// # Errors
    ///
    /// As [`QuicLbConfig::check_shards`]; none without such a configuration.
    #[cfg(feature = "quic-lb")]
    pub fn check_shards(&self, shards: u16) -> Result<(), QuicLbError> {
        self.quic_lb
            .as_ref()
            .map_or(Ok(()), |config| config.check_shards(shards))
    }

    /// One configuration for each of `shards` endpoints that share an address, and the key by which
    /// connection ids name them: the one given to [`shard`](Self::shard), or a random one.
    ///
    /// They share what a peer may meet again at another shard: the key of reset tokens.
    ///
    /// # Errors
    ///
    /// Connection ids cannot name a shard, see [`ShardError`].
    pub fn split(&self, shards: u16) -> Result<(ShardKey, Vec<Self>), ShardError> {
        if self.cid_generator.is_some() {
            return Err(ShardError::ForeignConnectionIds);
        }
        #[cfg(feature = "quic-lb")]
        self.check_shards(shards)?;
        let mut rng = self.rng();
        let key = match self.shard {
            Some((key, ..)) => key,
            None => ShardKey::new(rng.random()),
        };
        let reset_key = self.reset_key_or(&mut rng);
        let configs = (0..shards)
            .map(|index| {
                let mut config = self.clone();
                config
                    .shard(key, shards, index)
                    .reset_key(reset_key.clone());
                if self.seed.is_some() {
                    config.seed(rng.random());
                }
                config
            })
            .collect();
        Ok((key, configs))
    }

    fn rng(&self) -> StdRng {
        match self.seed {
            Some(seed) => StdRng::from_seed(seed),
            None => rand::make_rng(),
        }
    }

    fn reset_key_or(&self, rng: &mut StdRng) -> Arc<dyn HmacKey> {
        self.reset_key
            .clone()
            .unwrap_or_else(|| tls::reset_key(&std::array::from_fn(|_| rng.random())))
    }

    /// Draw everything random from this seed, so that the same inputs give the same outputs.
    ///
    /// For simulations only: connection ids and reset tokens become predictable.
    pub fn seed(&mut self, seed: [u8; 32]) -> &mut Self {
        self.seed = Some(seed);
        self
    }

    /// As [`seed`](Self::seed), unless there is one.
    pub fn seed_if_none(&mut self, seed: [u8; 32]) -> &mut Self {
        self.seed.get_or_insert(seed);
        self
    }

    /// The same for quinn-proto, which by itself would reach for the system's randomness.
    pub(crate) fn build(&self) -> quinn_proto::EndpointConfig {
        let mut rng = self.rng();
        let reset_key = self.reset_key_or(&mut rng);
        let mut config = quinn_proto::EndpointConfig::new(reset_key);
        config
            .supported_versions(self.supported_versions.clone())
            .grease_quic_bit(self.grease_quic_bit)
            .min_reset_interval(self.min_reset_interval)
            .rng_seed(Some(rng.random()));
        config
            .max_udp_payload_size(self.max_udp_payload_size)
            .expect("checked when it was set");
        match &self.cid_generator {
            Some(factory) => {
                let factory = factory.clone();
                config.cid_generator(move || factory());
            }
            None => {
                let (key, shards, shard) = self
                    .shard
                    .unwrap_or_else(|| (ShardKey::new(rng.random()), 1, 0));
                let (seed, lifetime) = (rng.random(), self.cid_lifetime);
                #[cfg(feature = "quic-lb")]
                if let Some(quic_lb) = self.quic_lb.clone() {
                    config.cid_generator(move || {
                        let generator = QuicLbCidGenerator::new(quic_lb.clone(), seed)
                            .shard(key, shards, shard)
                            .expect("checked when it was set");
                        Box::new(generator.lifetime(lifetime))
                    });
                    return config;
                }
                config.cid_generator(move || {
                    Box::new(ShardedCidGenerator::new(key, shards, shard, seed).lifetime(lifetime))
                });
            }
        }
        config
    }
}

/// Why an endpoint cannot have several shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// Connection ids are made by a generator that knows nothing of shards.
    #[error(
        "a connection-id generator of your own cannot be combined with shards, which ids must name"
    )]
    ForeignConnectionIds,
    /// Connection ids for a load balancer leave no room for a shard.
    #[cfg(feature = "quic-lb")]
    #[error(transparent)]
    QuicLb(#[from] QuicLbError),
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("EndpointConfig");
        #[cfg(feature = "quic-lb")]
        f.field("quic_lb", &self.quic_lb);
        f.field("max_udp_payload_size", &self.max_udp_payload_size)
            .field("supported_versions", &self.supported_versions)
            .field("grease_quic_bit", &self.grease_quic_bit)
            .field("min_reset_interval", &self.min_reset_interval)
            .field("cid_lifetime", &self.cid_lifetime)
            .field(
                "shard",
                &self.shard.map(|(_, shards, shard)| (shard, shards)),
            )
            .field("seeded", &self.seed.is_some())
            .finish_non_exhaustive()
    }
}
