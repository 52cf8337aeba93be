//! hq-interop: HTTP/0.9 over QUIC, the protocol of the QUIC interop runner.
//!
//! A client opens a bidirectional stream, sends `GET /path\r\n` and finishes it. The server
//! answers with the bytes of the file and finishes the stream. There are no headers, hence no
//! length and no status: an error is a reset of the stream, with one of the codes below.

use std::fmt;

use polyquic::VarInt;

/// What both sides must name in the TLS handshake (ALPN, RFC 7301).
pub(crate) const ALPN: &[u8] = b"hq-interop";

/// Longest request that a server reads, in bytes.
pub(crate) const MAX_REQUEST_BYTES: usize = 8 * 1024;

/// Why a request was refused; its discriminant is the application error code of the reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Refusal {
    /// Not `GET /path`, or a path that no file can have.
    BadRequest = 0x1,
    /// No such file, or none that may be read through this server.
    NotFound = 0x2,
    /// The file could not be read.
    Unreadable = 0x3,
    /// The server is shutting down and takes no new requests.
    ShuttingDown = 0x4,
}

impl Refusal {
    /// The application error code that stands for this refusal.
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRequest => "the server did not understand the request",
            Self::NotFound => "the server has no such file",
            Self::Unreadable => "the server could not read the file",
            Self::ShuttingDown => "the server is shutting down",
        })
    }
}

/// What a client reports when its response is reset with `code`.
pub(crate) fn code_meaning(code: u64) -> String {
    let known = [
        Refusal::BadRequest,
        Refusal::NotFound,
        Refusal::Unreadable,
        Refusal::ShuttingDown,
    ];
    match known.iter().find(|r| u64::from(**r as u32) == code) {
        Some(refusal) => format!("{refusal} (stream reset with code {code})"),
        // Other servers use codes of their own, or 0.
        None => format!("the server refused the request (stream reset with code {code})"),
    }
}

/// The request for `path`.
pub(crate) fn request(path: &str) -> Vec<u8> {
    format!("GET {path}\r\n").into_bytes()
}

/// The path that a request names.
///
/// Takes what a client may leave out or add in practice: the line end, a lone `\n`, and
/// ` HTTP/0.9` or whatever else follows the path.
pub(crate) fn parse_request(request: &[u8]) -> Result<&str, Refusal> {
    let line = request
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = std::str::from_utf8(line).map_err(|_| Refusal::BadRequest)?;
    let rest = line.strip_prefix("GET ").ok_or(Refusal::BadRequest)?;
    let path = rest.split(' ').next().unwrap_or_default();
    if !path.starts_with('/') || path.chars().any(char::is_control) {
        return Err(Refusal::BadRequest);
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_known_shapes_are_understood() {
        for (request, path) in [
            (&b"GET /a\r\n"[..], "/a"),
            (b"GET /a\n", "/a"),
            (b"GET /a", "/a"),
            (b"GET /a/b%20c?q HTTP/0.9\r\n", "/a/b%20c?q"),
            (b"GET /first\r\nGET /second\r\n", "/first"),
        ] {
            assert_eq!(parse_request(request), Ok(path), "{request:?}");
        }
        assert_eq!(parse_request(&request("/x")), Ok("/x"));
    }

    #[test]
    fn everything_else_is_refused() {
        for request in [
            &b""[..],
            b"\r\n",
            b"GET\r\n",
            b"GET \r\n",
            b"GET a\r\n",
            b"get /a\r\n",
            b"POST /a\r\n",
            b"GET /\xff\r\n",
            b"GET /a\0b\r\n",
            b"GET /a\rb\r\n",
            b" GET /a\r\n",
        ] {
            assert_eq!(
                parse_request(request),
                Err(Refusal::BadRequest),
                "{request:?}"
            );
        }
    }

    #[test]
    fn codes_are_explained() {
        assert!(code_meaning(2).contains("no such file"));
        assert!(code_meaning(77).contains("77"));
    }
}
