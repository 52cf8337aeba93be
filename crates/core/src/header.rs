//! What long headers (RFC 9000 section 17.2) say without any key.

use quinn_proto::ConnectionId;

/// The bit of the first byte that tells long headers.
pub(crate) const LONG: u8 = 0x80;
/// What a connection id of QUIC version 1 has at most.
const MAX_CID_BYTES: usize = 20;
/// The bits that hold the type.
const TYPE: u8 = 0x30;
const INITIAL: u8 = 0x00;
const ZERO_RTT: u8 = 0x10;
const HANDSHAKE: u8 = 0x20;
const RETRY: u8 = 0x30;

/// Where the Length field of the Initial packet begins whose header is in `bytes`.
pub(crate) fn initial_length_at(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader { bytes, at: 0 };
    let (kind, _) = reader.up_to_token()?;
    if kind != INITIAL {
        return None;
    }
    reader.skip_token()?;
    Some(reader.at)
}

/// Where in a datagram the first 0-RTT packet begins, and the connection id that it is for.
pub(crate) fn early_data_at(datagram: &[u8]) -> Option<(ConnectionId, usize)> {
    let mut reader = Reader {
        bytes: datagram,
        at: 0,
    };
    loop {
        let begin = reader.at;
        let (kind, dst_cid) = reader.up_to_token()?;
        match kind {
            ZERO_RTT => return Some((dst_cid, begin)),
            INITIAL => reader.skip_token()?,
            HANDSHAKE => {}
            _ => return None,
        }
        let length = reader.varint()?;
        reader.take(length)?;
    }
}

/// A Retry packet, which is the last of its datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Retry<'a> {
    pub(crate) version: u32,
    /// All of it, with its tag.
    pub(crate) packet: &'a [u8],
    /// Token and tag.
    pub(crate) payload: &'a [u8],
}

/// The Retry packet that a datagram ends in, if it does.
pub(crate) fn retry_in(datagram: &[u8]) -> Option<Retry<'_>> {
    let mut reader = Reader {
        bytes: datagram,
        at: 0,
    };
    loop {
        let begin = reader.at;
        let (kind, _) = reader.up_to_token()?;
        match kind {
            RETRY => {
                let packet = &datagram[begin..];
                let version = packet[1..5].try_into().expect("it was read");
                let payload = &datagram[reader.at..];
                return Some(Retry {
                    version: u32::from_be_bytes(version),
                    packet,
                    payload,
                });
            }
            INITIAL => reader.skip_token()?,
            _ => {}
        }
        let length = reader.varint()?;
        reader.take(length)?;
    }
}

/// The versions that a Version Negotiation packet offers (RFC 9000 section 17.2.1), if this is one.
pub(crate) fn offered_versions(datagram: &[u8]) -> Option<impl Iterator<Item = u32>> {
    let mut reader = Reader {
        bytes: datagram,
        at: 0,
    };
    reader.up_to_token()?;
    if datagram[1..5] != [0; 4] {
        return None;
    }
    let (versions, _) = datagram[reader.at..].as_chunks();
    Some(versions.iter().map(|&version| u32::from_be_bytes(version)))
}

