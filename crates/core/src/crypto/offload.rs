//! TLS sessions whose expensive step is done elsewhere: the answer to a ClientHello, with its
//! certificate and its signature.
//!
//! quinn-proto asks for what TLS has to say at once, in the middle of a packet. A [`Deferred`]
//! session says that it has nothing yet, and keeps the ClientHello. The [`HandshakeJob`] takes the
//! real session along, on whatever thread it is run, and brings it back with all that TLS said.
//! That is passed on when quinn-proto asks next, which it does when the next Initial packet comes
//! in; so there has to be one. It is made here ([`Link::packet`]): the client's first packet once
//! more, with nothing in it. quinn-proto takes it for that packet, which came in by another way
//! than those after it, and of which it remembers no number.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::BytesMut;
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::AlertDescription;

use super::{
    CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig,
    Session, UnsupportedVersion,
};
use crate::header;

/// A handshake message begins with its type and the length of the rest (RFC 8446 section 4).
const MESSAGE_HEADER_BYTES: usize = 4;
const CLIENT_HELLO: u8 = 1;
/// A longer ClientHello is not waited for; TLS says what it thinks of it.
const MAX_HELLO_BYTES: usize = 0xffff;

/// Where what quinn-proto calls while it accepts a connection leaves what others of it, and the
/// endpoint, need: one per endpoint, which accepts one connection at a time.
#[derive(Default)]
pub(crate) struct Seat(Mutex<Seated>);

#[derive(Default)]
struct Seated {
    first: Option<FirstPacket>,
    link: Option<Arc<Link>>,
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Seated> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was just accepted, if its TLS may be done elsewhere.
    pub(crate) fn take(&self) -> Option<Arc<Link>> {
        let mut seated = self.lock();
        seated.first = None;
        seated.link.take()
    }
}

/// The packet that a connection began with.
struct FirstPacket {
    number: u64,
    /// Without header protection.
    header: Vec<u8>,
    /// Of the whole packet.
    bytes: usize,
}

/// A server's TLS, of which quinn-proto sees sessions that may be away.
pub(crate) struct Deferring {
    inner: Arc<dyn ServerConfig>,
    defer: bool,
    seat: Arc<Seat>,
}

impl Deferring {
    /// Sessions of `inner`; ordinary ones unless `defer`.
    pub(crate) fn new(inner: Arc<dyn ServerConfig>, defer: bool, seat: Arc<Seat>) -> Self {
        Self { inner, defer, seat }
    }
}

impl ServerConfig for Deferring {
    fn initial_keys(
        &self,
        version: u32,
        dst_cid: &ConnectionId,
    ) -> Result<Keys, UnsupportedVersion> {
        let mut keys = self.inner.initial_keys(version, dst_cid)?;
        // Also without `defer`: the connection may be accepted with another configuration.
        let watch = Watch::FirstPacket(self.seat.clone());
        keys.packet.remote = Watched::boxed(keys.packet.remote, watch);
        Ok(keys)
    }

    fn retry_tag(&self, version: u32, orig_dst_cid: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.inner.retry_tag(version, orig_dst_cid, packet)
    }

    fn start_session(
        self: Arc<Self>,
        version: u32,
        params: &TransportParameters,
    ) -> Box<dyn Session> {
        let session = self.inner.clone().start_session(version, params);
        let mut seated = self.seat.lock();
        let Some(first) = seated.first.take().filter(|_| self.defer) else {
            return session;
        };
        let link = Arc::new(Link {
            first,
            cid: OnceLock::new(),
            open: AtomicBool::new(false),
            validated: AtomicBool::new(false),
            state: Mutex::new(State {
                session: Some(session),
                phase: Phase::Hello(Vec::new()),
            }),
        });
        seated.link = Some(link.clone());
        Box::new(Deferred(link))
    }
}

/// Between the session that quinn-proto has, the connection around it, and the job.
pub(crate) struct Link {
    first: FirstPacket,
    /// What the Initial keys follow from.
    cid: OnceLock<ConnectionId>,
    /// Whether a packet with the first one's number is ours, and so let in.
    open: AtomicBool,
    /// Whether the client has answered to what only it can have received.
    validated: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// `None` while it is away.
    session: Option<Box<dyn Session>>,
    phase: Phase,
}

