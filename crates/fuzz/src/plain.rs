//! TLS and packet protection that protect nothing, so that a fuzzer can write packets by hand.
//!
//! The handshake has the shape of TLS 1.3's: a hello of the client, one of the server at the same
//! level, parameters and an end of the server and an end of the client at the next. Each message is a
//! type, a length of two bytes and a body. Hellos of clients and the server's parameters carry the
//! transport parameters.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use crate::wire::Reader;
use bytes::BytesMut;
use polyquic_core::crypto::rustls::QuicServerConfig;
use polyquic_core::crypto::{
    self, AeadKey, CryptoError, ExportKeyingMaterialError, HandshakeTokenKey, HeaderKey, KeyPair,
    Keys, PacketKey, Session, UnsupportedVersion,
};
use polyquic_core::rustls::server::{ClientHello, ResolvesServerCert};
use polyquic_core::rustls::sign::CertifiedKey;
use polyquic_core::transport_parameters::TransportParameters;
use polyquic_core::{
    ConnectError, ConnectionId, Side, TransportError, TransportErrorCode, crypto_provider, rustls,
};

/// Packets end in so many bytes that are not looked at.
pub(crate) const TAG_BYTES: usize = 8;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const PARAMETERS: u8 = 3;
const FINISHED: u8 = 4;

struct Plain;

impl HeaderKey for Plain {
    fn decrypt(&self, _: usize, _: &mut [u8]) {}
    fn encrypt(&self, _: usize, _: &mut [u8]) {}
    fn sample_size(&self) -> usize {
        // What packets hold after their number in any case.
        4
    }
}

impl PacketKey for Plain {
    fn encrypt(&self, _: u64, buf: &mut [u8], _: usize) {
        let tag = buf.len() - TAG_BYTES;
        buf[tag..].fill(0);
    }

    fn decrypt(&self, _: u64, _: &[u8], payload: &mut BytesMut) -> Result<(), CryptoError> {
        let length = payload.len().checked_sub(TAG_BYTES).ok_or(CryptoError)?;
        payload.truncate(length);
        Ok(())
    }

    fn tag_len(&self) -> usize {
        TAG_BYTES
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}

fn pair<T: ?Sized>(make: impl Fn() -> Box<T>) -> KeyPair<Box<T>> {
    KeyPair {
        local: make(),
        remote: make(),
    }
}

fn keys() -> Keys {
    Keys {
        header: pair(|| Box::new(Plain) as _),
        packet: pair(|| Box::new(Plain) as _),
    }
}

/// Both sides' configuration.
#[derive(Debug, Default, Clone)]
pub(crate) struct PlainTls {
    /// What to send besides, or in place of those of one's transport parameters that are in there.
    pub(crate) parameters: Vec<u8>,
}

impl PlainTls {
    fn session(&self, side: Side, params: &TransportParameters) -> Box<dyn Session> {
        let mut genuine = Vec::new();
        params.write(&mut genuine);
        let parameters = replace(&genuine, &self.parameters);
        let mut outgoing = VecDeque::new();
        if side == Side::Client {
            outgoing.push_back((message(CLIENT_HELLO, &parameters), false));
        }
        Box::new(PlainSession {
            side,
            parameters,
            outgoing,
            incoming: Vec::new(),
            peer: None,
            greeted: false,
            finished: false,
        })
    }
}

impl crypto::ClientConfig for PlainTls {
    fn start_session(
        self: Arc<Self>,
        _: u32,
        _: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        Ok(self.session(Side::Client, params))
    }
}

impl crypto::ServerConfig for PlainTls {
    fn initial_keys(&self, _: u32, _: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        Ok(keys())
    }

    fn retry_tag(&self, _: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        retry_tag(orig_dst_cid, packet)
    }

