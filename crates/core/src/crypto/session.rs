//! One TLS session, and what is left of it once TLS has done its part.

use std::any::Any;
use std::io::Cursor;
use std::sync::Arc;

use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::crypto::tls13::OkmBlock;
use rustls::pki_types::CertificateDer;
use rustls::quic::{Connection, KeyChange, Suite, Version};
use rustls::{AlertDescription, Tls13CipherSuite};

use super::keys::{InitialKeysCache, KeyUpdates, boxed, boxed_early};
use super::{ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, exporter, retry};

pub(super) struct TlsSession {
    version: Version,
    /// For Initial packets.
    initial: Suite,
    /// On servers, where those that the endpoint derived may still be.
    initial_keys: Option<Arc<InitialKeysCache>>,
    got_handshake_data: bool,
    updates: KeyUpdates,
    exporter: Option<Exporter>,
    /// How far messages after the handshake have been seen (clients).
    messages: Messages,
    stage: Stage,
}

/// What is there of TLS.
enum Stage {
    /// All of it. Boxed, to be gone with the handshake.
    Live(Box<Connection>),
    /// What can still be asked for.
    Done(Box<Summary>),
}

struct Summary {
    side: Side,
    protocol: Option<Vec<u8>>,
    server_name: Option<String>,
    certificates: Option<Vec<CertificateDer<'static>>>,
    early_data_accepted: Option<bool>,
}

struct Exporter {
    suite: &'static Tls13CipherSuite,
    secret: OkmBlock,
}

impl TlsSession {
    pub(super) fn new(
        tls: Connection,
        version: Version,
        initial: Suite,
        initial_keys: Option<Arc<InitialKeysCache>>,
    ) -> Self {
        Self {
            version,
            initial,
            initial_keys,
            got_handshake_data: false,
            updates: KeyUpdates::NotYet,
            exporter: None,
            messages: Messages::default(),
            stage: Stage::Live(Box::new(tls)),
        }
    }

    /// Drop what rustls holds if nothing is left for it to do. To be called when it has nothing to
    /// write.
    fn release(&mut self) {
        let Stage::Live(tls) = &self.stage else {
            return;
        };
        if tls.is_handshaking()
            || self.exporter.is_none()
            || matches!(self.updates, KeyUpdates::NotYet)
        {
            return;
        }
        let done = match &**tls {
            // Its tickets are written.
            Connection::Server(_) => true,
            // Tickets come after the handshake, if they come, and usually together.
            Connection::Client(tls) => {
                tls.tls13_tickets_received() > 0 && self.messages.at_boundary()
            }
        };
        if done {
            self.stage = Stage::Done(Box::new(Summary::of(tls)));
        }
    }

    fn unexpected_message() -> TransportError {
        TransportError {
            code: TransportErrorCode::crypto(AlertDescription::UnexpectedMessage.into()),
            frame: None,
            reason: "TLS message after the handshake".into(),
        }
    }
}

