//! QUIC's encoding, written and read by itself: a model that shares no code with what it judges.

/// Append a variable-length integer (RFC 9000 section 16).
pub(crate) fn put_varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value & ((1 << 62) - 1) | 3 << 62).to_be_bytes()),
    }
}

/// Takes bytes off a packet.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let mut value = u64::from(first & 0x3f);
        for byte in self.take((1 << (first >> 6)) - 1)? {
            value = value << 8 | u64::from(*byte);
        }
        Some(value)
    }

    /// Bytes preceded by their number.
    pub(crate) fn counted(&mut self) -> Option<&'a [u8]> {
        let count = self.varint()?;
        self.take(count.try_into().ok()?)
    }
}

/// A frame, as far as the models look into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    Padding,
    Ping,
    /// `smallest` is that of the first range.
    Ack {
        largest: u64,
        smallest: u64,
        more: bool,
    },
    ResetStream {
        id: u64,
        final_size: u64,
    },
    StopSending {
        id: u64,
    },
    Crypto,
    NewToken(&'a [u8]),
    Stream {
        id: u64,
        offset: u64,
        data: &'a [u8],
        fin: bool,
    },
    MaxData(u64),
    MaxStreamData {
        id: u64,
        limit: u64,
    },
    MaxStreams {
        uni: bool,
        count: u64,
    },
    Blocked,
    StreamBlocked(u64),
    StreamsBlocked(u64),
    NewConnectionId(&'a [u8]),
    RetireConnectionId,
    PathChallenge([u8; 8]),
    PathResponse([u8; 8]),
    Close {
        code: u64,
        application: bool,
    },
    HandshakeDone,
    Datagram(&'a [u8]),
    Extension,
}

/// Pass over so many integers.
fn skip(r: &mut Reader<'_>, count: usize) -> Option<()> {
    for _ in 0..count {
        r.varint()?;
    }
    Some(())
}

/// The next frame of a packet's payload; `None` if it is malformed.
pub(crate) fn frame<'a>(r: &mut Reader<'a>) -> Option<Frame<'a>> {
    Some(match r.varint()? {
        0x00 => Frame::Padding,
        0x01 => Frame::Ping,
        kind @ (0x02 | 0x03) => {
            let (largest, _delay, ranges) = (r.varint()?, r.varint()?, r.varint()?);
            let first = largest.checked_sub(r.varint()?)?;
            let mut smallest = first;
            for _ in 0..ranges {
                smallest = smallest
                    .checked_sub(r.varint()? + 2)?
                    .checked_sub(r.varint()?)?;
            }
            if kind == 0x03 {
                skip(r, 3)?;
            }
            Frame::Ack {
                largest,
                smallest: first,
                more: ranges > 0,
            }
        }
        0x04 => {
            let (id, _code) = (r.varint()?, r.varint()?);
            Frame::ResetStream {
                id,
                final_size: r.varint()?,
            }
        }
        0x05 => {
            let id = r.varint()?;
            r.varint()?;
            Frame::StopSending { id }
        }
        0x06 => {
            r.varint()?;
            r.counted()?;
            Frame::Crypto
        }
        0x07 => Frame::NewToken(r.counted()?),
        kind @ 0x08..=0x0f => {
            let id = r.varint()?;
            let offset = if kind & 4 != 0 { r.varint()? } else { 0 };
            let data = if kind & 2 != 0 {
                r.counted()?
            } else {
                r.take(r.0.len())?
            };
            Frame::Stream {
                id,
                offset,
                data,
                fin: kind & 1 != 0,
            }
        }
        0x10 => Frame::MaxData(r.varint()?),
        0x11 => {
            let id = r.varint()?;
            Frame::MaxStreamData {
                id,
                limit: r.varint()?,
            }
        }
        kind @ (0x12 | 0x13) => Frame::MaxStreams {
            uni: kind == 0x13,
            count: r.varint()?,
        },
        0x14 => {
            r.varint()?;
            Frame::Blocked
        }
        0x15 => {
            let id = r.varint()?;
            r.varint()?;
            Frame::StreamBlocked(id)
        }
        0x16 | 0x17 => Frame::StreamsBlocked(r.varint()?),
        0x18 => {
            skip(r, 2)?;
            let length = usize::from(r.byte()?);
            let id = r.take(length)?;
            r.take(16)?;
            Frame::NewConnectionId(id)
        }
        0x19 => {
            r.varint()?;
            Frame::RetireConnectionId
        }
        0x1a => Frame::PathChallenge(r.take(8)?.try_into().ok()?),
        0x1b => Frame::PathResponse(r.take(8)?.try_into().ok()?),
        0x1c => {
            let (code, _frame) = (r.varint()?, r.varint()?);
            r.counted()?;
            Frame::Close {
                code,
                application: false,
            }
        }
        0x1d => {
            let code = r.varint()?;
            r.counted()?;
            Frame::Close {
                code,
                application: true,
            }
        }
        0x1e => Frame::HandshakeDone,
        0x30 => Frame::Datagram(r.take(r.0.len())?),
        0x31 => Frame::Datagram(r.counted()?),
        0xaf => {
            skip(r, 4)?;
            Frame::Extension
        }
        0x1f => Frame::Extension,
        _ => return None,
    })
}

