//! Connection ids by which a load balancer knows the server: QUIC-LB, as of
//! draft-ietf-quic-load-balancers-21.

use std::fmt;
use std::time::Duration;

use aes::Aes128;
use aes::cipher::{Block, BlockDecrypt, BlockEncrypt, KeyInit};
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::ShardKey;

/// Most bytes after the first octet: QUIC version 1 has ids of up to 20.
const MAX_BODY: usize = 19;
/// Least bytes of a nonce (section 5.2 of the draft).
const MIN_NONCE: usize = 4;
/// Most bytes of a server id (appendix A).
const MAX_SERVER_ID: usize = 15;
/// The configuration id of ids that no load balancer can read (section 3.2).
const UNROUTABLE: u8 = 7;
/// How many bytes of an id [`ShardKey`] mixes.
const MIXED_BYTES: usize = 8;

/// How connection ids tell a load balancer the server that they belong to (QUIC-LB,
/// draft-ietf-quic-load-balancers-21), and which server this is.
///
/// An id is a first octet (three bits for the configuration, see [`new`](Self::new)), then the
/// server's id and a nonce, encrypted if there is a key. All servers behind a load balancer have the
/// same configuration but for the server id, and the load balancer knows all of it. Give it to
/// [`EndpointConfig::quic_lb`](crate::EndpointConfig::quic_lb).
///
/// ```
/// use polyquic_core::{ConnectionIdGenerator, QuicLbCidGenerator, QuicLbConfig};
///
/// let config = QuicLbConfig::new(0, &[0, 7], 8)?.key([0x5a; 16]);
/// let mut generator = QuicLbCidGenerator::new(config.clone(), [1; 32]);
/// let cid = generator.generate_cid();
/// assert_eq!(cid.len(), 11);
/// // What a load balancer does:
/// assert_eq!(config.server_id_of(&cid), Some(vec![0, 7]));
/// # Ok::<(), polyquic_core::QuicLbError>(())
/// ```
#[derive(Clone)]
pub struct QuicLbConfig {
    config_id: u8,
    server_id: Vec<u8>,
    nonce_length: usize,
    cipher: Option<Aes128>,
    length_in_first_octet: bool,
}

/// Why a [`QuicLbConfig`] is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuicLbError {
    /// Configuration ids are 0 to 6; 7 stands for ids that name no server.
    #[error("the configuration id must be 0 to 6")]
    ConfigId,
    /// A server id has 1 to 15 bytes.
    #[error("the server id must have 1 to 15 bytes")]
    ServerIdLength,
    /// A nonce has at least 4 bytes, and at most what the server id leaves of 19.
    #[error("the nonce must have at least 4 bytes, and 19 at most together with the server id")]
    NonceLength,
    /// Ids of an endpoint with several shards have at least 8 bytes.
    #[error(
        "connection ids that name a shard have at least 8 bytes: server id and nonce must have 7 \
         together"
    )]
    TooShortForShards,
    /// Without a key, ids of an endpoint with several shards must differ in their first 8 bytes.
    #[error(
        "connection ids that name a shard, but have no key, allow for a server id of 3 bytes at most"
    )]
    ServerIdTooLongForShards,
}

impl QuicLbConfig {
    /// Ids with this configuration id (0 to 6), server id (1 to 15 bytes) and length of the nonce (4
    /// bytes or more, 19 at most together with the server id), in plain text.
    ///
    /// The configuration id changes when anything else of the configuration does, so that load
    /// balancers can read ids of before and after. Eight bytes of nonce are good for any server;
    /// with four, a configuration is used up after 2^32 ids. Server id and nonce of 16 bytes together
    /// take the load balancer the least time to decrypt.
    ///
    /// # Errors
    ///
    /// What is out of range.
    pub fn new(config_id: u8, server_id: &[u8], nonce_length: usize) -> Result<Self, QuicLbError> {
        if config_id >= UNROUTABLE {
            return Err(QuicLbError::ConfigId);
        }
        if !(1..=MAX_SERVER_ID).contains(&server_id.len()) {
            return Err(QuicLbError::ServerIdLength);
        }
        if !(MIN_NONCE..=MAX_BODY - server_id.len()).contains(&nonce_length) {
            return Err(QuicLbError::NonceLength);
        }
        Ok(Self {
            config_id,
            server_id: server_id.to_vec(),
            nonce_length,
            cipher: None,
            length_in_first_octet: false,
        })
    }

    /// Encrypt server id and nonce with AES-128 by this key.
    ///
    /// Without a key, everybody sees which server an id belongs to, and can so link the addresses of
    /// a client that migrates.
    pub fn key(mut self, key: [u8; 16]) -> Self {
        self.cipher = Some(Aes128::new(&key.into()));
        self
    }

    /// Whether the low five bits of the first octet give the id's length in bytes, less one. Some
    /// network hardware wants it. Default: false, they look random.
    pub fn length_in_first_octet(mut self, value: bool) -> Self {
        self.length_in_first_octet = value;
        self
    }

    /// Length of the ids in bytes.
    pub fn cid_length(&self) -> usize {
        1 + self.body_length()
    }

