//! Packet protection keys that are derived late, or once for two users.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::BytesMut;
use quinn_proto::ConnectionId;
use rustls::Side;
use rustls::quic::{self, DirectionalKeys, PacketKeySet, Secrets, Suite, Version};

use super::{CryptoError, HeaderKey, KeyPair, Keys, PacketKey};

/// Keys as rustls makes them, in the form that quinn-proto takes.
pub(super) fn boxed(keys: quic::Keys) -> Keys {
    let quic::Keys { local, remote } = keys;
    Keys {
        header: KeyPair {
            local: Box::new(local.header),
            remote: Box::new(remote.header),
        },
        packet: KeyPair {
            local: Box::new(local.packet),
            remote: Box::new(remote.packet),
        },
    }
}

/// Keys for the 0-RTT packets of one direction.
pub(super) fn boxed_early(keys: DirectionalKeys) -> (Box<dyn HeaderKey>, Box<dyn PacketKey>) {
    (Box::new(keys.header), Box::new(keys.packet))
}

/// The secrets from which packet keys follow, one key update after the other (RFC 9001 section 6.1).
#[derive(Default)]
pub(super) enum KeyUpdates {
    /// The handshake has not come that far.
    #[default]
    NotYet,
    /// The secrets of the first update.
    First(Secrets),
    /// Those that were handed out last; the secrets of the update after it lie in there.
    After(Arc<Generation>),
}

impl KeyUpdates {
    /// The keys of the next update, without deriving them.
    pub(super) fn next_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let secrets = match std::mem::take(self) {
            Self::NotYet => return None,
            Self::First(secrets) => secrets,
            Self::After(generation) => generation.into_secrets()?,
        };
        let generation = Arc::new(Generation {
            secrets: Mutex::new(Some(secrets)),
            keys: OnceLock::new(),
        });
        *self = Self::After(generation.clone());
        let key = |local| LateKey {
            generation: generation.clone(),
            local,
        };
        Some(KeyPair {
            local: Box::new(key(true)),
            remote: Box::new(key(false)),
        })
    }
}

/// The packet keys between two key updates.
pub(super) struct Generation {
    /// What the keys are derived from, and afterwards what follows from that.
    secrets: Mutex<Option<Secrets>>,
    keys: OnceLock<PacketKeySet>,
}

impl Generation {
    fn keys(&self) -> &PacketKeySet {
        self.keys.get_or_init(|| {
            let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            secrets
                .as_mut()
                .expect("taken only after the keys were derived")
                .next_packet_keys()
        })
    }

    /// The secrets of the update after this one.
    fn into_secrets(self: Arc<Self>) -> Option<Secrets> {
        self.keys();
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.take()
    }
}

/// One direction of a [`Generation`].
struct LateKey {
    generation: Arc<Generation>,
    local: bool,
}

impl LateKey {
    #[expect(clippy::borrowed_box, reason = "the box is what implements our trait")]
    fn key(&self) -> &Box<dyn quic::PacketKey> {
        let keys = self.generation.keys();
        if self.local {
            &keys.local
        } else {
            &keys.remote
        }
    }
}

impl PacketKey for LateKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        PacketKey::encrypt(self.key(), packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        PacketKey::decrypt(self.key(), packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        PacketKey::tag_len(self.key())
    }

    fn confidentiality_limit(&self) -> u64 {
        PacketKey::confidentiality_limit(self.key())
    }

    fn integrity_limit(&self) -> u64 {
        PacketKey::integrity_limit(self.key())
    }
}

/// Most attempts whose Initial keys wait for the connection to be accepted. A flood of attempts
/// makes the oldest be derived again, which is all that happens without a cache.
const CACHED_INITIAL_KEYS: usize = 32;

/// Initial keys of servers between the first look at an attempt and the connection that answers it.
#[derive(Default)]
pub(super) struct InitialKeysCache(Mutex<VecDeque<(ConnectionId, Version, Arc<quic::Keys>)>>);

impl InitialKeysCache {
    /// The server's keys for the client's first connection id, kept for [`take`](Self::take).
    pub(super) fn derive(&self, suite: &Suite, version: Version, dst_cid: &ConnectionId) -> Keys {
        let keys = Arc::new(suite.keys(dst_cid, Side::Server, version));
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.len() == CACHED_INITIAL_KEYS {
            cached.pop_front();
        }
        cached.push_back((*dst_cid, version, keys.clone()));
        shared(keys)
    }

    /// The same keys once more, if they are still there.
    pub(super) fn take(&self, version: Version, dst_cid: &ConnectionId) -> Option<Keys> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = cached.iter().position(|(cid, of, _)| {
            cid == dst_cid && discriminant(of) == discriminant(&version)
        })?;
        cached.remove(index).map(|(_, _, keys)| shared(keys))
    }
}

impl std::fmt::Debug for InitialKeysCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InitialKeysCache").finish_non_exhaustive()
    }
}

fn shared(keys: Arc<quic::Keys>) -> Keys {
    let key = |local| SharedKey {
        keys: keys.clone(),
        local,
    };
    Keys {
        header: KeyPair {
            local: Box::new(key(true)),
            remote: Box::new(key(false)),
        },
        packet: KeyPair {
            local: Box::new(key(true)),
            remote: Box::new(key(false)),
        },
    }
}

/// One direction of keys that have two users.
struct SharedKey {
    keys: Arc<quic::Keys>,
    local: bool,
}

impl SharedKey {
    fn direction(&self) -> &DirectionalKeys {
        if self.local {
            &self.keys.local
        } else {
            &self.keys.remote
        }
    }
}

impl HeaderKey for SharedKey {
    fn decrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        HeaderKey::decrypt(&self.direction().header, pn_offset, packet);
    }

    fn encrypt(&self, pn_offset: usize, packet: &mut [u8]) {
        HeaderKey::encrypt(&self.direction().header, pn_offset, packet);
    }

    fn sample_size(&self) -> usize {
        HeaderKey::sample_size(&self.direction().header)
    }
}

impl PacketKey for SharedKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        PacketKey::encrypt(&self.direction().packet, packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        PacketKey::decrypt(&self.direction().packet, packet, header, payload)
    }

    fn tag_len(&self) -> usize {
        PacketKey::tag_len(&self.direction().packet)
    }

    fn confidentiality_limit(&self) -> u64 {
        PacketKey::confidentiality_limit(&self.direction().packet)
    }

    fn integrity_limit(&self) -> u64 {
        PacketKey::integrity_limit(&self.direction().packet)
    }
}