/// What kind of packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    Retry,
    VersionNegotiation,
    Short,
}

/// A packet of a datagram whose cipher is none.
#[derive(Debug, Clone)]
pub(crate) struct Packet<'a> {
    pub(crate) kind: Kind,
    pub(crate) dst_cid: &'a [u8],
    pub(crate) src_cid: &'a [u8],
    pub(crate) token: &'a [u8],
    /// Truncated to `number_bits`.
    pub(crate) number: u64,
    pub(crate) number_bits: u32,
    /// Without the tag.
    pub(crate) payload: &'a [u8],
}

/// Take the next packet off a datagram. Ids in short headers have `cid_length` bytes, tags
/// `tag_length`.
pub(crate) fn packet<'a>(
    r: &mut Reader<'a>,
    cid_length: usize,
    tag_length: usize,
) -> Option<Packet<'a>> {
    let first = r.byte()?;
    let number_length = usize::from(first & 3) + 1;
    let number_bits = 8 * number_length as u32;
    if first & 0x80 == 0 {
        let dst_cid = r.take(cid_length)?;
        let number = number(r.take(number_length)?);
        let payload = r.take(r.0.len().checked_sub(tag_length)?)?;
        r.0 = &[];
        return Some(Packet {
            kind: Kind::Short,
            dst_cid,
            src_cid: &[],
            token: &[],
            number,
            number_bits,
            payload,
        });
    }
    let version = r.take(4)?;
    let length = r.byte()?;
    let dst_cid = r.take(length.into())?;
    let length = r.byte()?;
    let src_cid = r.take(length.into())?;
    let kind = match first >> 4 & 3 {
        _ if version == [0; 4] => Kind::VersionNegotiation,
        0 => Kind::Initial,
        1 => Kind::ZeroRtt,
        2 => Kind::Handshake,
        _ => Kind::Retry,
    };
    if matches!(kind, Kind::Retry | Kind::VersionNegotiation) {
        let payload = r.take(r.0.len())?;
        return Some(Packet {
            kind,
            dst_cid,
            src_cid,
            token: &[],
            number: 0,
            number_bits,
            payload,
        });
    }
    let token = if kind == Kind::Initial {
        r.counted()?
    } else {
        &[]
    };
    let mut body = Reader(r.counted()?);
    // Too short for a number and a tag: nothing, and what follows is a packet all the same.
    let number = body.take(number_length).map_or(0, number);
    let payload = body.0.len().checked_sub(tag_length);
    let payload = payload.and_then(|length| body.take(length)).unwrap_or(&[]);
    Some(Packet {
        kind,
        dst_cid,
        src_cid,
        token,
        number,
        number_bits,
        payload,
    })
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Write a packet with a number of four bytes, padded to what header protection looks at.
pub(crate) fn put_packet(
    out: &mut Vec<u8>,
    kind: Kind,
    dst_cid: &[u8],
    src_cid: &[u8],
    token: &[u8],
    packet_number: u32,
    payload: &[u8],
) {
    let tag = [0; crate::plain::TAG_BYTES];
    if kind == Kind::Short {
        out.push(0x43);
        out.extend_from_slice(dst_cid);
    } else {
        let bits = match kind {
            Kind::Initial => 0,
            Kind::ZeroRtt => 1,
            _ => 2,
        };
        out.push(0xc3 | bits << 4);
        out.extend_from_slice(&[0, 0, 0, 1, dst_cid.len() as u8]);
        out.extend_from_slice(dst_cid);
        out.push(src_cid.len() as u8);
        out.extend_from_slice(src_cid);
        if kind == Kind::Initial {
            put_varint(out, token.len() as u64);
            out.extend_from_slice(token);
        }
        put_varint(out, (4 + payload.len() + tag.len()) as u64);
    }
    out.extend_from_slice(&packet_number.to_be_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&tag);
}
