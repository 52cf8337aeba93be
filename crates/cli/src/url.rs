//! The URLs that the program understands.

use std::fmt;
use std::str::FromStr;

/// Port of a URL that names none.
const DEFAULT_PORT: u16 = 443;

/// `https://host[:port]/path`, or the same with the scheme `hq`.
///
/// Both mean hq-interop over QUIC version 1. The path is kept as it was written, escapes and all,
/// because it is the server's business to interpret it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// A name, or an address without brackets.
    pub(crate) host: String,
    /// The UDP port.
    pub(crate) port: u16,
    /// Starts with `/`; a query is part of it.
    pub(crate) path: String,
}

impl Url {
    /// Host and port in the form in which URLs write them.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The name to save the response under: the last segment of the path, unescaped.
    ///
    /// `None` when there is none that is safe as a file name.
    pub(crate) fn file_name(&self) -> Option<String> {
        let path = self.path.split('?').next().unwrap_or_default();
        let segment = path.rsplit('/').next().unwrap_or_default();
        if segment.is_empty() {
            return Some("index.html".into());
        }
        let name = String::from_utf8(percent_decode(segment)?).ok()?;
        let harmless = name != "."
            && name != ".."
            && !name.contains(['/', '\\', ':'])
            && !name.chars().any(char::is_control);
        harmless.then_some(name)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("not a URL: expected https://host[:port]/path".into());
        };
        match scheme.to_ascii_lowercase().as_str() {
            "https" | "hq" => {}
            "http" => {
                return Err(
                    "unsupported scheme http: QUIC is always encrypted, use https://".into(),
                );
            }
            other => {
                return Err(format!(
                    "unsupported scheme {other}: only https:// and hq:// are spoken here"
                ));
            }
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err("user names and passwords in URLs are not supported".into());
        }
        let (host, port) = split_authority(authority)?;
        if path.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err("the path holds spaces or control characters: write them as %XX".into());
        }
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(Self { host, port, path })
    }
}

/// Host and port out of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_authority(authority: &str) -> Result<(String, u16), String> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest
            .split_once(']')
            .ok_or("an IPv6 address starts with [ but does not end with ]")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("[{host}] is not an IPv6 address"));
        }
        match after.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if after.is_empty() => (host, None),
            None => return Err(format!("unexpected {after:?} after the address")),
        }
    } else {
        match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("IPv6 addresses go in brackets: https://[::1]:4433/".into());
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return Err("the URL names no host".into());
    }
    if host.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("{host:?} is not a host name"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(text) => match text.parse() {
            Ok(0) | Err(_) => return Err(format!("{text:?} is not a port number")),
            Ok(port) => port,
        },
    };
    Ok((host.to_owned(), port))
}

/// Undo percent encoding; `None` when an escape is broken.
pub(crate) fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            out.push((high * 16 + low) as u8);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Url {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn urls_are_taken_apart() {
        let url = parse("https://example.org/a/b.bin");
        assert_eq!((url.host.as_str(), url.port), ("example.org", 443));
        assert_eq!(url.path, "/a/b.bin");
        let url = parse("HQ://[::1]:4433");
        assert_eq!((url.host.as_str(), url.port), ("::1", 4433));
        assert_eq!(url.path, "/");
        assert_eq!(url.to_string(), "https://[::1]:4433/");
        assert_eq!(parse("hq://h:1/x?y#z").path, "/x?y");
    }

    #[test]
    fn unsupported_urls_say_why() {
        for (text, word) in [
            ("ftp://h/x", "ftp"),
            ("http://h/x", "https://"),
            ("/etc/passwd", "not a URL"),
            ("https:///x", "no host"),
            ("https://h:0/x", "port"),
            ("https://h:99999/x", "port"),
            ("https://::1/x", "brackets"),
            ("https://[::1/x", "]"),
            ("https://[nope]/x", "IPv6"),
            ("https://u:p@h/x", "passwords"),
            ("https://h/a b", "%XX"),
        ] {
            let error = text.parse::<Url>().expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn file_names_cannot_leave_the_directory() {
        assert_eq!(parse("hq://h/a/b%20c").file_name().as_deref(), Some("b c"));
        assert_eq!(parse("hq://h/").file_name().as_deref(), Some("index.html"));
        assert_eq!(parse("hq://h/x?/../y").file_name().as_deref(), Some("x"));
        for bad in [
            "/..", "/.", "/a%2fb", "/%2e%2e", "/a%00", "/a%5cb", "/%zz", "/%f",
        ] {
            assert_eq!(parse(&format!("hq://h{bad}")).file_name(), None, "{bad}");
        }
    }
}
