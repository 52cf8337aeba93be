//! The integrity of Retry packets (RFC 9001 section 5.8).

#[cfg(all(feature = "aws-lc-rs", not(feature = "ring")))]
use aws_lc_rs::aead;
#[cfg(feature = "ring")]
use ring::aead;

use quinn_proto::ConnectionId;
use rustls::quic::Version;

use super::rustls::interpret_version;
use crate::header::Retry;

/// A Retry packet ends in a tag of so many bytes.
pub(super) const TAG_BYTES: usize = 16;

/// The tag of a Retry packet that answers an Initial sent to `orig_dst_cid`. `packet` is without it.
///
/// The keys are no secret: the tag guards against accidents, and proves that the sender has seen
/// the Initial.
pub(super) fn tag(version: Version, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; TAG_BYTES] {
    let (key, nonce) = match version {
        Version::V1Draft => (KEY_DRAFT_29, NONCE_DRAFT_29),
        _ => (KEY_V1, NONCE_V1),
    };
    let mut pseudo_packet = Vec::with_capacity(1 + orig_dst_cid.len() + packet.len());
    pseudo_packet.push(orig_dst_cid.len() as u8);
    pseudo_packet.extend_from_slice(orig_dst_cid);
    pseudo_packet.extend_from_slice(packet);
    let key = aead::UnboundKey::new(&aead::AES_128_GCM, &key).expect("a key of this length");
    let tag = aead::LessSafeKey::new(key)
        .seal_in_place_separate_tag(
            aead::Nonce::assume_unique_for_key(nonce),
            aead::Aad::from(pseudo_packet),
            &mut [],
        )
        .expect("far below the limits of AES-GCM");
    tag.as_ref().try_into().expect("tags have this length")
}

/// Whether a client that sent its first Initial to `orig_dst_cid` may follow `retry`: there is a token,
/// and the tag is right (RFC 9000 section 17.2.5.2). Versions that are not known here are not judged:
/// what looks like one may be a Version Negotiation packet, in which the bits of the type mean nothing.
pub(crate) fn is_genuine(retry: &Retry<'_>, orig_dst_cid: &ConnectionId) -> Option<bool> {
    let version = interpret_version(retry.version).ok()?;
    if retry.payload.len() <= TAG_BYTES {
        return Some(false);
    }
    let (packet, sent) = retry.packet.split_at(retry.packet.len() - TAG_BYTES);
    Some(tag(version, orig_dst_cid, packet) == sent)
}

const KEY_V1: [u8; 16] = [
    0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e,
];
const NONCE_V1: [u8; 12] = [
    0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb,
];
const KEY_DRAFT_29: [u8; 16] = [
    0xcc, 0xce, 0x18, 0x7e, 0xd0, 0x9a, 0x09, 0xd0, 0x57, 0x28, 0x15, 0x5a, 0x6c, 0xb9, 0x6b, 0xe1,
];
const NONCE_DRAFT_29: [u8; 12] = [
    0xe5, 0x49, 0x30, 0xf9, 0x7f, 0x21, 0x36, 0xf0, 0x53, 0x0a, 0x8c, 0x1c,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9001 appendix A.4.
    #[test]
    fn the_rfcs_example() {
        let orig_dst_cid = ConnectionId::new(&[0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08]);
        let packet = [
            0xff, 0x00, 0x00, 0x00, 0x01, 0x00, 0x08, 0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62,
            0xb5, 0x74, 0x6f, 0x6b, 0x65, 0x6e,
        ];
        let expected = [
            0x04, 0xa2, 0x65, 0xba, 0x2e, 0xff, 0x4d, 0x82, 0x90, 0x58, 0xfb, 0x3f, 0x0f, 0x24,
            0x96, 0xba,
        ];
        assert_eq!(tag(Version::V1, &orig_dst_cid, &packet), expected);
    }
}
