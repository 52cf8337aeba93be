//! Frames (RFC 9000 section 19, RFC 9221, draft-ietf-quic-ack-frequency).

use std::ops::RangeInclusive;

use crate::wire::{Reader, put_varint};

/// A frame, or bytes in the place of one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as in RFC 9000")]
pub enum Frame {
    /// This many PADDING frames.
    Padding(usize),
    Ping,
    /// Ranges of packet numbers, the largest first, as gaps and lengths (RFC 9000 section 19.3.1).
    Ack {
        largest: u64,
        delay: u64,
        first: u64,
        ranges: Vec<(u64, u64)>,
        ecn: Option<[u64; 3]>,
    },
    ResetStream {
        id: u64,
        code: u64,
        final_size: u64,
    },
    StopSending {
        id: u64,
        code: u64,
    },
    Crypto {
        offset: u64,
        data: Vec<u8>,
    },
    NewToken(Vec<u8>),
    Stream {
        id: u64,
        offset: u64,
        data: Vec<u8>,
        fin: bool,
    },
    MaxData(u64),
    MaxStreamData {
        id: u64,
        max: u64,
    },
    MaxStreams {
        bidirectional: bool,
        max: u64,
    },
    DataBlocked(u64),
    StreamDataBlocked {
        id: u64,
        limit: u64,
    },
    StreamsBlocked {
        bidirectional: bool,
        limit: u64,
    },
    NewConnectionId {
        sequence: u64,
        retire_prior_to: u64,
        cid: Vec<u8>,
        token: [u8; 16],
    },
    RetireConnectionId(u64),
    PathChallenge([u8; 8]),
    PathResponse([u8; 8]),
    /// CONNECTION_CLOSE; `frame_type` is `None` in that of applications.
    Close {
        code: u64,
        frame_type: Option<u64>,
        reason: Vec<u8>,
    },
    HandshakeDone,
    Datagram(Vec<u8>),
    AckFrequency {
        sequence: u64,
        threshold: u64,
        max_ack_delay: u64,
        reordering: u64,
    },
    ImmediateAck,
    /// Sent as they are.
    Raw(Vec<u8>),
}

/// The victim sent what is not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undecodable;

impl Frame {
    /// Data of a stream that goes on.
    pub fn stream(id: u64, offset: u64, data: &[u8]) -> Self {
        Self::Stream {
            id,
            offset,
            data: data.to_vec(),
            fin: false,
        }
    }

    /// The last data of a stream.
    pub fn last(id: u64, offset: u64, data: &[u8]) -> Self {
        Self::Stream {
            id,
            offset,
            data: data.to_vec(),
            fin: true,
        }
    }

    /// TLS messages.
    pub fn crypto(offset: u64, data: &[u8]) -> Self {
        Self::Crypto {
            offset,
            data: data.to_vec(),
        }
    }

    /// A transport's CONNECTION_CLOSE.
    pub fn close(code: u64) -> Self {
        Self::Close {
            code,
            frame_type: Some(0),
            reason: Vec::new(),
        }
    }

