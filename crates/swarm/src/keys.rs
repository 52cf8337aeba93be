//! Keys that a server has again after a crash. They seal nothing against anybody who means it, but
//! tell what was made with them from what was damaged on its way.

use polyquic::crypto::{AeadKey, CryptoError, HandshakeTokenKey, HmacKey};

use crate::half::mix;

const TAG_BYTES: usize = 16;

/// For stateless reset tokens and for address tokens.
pub(crate) struct Keys(pub(crate) u64);

impl Keys {
    fn tag(&self, data: &[u8]) -> [u8; TAG_BYTES] {
        let words = [mix(self.0), mix(!self.0)].map(|start| {
            let bytes = data.iter();
            bytes.fold(start, |sum, byte| mix(sum ^ u64::from(*byte)))
        });
        let mut tag = [0; TAG_BYTES];
        tag[..8].copy_from_slice(&words[0].to_le_bytes());
        tag[8..].copy_from_slice(&words[1].to_le_bytes());
        tag
    }
}

impl HmacKey for Keys {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let tag = self.tag(data);
        for (byte, tag) in signature.iter_mut().zip(tag.iter().cycle()) {
            *byte = *tag;
        }
    }

    fn signature_len(&self) -> usize {
        2 * TAG_BYTES
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut expected = [0; 2 * TAG_BYTES];
        self.sign(data, &mut expected);
        if signature == expected {
            Ok(())
        } else {
            Err(CryptoError)
        }
    }
}

impl HandshakeTokenKey for Keys {
    fn aead_from_hkdf(&self, random: &[u8]) -> Box<dyn AeadKey> {
        let tag = self.tag(random);
        let (first, _) = tag.split_first_chunk().expect("it is longer");
        Box::new(Self(u64::from_le_bytes(*first)))
    }
}

impl AeadKey for Keys {
    fn seal(&self, data: &mut Vec<u8>, _: &[u8]) -> Result<(), CryptoError> {
        let tag = self.tag(data);
        data.extend_from_slice(&tag);
        Ok(())
    }

    fn open<'a>(&self, data: &'a mut [u8], _: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let length = data.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
        let (body, tag) = data.split_at_mut(length);
        if tag == self.tag(body) {
            Ok(body)
        } else {
            Err(CryptoError)
        }
    }
}
