//! The little HTTP that comes before a WebSocket: a request's head, an answer, a file.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use async_tungstenite::tungstenite::handshake::machine::TryParse;
use async_tungstenite::tungstenite::handshake::server::{
    Request, Response, create_response, write_response,
};
use async_tungstenite::tungstenite::http::header::{
    HOST, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use async_tungstenite::tungstenite::{Error, error::ProtocolError};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use polyquic::offload;

use crate::exec::Native;
use crate::files::ChunkReader;
use crate::hq::Refusal;
use crate::sandbox::Sandbox;
use crate::url::percent_decode;

/// What clients and relay speak.
pub(crate) const PROTOCOL: &str = "polyquic-relay.v1";

/// Where WebSockets are opened.
pub(crate) const PATH: &str = "/udp";

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// A connection, with or without TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// A WebSocket; this is the answer that opens it.
    Socket {
        response: Response,
        /// As in the query; not yet looked at.
        target: Option<String>,
        origin: Option<String>,
        /// What the client has sent beyond its request.
        rest: Vec<u8>,
    },
    /// A file.
    File {
        path: String,
        /// What the request says whom it is for: once, unless somebody tries something.
        hosts: Vec<String>,
    },
}

/// Why a request gets no answer, or none but an error.
#[derive(Debug)]
pub(crate) enum Bad {
    /// The connection is no more.
    Lost,
    /// Status and explanation.
    Status(&'static str, String),
}

fn bad(status: &'static str, text: impl Into<String>) -> Bad {
    Bad::Status(status, text.into())
}

/// Read a request. Takes as long as the client does.
pub(crate) async fn read_request(io: &mut impl Io) -> Result<Asked, Bad> {
    let mut head = Vec::new();
    let mut chunk = [0; 2048];
    loop {
        let count = io.read(&mut chunk).await.map_err(|_| Bad::Lost)?;
        if count == 0 {
            return Err(Bad::Lost);
        }
        head.extend_from_slice(&chunk[..count]);
        match Request::try_parse(&head) {
            Ok(Some((length, request))) => {
                return interpret(&request, head.split_off(length));
            }
            Ok(None) if head.len() < MAX_HEAD_BYTES => {}
            Ok(None) => {
                return Err(bad(
                    "431 Request Header Fields Too Large",
                    "the request is too long",
                ));
            }
            Err(Error::Protocol(ProtocolError::WrongHttpMethod)) => {
                return Err(bad("405 Method Not Allowed", "only GET is understood"));
            }
            Err(error) => return Err(bad("400 Bad Request", error.to_string())),
        }
    }
}

fn interpret(request: &Request, rest: Vec<u8>) -> Result<Asked, Bad> {
    let path = request.uri().path();
    if !request.headers().contains_key(UPGRADE) {
        if path == PATH {
            let text = "a WebSocket is opened here, with the subprotocol polyquic-relay.v1";
            return Err(bad("426 Upgrade Required", text));
        }
        let hosts = request.headers().get_all(HOST).iter();
        return Ok(Asked::File {
            path: path.to_owned(),
            // One that is no text is the name of nothing.
            hosts: hosts
                .map(|it| it.to_str().unwrap_or_default().to_owned())
                .collect(),
        });
    }
    if path != PATH {
        return Err(bad("404 Not Found", "WebSockets are opened at /udp"));
    }
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).ok();
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let offered = offers
        .iter()
        .filter_map(text)
        .any(|list| list.split(',').any(|name| name.trim() == PROTOCOL));
    let mut response =
        create_response(request).map_err(|e| bad("400 Bad Request", e.to_string()))?;
    if !offered {
        let text = "the subprotocol polyquic-relay.v1 is needed";
        return Err(bad("400 Bad Request", text));
    }
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    let origin = request.headers().get("origin");
    // One that is no text is still one.
    let origin = origin.map(|value| text(value).unwrap_or_else(|| "unreadable".into()));
    Ok(Asked::Socket {
        response,
        target: request.uri().query().and_then(target),
        origin,
        rest,
    })
}

/// The parameter `target` of a query.
fn target(query: &str) -> Option<String> {
    let value = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("target="))?;
    String::from_utf8(percent_decode(value)?).ok()
}

/// Whether `Host` names this machine, by an address or a name that leads nowhere else.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = name_of(host);
    if let Ok(ip) = name.parse::<IpAddr>() {
        return ip.to_canonical().is_loopback();
    }
    // RFC 6761 section 6.3.
    name == "localhost" || name.ends_with(".localhost")
}