    fn start_session(self: Arc<Self>, _: u32, params: &TransportParameters) -> Box<dyn Session> {
        self.session(Side::Server, params)
    }
}

/// The genuine tag of a Retry packet: `polyquic_core` judges it itself, whatever the cryptography.
pub(crate) fn retry_tag(orig_dst_cid: &[u8], packet: &[u8]) -> [u8; 16] {
    static GENUINE: OnceLock<QuicServerConfig> = OnceLock::new();
    let genuine = GENUINE.get_or_init(|| {
        let tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has it")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(NoCertificate));
        QuicServerConfig::try_from(tls).expect("it suits QUIC")
    });
    crypto::ServerConfig::retry_tag(genuine, 1, &ConnectionId::new(orig_dst_cid), packet)
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// The genuine parameters but for those that are in `others`, then these.
fn replace(genuine: &[u8], others: &[u8]) -> Vec<u8> {
    let ids = |data| {
        let mut r = Reader(data);
        let mut ids = Vec::new();
        while let Some(id) = r.varint() {
            ids.push(id);
            if r.counted().is_none() {
                break;
            }
        }
        ids
    };
    let (replaced, mut r, mut all) = (ids(others), Reader(genuine), Vec::new());
    while !r.0.is_empty() {
        let before = r.0;
        let id = r.varint().expect("well-formed");
        r.counted().expect("well-formed");
        if !replaced.contains(&id) {
            all.extend_from_slice(&before[..before.len() - r.0.len()]);
        }
    }
    all.extend_from_slice(others);
    // What a message can hold.
    all.truncate(u16::MAX.into());
    all
}

/// A message of the handshake.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend_from_slice(&(body.len() as u16).to_be_bytes());
    message.extend_from_slice(body);
    message
}

/// What a client begins with.
pub(crate) fn client_hello(parameters: &[u8]) -> Vec<u8> {
    message(CLIENT_HELLO, parameters)
}

struct PlainSession {
    side: Side,
    parameters: Vec<u8>,
    /// Messages, and whether new keys follow.
    outgoing: VecDeque<(Vec<u8>, bool)>,
    incoming: Vec<u8>,
    peer: Option<Vec<u8>>,
    /// Whether the server's hello came.
    greeted: bool,
    finished: bool,
}

impl PlainSession {
    fn handle(&mut self, kind: u8, body: Vec<u8>) -> Result<bool, TransportError> {
        match (self.side, kind) {
            (Side::Server, CLIENT_HELLO) if self.peer.is_none() => {
                self.peer = Some(body);
                self.outgoing.push_back((message(SERVER_HELLO, &[]), true));
                let mut flight = message(PARAMETERS, &self.parameters);
                flight.extend(message(FINISHED, &[]));
                self.outgoing.push_back((flight, true));
                return Ok(true);
            }
            (Side::Client, SERVER_HELLO) if !self.greeted => {
                self.greeted = true;
                self.outgoing.push_back((Vec::new(), true));
            }
            (Side::Client, PARAMETERS) if self.greeted && self.peer.is_none() => {
                self.peer = Some(body);
                return Ok(true);
            }
            (_, FINISHED) if self.peer.is_some() && !self.finished => {
                self.finished = true;
                if self.side == Side::Client {
                    self.outgoing.push_back((message(FINISHED, &[]), true));
                }
            }
            // What TLS calls an unexpected message.
            _ => return Err(TransportErrorCode::crypto(10).into()),
        }
        Ok(false)
    }
}

impl Session for PlainSession {
    fn initial_keys(&self, _: &ConnectionId, _: Side) -> Keys {
        keys()
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.peer.as_ref().map(|_| Box::new(()) as _)
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        Some(false)
    }

    fn is_handshaking(&self) -> bool {
        !self.finished
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        self.incoming.extend_from_slice(buf);
        let mut ready = false;
        while let [kind, high, low, ..] = self.incoming[..] {
            let end = 3 + usize::from(u16::from_be_bytes([high, low]));
            if self.incoming.len() < end {
                break;
            }
            let rest = self.incoming.split_off(end);
            let message = std::mem::replace(&mut self.incoming, rest);
            ready |= self.handle(kind, message[3..].to_vec())?;
            if matches!(kind, CLIENT_HELLO | SERVER_HELLO) && !self.incoming.is_empty() {
                // Keys change here: TLS does not take what comes after at the same level.
                return Err(TransportErrorCode::crypto(10).into());
            }
        }
        Ok(ready)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(encoded) = &self.peer else {
            return Ok(None);
        };
        Ok(Some(TransportParameters::read(
            self.side,
            &mut &encoded[..],
        )?))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let (message, new_keys) = self.outgoing.pop_front()?;
        buf.extend_from_slice(&message);
        new_keys.then(keys)
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        Some(keys().packet)
    }

    fn is_valid_retry(&self, _: &ConnectionId, _: &[u8], payload: &[u8]) -> bool {
        payload.len() > 16
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        output.fill(0);
        Ok(())
    }
}

/// Seals tokens with nothing but a checksum, so that the models can make and read them.
pub(crate) struct PlainTokens;

impl HandshakeTokenKey for PlainTokens {
    fn aead_from_hkdf(&self, random: &[u8]) -> Box<dyn AeadKey> {
        Box::new(TokenSeal(checksum(random, 7)))
    }
}

struct TokenSeal(u32);

impl AeadKey for TokenSeal {
    fn seal(&self, data: &mut Vec<u8>, _: &[u8]) -> Result<(), CryptoError> {
        let sum = checksum(data, self.0);
        data.extend_from_slice(&sum.to_be_bytes());
        Ok(())
    }

    fn open<'a>(&self, data: &'a mut [u8], _: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let length = data.len().checked_sub(4).ok_or(CryptoError)?;
        let (body, tag) = data.split_at_mut(length);
        (tag == checksum(body, self.0).to_be_bytes())
            .then_some(body)
            .ok_or(CryptoError)
    }
}

fn checksum(data: &[u8], start: u32) -> u32 {
    data.iter().fold(start, |sum, byte| {
        (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// A token with this payload, sealed as a server does.
pub(crate) fn seal_token(payload: &[u8], nonce: [u8; 16]) -> Vec<u8> {
    let mut token = payload.to_vec();
    let key = PlainTokens.aead_from_hkdf(&nonce);
    key.seal(&mut token, &[]).expect("cannot fail");
    token.extend_from_slice(&nonce);
    token
}

/// The payload of a token that [`seal_token`] or a server made.
pub(crate) fn open_token(token: &[u8]) -> Option<Vec<u8>> {
    let (sealed, nonce) = token.split_last_chunk::<16>()?;
    let mut sealed = sealed.to_vec();
    let payload = PlainTokens
        .aead_from_hkdf(nonce)
        .open(&mut sealed, &[])
        .ok()?;
    Some(payload.to_vec())
}