enum Phase {
    /// What has come of the ClientHello.
    Hello(Vec<u8>),
    /// All of it has.
    Ready(Vec<u8>),
    /// With a [`HandshakeJob`].
    Away,
    /// Done, and not passed on.
    Back(Outcome),
    /// To be passed on, step by step.
    Delivering(VecDeque<Step>),
    /// To end the connection with, once quinn-proto was `told` that there is something.
    Failing { error: TransportError, told: bool },
    /// As if this module did not exist.
    Inline,
}

/// What TLS said in answer to a ClientHello.
struct Outcome {
    /// Whether what was negotiated is known.
    data_ready: bool,
    result: Result<VecDeque<Step>, TransportError>,
}

/// What TLS gave to one call of `write_handshake`.
type Step = (Vec<u8>, Option<Keys>);

impl Link {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of the first packet.
    pub(crate) fn first_packet_bytes(&self) -> u64 {
        self.first.bytes as u64
    }

    /// The connection id that the client chose for its first packet.
    pub(crate) fn cid(&self) -> Option<&ConnectionId> {
        self.cid.get()
    }

    /// Whether the client answered to what was sent to its address (RFC 9000 section 8.1).
    pub(crate) fn is_validated(&self) -> bool {
        self.validated.load(Ordering::Relaxed)
    }

    /// Whether the session waits for its job, is with it, or came back and nobody has noticed.
    pub(crate) fn is_away(&self) -> bool {
        let phase = &self.lock().phase;
        matches!(phase, Phase::Ready(_) | Phase::Away | Phase::Back(_))
    }

    /// The work to be done, once.
    pub(crate) fn take_job(self: &Arc<Self>) -> Option<HandshakeJob> {
        let mut state = self.lock();
        let Phase::Ready(hello) = &mut state.phase else {
            return None;
        };
        let hello = std::mem::take(hello);
        state.phase = Phase::Away;
        Some(HandshakeJob {
            work: state.session.take().map(|session| (session, hello)),
            link: self.clone(),
        })
    }

    /// Have what the job brought passed on from now on. The answer is whether there is something,
    /// and if so whether what was negotiated is now known.
    pub(crate) fn deliver(&self) -> Option<bool> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.phase, Phase::Inline) {
            Phase::Back(Outcome { data_ready, result }) => {
                state.phase = match result {
                    Ok(steps) => Phase::Delivering(steps),
                    Err(error) => Phase::Failing { error, told: false },
                };
                Some(data_ready)
            }
            other => {
                state.phase = other;
                None
            }
        }
    }

    /// Let a packet with the first one's number in, or no longer.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }

    /// The first packet once more, with its number and a single PADDING frame: the least that is a
    /// packet. `None` while the session is away.
    pub(crate) fn packet(&self) -> Option<BytesMut> {
        let state = self.lock();
        let keys = (state.session.as_ref()?).initial_keys(self.cid.get()?, Side::Client);
        let original = &self.first.header;
        let mut packet = BytesMut::from(original.get(..header::initial_length_at(original)?)?);
        // No reserved bits, and a packet number of four bytes.
        packet[0] = (packet[0] & 0xf0) | 0x03;
        let number = (self.first.number as u32).to_be_bytes();
        let tag = keys.packet.local.tag_len();
        let length = number.len() + PADDING.len() + tag;
        packet.extend_from_slice(&(0x4000 | length as u16).to_be_bytes());
        let number_at = packet.len();
        packet.extend_from_slice(&number);
        let header_len = packet.len();
        packet.extend_from_slice(PADDING);
        packet.resize(packet.len() + tag, 0);
        (keys.packet.local).encrypt(self.first.number, &mut packet, header_len);
        keys.header.local.encrypt(number_at, &mut packet);
        Some(packet)
    }

    /// Keys that nobody has, for a space that the connection does not live to see.
    fn void_keys(&self, session: &dyn Session) -> Option<Keys> {
        let mut cid = *self.cid.get()?;
        cid.iter_mut().for_each(|byte| *byte = !*byte);
        Some(session.initial_keys(&cid, Side::Server))
    }

    fn come_back(&self, session: Box<dyn Session>, outcome: Outcome) {
        let mut state = self.lock();
        state.session = Some(session);
        state.phase = Phase::Back(outcome);
    }
}

/// A PADDING frame.
const PADDING: &[u8] = &[0];

