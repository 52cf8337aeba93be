//! Packet captures that Wireshark and tshark read, decrypted if they are given the secrets.
//!
//! The format is draft-ietf-opsawg-pcapng. Packets are written as raw IP, with headers made up from
//! what the simulation knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::net::HostId;
use crate::net::packet::Packet;

/// 2026-01-01 00:00:00 UTC in nanoseconds: where calendars begin.
pub(crate) const EPOCH_NANOS: u64 = 1_767_225_600_000_000_000;

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const DECRYPTION_SECRETS: u32 = 10;
const LINKTYPE_RAW: u16 = 101;
/// "TLSK": lines as in the files that `SSLKEYLOGFILE` names.
const TLS_KEY_LOG: u32 = 0x544c_534b;

/// Lines of secrets, in the format of `SSLKEYLOGFILE`.
pub(crate) type Secrets = Arc<Mutex<String>>;

#[derive(Default)]
pub(crate) struct Capture {
    /// Names of the hosts, in order: each is an interface.
    pub(crate) hosts: Vec<String>,
    packets: Vec<u8>,
}

impl Capture {
    pub(crate) fn packet(&mut self, now: u64, host: HostId, inbound: bool, packet: &Packet) {
        let ip = with_headers(packet);
        let at = EPOCH_NANOS + now;
        let len = ip.len() as u32;
        let mut body = Vec::with_capacity(ip.len() + 40);
        for word in [host as u32, (at >> 32) as u32, at as u32, len, len] {
            body.extend(word.to_le_bytes());
        }
        body.extend(ip);
        pad(&mut body);
        // Which way, as seen from the host.
        option(&mut body, 2, &u32::to_le_bytes(if inbound { 1 } else { 2 }));
        option(&mut body, 0, &[]);
        block(&mut self.packets, ENHANCED_PACKET, &body);
    }

    /// The whole file.
    pub(crate) fn file(&self, secrets: &Secrets) -> Vec<u8> {
        let mut file = Vec::new();
        let mut body = Vec::new();
        body.extend(0x1A2B_3C4Du32.to_le_bytes());
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        // The section's length is not told.
        body.extend(u64::MAX.to_le_bytes());
        block(&mut file, SECTION_HEADER, &body);
        for name in &self.hosts {
            let mut body = Vec::new();
            body.extend(LINKTYPE_RAW.to_le_bytes());
            body.extend([0; 6]);
            option(&mut body, 2, name.as_bytes());
            // Time is in nanoseconds.
            option(&mut body, 9, &[9]);
            option(&mut body, 0, &[]);
            block(&mut file, INTERFACE_DESCRIPTION, &body);
        }
        let secrets = secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if !secrets.is_empty() {
            let mut body = Vec::new();
            body.extend(TLS_KEY_LOG.to_le_bytes());
            body.extend((secrets.len() as u32).to_le_bytes());
            body.extend(secrets.as_bytes());
            pad(&mut body);
            block(&mut file, DECRYPTION_SECRETS, &body);
        }
        file.extend(&self.packets);
        file
    }
}

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let len = (body.len() as u32 + 12).to_le_bytes();
    out.extend(kind.to_le_bytes());
    out.extend(len);
    out.extend(body);
    out.extend(len);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn with_headers(packet: &Packet) -> Vec<u8> {
    let udp_len = (packet.payload.len() + 8) as u16;
    let ecn = packet.ecn.map_or(0, |it| it as u8);
    let mut out = Vec::with_capacity(packet.payload.len() + 48);
    match (packet.src.ip(), packet.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => v4(&mut out, src, dst, ecn, packet.id, udp_len),
        (src, dst) => v6(&mut out, v6_of(src), v6_of(dst), ecn, udp_len),
    }
    let at = out.len();
    for word in [packet.src.port(), packet.dst.port(), udp_len, 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend(&packet.payload);
    // The pseudo-header: addresses, protocol and length.
    let addresses = if packet.dst.is_ipv4() && packet.src.is_ipv4() {
        &out[12..20]
    } else {
        &out[8..40]
    };
    let sum = sum(addresses) + sum(&out[at..]) + 17 + u64::from(udp_len);
    let checksum = match fold(sum) {
        0 => 0xffff,
        other => other,
    };
    out[at + 6..at + 8].copy_from_slice(&checksum.to_be_bytes());
    out
}

fn v6_of(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn v4(out: &mut Vec<u8>, src: Ipv4Addr, dst: Ipv4Addr, ecn: u8, id: u64, udp_len: u16) {
    out.extend([0x45, ecn]);
    out.extend((udp_len + 20).to_be_bytes());
    out.extend((id as u16).to_be_bytes());
    // Don't fragment; 64 hops; UDP; checksum to come.
    out.extend([0x40, 0, 64, 17, 0, 0]);
    out.extend(src.octets());
    out.extend(dst.octets());
    let checksum = fold(sum(out));
    out[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn v6(out: &mut Vec<u8>, src: Ipv6Addr, dst: Ipv6Addr, ecn: u8, udp_len: u16) {
    out.extend([0x60, ecn << 4, 0, 0]);
    out.extend(udp_len.to_be_bytes());
    out.extend([17, 64]);
    out.extend(src.octets());
    out.extend(dst.octets());
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
