//! What the relay makes of requests, and of the targets in them.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;

use polyquic_cli::fuzzing::{
    Asked, Rules, relay_capsule, relay_request, relay_session, relay_target,
};

/// Longer requests are refused; one read more may have been taken in by then.
const MAX_HEAD_BYTES: usize = (16 << 10) + 2048;

/// Everything public, one special network, and a name.
fn wide() -> &'static Rules {
    static RULES: OnceLock<Rules> = OnceLock::new();
    RULES.get_or_init(|| {
        let rules = [
            "0.0.0.0/0:*",
            "[::/0]:*",
            "10.0.0.0/8:4433",
            "host.example:443",
        ];
        Rules::parse(rules).expect("these are rules")
    })
}

/// Addresses that nobody may be led to by a rule for everything, by the standard library's lights.
fn is_inside(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_broadcast()
                || ip.is_documentation()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
        }
    }
}

/// A request is a file's, a client's, or refused with a reason; a target is read back as the same; and no
/// target leads inside.
pub fn relay(data: &[u8]) {
    request(data);
    let framed = [b"GET /", data, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat();
    request(&framed);
    let opening = [
        &b"GET /udp?target="[..],
        data,
        b" HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
          Sec-WebSocket-Protocol: polyquic-relay.v1\r\n\r\n",
    ]
    .concat();
    request(&opening);
    relay_session(data);
    relay_capsule(data);
    if let Ok(text) = std::str::from_utf8(data) {
        target(text);
        rule(text);
    }
    if let Some((port, address)) = data.split_first_chunk() {
        leads_inside(u16::from_be_bytes(*port), address);
    }
}

fn request(data: &[u8]) {
    match relay_request(data) {
        Asked::Nothing => {}
        Asked::Refused { status, reason } => {
            assert!(status.starts_with('4'), "{status}");
            assert!(!reason.is_empty());
        }
        Asked::File { path } => assert!(!path.contains(|it: char| it.is_ascii_control())),
        Asked::Socket { target: text, rest } => {
            assert!(data.ends_with(&rest), "what came after the request is kept");
            assert!(data.len() - rest.len() <= MAX_HEAD_BYTES);
            if let Some(text) = text {
                target(&text);
            }
        }
    }
}

fn target(text: &str) {
    let Ok((host, port)) = relay_target(text) else {
        return;
    };
    assert!(
        port != 0 && !host.is_empty() && host.len() <= 253,
        "{text:?}"
    );
    let fits = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "-_.:".contains(it);
    assert!(host.chars().all(fits), "{host:?} of {text:?}");
    let printed = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    assert_eq!(relay_target(&printed), Ok((host.clone(), port)), "{text:?}");
    if let Ok(ip) = host.parse::<IpAddr>() {
        leads_to(text, ip, port);
    }
}

/// Whatever rule it is, nobody is led to an address that is no host's.
fn rule(text: &str) {
    let Ok(rules) = Rules::parse([text]) else {
        return;
    };
    for never in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1"] {
        let ip: IpAddr = never.parse().expect("an address");
        for port in [1, 443] {
            assert!(
                !rules.permits("x:443", SocketAddr::new(ip, port)),
                "{text:?}: {never}"
            );
        }
    }
}

fn leads_inside(port: u16, address: &[u8]) {
    if let Some(bytes) = address.first_chunk::<4>() {
        leads_to("host.example:443", IpAddr::from(*bytes), port);
    }
    if let Some(bytes) = address.first_chunk::<16>() {
        leads_to("host.example:443", IpAddr::from(*bytes), port);
    }
}

fn leads_to(target: &str, ip: IpAddr, port: u16) {
    if wide().permits(target, SocketAddr::new(ip, port)) {
        let named = matches!(ip.to_canonical(), IpAddr::V4(ip) if ip.octets()[0] == 10);
        assert!(
            !is_inside(ip) || named && port == 4433,
            "{target:?} leads to {ip}, port {port}"
        );
        assert_ne!(port, 0);
    }
}