/// The TLS of a handshake up to the server's answer: certificate look-up, key exchange, signature.
///
/// Made by [`Connection::take_handshake_job`](crate::Connection::take_handshake_job). It holds no
/// lock and needs none; run it on any thread, and then have the endpoint
/// [resume](crate::Endpoint::resume) the connection. One that is dropped without having been run
/// fails the handshake with INTERNAL_ERROR (RFC 9000 section 20.1); so does one that panics, as
/// the application's resolver of certificates may.
#[must_use = "the handshake waits for it"]
pub struct HandshakeJob {
    /// Taken when it is run.
    work: Option<(Box<dyn Session>, Vec<u8>)>,
    link: Arc<Link>,
}

impl HandshakeJob {
    /// Do it.
    pub fn run(mut self) {
        let Some((mut session, hello)) = self.work.take() else {
            return;
        };
        let answer = || answer(&mut *session, &hello);
        // Whatever state a panic leaves the session in, nothing is asked of it but to forget.
        let outcome = catch_unwind(AssertUnwindSafe(answer))
            .unwrap_or_else(|_| Outcome::failed(internal_error("TLS or a callback panicked")));
        self.link.come_back(session, outcome);
    }
}

impl Drop for HandshakeJob {
    fn drop(&mut self) {
        if let Some((session, _)) = self.work.take() {
            let error = internal_error("the handshake was abandoned");
            self.link.come_back(session, Outcome::failed(error));
        }
    }
}

impl std::fmt::Debug for HandshakeJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandshakeJob").finish_non_exhaustive()
    }
}

impl Outcome {
    fn failed(error: TransportError) -> Self {
        Self {
            data_ready: false,
            result: Err(error),
        }
    }
}

fn internal_error(reason: &str) -> TransportError {
    TransportError {
        code: TransportErrorCode::INTERNAL_ERROR,
        frame: None,
        reason: reason.into(),
    }
}

fn answer(session: &mut dyn Session, hello: &[u8]) -> Outcome {
    let data_ready = match session.read_handshake(hello) {
        Ok(data_ready) => data_ready,
        Err(error) => return Outcome::failed(error),
    };
    let mut steps = VecDeque::new();
    loop {
        let mut bytes = Vec::new();
        let keys = session.write_handshake(&mut bytes);
        if bytes.is_empty() && keys.is_none() {
            break;
        }
        steps.push_back((bytes, keys));
    }
    Outcome {
        data_ready,
        result: Ok(steps),
    }
}

/// How much of a ClientHello there is.
enum Progress {
    Partial,
    Whole,
    /// It is something else, or absurdly long.
    Foreign,
}

impl Progress {
    fn of(bytes: &[u8]) -> Self {
        match *bytes {
            [] => Self::Partial,
            [kind, ..] if kind != CLIENT_HELLO => Self::Foreign,
            [_, high, middle, low, ..] => {
                let length = u32::from_be_bytes([0, high, middle, low]) as usize;
                match length {
                    MAX_HELLO_BYTES.. => Self::Foreign,
                    _ if bytes.len() < MESSAGE_HEADER_BYTES + length => Self::Partial,
                    _ => Self::Whole,
                }
            }
            _ => Self::Partial,
        }
    }
}

/// The session that quinn-proto has.
struct Deferred(Arc<Link>);

impl Deferred {
    /// What the session says, unless it is away.
    fn ask<T>(&self, question: impl FnOnce(&dyn Session) -> Option<T>) -> Option<T> {
        question(&**self.0.lock().session.as_ref()?)
    }
}

impl Session for Deferred {
    fn initial_keys(&self, dst_cid: &ConnectionId, side: Side) -> Keys {
        let cid = *self.0.cid.get_or_init(|| *dst_cid);
        debug_assert_eq!(cid, *dst_cid, "asked for once, when the connection is made");
        let mut keys = self
            .ask(|session| Some(session.initial_keys(dst_cid, side)))
            .expect("asked for when the connection is made");
        let watch = Watch::FirstNumber(self.0.clone());
        keys.packet.remote = Watched::boxed(keys.packet.remote, watch);
        keys
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.ask(|session| session.handshake_data())
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.ask(|session| session.peer_identity())
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.ask(|session| session.early_crypto())
    }

    fn early_data_accepted(&self) -> Option<bool> {
        self.ask(|session| session.early_data_accepted())
    }