    /// A connection id.
    pub fn new_cid(sequence: u64, retire_prior_to: u64, cid: &[u8]) -> Self {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&sequence.to_be_bytes());
        Self::NewConnectionId {
            sequence,
            retire_prior_to,
            cid: cid.to_vec(),
            token,
        }
    }

    /// An acknowledgement of these packet numbers, ascending and not adjacent.
    ///
    /// # Panics
    ///
    /// If there is none, or they are not so.
    pub fn ack(ranges: &[RangeInclusive<u64>]) -> Self {
        let (last, others) = ranges.split_last().expect("there is something to say");
        let mut smallest = *last.start();
        let more = others.iter().rev().map(|range| {
            let gap = smallest - range.end() - 2;
            smallest = *range.start();
            (gap, range.end() - range.start())
        });
        Self::Ack {
            largest: *last.end(),
            delay: 0,
            first: last.end() - last.start(),
            ranges: more.collect(),
            ecn: None,
        }
    }

    /// Whether it acknowledges this packet number.
    pub fn acknowledges(&self, pn: u64) -> bool {
        let Self::Ack {
            largest,
            first,
            ranges,
            ..
        } = self
        else {
            return false;
        };
        let (mut start, mut end) = (largest.checked_sub(*first), *largest);
        let mut ranges = ranges.iter();
        while let Some(from) = start {
            if (from..=end).contains(&pn) {
                return true;
            }
            let Some((gap, length)) = ranges.next() else {
                break;
            };
            let Some(next) = from.checked_sub(gap + 2) else {
                break;
            };
            (start, end) = (next.checked_sub(*length), next);
        }
        false
    }

    /// Whether it has to be acknowledged (RFC 9000 section 13.2).
    pub fn is_ack_eliciting(&self) -> bool {
        !matches!(
            self,
            Self::Padding(_) | Self::Ack { .. } | Self::Close { .. }
        )
    }

    /// Append it.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        match self {
            Self::Padding(count) => buf.resize(buf.len() + count, 0),
            Self::Raw(bytes) => buf.extend_from_slice(bytes),
            Self::Ping => put(buf, &[0x01]),
            Self::Ack {
                largest,
                delay,
                first,
                ranges,
                ecn,
            } => {
                let kind = 0x02 + u64::from(ecn.is_some());
                put(buf, &[kind, *largest, *delay, ranges.len() as u64, *first]);
                for (gap, length) in ranges {
                    put(buf, &[*gap, *length]);
                }
                put(buf, ecn.as_ref().map_or(&[], |it| it));
            }
            Self::ResetStream {
                id,
                code,
                final_size,
            } => put(buf, &[0x04, *id, *code, *final_size]),
            Self::StopSending { id, code } => put(buf, &[0x05, *id, *code]),
            Self::Crypto { offset, data } => {
                put(buf, &[0x06, *offset]);
                prefixed(buf, data);
            }
            Self::NewToken(token) => {
                put(buf, &[0x07]);
                prefixed(buf, token);
            }
            Self::Stream {
                id,
                offset,
                data,
                fin,
            } => {
                put(buf, &[0x0e + u64::from(*fin), *id, *offset]);
                prefixed(buf, data);
            }
            Self::MaxData(max) => put(buf, &[0x10, *max]),
            Self::MaxStreamData { id, max } => put(buf, &[0x11, *id, *max]),
            Self::MaxStreams { bidirectional, max } => {
                put(buf, &[0x13 - u64::from(*bidirectional), *max]);
            }
            Self::DataBlocked(limit) => put(buf, &[0x14, *limit]),
            Self::StreamDataBlocked { id, limit } => put(buf, &[0x15, *id, *limit]),
            Self::StreamsBlocked {
                bidirectional,
                limit,
            } => put(buf, &[0x17 - u64::from(*bidirectional), *limit]),
            Self::NewConnectionId {
                sequence,
                retire_prior_to,
                cid,
                token,
            } => {
                put(buf, &[0x18, *sequence, *retire_prior_to]);
                buf.push(cid.len() as u8);
                buf.extend_from_slice(cid);
                buf.extend_from_slice(token);
            }
            Self::RetireConnectionId(sequence) => put(buf, &[0x19, *sequence]),
            Self::PathChallenge(data) => {
                put(buf, &[0x1a]);
                buf.extend_from_slice(data);
            }
            Self::PathResponse(data) => {
                put(buf, &[0x1b]);
                buf.extend_from_slice(data);
            }
            Self::Close {
                code,
                frame_type,
                reason,
            } => {
                put(buf, &[0x1d - u64::from(frame_type.is_some()), *code]);
                put(buf, frame_type.as_slice());
                prefixed(buf, reason);
            }
            Self::HandshakeDone => put(buf, &[0x1e]),
            Self::Datagram(data) => {
                put(buf, &[0x31]);
                prefixed(buf, data);
            }
            Self::AckFrequency {
                sequence,
                threshold,
                max_ack_delay,
                reordering,
            } => put(
                buf,
                &[0xaf, *sequence, *threshold, *max_ack_delay, *reordering],
            ),
            Self::ImmediateAck => put(buf, &[0x1f]),
        }
    }

    /// These frames as a packet's payload.
    pub fn encode_all<'a>(frames: impl IntoIterator<Item = &'a Self>) -> Vec<u8> {
        let mut payload = Vec::new();
        for frame in frames {
            frame.encode(&mut payload);
        }
        payload
    }

    /// The frames of a packet.
    ///
    /// # Errors
    ///
    /// It is not made of frames that we know.
    pub fn decode_all(payload: &[u8]) -> Result<Vec<Self>, Undecodable> {
        let mut reader = Reader(payload);
        let mut frames = Vec::new();
        while !reader.0.is_empty() {
            frames.push(Self::decode(&mut reader).ok_or(Undecodable)?);
        }
        Ok(frames)
    }

    fn decode(r: &mut Reader<'_>) -> Option<Self> {
        let kind = r.varint()?;
        Some(match kind {
            0x00 => {
                let more = r.0.iter().take_while(|byte| **byte == 0).count();
                r.take(more)?;
                Self::Padding(1 + more)
            }
            0x01 => Self::Ping,
            0x02 | 0x03 => {
                let (largest, delay, count) = (r.varint()?, r.varint()?, r.varint()?);
                let first = r.varint()?;
                let ranges = (0..count).map(|_| Some((r.varint()?, r.varint()?)));
                let ranges = ranges.collect::<Option<_>>()?;
                let ecn = match kind {
                    0x02 => None,
                    _ => Some([r.varint()?, r.varint()?, r.varint()?]),
                };
                Self::Ack {
                    largest,
                    delay,
                    first,
                    ranges,
                    ecn,
                }
            }
            0x04 => Self::ResetStream {
                id: r.varint()?,
                code: r.varint()?,
                final_size: r.varint()?,
            },
            0x05 => Self::StopSending {
                id: r.varint()?,
                code: r.varint()?,
            },
            0x06 => Self::Crypto {
                offset: r.varint()?,
                data: r.prefixed()?.to_vec(),
            },
            0x07 => Self::NewToken(r.prefixed()?.to_vec()),
            0x08..=0x0f => Self::Stream {
                id: r.varint()?,
                offset: if kind & 4 != 0 { r.varint()? } else { 0 },
                data: if kind & 2 != 0 {
                    r.prefixed()?.to_vec()
                } else {
                    r.rest().to_vec()
                },
                fin: kind & 1 != 0,
            },
            0x10 => Self::MaxData(r.varint()?),
            0x11 => Self::MaxStreamData {
                id: r.varint()?,
                max: r.varint()?,
            },
            0x12 | 0x13 => Self::MaxStreams {
                bidirectional: kind == 0x12,
                max: r.varint()?,
            },
            0x14 => Self::DataBlocked(r.varint()?),
            0x15 => Self::StreamDataBlocked {
                id: r.varint()?,
                limit: r.varint()?,
            },
            0x16 | 0x17 => Self::StreamsBlocked {
                bidirectional: kind == 0x16,
                limit: r.varint()?,
            },
            0x18 => Self::NewConnectionId {
                sequence: r.varint()?,
                retire_prior_to: r.varint()?,
                cid: r.short()?.to_vec(),
                token: r.take(16)?.try_into().ok()?,
            },
            0x19 => Self::RetireConnectionId(r.varint()?),
            0x1a => Self::PathChallenge(r.take(8)?.try_into().ok()?),
            0x1b => Self::PathResponse(r.take(8)?.try_into().ok()?),
            0x1c | 0x1d => Self::Close {
                code: r.varint()?,
                frame_type: if kind == 0x1c {
                    Some(r.varint()?)
                } else {
                    None
                },
                reason: r.prefixed()?.to_vec(),
            },
            0x1e => Self::HandshakeDone,
            0x1f => Self::ImmediateAck,
            0x30 => Self::Datagram(r.rest().to_vec()),
            0x31 => Self::Datagram(r.prefixed()?.to_vec()),
            0xaf => Self::AckFrequency {
                sequence: r.varint()?,
                threshold: r.varint()?,
                max_ack_delay: r.varint()?,
                reordering: r.varint()?,
            },
            _ => return None,
        })
    }
}