/// Whether this negotiates the version, or ends in a Retry packet.
pub(crate) fn answers_first_packet(datagram: &[u8]) -> bool {
    offered_versions(datagram).is_some() || retry_in(datagram).is_some()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// The type of the packet that begins here, and whom it is for.
    fn up_to_token(&mut self) -> Option<(u8, ConnectionId)> {
        let first = *self.take(1)?.first()?;
        if first & LONG == 0 {
            return None;
        }
        let _version = self.take(4)?;
        let dst_cid = self.cid()?;
        let _src_cid = self.cid()?;
        Some((first & TYPE, dst_cid))
    }

    fn cid(&mut self) -> Option<ConnectionId> {
        let length = *self.take(1)?.first()?;
        if usize::from(length) > MAX_CID_BYTES {
            return None;
        }
        self.take(usize::from(length)).map(ConnectionId::new)
    }

    fn skip_token(&mut self) -> Option<()> {
        let length = self.varint()?;
        self.take(length).map(|_| ())
    }

    /// A variable-length integer (RFC 9000 section 16).
    fn varint(&mut self) -> Option<usize> {
        let first = *self.take(1)?.first()?;
        let rest = self.take((1 << (first >> 6)) - 1)?;
        let begin = u64::from(first & 0x3f);
        let value = (rest.iter()).fold(begin, |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Initial packet with a token, and a 0-RTT packet after it.
    const DATAGRAM: &[u8] = &[
        0xc3, 0, 0, 0, 1, 4, 1, 2, 3, 4, 2, 5, 6, 0x40, 3, 7, 7, 7, 0x40, 5, 0, 0, 0, 0,
        0, // 25
        0xd0, 0, 0, 0, 1, 4, 1, 2, 3, 4, 2, 5, 6, 2, 9, 9,
    ];

    #[test]
    fn packets_are_found_by_their_lengths() {
        assert_eq!(initial_length_at(DATAGRAM), Some(18));
        let (cid, at) = early_data_at(DATAGRAM).unwrap();
        assert_eq!((&cid[..], at), (&[1, 2, 3, 4][..], 25));
        let (_, at) = early_data_at(&DATAGRAM[25..]).unwrap();
        assert_eq!(at, 0);
    }

    /// The packet of RFC 9001 appendix A.4.
    const RETRY_PACKET: &[u8] = &[
        0xff, 0, 0, 0, 1, 0, 8, 0xf0, 0x67, 0xa5, 0x50, 0x2a, 0x42, 0x62, 0xb5, // 15
        0x74, 0x6f, 0x6b, 0x65, 0x6e, 0x04, 0xa2, 0x65, 0xba, 0x2e, 0xff, 0x4d, 0x82, 0x90, 0x58,
        0xfb, 0x3f, 0x0f, 0x24, 0x96, 0xba,
    ];

    #[test]
    fn retry_packets_are_found_wherever_they_are() {
        assert_eq!(retry_in(DATAGRAM), None);
        let expected = Retry {
            version: 1,
            packet: RETRY_PACKET,
            payload: &RETRY_PACKET[15..],
        };
        assert_eq!(retry_in(RETRY_PACKET), Some(expected));
        let coalesced = [DATAGRAM, RETRY_PACKET].concat();
        assert_eq!(retry_in(&coalesced).unwrap().packet, RETRY_PACKET);
        for end in 0..15 {
            assert_eq!(retry_in(&RETRY_PACKET[..end]), None, "{end}");
        }
    }

    #[test]
    fn version_negotiation_is_told_from_other_packets() {
        let negotiation = [
            0xb0, 0, 0, 0, 0, 1, 7, 2, 8, 9, 0x1a, 0x2a, 0x3a, 0x4a, 0, 0, 0, 1, 0,
        ];
        let offered = |datagram: &[u8]| offered_versions(datagram).map(Iterator::collect);
        assert_eq!(offered(&negotiation), Some(vec![0x1a2a_3a4a, 1]));
        assert_eq!(offered(&negotiation[..17]), Some(vec![0x1a2a_3a4a]));
        let mut other = negotiation;
        other[4] = 1;
        assert_eq!(offered(&other), None, "a Retry packet");
        for end in 0..10 {
            assert_eq!(offered(&negotiation[..end]), None, "{end}");
        }
    }

    #[test]
    fn what_is_cut_off_is_not_found() {
        for end in 0..18 {
            assert_eq!(initial_length_at(&DATAGRAM[..end]), None, "{end}");
        }
        for end in 0..38 {
            assert_eq!(early_data_at(&DATAGRAM[..end]), None, "{end}");
        }
    }
}
