//! Doors for the fuzz targets (`crates/fuzz`) to what reads input. No interface for anybody else.
#![allow(missing_docs)]

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use polyquic::TokenStore;

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
