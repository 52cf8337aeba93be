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

const FIRST_PORT: u16 = 20_000;

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
            next_port: FIRST_PORT,
            inside: BTreeMap::new(),
            outside: BTreeMap::new(),
        }
    }

    /// The address that a packet from inside gets, on its way to `dst`.
    pub(crate) fn outbound(&mut self, now: u64, src: SocketAddr, dst: SocketAddr) -> SocketAddr {
        self.expire(now, src);
        if !self.inside.contains_key(&src) {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
            // Ports are few, and the oldest owner of one loses it, with all that came with it.
            if let Some(owner) = self.outside.insert((src.is_ipv6(), port), src) {
                self.inside.remove(&owner);
            }
            let mapping = Mapping {
                port,
                used: now,
                peers: Vec::new(),
            };
            self.inside.insert(src, mapping);
        }
        let mapping = self.inside.get_mut(&src).expect("it is there by now");
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

    /// The socket inside whose packets look outside as if they came from `src`.
    pub(crate) fn owner(&self, src: SocketAddr) -> Option<SocketAddr> {
        self.outside.get(&(src.is_ipv6(), src.port())).copied()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(number: u32) -> SocketAddr {
        let [_, a, b, c] = number.to_be_bytes();
        (IpAddr::from([10, a, b, c]), 5000).into()
    }

    #[test]
    fn a_port_has_one_owner() {
        let mut nat = NatState::new(
            NatConfig::default(),
            [192, 0, 2, 1].into(),
            "fd00::1".parse().unwrap(),
        );
        let peer = "198.51.100.1:443".parse().unwrap();
        let first = nat.outbound(0, socket(0), peer);
        let ports = u32::from(u16::MAX - FIRST_PORT) + 1;
        for number in 1..ports {
            assert_ne!(nat.outbound(0, socket(number), peer), first);
        }
        // All are in use: the oldest is taken away.
        assert_eq!(nat.outbound(1, socket(ports), peer), first);
        assert_eq!(nat.inbound(1, peer, first), Some(socket(ports)));
        assert_ne!(nat.outbound(1, socket(0), peer), first);
        // Nor is it taken from its new owner when the old one's time is over.
        let later = 1 + nanos(NatConfig::default().timeout);
        nat.outbound(later, socket(0), peer);
        assert_eq!(nat.inbound(later, peer, first), Some(socket(ports)));
    }
}
