//! Tokens in clients' first packets: those of Retry packets and those of NEW_TOKEN frames.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use polyquic_core::TransportConfig;

use crate::cursor::Cursor;
use crate::host::{Arrival, DATE, Host, addr, epoch, server_config};
use crate::plain::{PlainTls, TAG_BYTES, client_hello, open_token, seal_token};
use crate::wire::{Frame, Kind, Reader, frame, packet, put_packet, put_varint};

/// Seconds for which a Retry packet's token is good, by default.
const RETRY_SECONDS: u64 = 15;
/// The same for tokens in NEW_TOKEN frames.
const VALIDATION_SECONDS: u64 = 14 * 24 * 3600;
const INVALID_TOKEN: u64 = 0x0b;

/// What a token says.
enum Content {
    Retry { address: SocketAddr, issued: u64 },
    Validation { ip: IpAddr, issued: u64 },
}

/// An address counts as validated if and only if the token in the packet is one of ours, for this
/// address, in its time, and was not used before.
pub fn tokens(data: &[u8]) {
    let mut c = Cursor::new(data);
    let config = server_config(PlainTls::default(), TransportConfig::default());
    let mut server = Host::new(2, Some(config));
    let (now, mut used) = (epoch(), BTreeSet::new());
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for number in 0..24u8 {
        if c.is_empty() {
            break;
        }
        let remote = addr(10 + (c.byte() & 1), 1000 + u16::from(c.byte() & 1));
        let mut token = match c.below(5) {
            0 => c.slice().to_vec(),
            1 if !seen.is_empty() => seen[c.below(seen.len().min(200))].clone(),
            2 => seal_token(c.slice(), c.array()),
            3 => {
                let mut payload = vec![0];
                put_address(&mut payload, remote.ip());
                payload.extend(remote.port().to_be_bytes());
                let id = c.below(22);
                payload.push(id as u8);
                payload.extend(vec![1; id]);
                payload.extend(date(&mut c).to_be_bytes());
                seal_token(&payload, [c.byte(); 16])
            }
            _ => {
                let mut payload = vec![1];
                put_address(&mut payload, remote.ip());
                payload.extend(date(&mut c).to_be_bytes());
                seal_token(&payload, [c.byte(); 16])
            }
        };
        if c.below(8) == 1 && !token.is_empty() {
            let at = usize::from(c.byte()) % token.len();
            token[at] ^= 1 << c.below(8);
        }
        let read = content(&token);
        // Whoever has the key can date a token beyond what `SystemTime` holds, and then quinn-proto
        // panics. Nobody else can.
        if let Some((Content::Retry { issued, .. } | Content::Validation { issued, .. }, _)) = read
            && issued > 1 << 40
        {
            continue;
        }
        // With something after it, it is of no version that we know.
        let content = read.and_then(|(content, complete)| complete.then_some(content));
        let dst_cid = [number; 8];
        let datagram = initial(&dst_cid, &token);
        let arrival = server.receive(now, remote, &datagram);
        let (validated, refused, sure) = match content {
            None => (false, false, true),
            Some(Content::Retry { address, issued }) => {
                let good = address == remote && issued + RETRY_SECONDS >= DATE;
                (good, !good, true)
            }
            Some(Content::Validation { ip, issued }) => {
                let good = ip == remote.ip() && issued + VALIDATION_SECONDS >= DATE;
                // The filter of used tokens may err, but not while it is empty.
                let empty = used.is_empty();
                let fresh = good && used.insert(token.clone());
                (fresh, false, !fresh || empty && issued <= DATE)
            }
        };
        match arrival {
            Arrival::Incoming(incoming) => {
                assert!(
                    !refused,
                    "a token for another address, or an old one, was accepted"
                );
                let is = incoming.remote_address_validated();
                assert!(
                    is == validated || !sure && !is,
                    "validated: {is}, by {token:x?}"
                );
                assert!(!is || incoming.remote_address() == remote);
                let mut answer = Vec::new();
                match c.below(3) {
                    0 => match server.endpoint.retry(*incoming, &mut answer) {
                        Ok(transmit) => {
                            answer.truncate(transmit.size);
                            assert!(answer.len() <= datagram.len());
                            let mut r = Reader(&answer);
                            let packet = packet(&mut r, 8, TAG_BYTES).expect("well-formed");
                            assert_eq!(packet.kind, Kind::Retry);
                            let token = packet.payload.len() - 16;
                            seen.push(packet.payload[..token].to_vec());
                        }
                        Err(error) => server.endpoint.ignore(error.into_incoming()),
                    },
                    1 => {
                        server.accept(now, *incoming);
                        server.drive(now);
                        let sent: usize = server.sent.drain(..).map(|sent| sent.data.len()).sum();
                        assert!(
                            is || sent <= 3 * datagram.len(),
                            "{sent} bytes before validation"
                        );
                    }
                    _ => server.endpoint.ignore(*incoming),
                }
                seen.push(token);
            }
            Arrival::Answered => {
                assert!(refused, "a good token, or none, was refused");
                let answer = server.sent.pop().expect("answered").data;
                let packet = packet(&mut Reader(&answer), 8, TAG_BYTES).expect("well-formed");
                let mut frames = Reader(packet.payload);
                let codes = std::iter::from_fn(|| frame(&mut frames));
                let invalid = Frame::Close {
                    code: INVALID_TOKEN,
                    application: false,
                };
                assert!(
                    codes.into_iter().any(|frame| frame == invalid),
                    "no INVALID_TOKEN"
                );
            }
            Arrival::Connection => panic!("a connection for an id that is new"),
            Arrival::Nothing => panic!("a sound first packet was dropped"),
        }
    }
}

