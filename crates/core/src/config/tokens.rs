//! Tokens for the next time that are of use the next time.

use std::sync::Arc;

use bytes::Bytes;
use quinn_proto::TokenStore;

/// A longer token leaves too little of the first packet, of 1200 bytes, for the ClientHello. Servers
/// choose them; those of quinn have less than 100 bytes.
const MAX_BYTES: usize = 512;

/// A store without tokens that would end the next attempt instead of helping it.
///
/// RFC 9000 section 8.1.3 lets a client leave out a token; quinn-proto ends an attempt whose token
/// leaves no room.
pub(super) struct Fitting(pub(super) Arc<dyn TokenStore>);

impl TokenStore for Fitting {
    fn insert(&self, server_name: &str, token: Bytes) {
        if token.len() <= MAX_BYTES {
            self.0.insert(server_name, token);
        }
    }

    fn take(&self, server_name: &str) -> Option<Bytes> {
        // A store of the application's may have been filled by others.
        (self.0.take(server_name)).filter(|token| token.len() <= MAX_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::TokenMemoryCache;

    use super::*;

    #[test]
    fn what_is_too_long_is_neither_kept_nor_used() {
        let inner = Arc::new(TokenMemoryCache::default());
        let store = Fitting(inner.clone());
        store.insert("a", vec![1; MAX_BYTES].into());
        store.insert("a", vec![2; MAX_BYTES + 1].into());
        assert_eq!(store.take("a"), Some(vec![1; MAX_BYTES].into()));
        assert_eq!(store.take("a"), None);
        inner.insert("a", vec![3; MAX_BYTES + 1].into());
        assert_eq!(store.take("a"), None);
    }
}