/// The name or address in `HOST:PORT`, in lower case and without brackets.
pub(crate) fn name_of(host: &str) -> String {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Open the WebSocket.
pub(crate) async fn accept(io: &mut impl Io, response: &Response) -> io::Result<()> {
    let mut bytes = Vec::new();
    write_response(&mut bytes, response).map_err(io::Error::other)?;
    io.write_all(&bytes).await?;
    io.flush().await
}

/// Answer with a status and a sentence, and close.
pub(crate) async fn refuse(io: &mut impl Io, status: &str, text: &str) -> io::Result<()> {
    let more = match status.split(' ').next() {
        Some("405") => "Allow: GET\r\n",
        Some("426") => "Upgrade: websocket\r\n",
        _ => "",
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         {more}X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{text}\n",
        text.len() + 1
    );
    io.write_all(answer.as_bytes()).await?;
    io.close().await
}

/// Answer with a file of the sandbox, and close.
pub(crate) async fn send_file<R: Native>(
    rt: &R,
    io: &mut impl Io,
    sandbox: Option<&Arc<Sandbox>>,
    path: &str,
) -> io::Result<()> {
    let Some(sandbox) = sandbox.cloned() else {
        let text = "this is a polyquic relay; it serves no files";
        return refuse(io, "404 Not Found", text).await;
    };
    let name = path.to_owned();
    let opened = offload(rt, move || {
        let file = sandbox.open(&name)?;
        let length = file.metadata().map_err(|_| Refusal::Unreadable)?.len();
        Ok((file, length))
    });
    let (file, length) = match opened.await.map_err(io::Error::other)? {
        Ok(opened) => opened,
        Err(Refusal::BadRequest) => return refuse(io, "400 Bad Request", "no such path").await,
        Err(Refusal::NotFound) => return refuse(io, "404 Not Found", "no such file").await,
        Err(_) => return refuse(io, "500 Internal Server Error", "unreadable").await,
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Length: {length}\r\n\
         Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        content_type(path)
    );
    io.write_all(head.as_bytes()).await?;
    let mut reader = ChunkReader::new(rt.clone(), file);
    let mut left = length;
    while left > 0 {
        let Some(chunk) = reader.next().await? else {
            // It shrank: closing early is how the client gets to know.
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        // It may have grown, too.
        let count = left.min(chunk.len() as u64);
        io.write_all(&chunk[..count as usize]).await?;
        left -= count;
    }
    io.close().await
}

/// By the end of its name: browsers insist on some of these.
fn content_type(path: &str) -> &'static str {
    let last = path.rsplit('/').next().unwrap_or_default();
    // A directory is answered with its index.
    let Some(extension) = Path::new(last).extension() else {
        return match last {
            "" => "text/html; charset=utf-8",
            _ => "application/octet-stream",
        };
    };
    match extension.to_str().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "wasm" => "application/wasm",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "ico" => "image/x-icon",
        "txt" | "md" | "pem" | "ts" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::io::Cursor;

    fn ask(request: &str) -> Result<Asked, Bad> {
        let mut io = Cursor::new(request.as_bytes().to_vec());
        block_on(read_request(&mut io))
    }

    fn upgrade(line: &str, more: &str) -> String {
        format!(
            "GET {line} HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        )
    }

    #[test]
    fn an_upgrade_is_understood_with_target_origin_and_rest() {
        let request = upgrade(
            "/udp?x=1&target=%5B::1%5D:44",
            "Sec-WebSocket-Protocol: other, polyquic-relay.v1\r\nOrigin: https://a\r\n",
        ) + "rest";
        let Ok(Asked::Socket {
            response,
            target,
            origin,
            rest,
        }) = ask(&request)
        else {
            panic!("no upgrade");
        };
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], PROTOCOL);
        // From RFC 6455 section 1.3.
        let accept = &response.headers()["sec-websocket-accept"];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(target.as_deref(), Some("[::1]:44"));
        assert_eq!(origin.as_deref(), Some("https://a"));
        assert_eq!(rest, b"rest");
    }

    #[test]
    fn requests_that_lead_nowhere_get_a_status() {
        let protocol = "Sec-WebSocket-Protocol: polyquic-relay.v1\r\n";
        for (request, status) in [
            (upgrade("/udp", ""), "400"),
            (
                upgrade("/udp", "Sec-WebSocket-Protocol: polyquic-relay.v2\r\n"),
                "400",
            ),
            (upgrade("/other", protocol), "404"),
            (upgrade("/udp", protocol).replace("13", "12"), "400"),
            (upgrade("/udp", protocol).replace("GET", "POST"), "405"),
            ("GET /udp HTTP/1.1\r\n\r\n".into(), "426"),
            ("GET / HTTP/1.0\r\n\r\n".into(), "400"),
            ("nonsense\r\n\r\n".into(), "400"),
            (format!("GET /{} HTTP/1.1\r\n", "x".repeat(20_000)), "431"),
        ] {
            match ask(&request) {
                Err(Bad::Status(said, _)) => assert!(said.starts_with(status), "{request}: {said}"),
                other => panic!("{request}: {other:?}"),
            }
        }
        assert!(matches!(ask("GET / HTT"), Err(Bad::Lost)));
    }

    #[test]
    fn a_plain_get_asks_for_a_file_without_its_query() {
        let asked = ask("GET /a/b.html?c=d HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(
            matches!(asked, Ok(Asked::File { path, hosts }) if path == "/a/b.html" && hosts == ["h"])
        );
    }

    #[test]
    fn names_of_this_machine_are_told_from_those_that_may_lead_anywhere() {
        for host in [
            "localhost",
            "LocalHost.:8080",
            "page.localhost:1",
            "127.0.0.1:8080",
            "127.8.7.6",
            "[::1]:8080",
            "[::1]",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "h",
            "localhost.example",
            "127.0.0.1.example:8080",
            "notlocalhost",
            "192.168.0.1",
            "[::2]:80",
            "::1",
            "localhost@evil.example",
            "evil.example@localhost",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn content_types_are_those_that_browsers_insist_on() {
        for (path, expected) in [
            ("/", "text/html"),
            ("/a/", "text/html"),
            ("/a.b/c", "application/octet-stream"),
            ("/x.wasm", "application/wasm"),
            ("/x.d.mjs", "text/javascript"),
        ] {
            assert!(content_type(path).starts_with(expected), "{path}");
        }
    }
}
