//! Packets: headers, protection, and the forms that have none (RFC 9000 section 17, RFC 9001).

use polyquic_core::ConnectionId;
use polyquic_core::crypto::{ServerConfig as _, rustls::QuicServerConfig};
use polyquic_core::rustls::quic::{
    DirectionalKeys, HeaderProtectionKey, Keys, PacketKey, Suite, Version,
};
use polyquic_core::rustls::{CipherSuite, Side};

use crate::wire::{Reader, put_varint};
use crate::{Frame, Space};

/// The version of QUIC that peers speak.
const V1: u32 = 1;

/// The type of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Protected by keys that everybody can compute.
    Initial,
    /// Early data.
    ZeroRtt,
    /// Protected by TLS's handshake keys.
    Handshake,
    /// With a short header.
    OneRtt,
}

impl Kind {
    /// The space that its packet numbers are of.
    pub fn space(self) -> Space {
        match self {
            Self::Initial => Space::Initial,
            Self::Handshake => Space::Handshake,
            Self::ZeroRtt | Self::OneRtt => Space::Data,
        }
    }
}

/// A packet to be sent, with everything in it that can be lied about.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Its type.
    pub kind: Kind,
    /// The version, in long headers.
    pub version: u32,
    /// Whom it is for.
    pub dcid: Vec<u8>,
    /// Whom it is from, in long headers.
    pub scid: Vec<u8>,
    /// The token of an Initial packet.
    pub token: Vec<u8>,
    /// The packet number; its lowest 32 bits are sent.
    pub pn: u64,
    /// The key phase, in short headers.
    pub key_phase: bool,
    /// The two reserved bits, which must be 0.
    pub reserved: u8,
    /// The bit that must be 1.
    pub fixed: bool,
    /// The value of the Length field, if it is to be another than the true one.
    pub length: Option<u64>,
    /// Frames, or what is in their place.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A packet without lies.
    pub fn new(kind: Kind, dcid: &[u8], scid: &[u8], pn: u64, payload: Vec<u8>) -> Self {
        Self {
            kind,
            version: V1,
            dcid: dcid.to_vec(),
            scid: scid.to_vec(),
            token: Vec::new(),
            pn,
            key_phase: false,
            reserved: 0,
            fixed: true,
            length: None,
            payload,
        }
    }

    /// Add PADDING until a datagram of this packet alone has at least `len` bytes.
    pub fn padded_to(mut self, len: usize) -> Self {
        let now = self.header().0.len() + self.payload.len() + TAG_LEN;
        Frame::Padding(len.saturating_sub(now)).encode(&mut self.payload);
        self
    }

    fn header(&self) -> (Vec<u8>, usize) {
        let mut header = Vec::new();
        let fixed = u8::from(self.fixed) << 6;
        if self.kind == Kind::OneRtt {
            let phase = u8::from(self.key_phase) << 2;
            header.push(fixed | self.reserved << 3 | phase | PN_LEN_BITS);
            header.extend_from_slice(&self.dcid);
        } else {
            let kind = match self.kind {
                Kind::Initial => 0x80,
                Kind::ZeroRtt => 0x90,
                Kind::Handshake | Kind::OneRtt => 0xa0,
            };
            header.push(kind | fixed | self.reserved << 2 | PN_LEN_BITS);
            header.extend_from_slice(&self.version.to_be_bytes());
            put_short(&mut header, &self.dcid);
            put_short(&mut header, &self.scid);
            if self.kind == Kind::Initial {
                put_varint(&mut header, self.token.len() as u64);
                header.extend_from_slice(&self.token);
            }
            let length = self.payload.len() + PN_LEN + TAG_LEN;
            let length = self.length.unwrap_or(length as u64);
            // Always in four bytes, so that the length of the header does not depend on it.
            header.extend_from_slice(&(length as u32 | 0x8000_0000).to_be_bytes());
        }
        let pn_offset = header.len();
        header.extend_from_slice(&(self.pn as u32).to_be_bytes());
        (header, pn_offset)
    }

    /// The packet, protected.
    pub fn seal(&self, keys: &DirectionalKeys) -> Vec<u8> {
        self.seal_with(&*keys.packet, &*keys.header)
    }

    pub(crate) fn seal_with(
        &self,
        key: &dyn PacketKey,
        header_key: &dyn HeaderProtectionKey,
    ) -> Vec<u8> {
        let (header, pn_offset) = self.header();
        let mut payload = self.payload.clone();
        let tag = key
            .encrypt_in_place(self.pn, &header, &mut payload)
            .expect("packets are short");
        let mut packet = header;
        packet.extend_from_slice(&payload);
        packet.extend_from_slice(tag.as_ref());
        let (head, body) = packet.split_at_mut(pn_offset + PN_LEN);
        let sample = &body[..header_key.sample_len()];
        let (first, rest) = head.split_at_mut(1);
        header_key
            .encrypt_in_place(sample, &mut first[0], &mut rest[pn_offset - 1..])
            .expect("the sample has the right length");
        packet
    }
}

