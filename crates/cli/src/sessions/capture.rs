//! Collects the parts of a session where they pass by; see the parent module.
//!
//! They pass by one after the other within one call: QUIC hands a NewSessionTicket to
//! [`ListeningSession`] (`read_handshake`), below which rustls derives the key ([`ListeningHkdf`]) and
//! stores the session ([`ListeningStore`]), all on the calling thread. A thread-local carries the
//! parts from one to the next.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use polyquic::transport_parameters::TransportParameters;
use polyquic::{ConnectError, ConnectionId, Side, TransportError, crypto, rustls};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::crypto::{ActiveKeyExchange, CryptoProvider};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuiteCommon, NamedGroup, SupportedCipherSuite, Tls13CipherSuite};

use super::{Hex, Session, Sink, now};

/// Longest handshake message that is collected, in bytes; a ticket has at most 65,535.
const MAX_MESSAGE_BYTES: usize = 1 << 17;

/// The type of a NewSessionTicket message.
const NEW_SESSION_TICKET: u8 = 4;

#[derive(Default)]
struct Parts {
    /// Tickets that TLS is about to be handed, in order.
    tickets: VecDeque<Vec<u8>>,
    /// The key derived last.
    key: Option<Vec<u8>>,
    /// What HKDF is to answer instead, while a session is being revived.
    revived_key: Option<Vec<u8>>,
    certificates: Vec<Vec<u8>>,
}

thread_local! {
    static PARTS: RefCell<Parts> = RefCell::default();
}

/// Whether this thread is reviving a session, as opposed to talking to a peer.
pub(crate) fn reviving() -> bool {
    PARTS.with_borrow(|parts| parts.revived_key.is_some())
}

/// Run `f` with HKDF answering `key` when asked for the key of a session.
pub(super) fn with_key<T>(key: &[u8], f: impl FnOnce() -> T) -> T {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            PARTS.with_borrow_mut(|parts| parts.revived_key = None);
        }
    }
    PARTS.with_borrow_mut(|parts| parts.revived_key = Some(key.to_vec()));
    let _reset = Reset;
    f()
}

/// Lay out what the session that TLS is about to store will need.
pub(super) fn stage(tickets: VecDeque<Vec<u8>>, certificates: Vec<Vec<u8>>) {
    PARTS.with_borrow_mut(|parts| {
        parts.tickets = tickets;
        parts.certificates = certificates;
        parts.key = None;
    });
}

/// polyquic's cryptography with an HKDF that can be listened to.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let base = polyquic::crypto_provider();
    // rustls wants suites that live forever. They are made once per process.
    static SUITES: OnceLock<Vec<SupportedCipherSuite>> = OnceLock::new();
    let suites = SUITES.get_or_init(|| {
        let tls13 = base
            .cipher_suites
            .iter()
            .filter_map(SupportedCipherSuite::tls13);
        tls13
            .map(|suite| SupportedCipherSuite::Tls13(listening_suite(suite)))
            .collect()
    });
    let mut provider = CryptoProvider::clone(&base);
    provider.cipher_suites = suites.clone();
    Arc::new(provider)
}

fn listening_suite(suite: &'static Tls13CipherSuite) -> &'static Tls13CipherSuite {
    Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: Box::leak(Box::new(ListeningHkdf(suite.hkdf_provider))),
        aead_alg: suite.aead_alg,
        quic: suite.quic,
    }))
}