impl super::Session for TlsSession {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        let cached = self.initial_keys.as_ref().filter(|_| side.is_server());
        if let Some(keys) = cached.and_then(|cache| cache.take(self.version, dst_cid)) {
            return keys;
        }
        boxed(self.initial.keys(dst_cid, side.into(), self.version))
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        if !self.got_handshake_data {
            return None;
        }
        let (protocol, server_name) = match &self.stage {
            Stage::Live(tls) => (tls.alpn_protocol().map(Vec::from), server_name(tls)),
            Stage::Done(summary) => (summary.protocol.clone(), summary.server_name.clone()),
        };
        Some(Box::new(HandshakeData {
            protocol,
            server_name,
        }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        let certificates = match &self.stage {
            Stage::Live(tls) => certificates(tls),
            Stage::Done(summary) => summary.certificates.clone(),
        };
        Some(Box::new(certificates?))
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        match &self.stage {
            Stage::Live(tls) => tls.zero_rtt_keys().map(boxed_early),
            Stage::Done(_) => None,
        }
    }

    fn early_data_accepted(&self) -> Option<bool> {
        match &self.stage {
            Stage::Live(tls) => early_data_accepted(tls),
            Stage::Done(summary) => summary.early_data_accepted,
        }
    }

    fn is_handshaking(&self) -> bool {
        match &self.stage {
            Stage::Live(tls) => tls.is_handshaking(),
            Stage::Done(_) => false,
        }
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let tls = match &mut self.stage {
            Stage::Live(tls) => tls,
            // Another ticket is of no use any more; nothing else may come (RFC 9001 section 6).
            Stage::Done(summary) => {
                let only_tickets = self.messages.follow(buf) == Kind::Tickets;
                return if summary.side.is_client() && only_tickets {
                    Ok(false)
                } else {
                    Err(Self::unexpected_message())
                };
            }
        };
        let after_handshake = !tls.is_handshaking();
        if after_handshake {
            // rustls judges what it is; this is about where a message ends.
            self.messages.follow(buf);
        }
        let (result, secret) = exporter::tap(|| tls.read_hs(buf));
        result.map_err(|error| match tls.alert() {
            Some(alert) => TransportError {
                code: TransportErrorCode::crypto(alert.into()),
                frame: None,
                reason: error.to_string(),
            },
            None => TransportError {
                code: TransportErrorCode::PROTOCOL_VIOLATION,
                frame: None,
                reason: format!("TLS error: {error}"),
            },
        })?;
        if let Some(secret) = secret {
            let suite = tls.negotiated_cipher_suite().and_then(|it| it.tls13());
            self.exporter = suite.map(|suite| Exporter { suite, secret });
        }
        // rustls does not say when what the handshake is about is known: a server name for servers
        // and the protocol for both, where there are such, else its end.
        let known =
            tls.alpn_protocol().is_some() || server_name(tls).is_some() || !tls.is_handshaking();
        let first = known && !self.got_handshake_data;
        self.got_handshake_data |= known;
        if after_handshake {
            // Nothing is written in answer to a ticket, nor does anybody ask.
            self.release();
        }
        Ok(first)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        // Asked for during the handshake only.
        let Stage::Live(tls) = &self.stage else {
            return Ok(None);
        };
        let Some(encoded) = tls.quic_transport_parameters() else {
            return Ok(None);
        };
        let params = TransportParameters::read(side(tls), &mut Cursor::new(encoded))?;
        Ok(Some(params))
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let Stage::Live(tls) = &mut self.stage else {
            return None;
        };
        let before = buf.len();
        match tls.write_hs(buf) {
            Some(KeyChange::Handshake { keys }) => Some(boxed(keys)),
            Some(KeyChange::OneRtt { keys, next }) => {
                self.updates = KeyUpdates::First(next);
                Some(boxed(keys))
            }
            None => {
                if buf.len() == before {
                    self.release();
                }
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.updates.next_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        let Some(end) = payload.len().checked_sub(retry::TAG_BYTES) else {
            return false;
        };
        let (payload, tag) = payload.split_at(end);
        retry::tag(self.version, orig_dst_cid, &[header, payload].concat()) == tag
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let exporter = self.exporter.as_ref().filter(|_| !self.is_handshaking());
        let Exporter { suite, secret } = exporter.ok_or(ExportKeyingMaterialError)?;
        exporter::export(suite, secret, output, label, context)
    }
}

impl Summary {
    fn of(tls: &Connection) -> Self {
        Self {
            side: side(tls),
            protocol: tls.alpn_protocol().map(Vec::from),
            server_name: server_name(tls),
            certificates: certificates(tls),
            early_data_accepted: early_data_accepted(tls),
        }
    }
}

fn side(tls: &Connection) -> Side {
    match tls {
        Connection::Client(_) => Side::Client,
        Connection::Server(_) => Side::Server,
    }
}

/// The name that the client asked for, on the server.
fn server_name(tls: &Connection) -> Option<String> {
    match tls {
        Connection::Client(_) => None,
        Connection::Server(tls) => tls.server_name().map(str::to_owned),
    }
}

fn certificates(tls: &Connection) -> Option<Vec<CertificateDer<'static>>> {
    let chain = tls.peer_certificates()?;
    Some(chain.iter().map(|it| it.clone().into_owned()).collect())
}

fn early_data_accepted(tls: &Connection) -> Option<bool> {
    match tls {
        Connection::Client(tls) => Some(tls.is_early_data_accepted()),
        Connection::Server(_) => None,
    }
}

/// The type of a NewSessionTicket message (RFC 8446 section 4.6.1).
const NEW_SESSION_TICKET: u8 = 4;

/// Where one handshake message ends and the next begins, after the handshake.
#[derive(Default)]
struct Messages {
    /// The type and the length of the current message, as far as they have arrived.
    header: [u8; 4],
    header_len: usize,
    /// What is missing of the current message's body.
    missing: usize,
}

/// What came along.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing but (parts of) tickets.
    Tickets,
    /// Something else, too.
    Other,
}

impl Messages {
    fn at_boundary(&self) -> bool {
        self.header_len == 0 && self.missing == 0
    }

    fn follow(&mut self, mut bytes: &[u8]) -> Kind {
        let mut kind = Kind::Tickets;
        while let Some((&next, rest)) = bytes.split_first() {
            if self.missing > 0 {
                let taken = self.missing.min(bytes.len());
                self.missing -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            if self.header_len == 0 && next != NEW_SESSION_TICKET {
                kind = Kind::Other;
            }
            self.header[self.header_len] = next;
            self.header_len += 1;
            bytes = rest;
            if self.header_len == self.header.len() {
                let [_, high, middle, low] = self.header;
                self.missing = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.header_len = 0;
            }
        }
        kind
    }
}

#[cfg(test)]
mod tests;
