//! Connections whose handshake is going on.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use polyquic_core::ConnectionError;

use super::{Connection, ConnectionInner, ConnectionRef};
use crate::wake::Ticket;

/// A connection attempt in progress: a future of the [`Connection`].
///
/// Dropping it abandons the attempt and closes the connection.
#[must_use = "the connection is closed when this is dropped"]
#[derive(Debug)]
pub struct Connecting {
    /// `None` once the connection was handed out.
    conn: Option<ConnectionRef>,
    ticket: Ticket,
}

impl Connecting {
    pub(crate) fn new(inner: Arc<ConnectionInner>) -> Self {
        Self {
            conn: Some(ConnectionRef::new(inner)),
            ticket: Ticket::default(),
        }
    }

    fn conn(&self) -> &ConnectionRef {
        self.conn
            .as_ref()
            .expect("used after it yielded the connection")
    }

    /// Use the connection before the handshake is complete: 0-RTT on clients, 0.5-RTT on servers.
    ///
    /// On a client this succeeds when keys of an earlier connection to this server are at hand; it
    /// gives `self` back otherwise. The server may still reject the data: [`ZeroRttAccepted`] tells,
    /// and if so, streams opened before that report `ZeroRttRejected`. On a server it always
    /// succeeds.
    ///
    /// # Security
    ///
    /// 0-RTT data can be replayed by an attacker (RFC 9001 section 9.2): send only what may be acted
    /// upon twice. 0.5-RTT data is sent before the client has been authenticated.
    ///
    /// # Errors
    ///
    /// `self`, when 0-RTT is not possible.
    pub fn into_0rtt(mut self) -> Result<(Connection, ZeroRttAccepted), Self> {
        let possible = {
            let state = self.conn().lock();
            state.machine.has_0rtt() || state.machine.side().is_server()
        };
        if !possible {
            return Err(self);
        }
        let conn = self.conn.take().expect("just used");
        let accepted = ZeroRttAccepted {
            inner: conn.inner().clone(),
            ticket: Ticket::default(),
        };
        Ok((Connection::new(conn), accepted))
    }

    /// What was negotiated so far, as soon as it is known.
    ///
    /// With rustls (the default) the value is a
    /// [`crypto::rustls::HandshakeData`](polyquic_core::crypto::rustls::HandshakeData): the ALPN
    /// protocol, and on servers the name that the client asked for.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    ///
    /// Why the handshake failed before that.
    pub async fn handshake_data(&mut self) -> Result<Box<dyn Any>, ConnectionError> {
        WaitHandshakeData {
            conn: self.conn(),
            ticket: Ticket::default(),
        }
        .await
    }

    /// The local address at which the peer's first datagram arrived (servers, where the platform
    /// tells). Panics after the connection was yielded.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.conn().lock().machine.local_ip()
    }

    /// The peer's address. Panics after the connection was yielded.
    pub fn remote_address(&self) -> SocketAddr {
        self.conn().lock().machine.remote_address()
    }
}

impl Future for Connecting {
    type Output = Result<Connection, ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let conn = this
            .conn
            .as_ref()
            .expect("polled after it yielded the connection");
        let mut state = conn.lock();
        // First: a peer that has come and gone in the meantime may have left finished streams.
        if state.connected {
            drop(state);
            return Poll::Ready(Ok(Connection::new(this.conn.take().expect("just used"))));
        }
        if let Some(error) = &state.error {
            let error = error.clone();
            drop(state);
            this.conn = None;
            return Poll::Ready(Err(error));
        }
        state
            .waiting
            .connected
            .register(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(conn) = &self.conn
            && self.ticket.is_registered()
        {
            conn.lock().waiting.connected.deregister(&mut self.ticket);
        }
    }
}

struct WaitHandshakeData<'a> {
    conn: &'a ConnectionRef,
    ticket: Ticket,
}

impl Future for WaitHandshakeData<'_> {
    type Output = Result<Box<dyn Any>, ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.conn.lock();
        if state.handshake_data_ready
            && let Some(data) = state.machine.crypto_session().handshake_data()
        {
            return Poll::Ready(Ok(data));
        }
        if let Some(error) = &state.error {
            return Poll::Ready(Err(error.clone()));
        }
        state
            .waiting
            .handshake_data
            .register(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl Drop for WaitHandshakeData<'_> {
    fn drop(&mut self) {
        if self.ticket.is_registered() {
            self.conn
                .lock()
                .waiting
                .handshake_data
                .deregister(&mut self.ticket);
        }
    }
}

/// Tells, when the handshake is complete, whether 0-RTT data was accepted.
///
/// Always true on servers; false when the handshake failed. Does not keep the connection open.
pub struct ZeroRttAccepted {
    inner: Arc<ConnectionInner>,
    ticket: Ticket,
}

impl Future for ZeroRttAccepted {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let this = &mut *self;
        let mut state = this.inner.lock();
        if state.connected {
            return Poll::Ready(!state.zero_rtt_rejected());
        }
        if state.error.is_some() {
            return Poll::Ready(false);
        }
        state
            .waiting
            .connected
            .register(&mut this.ticket, cx.waker());
        Poll::Pending
    }
}

impl Drop for ZeroRttAccepted {
    fn drop(&mut self) {
        if self.ticket.is_registered() {
            self.inner
                .lock()
                .waiting
                .connected
                .deregister(&mut self.ticket);
        }
    }
}

impl fmt::Debug for ZeroRttAccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ZeroRttAccepted")
    }
}
