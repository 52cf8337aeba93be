//! Which targets clients may reach.
//!
//! Two questions, both asked of every client: may this name be looked up at all, and may this
//! address, which it led to, be sent to? The second keeps a name that somebody else controls from
//! leading into the network that the relay stands in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Networks that are not the public Internet (IANA's registries of special addresses), and those
/// whose addresses have others inside them.
const SPECIAL: &[(IpAddr, u8)] = &[
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 3),
    // Loopback, unspecified, and IPv4 addresses in old clothes.
    v6(0, 0, 0, 8),
    // NAT64: an IPv4 address in the last bits.
    v6(0x64, 0xff9b, 0, 32),
    v6(0x100, 0, 0, 64),
    v6(0x2001, 0, 0, 23),
    v6(0x2001, 0xdb8, 0, 32),
    // 6to4: an IPv4 address in the middle.
    v6(0x2002, 0, 0, 16),
    v6(0x3fff, 0, 0, 20),
    v6(0x5f00, 0, 0, 16),
    // Private, link-local, site-local, multicast: everything from here on.
    v6(0xe000, 0, 0, 3),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> (IpAddr, u8) {
    (IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> (IpAddr, u8) {
    (IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix)
}

/// Addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Net {
    address: IpAddr,
    prefix: u8,
}

impl Net {
    fn contains(self, ip: IpAddr) -> bool {
        let shared = match (self.address, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        shared >= u32::from(self.prefix)
    }

    /// Whether no address in it is public.
    fn is_special(self) -> bool {
        special().any(|net| net.prefix <= self.prefix && net.contains(self.address))
    }
}

fn special() -> impl Iterator<Item = Net> {
    SPECIAL
        .iter()
        .map(|&(address, prefix)| Net { address, prefix })
}

fn is_public(ip: IpAddr) -> bool {
    !special().any(|net| net.contains(ip))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    Net(Net),
}

/// One `--allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    host: Host,
    /// `None`: any.
    port: Option<u16>,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or("expected HOST:PORT, or HOST:* for any port")?;
        let port = match port {
            "*" => None,
            port => Some(parse_port(port)?),
        };
        // [fd00::]/8, [fd00::/8] and [::1] are all usual.
        let bare = host.replace(['[', ']'], "");
        let (address, prefix) = match bare.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (bare.as_str(), None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            if prefix.is_some() {
                return Err(format!("{address} is not the address of a network"));
            }
            return Ok(Self {
                host: Host::Name(normal_name(host)?),
                port,
            });
        };
        if address.is_ipv6() && !host.starts_with('[') && prefix.is_none() {
            return Err("an IPv6 address needs brackets, as in [::1]:4433".into());
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => prefix
                .parse()
                .ok()
                .filter(|prefix| *prefix <= most)
                .ok_or(format!("the prefix length must be between 0 and {most}"))?,
        };
        Ok(Self {
            host: Host::Net(Net { address, prefix }),
            port,
        })
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or("the port must be between 1 and 65535".into())
}

/// A host's name in the form that names are compared in.
fn normal_name(name: &str) -> Result<String, String> {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    // A label has at least one letter (RFC 1035 section 2.3.1).
    if name.len() > 253 || !name.bytes().all(fits) || name.split('.').any(str::is_empty) {
        return Err("not the name of a host".into());
    }
    Ok(name)
}

/// What a client wants to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// A name in lower case, or an address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text
            .rsplit_once(':')
            .ok_or("the target must be HOST:PORT")?;
        let port = parse_port(port)?;
        let inside = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match inside {
            Some(address) => address
                .parse::<Ipv6Addr>()
                .map_err(|_| "not an IPv6 address")?
                .to_string(),
            None => normal_name(host)?,
        };
        Ok(Self { host, port })
    }
}

impl Target {
    /// The address, if it is one and no name.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// All rules together.
#[derive(Debug, Clone)]
pub(crate) struct Allow(Vec<Rule>);

impl Allow {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        Self(rules.to_vec())
    }

    fn for_port(&self, port: u16) -> impl Iterator<Item = &Rule> {
        self.0
            .iter()
            .filter(move |rule| rule.port.is_none_or(|allowed| allowed == port))
    }

    /// Whether a rule has this very name, so that its client may learn whether it exists.
    pub(crate) fn names(&self, target: &Target) -> bool {
        self.for_port(target.port)
            .any(|rule| matches!(&rule.host, Host::Name(name) if *name == target.host))
    }

    /// Whether it is worth looking `target` up: some address might be allowed.
    pub(crate) fn may_resolve(&self, target: &Target) -> bool {
        if let Some(ip) = target.address() {
            return self.permits(target, SocketAddr::new(ip, target.port));
        }
        self.names(target)
            || self
                .for_port(target.port)
                .any(|rule| matches!(rule.host, Host::Net(_)))
    }

