//! TLS sessions and address tokens that survive the process: `--session-cache`.
//!
//! rustls keeps sessions in memory only: its `Tls13ClientSessionValue` can neither be taken apart
//! nor made. What a session consists of passes by, however, in places that rustls lets its user
//! supply, and [`capture`] collects it there:
//!
//! - the NewSessionTicket message (RFC 8446 section 4.6.1), in the handshake bytes that a QUIC
//!   implementation hands to TLS;
//! - the pre-shared key, an output of the HKDF of the cryptography provider, under the label
//!   `resumption`;
//! - the transport parameters to be remembered for 0-RTT (RFC 9000 section 7.4.1), the cipher suite
//!   and the server's certificates, by public methods.
//!
//! To make rustls accept a session of an earlier process, [`revive`] lets it do a handshake with a
//! server in memory that shows the recorded certificates, then hands it the recorded ticket, and
//! has HKDF answer with the recorded key. No byte of that touches the network. The certificates are
//! verified anew, against the CAs trusted today, at today's time; only the signature by which a
//! server proves to have their key cannot be had again, and is not asked for: whoever holds the
//! pre-shared key has proven more.
//!
//! The file holds secrets. It is written with permissions for its owner only. A session is used at
//! most once, and only under the trust (`--ca`, `--insecure`) that it was made under.

mod capture;
mod revive;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use polyquic::{TokenStore, crypto, rustls};
use rustls::crypto::CryptoProvider;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::tls::ClientTls;
use crate::url::Url;

pub(crate) use capture::reviving;

/// Sessions kept per server; servers commonly send two or four tickets per connection.
const MAX_SESSIONS: usize = 4;

/// Address tokens kept per server.
const MAX_TOKENS: usize = 4;

/// Servers remembered; the least recently used is forgotten first.
const MAX_SERVERS: usize = 256;

/// Marks the file as ours, so that no other file is overwritten by mistake.
const FORMAT: &str = "polyquic session cache 1";

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Contents {
    format: String,
    servers: BTreeMap<String, Server>,
}

/// What is known of one server, by host and port.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Server {
    /// Where it was reached the last time.
    address: Option<SocketAddr>,
    used_at: u64,
    sessions: Vec<Session>,
    /// Tokens from NEW_TOKEN frames (RFC 9000 section 8.1.3).
    tokens: Vec<Hex>,
}

/// One session.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Session {
    /// The trust under which the server was verified.
    trust: Hex,
    /// When it was made, in seconds since 1970.
    made_at: u64,
    cipher_suite: u16,
    /// The NewSessionTicket message as it came.
    ticket: Hex,
    /// The pre-shared key that belongs to it.
    key: Hex,
    transport_parameters: Hex,
    certificates: Vec<Hex>,
}

impl Session {
    /// The time after which the server will not take it (RFC 8446 section 4.6.1).
    fn expires_at(&self) -> u64 {
        const MAX_LIFETIME_SECONDS: u32 = 7 * 24 * 3600;
        // After the message's type and length.
        let lifetime = self.ticket.0.get(4..8).and_then(|b| b.try_into().ok());
        let lifetime = lifetime
            .map_or(0, u32::from_be_bytes)
            .min(MAX_LIFETIME_SECONDS);
        self.made_at.saturating_add(lifetime.into())
    }
}

/// Bytes that are hexadecimal in the file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct Hex(Vec<u8>);

impl std::fmt::Debug for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Some of these are secret.
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        hex.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for Hex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits: Option<Vec<u8>> = text
            .chars()
            .map(|c| c.to_digit(16).map(|d| d as u8))
            .collect();
        let digits = digits.ok_or("not hexadecimal")?;
        if digits.len() % 2 != 0 {
            return Err("an odd number of hexadecimal digits");
        }
        Ok(Self(
            digits.chunks_exact(2).map(|d| d[0] << 4 | d[1]).collect(),
        ))
    }
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// The session cache of one process, read from a file and written back at the end.
///
/// Two processes that use the same file at the same time do no harm, but what the first to end has
/// learned is lost.
#[derive(Debug)]
pub(crate) struct SessionCache {
    path: PathBuf,
    contents: Mutex<Contents>,
}

