//! Network address translation.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::pipe::nanos;

/// How a NAT translates.
///
/// Mappings are independent of the destination (RFC 4787): a socket inside has the same address and
/// port towards everybody outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatConfig {
    pub(crate) timeout: Duration,
    pub(crate) strict: bool,
}

impl Default for NatConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(120),
            strict: true,
        }
    }
}

impl NatConfig {
    /// Forget a mapping that nobody inside used for this long. Default: two minutes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Let anybody outside send to a mapped port, instead of those only that were sent to from it.
    pub fn full_cone(mut self) -> Self {
        self.strict = false;
        self
    }
}

struct Mapping {
    port: u16,
    used: u64,
    peers: Vec<SocketAddr>,
}

pub(crate) struct NatState {
    pub(crate) config: NatConfig,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
    next_port: u16,
    inside: BTreeMap<SocketAddr, Mapping>,
    outside: BTreeMap<(bool, u16), SocketAddr>,
}

impl NatState {
    pub(crate) fn new(config: NatConfig, v4: IpAddr, v6: IpAddr) -> Self {
        Self {
            config,
            v4,
            v6,
            next_port: 20_000,
            inside: BTreeMap::new(),
            outside: BTreeMap::new(),
        }
    }

    /// The address that a packet from inside gets, on its way to `dst`.
    pub(crate) fn outbound(&mut self, now: u64, src: SocketAddr, dst: SocketAddr) -> SocketAddr {
        self.expire(now, src);
        let (next_port, outside) = (&mut self.next_port, &mut self.outside);
        let mapping = self.inside.entry(src).or_insert_with(|| {
            // Ports are few, and the oldest owner of one loses it.
            let port = *next_port;
            *next_port = port.checked_add(1).unwrap_or(20_000);
            outside.insert((src.is_ipv6(), port), src);
            Mapping {
                port,
                used: now,
                peers: Vec::new(),
            }
        });
        mapping.used = now;
        if !mapping.peers.contains(&dst) {
            mapping.peers.push(dst);
        }
        let ip = if src.is_ipv4() { self.v4 } else { self.v6 };
        (ip, mapping.port).into()
    }

    /// The socket inside that a packet from `src` is for, if it is let in.
    pub(crate) fn inbound(
        &mut self,
        now: u64,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Option<SocketAddr> {
        let inside = *self.outside.get(&(dst.is_ipv6(), dst.port()))?;
        self.expire(now, inside);
        let mapping = self.inside.get(&inside)?;
        let known = !self.config.strict || mapping.peers.contains(&src);
        (mapping.port == dst.port() && known).then_some(inside)
    }

    /// Forget all mappings; new ones have other ports.
    pub(crate) fn forget(&mut self) {
        self.inside.clear();
        self.outside.clear();
    }

    fn expire(&mut self, now: u64, inside: SocketAddr) {
        let timeout = nanos(self.config.timeout);
        if self
            .inside
            .get(&inside)
            .is_some_and(|it| now - it.used > timeout)
            && let Some(mapping) = self.inside.remove(&inside)
        {
            self.outside.remove(&(inside.is_ipv6(), mapping.port));
        }
    }
}