const PN_LEN: usize = 4;
const PN_LEN_BITS: u8 = PN_LEN as u8 - 1;
const TAG_LEN: usize = 16;

fn put_short(buf: &mut Vec<u8>, bytes: &[u8]) {
    buf.push(u8::try_from(bytes.len()).expect("connection ids are short"));
    buf.extend_from_slice(bytes);
}

/// The keys of Initial packets, which whoever saw a client's first packet can compute (RFC 9001
/// section 5.2).
pub fn initial_keys(dcid: &[u8], side: Side) -> Keys {
    let provider = polyquic_core::crypto_provider();
    let suites = provider.cipher_suites.iter().filter_map(|it| it.tls13());
    let suite: Suite = suites
        .filter(|it| it.common.suite == CipherSuite::TLS13_AES_128_GCM_SHA256)
        .find_map(|it| it.quic_suite())
        .expect("the provider has QUIC's initial suite");
    suite.keys(dcid, side, Version::V1)
}

/// A Version Negotiation packet (RFC 9000 section 17.2.1).
pub fn version_negotiation(dcid: &[u8], scid: &[u8], versions: &[u32]) -> Vec<u8> {
    let mut packet = vec![0xc0];
    packet.extend_from_slice(&0u32.to_be_bytes());
    put_short(&mut packet, dcid);
    put_short(&mut packet, scid);
    for version in versions {
        packet.extend_from_slice(&version.to_be_bytes());
    }
    packet
}

/// A Retry packet (RFC 9000 section 17.2.5); its integrity tag is right for `original_dcid`.
pub fn retry(
    crypto: &QuicServerConfig,
    original_dcid: &[u8],
    dcid: &[u8],
    scid: &[u8],
    token: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0xf0];
    packet.extend_from_slice(&V1.to_be_bytes());
    put_short(&mut packet, dcid);
    put_short(&mut packet, scid);
    packet.extend_from_slice(token);
    let tag = crypto.retry_tag(V1, &ConnectionId::new(original_dcid), &packet);
    packet.extend_from_slice(&tag);
    packet
}

/// What can be read of a packet without keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Header {
    /// A protected packet.
    Protected {
        /// Its type.
        kind: Kind,
        /// Whom it is for.
        dcid: Vec<u8>,
        /// Whom it is from, in long headers.
        scid: Vec<u8>,
        /// The token of an Initial packet.
        token: Vec<u8>,
        /// Where the packet number begins.
        pn_offset: usize,
        /// The packet's length in bytes.
        len: usize,
    },
    /// A Retry packet.
    Retry {
        /// Whom it is for.
        dcid: Vec<u8>,
        /// Whom it is from.
        scid: Vec<u8>,
        /// The token.
        token: Vec<u8>,
    },
    /// A Version Negotiation packet.
    VersionNegotiation {
        /// What the sender speaks.
        versions: Vec<u32>,
    },
}

