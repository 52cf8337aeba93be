//! Session tickets of a client, and the proof of what kind of handshake took place.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
};

use rustls::{
    DigitallySignedStruct, Error, NamedGroup, SignatureScheme,
    client::{
        ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// Tickets that are kept. Well below the 256 sessions that a rustls server remembers by default,
/// so that a ticket is used or dropped before the server forgets it: the oldest is used first.
const CAPACITY: usize = 64;

/// The tickets that a client got and has not used, for workloads that resume sessions.
///
/// A ticket can be used once, and a connection that is closed as soon as its handshake is complete
/// never sees its own. So a task [reserves](Self::reserve) a ticket before it closes its last
/// connection and makes the next one, and no connection finds the store empty.
#[derive(Debug, Default)]
pub struct Tickets {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tickets: VecDeque<Tls13ClientSessionValue>,
    /// How many of the tickets are spoken for.
    reserved: usize,
    /// Who waits, in order; each is there once, under a number of its own.
    waiting: VecDeque<(u64, Waker)>,
    next_number: u64,
    group: Option<NamedGroup>,
}

impl Tickets {
    /// Waits for a ticket that nobody else will use; the next connection takes it.
    pub async fn reserve(&self) {
        let mut number = None;
        poll_fn(|context| {
            let mut state = self.lock();
            state.waiting.retain(|(other, _)| Some(*other) != number);
            if state.tickets.len() > state.reserved {
                state.reserved += 1;
                return Poll::Ready(());
            }
            let own = *number.get_or_insert(state.next_number);
            state.next_number = state.next_number.max(own + 1);
            state.waiting.push_back((own, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is one server, so its name is of no interest.
impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.lock().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.lock().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut state = self.lock();
        if state.tickets.len() == CAPACITY {
            state.tickets.pop_front();
        }
        state.tickets.push_back(ticket);
        let waker = state.waiting.pop_front();
        drop(state);
        if let Some((_, waker)) = waker {
            waker.wake();
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut state = self.lock();
        // A connection that did not ask for a ticket takes nobody else's.
        state.reserved = state.reserved.checked_sub(1)?;
        state.tickets.pop_front()
    }
}

/// Counts full handshakes: a client looks at a certificate in each of those, and in no other.
#[derive(Debug)]
pub(crate) struct CountingVerifier {
    pub(crate) inner: Arc<dyn ServerCertVerifier>,
    pub(crate) count: Arc<AtomicU64>,
}

impl ServerCertVerifier for CountingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