/// A time around now.
fn date(c: &mut Cursor<'_>) -> u64 {
    match c.byte() {
        near @ 0..200 => DATE + 20 - u64::from(near) / 4,
        _ => (DATE + 100).saturating_sub(u64::from(c.u16()) * 64),
    }
}

fn initial(dst_cid: &[u8], token: &[u8]) -> Vec<u8> {
    let hello = client_hello(&[]);
    let mut payload = vec![0x06, 0];
    put_varint(&mut payload, hello.len() as u64);
    payload.extend(hello);
    payload.resize(1200, 0);
    let mut datagram = Vec::new();
    put_packet(
        &mut datagram,
        Kind::Initial,
        dst_cid,
        &[5; 8],
        token,
        0,
        &payload,
    );
    datagram
}

fn put_address(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            out.push(0);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(1);
            out.extend(ip.octets());
        }
    }
}

fn ip(r: &mut Reader<'_>) -> Option<IpAddr> {
    match r.byte()? {
        0 => Some(<[u8; 4]>::try_from(r.take(4)?).ok()?.into()),
        1 => Some(<[u8; 16]>::try_from(r.take(16)?).ok()?.into()),
        _ => None,
    }
}

/// What a token says, and whether that is all of it.
fn content(token: &[u8]) -> Option<(Content, bool)> {
    let payload = open_token(token)?;
    let mut r = Reader(&payload);
    let seconds = |r: &mut Reader<'_>| Some(u64::from_be_bytes(r.take(8)?.try_into().ok()?));
    let content = match r.byte()? {
        0 => {
            let ip = ip(&mut r)?;
            let port = u16::from_be_bytes(r.take(2)?.try_into().ok()?);
            let length = r.byte()?;
            if length > 20 {
                return None;
            }
            r.take(length.into())?;
            Content::Retry {
                address: SocketAddr::new(ip, port),
                issued: seconds(&mut r)?,
            }
        }
        1 => Content::Validation {
            ip: ip(&mut r)?,
            issued: seconds(&mut r)?,
        },
        _ => return None,
    };
    Some((content, r.0.is_empty()))
}