impl SessionCache {
    /// Read the file; one that does not exist, or is empty, is a cache without entries.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let what = format!("cannot read the session cache {}", path.display());
                return Err(Failure::io(what, &error));
            }
        };
        let mut contents = Contents::default();
        if !text.trim().is_empty() {
            contents = serde_json::from_str(&text)
                .ok()
                .filter(|contents: &Contents| contents.format == FORMAT)
                .ok_or_else(|| {
                    Failure::local(format!(
                        "{} is not a session cache of this program; it is left as it is",
                        path.display()
                    ))
                })?;
        }
        contents.format = FORMAT.into();
        let time = now();
        for server in contents.servers.values_mut() {
            server
                .sessions
                .retain(|session| session.expires_at() > time);
        }
        Ok(Arc::new(Self {
            path: path.to_owned(),
            contents: Mutex::new(contents),
        }))
    }

    /// Write the file: all of it or nothing, for the owner's eyes only.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let mut contents = self.lock();
        while contents.servers.len() > MAX_SERVERS {
            let oldest = contents
                .servers
                .iter()
                .min_by_key(|(_, server)| server.used_at);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else {
                break;
            };
            contents.servers.remove(&name);
        }
        let write = || {
            let dir = self.path.parent().filter(|p| !p.as_os_str().is_empty());
            // Temporary files are made with permissions for the owner only.
            let mut file = tempfile::NamedTempFile::new_in(dir.unwrap_or(Path::new(".")))?;
            serde_json::to_writer_pretty(&mut file, &*contents)?;
            file.flush()?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(|error: io::Error| {
            let what = format!("cannot write the session cache {}", self.path.display());
            Failure::io(what, &error)
        })
    }

    /// The cryptography to use, whose HKDF can be listened to.
    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        capture::provider()
    }

    /// Make `tls` resume the newest session with this server, if there is one, and collect new ones.
    ///
    /// `tls` must have been made with [`provider`](Self::provider).
    pub(crate) fn attach(
        self: &Arc<Self>,
        tls: &mut ClientTls,
        url: &Url,
        trust: &[u8; 32],
    ) -> Result<Attachment, Failure> {
        let sink = Arc::new(Sink {
            cache: self.clone(),
            server: url.authority(),
            trust: Hex(trust.to_vec()),
        });
        tls.config.resumption = capture::resumption(sink);
        // A session that cannot be revived, say because its certificate has expired since, is
        // gone; the next one may be better.
        while let Some(session) = self.take(url, trust) {
            match revive::revive(&session, tls, &url.host) {
                Ok(()) => break,
                Err(error) => {
                    tracing::info!("a session of {} is of no use: {error}", url.authority())
                }
            }
        }
        Ok(Attachment(()))
    }

    fn take(&self, url: &Url, trust: &[u8; 32]) -> Option<Session> {
        let mut contents = self.lock();
        let server = contents.servers.get_mut(&url.authority())?;
        let newest = server.sessions.iter().rposition(|s| s.trust.0 == trust)?;
        Some(server.sessions.remove(newest))
    }

    /// Where the server was reached the last time.
    pub(crate) fn known_address(&self, url: &Url) -> Option<SocketAddr> {
        self.lock().servers.get(&url.authority())?.address
    }

    /// Remember where the server was reached.
    pub(crate) fn remember_address(&self, url: &Url, address: SocketAddr) {
        self.entry(&url.authority(), |server| server.address = Some(address));
    }

    /// The address tokens of one server.
    pub(crate) fn token_store(self: &Arc<Self>, url: &Url) -> Arc<dyn TokenStore> {
        Arc::new(Tokens {
            cache: self.clone(),
            server: url.authority(),
        })
    }

    fn entry(&self, server: &str, change: impl FnOnce(&mut Server)) {
        let mut contents = self.lock();
        let entry = contents.servers.entry(server.to_owned()).or_default();
        entry.used_at = now();
        change(entry);
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Proof that [`SessionCache::attach`] was called.
#[derive(Debug)]
pub(crate) struct Attachment(());

impl Attachment {
    /// Listen to the handshakes of `inner`.
    pub(crate) fn wrap(
        self,
        inner: Arc<dyn crypto::ClientConfig>,
    ) -> Arc<dyn crypto::ClientConfig> {
        Arc::new(capture::ListeningConfig(inner))
    }
}

/// Where captured sessions of one server go.
#[derive(Debug)]
struct Sink {
    cache: Arc<SessionCache>,
    server: String,
    trust: Hex,
}

impl Sink {
    fn push(&self, mut session: Session) {
        session.trust = self.trust.clone();
        self.cache.entry(&self.server, |server| {
            server.sessions.push(session);
            let excess = server.sessions.len().saturating_sub(MAX_SESSIONS);
            server.sessions.drain(..excess);
        });
    }
}

#[derive(Debug)]
struct Tokens {
    cache: Arc<SessionCache>,
    server: String,
}

impl TokenStore for Tokens {
    fn insert(&self, _server_name: &str, token: Bytes) {
        self.cache.entry(&self.server, |server| {
            server.tokens.push(Hex(token.to_vec()));
            let excess = server.tokens.len().saturating_sub(MAX_TOKENS);
            server.tokens.drain(..excess);
        });
    }

    fn take(&self, _server_name: &str) -> Option<Bytes> {
        let mut contents = self.cache.lock();
        let token = contents.servers.get_mut(&self.server)?.tokens.pop()?;
        Some(token.0.into())
    }
}

#[cfg(test)]
mod tests;