fn put(buf: &mut Vec<u8>, values: &[u64]) {
    for value in values {
        put_varint(buf, *value);
    }
}

fn prefixed(buf: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(buf, bytes.len() as u64);
    buf.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_survives_the_trip() {
        let frames = [
            Frame::Ping,
            Frame::Padding(3),
            Frame::ack(&[1..=3, 7..=8, 100..=100]),
            Frame::Ack {
                largest: 9,
                delay: 1,
                first: 2,
                ranges: vec![],
                ecn: Some([1, 2, 3]),
            },
            Frame::ResetStream {
                id: 4,
                code: 1,
                final_size: 2,
            },
            Frame::StopSending { id: 4, code: 99 },
            Frame::crypto(70_000, b"hello"),
            Frame::NewToken(b"token".to_vec()),
            Frame::stream(3, 1, b"x"),
            Frame::last(3, 2, b""),
            Frame::MaxData(1),
            Frame::MaxStreamData { id: 1, max: 2 },
            Frame::MaxStreams {
                bidirectional: true,
                max: 2,
            },
            Frame::MaxStreams {
                bidirectional: false,
                max: 2,
            },
            Frame::DataBlocked(1),
            Frame::StreamDataBlocked { id: 1, limit: 3 },
            Frame::StreamsBlocked {
                bidirectional: true,
                limit: 1,
            },
            Frame::StreamsBlocked {
                bidirectional: false,
                limit: 1,
            },
            Frame::new_cid(1, 0, b"abcdefgh"),
            Frame::RetireConnectionId(1),
            Frame::PathChallenge([1; 8]),
            Frame::PathResponse([2; 8]),
            Frame::close(10),
            Frame::Close {
                code: 1,
                frame_type: None,
                reason: b"bye".to_vec(),
            },
            Frame::HandshakeDone,
            Frame::Datagram(b"d".to_vec()),
            Frame::AckFrequency {
                sequence: 1,
                threshold: 2,
                max_ack_delay: 3,
                reordering: 4,
            },
            Frame::ImmediateAck,
        ];
        let bytes = Frame::encode_all(&frames);
        assert_eq!(Frame::decode_all(&bytes).unwrap(), frames);
        assert_eq!(Frame::decode_all(&[0x22]), Err(Undecodable));
    }

    #[test]
    fn acknowledged_is_what_is_in_a_range() {
        let ack = Frame::ack(&[1..=3, 7..=8, 100..=100]);
        let said: Vec<_> = (0..200).filter(|it| ack.acknowledges(*it)).collect();
        assert_eq!(said, [1, 2, 3, 7, 8, 100]);
        assert!(!Frame::Ping.acknowledges(0));
    }
}