    /// The server that an id belongs to, as a load balancer finds it out; `None` if the id has
    /// another configuration id or is too short.
    ///
    /// An id that a client chose gives a server id as well, at times that of an existing server.
    pub fn server_id_of(&self, cid: &[u8]) -> Option<Vec<u8>> {
        let (first, rest) = cid.split_first()?;
        if first >> 5 != self.config_id {
            return None;
        }
        let mut body = [0; MAX_BODY];
        let body = &mut body[..self.body_length()];
        body.copy_from_slice(rest.get(..body.len())?);
        if let Some(cipher) = &self.cipher {
            decrypt(cipher, body);
        }
        Some(body[..self.server_id.len()].to_vec())
    }

    /// Whether ids of this configuration can name one of `shards` besides.
    ///
    /// # Errors
    ///
    /// They are too short, or alike in what names the shard.
    pub fn check_shards(&self, shards: u16) -> Result<(), QuicLbError> {
        if shards <= 1 {
            return Ok(());
        }
        if self.cid_length() < MIXED_BYTES {
            return Err(QuicLbError::TooShortForShards);
        }
        // Four bytes of nonce are then among the first eight of the id.
        if self.cipher.is_none() && 1 + self.server_id.len() + MIN_NONCE > MIXED_BYTES {
            return Err(QuicLbError::ServerIdTooLongForShards);
        }
        Ok(())
    }

    fn body_length(&self) -> usize {
        self.server_id.len() + self.nonce_length
    }

    /// The id with this nonce. With a key it depends on the nonce alone, not on `rng`.
    fn cid(&self, nonce: &[u8], rng: &mut StdRng) -> ConnectionId {
        let mut cid = [0; 1 + MAX_BODY];
        let cid = &mut cid[..self.cid_length()];
        let (first, body) = cid.split_at_mut(1);
        let (server_id, nonce_in_body) = body.split_at_mut(self.server_id.len());
        server_id.copy_from_slice(&self.server_id);
        nonce_in_body.copy_from_slice(nonce);
        if let Some(cipher) = &self.cipher {
            encrypt(cipher, body);
        }
        let low_bits = match &self.cipher {
            _ if self.length_in_first_octet => body.len() as u8,
            None => rng.random(),
            // Not random: of two shards that come by the same nonce, both could otherwise use it,
            // as different low bits would have the id name one or the other.
            Some(cipher) => {
                let mut block = Block::<Aes128>::default();
                let prefix = body.len().min(14);
                block[..prefix].copy_from_slice(&body[..prefix]);
                block[14] = body.len() as u8; // as in `Halves::pass`, but with a number of its own
                cipher.encrypt_block(&mut block);
                block[0]
            }
        };
        first[0] = self.config_id << 5 | low_bits & 0x1f;
        ConnectionId::new(cid)
    }

    /// An id that names no server.
    fn unroutable(&self, rng: &mut StdRng) -> ConnectionId {
        let mut cid = [0; 1 + MAX_BODY];
        let cid = &mut cid[..self.cid_length()];
        rng.fill_bytes(cid);
        // These must give their length.
        cid[0] = UNROUTABLE << 5 | self.body_length() as u8;
        ConnectionId::new(cid)
    }
}

// Not derived: keys do not belong into logs.
impl fmt::Debug for QuicLbConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicLbConfig")
            .field("config_id", &self.config_id)
            .field("server_id", &self.server_id)
            .field("nonce_length", &self.nonce_length)
            .field("encrypted", &self.cipher.is_some())
            .field("length_in_first_octet", &self.length_in_first_octet)
            .finish()
    }
}

/// Encrypt server id and nonce in place (section 5.4).
fn encrypt(cipher: &Aes128, body: &mut [u8]) {
    if body.len() == 16 {
        cipher.encrypt_block(Block::<Aes128>::from_mut_slice(body));
    } else {
        let mut halves = Halves::of(body);
        (1..=4).for_each(|number| halves.pass(cipher, number));
        halves.join(body);
    }
}

/// Undo [`encrypt`] (section 5.5).
fn decrypt(cipher: &Aes128, body: &mut [u8]) {
    if body.len() == 16 {
        cipher.decrypt_block(Block::<Aes128>::from_mut_slice(body));
    } else {
        let mut halves = Halves::of(body);
        (1..=4).rev().for_each(|number| halves.pass(cipher, number));
        halves.join(body);
    }
}

/// The two sides of a Feistel network. A middle byte is shared: its high bits are the end of the left
/// side, its low bits the beginning of the right one; the other bits of these bytes are 0.
struct Halves {
    sides: [[u8; MAX_BODY.div_ceil(2)]; 2],
    length: usize,
}

impl Halves {
    const LEFT: usize = 0;
    const RIGHT: usize = 1;

    fn of(body: &[u8]) -> Self {
        let mut halves = Self {
            sides: Default::default(),
            length: body.len(),
        };
        let half = halves.half();
        halves.sides[Self::LEFT][..half].copy_from_slice(&body[..half]);
        halves.sides[Self::RIGHT][..half].copy_from_slice(&body[body.len() - half..]);
        halves.clear(Self::LEFT);
        halves.clear(Self::RIGHT);
        halves
    }