impl Header {
    /// Look at the packet that `data` begins with. Short headers hold connection ids of `cid_len`
    /// bytes. `None` if it is none.
    pub fn decode(data: &[u8], cid_len: usize) -> Option<Self> {
        let mut r = Reader(data);
        let first = r.byte()?;
        if first & 0x80 == 0 {
            return Some(Self::Protected {
                kind: Kind::OneRtt,
                dcid: r.take(cid_len)?.to_vec(),
                scid: Vec::new(),
                token: Vec::new(),
                pn_offset: 1 + cid_len,
                len: data.len(),
            });
        }
        let version = u32::from_be_bytes(r.take(4)?.try_into().ok()?);
        let (dcid, scid) = (r.short()?.to_vec(), r.short()?.to_vec());
        if version == 0 {
            let versions = r.rest().as_chunks().0.iter();
            return Some(Self::VersionNegotiation {
                versions: versions.map(|it| u32::from_be_bytes(*it)).collect(),
            });
        }
        let kind = match first & 0x30 {
            0x00 => Kind::Initial,
            0x10 => Kind::ZeroRtt,
            0x20 => Kind::Handshake,
            _ => {
                let rest = r.rest();
                let token = rest.get(..rest.len().checked_sub(16)?)?.to_vec();
                return Some(Self::Retry { dcid, scid, token });
            }
        };
        let token = match kind {
            Kind::Initial => r.prefixed()?.to_vec(),
            _ => Vec::new(),
        };
        let length = usize::try_from(r.varint()?).ok()?;
        let pn_offset = data.len() - r.0.len();
        r.take(length)?;
        Some(Self::Protected {
            kind,
            dcid,
            scid,
            token,
            pn_offset,
            len: pn_offset + length,
        })
    }
}

/// Remove the protection of a packet's header: its first byte, its number in full, and where its
/// payload begins.
pub(crate) fn unmask(
    packet: &mut [u8],
    pn_offset: usize,
    largest: Option<u64>,
    key: &dyn HeaderProtectionKey,
) -> Option<(u64, usize)> {
    let (head, body) = packet.split_at_mut_checked(pn_offset + 4)?;
    let sample = body.get(..key.sample_len())?;
    let (first, rest) = head.split_at_mut(1);
    key.decrypt_in_place(sample, &mut first[0], &mut rest[pn_offset - 1..])
        .ok()?;
    let pn_len = usize::from(first[0] & 3) + 1;
    let bytes = &packet[pn_offset..pn_offset + pn_len];
    let truncated = bytes.iter().fold(0, |pn, byte| pn << 8 | u64::from(*byte));
    Some((expand(truncated, pn_len, largest), pn_offset + pn_len))
}

/// RFC 9000 appendix A.3.
fn expand(truncated: u64, pn_len: usize, largest: Option<u64>) -> u64 {
    let expected = largest.map_or(0, |it| it + 1);
    let window = 1u64 << (pn_len * 8);
    let candidate = expected & !(window - 1) | truncated;
    if candidate + window / 2 <= expected {
        candidate + window
    } else if candidate > expected + window / 2 && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_numbers_are_expanded_as_in_the_rfc() {
        assert_eq!(expand(0x9b32, 2, Some(0xa82f_30ea)), 0xa82f_9b32);
        assert_eq!(expand(0, 1, Some(255)), 256);
        assert_eq!(expand(255, 1, Some(256)), 255);
    }

    #[test]
    fn what_one_side_seals_the_other_opens() {
        let cid = b"12345678";
        let (client, server) = (
            initial_keys(cid, Side::Client),
            initial_keys(cid, Side::Server),
        );
        let packet = Packet::new(Kind::Initial, cid, b"me", 7, vec![1]).padded_to(1200);
        let mut sealed = packet.seal(&client.local);
        assert_eq!(sealed.len(), 1200);
        let Some(Header::Protected { pn_offset, len, .. }) = Header::decode(&sealed, 8) else {
            panic!("not a packet");
        };
        assert_eq!(len, 1200);
        let (pn, start) = unmask(&mut sealed, pn_offset, None, &*server.remote.header).unwrap();
        assert_eq!(pn, 7);
        let (header, payload) = sealed.split_at_mut(start);
        let payload = server.remote.packet.decrypt_in_place(pn, header, payload);
        assert_eq!(payload.unwrap(), packet.payload);
    }
}