    /// Whether datagrams may be sent to `address`, which `target` led to.
    pub(crate) fn permits(&self, target: &Target, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let never = ip.is_unspecified()
            || ip.is_multicast()
            || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
            || address.port() == 0;
        if never {
            return false;
        }
        self.for_port(address.port()).any(|rule| match &rule.host {
            Host::Net(net) => net.contains(ip) && (is_public(ip) || net.is_special()),
            Host::Name(name) => {
                *name == target.host && (is_public(ip) || name == "localhost" && ip.is_loopback())
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(rules: &[&str]) -> Allow {
        Allow(rules.iter().map(|rule| rule.parse().unwrap()).collect())
    }

    fn permits(rules: &[&str], target: &str, address: &str) -> bool {
        allow(rules).permits(&target.parse().unwrap(), address.parse().unwrap())
    }

    #[test]
    fn rules_that_are_no_rules_are_refused() {
        for text in [
            "",
            "host",
            "host:",
            "host:0",
            "host:+1",
            "host:65536",
            ":1",
            "*:1",
            "*",
            "a b:1",
            "::1:1",
            "10.0.0.0/33:1",
            "[::/129]:1",
            "name/8:1",
            "10.0.0.0/8",
            "10.0.0.0/:1",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
        let same = ["[fd00::/8]:*", "[fd00::]/8:*", "fd00::/8:*"].map(|t| t.parse::<Rule>());
        assert!(same[0].is_ok() && same[0] == same[1] && same[1] == same[2]);
    }

    #[test]
    fn targets_that_are_no_targets_are_refused() {
        for text in [
            "10.0...:4433",
            ".example:1",
            "a..b:1",
            "",
            "host",
            "host:0",
            "host:",
            ":1",
            "[host]:1",
            "[::1:1",
            "::1:1",
            "h/x:1",
            "h@x:1",
            "h\0:1",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        let target: Target = "Example.ORG.:443".parse().unwrap();
        assert_eq!(target.host, "example.org");
        let target: Target = "[0:0::1]:443".parse().unwrap();
        assert_eq!(target.host, "::1");
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert!(!permits(&[], "example.org:443", "1.1.1.1:443"));
        assert!(!allow(&[]).may_resolve(&"example.org:443".parse().unwrap()));
    }

    #[test]
    fn ports_count() {
        assert!(permits(&["1.1.1.1:443"], "1.1.1.1:443", "1.1.1.1:443"));
        assert!(!permits(&["1.1.1.1:443"], "1.1.1.1:53", "1.1.1.1:53"));
        assert!(permits(&["1.1.1.1:*"], "1.1.1.1:53", "1.1.1.1:53"));
        assert!(!allow(&["a:1"]).may_resolve(&"a:2".parse().unwrap()));
    }

    #[test]
    fn a_name_leads_to_public_addresses_only() {
        let rules = ["example.org:*"];
        assert!(permits(&rules, "EXAMPLE.org:443", "1.1.1.1:443"));
        assert!(permits(&rules, "example.org:443", "[2606:4700::1]:443"));
        assert!(!permits(&rules, "other.org:443", "1.1.1.1:443"));
        for inside in [
            "127.0.0.1:443",
            "10.1.2.3:443",
            "169.254.169.254:443",
            "192.168.0.1:443",
            "100.64.0.1:443",
            "[::1]:443",
            "[fd00::1]:443",
            "[fe80::1]:443",
            "[::ffff:10.0.0.1]:443",
            "[64:ff9b::a00:1]:443",
            "[2002:a00:1::]:443",
        ] {
            assert!(!permits(&rules, "example.org:443", inside), "{inside}");
        }
        let both = ["example.org:443", "10.0.0.0/8:443"];
        assert!(permits(&both, "example.org:443", "10.1.2.3:443"));
        assert!(permits(&["localhost:1"], "localhost:1", "127.0.0.1:1"));
        assert!(!permits(&["localhost:1"], "localhost:1", "10.0.0.1:1"));
    }

    #[test]
    fn a_wide_network_does_not_include_special_ones() {
        let all = ["0.0.0.0/0:*", "[::/0]:*"];
        assert!(permits(&all, "1.1.1.1:443", "1.1.1.1:443"));
        assert!(permits(&all, "x:443", "[2606:4700::1]:443"));
        for inside in [
            "127.0.0.1:443",
            "192.168.0.1:443",
            "[::1]:443",
            "[fd00::1]:443",
        ] {
            assert!(!permits(&all, "x:443", inside), "{inside}");
        }
        assert!(permits(&["127.0.0.0/8:1"], "x:1", "127.0.0.1:1"));
        assert!(permits(&["[::1]:1"], "[::1]:1", "[::1]:1"));
        // The address behind the notation counts.
        assert!(permits(&["10.0.0.1:1"], "x:1", "[::ffff:10.0.0.1]:1"));
    }

    #[test]
    fn some_addresses_are_never_allowed() {
        let rules = [
            "0.0.0.0/8:*",
            "224.0.0.0/4:*",
            "255.255.255.255:*",
            "[ff00::/8]:*",
            "[::]:*",
        ];
        for never in [
            "0.0.0.0:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[ff02::1]:1",
            "[::]:1",
        ] {
            assert!(!permits(&rules, "x:1", never), "{never}");
        }
    }
}