    fn join(&self, body: &mut [u8]) {
        let (half, [left, right]) = (self.half(), &self.sides);
        let shared = self.length % 2;
        body[..half].copy_from_slice(&left[..half]);
        body[half..].copy_from_slice(&right[shared..half]);
        if shared == 1 {
            body[half - 1] |= right[0];
        }
    }

    fn half(&self) -> usize {
        self.length.div_ceil(2)
    }

    /// Clear the bits that are the other side's.
    fn clear(&mut self, side: usize) {
        if self.length % 2 == 1 {
            let half = self.half();
            match side {
                Self::LEFT => self.sides[side][half - 1] &= 0xf0,
                _ => self.sides[side][0] &= 0x0f,
            }
        }
    }

    /// One of the four passes, numbered from 1. Done twice, it undoes itself.
    fn pass(&mut self, cipher: &Aes128, number: u8) {
        let (from, to) = match number % 2 {
            1 => (Self::LEFT, Self::RIGHT),
            _ => (Self::RIGHT, Self::LEFT),
        };
        let half = self.half();
        let mut block = Block::<Aes128>::default();
        block[..half].copy_from_slice(&self.sides[from][..half]);
        block[14] = self.length as u8;
        block[15] = number;
        cipher.encrypt_block(&mut block);
        for (byte, mask) in self.sides[to][..half].iter_mut().zip(block) {
            *byte ^= mask;
        }
        self.clear(to);
    }
}

/// Issues connection ids of a [`QuicLbConfig`].
///
/// With a key, nonces are counted from a random one, so that none repeats. When all have been used,
/// the ids are those that name no server, which load balancers route by addresses and ports: the
/// servers need a new configuration by then. The count starts anew with the process, somewhere else;
/// nonces of eight bytes and more make it unlikely that it meets an earlier one.
///
/// Without a key, nonces are random.
pub struct QuicLbCidGenerator {
    config: QuicLbConfig,
    rng: StdRng,
    /// The first nonce and the next, big-endian.
    first_nonce: [u8; MAX_BODY],
    next_nonce: [u8; MAX_BODY],
    used_up: bool,
    shard: Option<(ShardKey, u16, u16)>,
    lifetime: Option<Duration>,
}

impl QuicLbCidGenerator {
    /// Ids of this configuration, drawn from a generator with this seed, which must be secret and
    /// random everywhere but in a simulation.
    pub fn new(config: QuicLbConfig, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let nonce = rng.random();
        Self {
            config,
            rng,
            first_nonce: nonce,
            next_nonce: nonce,
            used_up: false,
            shard: None,
            lifetime: None,
        }
    }

    /// Issue only ids that name shard number `shard` out of `shards`, see [`ShardKey`].
    ///
    /// Shards of one server may have the same server id: no two use the same nonce.
    ///
    /// # Errors
    ///
    /// As [`QuicLbConfig::check_shards`].
    pub fn shard(mut self, key: ShardKey, shards: u16, shard: u16) -> Result<Self, QuicLbError> {
        self.config.check_shards(shards)?;
        debug_assert!(shard < shards.max(1));
        self.shard = (shards > 1).then_some((key, shards, shard % shards.max(1)));
        Ok(self)
    }

    /// Retire ids and issue new ones after this long. `None` (the default): never.
    pub fn lifetime(mut self, lifetime: Option<Duration>) -> Self {
        self.lifetime = lifetime;
        self
    }

    fn next_cid(&mut self) -> ConnectionId {
        if self.used_up {
            return self.config.unroutable(&mut self.rng);
        }
        let length = self.config.nonce_length;
        if self.config.cipher.is_none() {
            self.rng.fill_bytes(&mut self.next_nonce[..length]);
        }
        let nonce = &mut self.next_nonce[..length];
        let cid = self.config.cid(nonce, &mut self.rng);
        if self.config.cipher.is_some() {
            for byte in nonce.iter_mut().rev() {
                *byte = byte.wrapping_add(1);
                if *byte != 0 {
                    break;
                }
            }
            self.used_up = nonce == &self.first_nonce[..length];
        }
        cid
    }
}

impl ConnectionIdGenerator for QuicLbCidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        loop {
            let cid = self.next_cid();
            match self.shard {
                Some((key, shards, shard)) if key.shard_of(&cid, shards) != Some(shard) => {}
                _ => return cid,
            }
        }
    }

    /// Another server's ids are not ours to reset connections by, when servers share the key of
    /// their reset tokens and a load balancer errs.
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        let unroutable = cid.first().is_some_and(|first| first >> 5 == UNROUTABLE);
        if unroutable || self.config.server_id_of(cid).as_ref() == Some(&self.config.server_id) {
            Ok(())
        } else {
            Err(InvalidCid)
        }
    }

    fn cid_len(&self) -> usize {
        self.config.cid_length()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        self.lifetime
    }
}

#[cfg(test)]
mod tests;
