//! Connection attempts of peers.

use std::future::{Future, IntoFuture};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use polyquic_core::{self as core, ConnectionError, ConnectionId, ServerConfig};
use thiserror::Error;

use crate::shared::{EndpointRef, dated};
use crate::wake::cause;
use crate::{Connecting, Connection};

/// A peer's wish to connect, nothing having been spent on it yet.
///
/// `await` it to accept and complete the handshake, or decide with one of the methods. Dropping it
/// refuses.
#[derive(Debug)]
pub struct Incoming {
    /// `None` once it was decided upon.
    inner: Option<core::Incoming>,
    endpoint: EndpointRef,
}

impl Incoming {
    pub(crate) fn new(inner: core::Incoming, endpoint: EndpointRef) -> Self {
        Self {
            inner: Some(inner),
            endpoint,
        }
    }

    fn inner(&self) -> &core::Incoming {
        self.inner
            .as_ref()
            .expect("taken only by deciding, which consumes self")
    }

    /// Accept, and start the handshake.
    ///
    /// # Errors
    ///
    /// The attempt was malformed, or is too old.
    pub fn accept(self) -> Result<Connecting, ConnectionError> {
        self.accept_inner(None)
    }

    /// Accept with a configuration for this connection only.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub fn accept_with(self, config: Arc<ServerConfig>) -> Result<Connecting, ConnectionError> {
        let clock = &self.endpoint.shared().clock;
        let config = match clock.calendar() {
            None => config,
            Some(_) => Arc::new(dated(ServerConfig::clone(&config), clock)),
        };
        self.accept_inner(Some(config))
    }

    fn accept_inner(
        mut self,
        config: Option<Arc<ServerConfig>>,
    ) -> Result<Connecting, ConnectionError> {
        let incoming = self.inner.take().expect("not decided yet");
        let shared = self.endpoint.shared();
        let mut state = shared.lock();
        if state.driver_lost || state.closing.is_some() {
            decline(&mut state, incoming);
            drop(state);
            shared.signal.raise(cause::HANDLE);
            return Err(ConnectionError::LocallyClosed);
        }
        let mut response = Vec::new();
        let result = match state
            .core
            .accept(incoming, shared.clock.now(), &mut response, config)
        {
            Ok((handle, machine)) => Ok(Connecting::new(state.insert(shared, handle, machine))),
            Err(error) => {
                if let Some(transmit) = error.response {
                    state.respond(transmit, response);
                }
                Err(error.cause)
            }
        };
        drop(state);
        shared.signal.raise(cause::HANDLE);
        result
    }

    /// Refuse, telling the peer so.
    pub fn refuse(self) {
        drop(self);
    }

    /// Have the peer prove that it receives at its address, by connecting again with a token
    /// (RFC 9000 section 8.1.2).
    ///
    /// # Errors
    ///
    /// Gives the attempt back when it carries such a token already, see
    /// [`may_retry`](Self::may_retry).
    pub fn retry(mut self) -> Result<(), RetryError> {
        let incoming = self.inner.take().expect("not decided yet");
        let shared = self.endpoint.shared();
        let mut state = shared.lock();
        let mut response = Vec::new();
        match state.core.retry(incoming, &mut response) {
            Ok(transmit) => {
                state.respond(transmit, response);
                drop(state);
                shared.signal.raise(cause::HANDLE);
                Ok(())
            }
            Err(error) => {
                drop(state);
                self.inner = Some(error.into_incoming());
                Err(RetryError(Box::new(self)))
            }
        }
    }

    /// Do not answer at all.
    pub fn ignore(mut self) {
        let incoming = self.inner.take().expect("not decided yet");
        self.endpoint.lock().core.ignore(incoming);
    }

    /// The local address that the peer sent to, where the platform tells.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.inner().local_ip()
    }

    /// The peer's address, which may be forged unless
    /// [`remote_address_validated`](Self::remote_address_validated).
    pub fn remote_address(&self) -> SocketAddr {
        self.inner().remote_address()
    }

    /// Whether the peer has proved that it receives at its address.
    pub fn remote_address_validated(&self) -> bool {
        self.inner().remote_address_validated()
    }

    /// Whether [`retry`](Self::retry) is possible. Always so when the address is not validated.
    pub fn may_retry(&self) -> bool {
        self.inner().may_retry()
    }

    /// The connection id that the client addressed its first packet to.
    pub fn orig_dst_cid(&self) -> ConnectionId {
        *self.inner().orig_dst_cid()
    }
}

/// Refuse, or forget when there is nobody left to send the refusal.
fn decline(state: &mut crate::shared::State, incoming: core::Incoming) {
    if state.driver_lost {
        state.core.ignore(incoming);
    } else {
        let mut response = Vec::new();
        let transmit = state.core.refuse(incoming, &mut response);
        state.respond(transmit, response);
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(incoming) = self.inner.take() {
            decline(&mut self.endpoint.lock(), incoming);
            self.endpoint.signal.raise(cause::HANDLE);
        }
    }
}

/// [`Incoming::retry`] was called for an attempt that had been through that already.
#[derive(Debug, Error)]
#[error("the connection attempt already carries a Retry token")]
pub struct RetryError(Box<Incoming>);

impl RetryError {
    /// The attempt, to be decided upon otherwise.
    pub fn into_incoming(self) -> Incoming {
        *self.0
    }
}

/// Future of an awaited [`Incoming`].
#[derive(Debug)]
pub struct IncomingFuture(Result<Connecting, ConnectionError>);

impl Future for IncomingFuture {
    type Output = Result<Connection, ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(connecting) => Pin::new(connecting).poll(cx),
            Err(error) => Poll::Ready(Err(error.clone())),
        }
    }
}

impl IntoFuture for Incoming {
    type Output = Result<Connection, ConnectionError>;
    type IntoFuture = IncomingFuture;

    fn into_future(self) -> IncomingFuture {
        IncomingFuture(self.accept())
    }
}