struct ListeningHkdf(&'static dyn Hkdf);

impl Hkdf for ListeningHkdf {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.0.extract_from_zero_ikm(salt)
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.0.extract_from_secret(salt, secret)
    }

    fn extract_from_kx_shared_secret(
        &self,
        salt: Option<&[u8]>,
        kx: Box<dyn ActiveKeyExchange>,
        peer_pub_key: &[u8],
    ) -> Result<Box<dyn HkdfExpander>, rustls::Error> {
        self.0.extract_from_kx_shared_secret(salt, kx, peer_pub_key)
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(ListeningExpander(self.0.expander_for_okm(okm)))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> rustls::crypto::hmac::Tag {
        self.0.hmac_sign(key, message)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct ListeningExpander(Box<dyn HkdfExpander>);

impl HkdfExpander for ListeningExpander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        self.0.expand_slice(info, output)
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        if !is_resumption(info) {
            return self.0.expand_block(info);
        }
        PARTS.with_borrow_mut(|parts| match &parts.revived_key {
            Some(key) => OkmBlock::new(key),
            None => {
                let block = self.0.expand_block(info);
                parts.key = Some(block.as_ref().to_vec());
                block
            }
        })
    }

    fn hash_len(&self) -> usize {
        self.0.hash_len()
    }
}

/// Whether this is HKDF-Expand-Label with the label of RFC 8446 section 4.6.1.
fn is_resumption(info: &[&[u8]]) -> bool {
    const LABEL: &[u8] = b"tls13 resumption";
    // Two bytes of output length and one of label length come first.
    let info = info.concat();
    info.get(2) == Some(&(LABEL.len() as u8)) && info[3..].starts_with(LABEL)
}

/// A store in memory that passes what it is given on to `sink`.
pub(super) fn resumption(sink: Arc<Sink>) -> Resumption {
    Resumption::store(Arc::new(ListeningStore {
        // For one server, whose tickets are counted in eights.
        memory: ClientSessionMemoryCache::new(8),
        sink,
    }))
}

#[derive(Debug)]
struct ListeningStore {
    memory: ClientSessionMemoryCache,
    sink: Arc<Sink>,
}

impl ClientSessionStore for ListeningStore {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.memory.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.memory.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.memory.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.memory.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.memory.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        if reviving() {
            self.memory.insert_tls13_ticket(server_name, value);
            return;
        }
        // To the file only: a session must be used once, and this process has its connection.
        let parts = PARTS.with_borrow_mut(|parts| {
            let ticket = parts.tickets.pop_front()?;
            Some((ticket, parts.key.take()?, parts.certificates.clone()))
        });
        let Some((ticket, key, certificates)) = parts else {
            tracing::debug!("a session passed by without its ticket or its key");
            return;
        };
        self.sink.push(Session {
            trust: Hex(Vec::new()),
            made_at: now(),
            cipher_suite: value.suite().common.suite.into(),
            ticket: Hex(ticket),
            key: Hex(key),
            transport_parameters: Hex(value.quic_params()),
            certificates: certificates.into_iter().map(Hex).collect(),
        });
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.memory.take_tls13_ticket(server_name)
    }
}

/// Makes sessions that listen.
pub(super) struct ListeningConfig(pub(super) Arc<dyn crypto::ClientConfig>);

impl crypto::ClientConfig for ListeningConfig {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        let inner = self.0.clone().start_session(version, server_name, params)?;
        Ok(Box::new(ListeningSession {
            inner,
            reader: MessageReader::default(),
        }))
    }
}

struct ListeningSession {
    inner: Box<dyn crypto::Session>,
    reader: MessageReader,
}

impl crypto::Session for ListeningSession {
    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let tickets = self.reader.push(buf);
        if tickets.is_empty() {
            return self.inner.read_handshake(buf);
        }
        let certificates = self
            .inner
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .map(|chain| chain.iter().map(|c| c.to_vec()).collect())
            .unwrap_or_default();
        stage(tickets, certificates);
        let result = self.inner.read_handshake(buf);
        // Nothing may be left for another connection on this thread.
        stage(VecDeque::new(), Vec::new());
        result
    }

    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> crypto::Keys {
        self.inner.initial_keys(dst_cid, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }

    fn early_crypto(&self) -> Option<(Box<dyn crypto::HeaderKey>, Box<dyn crypto::PacketKey>)> {
        self.inner.early_crypto()
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }

    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<crypto::Keys> {
        self.inner.write_handshake(buf)
    }

    fn next_1rtt_keys(&mut self) -> Option<crypto::KeyPair<Box<dyn crypto::PacketKey>>> {
        self.inner.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(orig_dst_cid, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), crypto::ExportKeyingMaterialError> {
        self.inner.export_keying_material(output, label, context)
    }
}

/// Finds the NewSessionTicket messages in a stream of handshake bytes cut anywhere.
#[derive(Default)]
pub(super) struct MessageReader {
    /// The current message as far as it has come, if it is to be kept; else its header.
    message: Vec<u8>,
    /// How much of the current message is still to come and to be thrown away.
    skip: usize,
}

impl MessageReader {
    /// The tickets that are complete with `bytes`.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> VecDeque<Vec<u8>> {
        let mut tickets = VecDeque::new();
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = &bytes[n..];
                continue;
            }
            // Type, three bytes of length, body (RFC 8446 section 4).
            let wanted = match self.message[..] {
                [_, a, b, c, ..] => 4 + u32::from_be_bytes([0, a, b, c]) as usize,
                _ => 4,
            };
            let n = wanted.saturating_sub(self.message.len()).min(bytes.len());
            self.message.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if let [kind, a, b, c] = self.message[..] {
                let length = u32::from_be_bytes([0, a, b, c]) as usize;
                if kind != NEW_SESSION_TICKET || length == 0 || length > MAX_MESSAGE_BYTES {
                    self.message.clear();
                    self.skip = length;
                }
            } else if self.message.len() == wanted && wanted > 4 {
                tickets.push_back(std::mem::take(&mut self.message));
            }
        }
        tickets
    }
}
