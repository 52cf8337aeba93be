//! Doors for the fuzz targets (`crates/fuzz`) to what reads input. No interface for anybody else.
#![allow(missing_docs)]

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::io::Cursor;
use polyquic::TokenStore;
use web_transport_proto::{Capsule, ConnectRequest};

use crate::relay::allow::{Allow, Target};
use crate::relay::http;
use crate::sandbox::Sandbox;
use crate::sessions::SessionCache;
use crate::tls::{ClientTls, Trust};
use crate::url::Url;
use crate::{args, certs, hq};

/// Host, port, path, what the URL prints as, and the file that it would be saved as.
pub type UrlParts = (String, u16, String, String, Option<String>);

pub fn parse_url(text: &str) -> Result<UrlParts, String> {
    let url: Url = text.parse()?;
    let (printed, file_name) = (url.to_string(), url.file_name());
    Ok((url.host, url.port, url.path, printed, file_name))
}

/// The path that a request names.
pub fn parse_request(request: &[u8]) -> Option<&str> {
    hq::parse_request(request).ok()
}

/// The request that a client makes for a path.
pub fn request(path: &str) -> Vec<u8> {
    hq::request(path)
}

pub fn percent_decode(text: &str) -> Option<Vec<u8>> {
    crate::url::percent_decode(text)
}

/// A duration on the command line, in seconds.
pub fn parse_seconds(text: &str) -> Result<std::time::Duration, String> {
    args::seconds(text)
}

/// A served directory.
pub struct Served(Sandbox);

impl Served {
    pub fn new(dir: &Path) -> std::io::Result<Self> {
        Sandbox::new(dir).map(Self)
    }

    /// What a request for this path opens.
    pub fn open(&self, path: &str) -> Option<File> {
        self.0.open(path).ok()
    }
}

/// How many certificates the identity in these files has, or what a user is told.
pub fn load_identity(cert: &Path, key: &Path) -> Result<usize, String> {
    certs::load_identity(cert, key)
        .map(|identity| identity.certified.cert.len())
        .map_err(|failure| failure.to_string())
}

/// How many CAs the file has, or what a user is told.
pub fn load_roots(path: &Path) -> Result<usize, String> {
    certs::load_roots(path)
        .map(|roots| roots.len())
        .map_err(|failure| failure.to_string())
}

/// Read a session cache, and try to resume each session and take each token for this URL under the
/// trust in the file `ca`; then write it back.
pub fn use_sessions(cache: &Path, ca: &Path, url: &str) -> Result<(), String> {
    let told = |failure: crate::failure::Failure| failure.to_string();
    let url: Url = url.parse()?;
    let trust = Trust::ca_file(ca).map_err(told)?;
    let cache: Arc<SessionCache> = SessionCache::open(cache).map_err(told)?;
    let mut tls = ClientTls::new(&trust, cache.provider(), &[hq::ALPN]).map_err(told)?;
    let tokens: Arc<dyn TokenStore> = cache.token_store(&url);
    while tokens.take("localhost").is_some() {}
    let _ = cache.known_address(&url);
    cache
        .attach(&mut tls, &url, &trust.fingerprint)
        .map_err(told)?;
    cache.save().map_err(told)
}

/// What a request to the relay asks for.
pub enum Asked {
    /// It is not complete.
    Nothing,
    Refused {
        status: &'static str,
        reason: String,
    },
    File {
        path: String,
    },
    Socket {
        target: Option<String>,
        rest: Vec<u8>,
    },
}

pub fn relay_request(request: &[u8]) -> Asked {
    let mut io = Cursor::new(request.to_vec());
    let asked = http::read_request(&mut io).now_or_never();
    match asked.expect("memory makes nobody wait") {
        Ok(http::Asked::Socket { target, rest, .. }) => {
            // The relay reads a little at a time, and the rest from the connection.
            let read = io.position() as usize;
            Asked::Socket {
                target,
                rest: [&rest, &request[read..]].concat(),
            }
        }
        Ok(http::Asked::File { path, hosts }) => {
            for host in &hosts {
                let _ = http::is_loopback(host);
            }
            Asked::File { path }
        }
        Err(http::Bad::Status(status, reason)) => Asked::Refused { status, reason },
        Err(http::Bad::Lost) => Asked::Nothing,
    }
}

/// What WebTransport makes of a request.
pub fn relay_session(request: &[u8]) {
    let _ = ConnectRequest::decode(&mut &*request);
}

/// And of what comes after it.
pub fn relay_capsule(bytes: &[u8]) {
    let _ = Capsule::decode(&mut Bytes::copy_from_slice(bytes));
}

/// Host and port of a target.
pub fn relay_target(text: &str) -> Result<(String, u16), String> {
    let target: Target = text.parse()?;
    Ok((target.host, target.port))
}

/// What a relay allows.
pub struct Rules(Allow);

impl Rules {
    pub fn parse<'a>(rules: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let rules: Result<Vec<_>, _> = rules.into_iter().map(str::parse).collect();
        Ok(Self(Allow::new(&rules?)))
    }

    /// Whether datagrams may be sent to an address that the target led to.
    pub fn permits(&self, target: &str, address: SocketAddr) -> bool {
        let target = target.parse::<Target>();
        target.is_ok_and(|target| self.0.permits(&target, address))
    }
}
