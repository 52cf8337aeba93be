//! What travels.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use polyquic_runtime::Ecn;

/// A UDP datagram on its way.
#[derive(Clone)]
pub struct Packet {
    /// Counts all packets of a simulation; a duplicate has the number of its original.
    pub id: u64,
    /// Where it comes from, or says so.
    pub src: SocketAddr,
    /// Where it goes.
    pub dst: SocketAddr,
    /// Its ECN codepoint.
    pub ecn: Option<Ecn>,
    /// The UDP payload.
    pub payload: BytesMut,
}

impl Packet {
    /// Its size in bytes with IP and UDP headers.
    pub fn size(&self) -> u64 {
        let headers = if self.dst.is_ipv4() { 20 } else { 40 } + 8;
        self.payload.len() as u64 + headers
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst, len) = (self.src, self.dst, self.payload.len());
        write!(f, "#{} {src} > {dst}, {len} bytes", self.id)?;
        match self.ecn {
            Some(ecn) => write!(f, ", {ecn:?}"),
            None => Ok(()),
        }
    }
}

/// What a filter decides, see [`Access::filter_up`](crate::Access::filter_up).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Goes on, as changed by the filter.
    Pass,
    /// Is lost.
    Drop,
}

/// An address as sockets for IPv6 see it: IPv4 addresses are mapped.
pub(crate) fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), addr.port()).into(),
        IpAddr::V6(_) => addr,
    }
}

/// The reverse.
pub(crate) fn unmapped(addr: SocketAddr) -> SocketAddr {
    (addr.ip().to_canonical(), addr.port()).into()
}