    fn is_handshaking(&self) -> bool {
        self.ask(|session| Some(session.is_handshaking()))
            .unwrap_or(true)
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        let mut state = self.0.lock();
        let State { session, phase } = &mut *state;
        if let (Phase::Hello(hello), Some(session)) = (&mut *phase, &mut *session) {
            hello.extend_from_slice(buf);
            let hello = match Progress::of(hello) {
                Progress::Partial => return Ok(false),
                Progress::Whole => {
                    *phase = Phase::Ready(std::mem::take(hello));
                    return Ok(false);
                }
                Progress::Foreign => std::mem::take(hello),
            };
            *phase = Phase::Inline;
            return session.read_handshake(&hello);
        }
        match (phase, session) {
            (Phase::Delivering(_) | Phase::Inline, Some(session)) => session.read_handshake(buf),
            _ => Err(TransportError {
                code: TransportErrorCode::crypto(AlertDescription::UnexpectedMessage.into()),
                frame: None,
                reason: "TLS data after the ClientHello and before the answer".into(),
            }),
        }
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let state = self.0.lock();
        match (&state.phase, &state.session) {
            (Phase::Failing { error, .. }, _) => Err(error.clone()),
            (_, Some(session)) => session.transport_parameters(),
            (_, None) => Ok(None),
        }
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let mut state = self.0.lock();
        let State { session, phase } = &mut *state;
        match phase {
            Phase::Inline => session.as_mut()?.write_handshake(buf),
            Phase::Delivering(steps) => match steps.pop_front() {
                Some((bytes, keys)) => {
                    buf.extend_from_slice(&bytes);
                    keys.map(|mut keys| {
                        let watch = Watch::Answer(self.0.clone());
                        keys.packet.remote = Watched::boxed(keys.packet.remote, watch);
                        keys
                    })
                }
                None => {
                    *phase = Phase::Inline;
                    session.as_mut()?.write_handshake(buf)
                }
            },
            // With new keys quinn-proto asks for the peer's transport parameters, and is told.
            Phase::Failing { told, .. } if !*told => {
                *told = true;
                self.0.void_keys(&**session.as_ref()?)
            }
            _ => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.0.lock().session.as_mut()?.next_1rtt_keys()
    }

    fn is_valid_retry(&self, orig_dst_cid: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.ask(|session| Some(session.is_valid_retry(orig_dst_cid, header, payload)))
            .unwrap_or(false)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.ask(|session| Some(session.export_keying_material(output, label, context)))
            .unwrap_or(Err(ExportKeyingMaterialError))
    }
}

/// The peer's packet key of one space, and who wants to know what it opens.
struct Watched {
    key: Box<dyn PacketKey>,
    watch: Watch,
}

enum Watch {
    /// The key with which the endpoint opens the first packet.
    FirstPacket(Arc<Seat>),
    /// The connection's key for Initial packets: quinn-proto lets the first packet's number in once,
    /// and that is for us.
    FirstNumber(Arc<Link>),
    /// A key that the client can have only from an answer that it received.
    Answer(Arc<Link>),
}

impl Watched {
    fn boxed(key: Box<dyn PacketKey>, watch: Watch) -> Box<dyn PacketKey> {
        Box::new(Self { key, watch })
    }
}

impl PacketKey for Watched {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        self.key.encrypt(packet, buf, header_len);
    }

    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        if let Watch::FirstNumber(link) = &self.watch
            && packet == link.first.number
            && !link.open.load(Ordering::Relaxed)
        {
            // The network delivered it twice.
            return Err(CryptoError);
        }
        let bytes = header.len() + payload.len();
        self.key.decrypt(packet, header, payload)?;
        match &self.watch {
            Watch::FirstPacket(seat) => {
                seat.lock().first = Some(FirstPacket {
                    number: packet,
                    header: header.to_vec(),
                    bytes,
                });
            }
            Watch::FirstNumber(_) => {}
            Watch::Answer(link) => link.validated.store(true, Ordering::Relaxed),
        }
        Ok(())
    }

    fn tag_len(&self) -> usize {
        self.key.tag_len()
    }

    fn confidentiality_limit(&self) -> u64 {
        self.key.confidentiality_limit()
    }

    fn integrity_limit(&self) -> u64 {
        self.key.integrity_limit()
    }
}
