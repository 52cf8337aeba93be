//! The futures that [`Connection`](super::Connection)'s methods return. All are cancel-safe: a
//! dropped one has taken nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use polyquic_core::{ConnectionError, Dir, StreamId};

use super::{ConnectionRef, Locked, Waiting};
use crate::error::SendDatagramError;
use crate::wake::{Ticket, WakerSet};
use crate::{RecvStream, SendStream};

/// Waits on one set of a connection, and leaves it when dropped.
#[derive(Debug)]
struct Wait<'a> {
    conn: &'a ConnectionRef,
    ticket: Ticket,
    set: fn(&mut Waiting) -> &mut WakerSet,
}

impl<'a> Wait<'a> {
    fn new(conn: &'a ConnectionRef, set: fn(&mut Waiting) -> &mut WakerSet) -> Self {
        Self {
            conn,
            ticket: Ticket::default(),
            set,
        }
    }

    /// Ready with what `attempt` yields, else wait for the set.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        attempt: impl FnOnce(&mut Locked<'_>) -> Option<T>,
    ) -> Poll<T> {
        let mut state = self.conn.lock();
        match attempt(&mut state) {
            Some(value) => Poll::Ready(value),
            None => {
                (self.set)(&mut state.waiting).register(&mut self.ticket, cx.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if self.ticket.is_registered() {
            (self.set)(&mut self.conn.lock().waiting).deregister(&mut self.ticket);
        }
    }
}

/// The stream's id and whether it was opened before the handshake was complete.
type Opened = Result<(StreamId, bool), ConnectionError>;

fn try_open(state: &mut Locked<'_>, dir: Dir) -> Option<Opened> {
    if let Some(error) = &state.error {
        return Some(Err(error.clone()));
    }
    let id = state.machine.streams().open(dir)?;
    let is_0rtt = state.machine.side().is_client() && state.machine.is_handshaking();
    Some(Ok((id, is_0rtt)))
}

fn try_accept(state: &mut Locked<'_>, dir: Dir) -> Option<Opened> {
    // Streams that arrived before the connection ended can still be accepted; they are finite.
    if let Some(id) = state.machine.streams().accept(dir) {
        let is_0rtt = state.machine.is_handshaking();
        return Some(Ok((id, is_0rtt)));
    }
    state.error.clone().map(Err)
}

macro_rules! stream_future {
    ($(#[$doc:meta])* $name:ident, $attempt:ident, $dir:expr, $set:expr, $output:ty, $wrap:expr) => {
        $(#[$doc])*
        #[must_use = "futures do nothing unless polled"]
        #[derive(Debug)]
        pub struct $name<'a>(Wait<'a>);

        impl<'a> $name<'a> {
            pub(super) fn new(conn: &'a ConnectionRef) -> Self {
                Self(Wait::new(conn, $set))
            }
        }

        impl Future for $name<'_> {
            type Output = Result<$output, ConnectionError>;

            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                let opened = std::task::ready!(self.0.poll(cx, |state| $attempt(state, $dir)));
                Poll::Ready(opened.map(|(id, is_0rtt)| $wrap(self.0.conn, id, is_0rtt)))
            }
        }
    };
}

fn both(conn: &ConnectionRef, id: StreamId, is_0rtt: bool) -> (SendStream, RecvStream) {
    (
        SendStream::new(conn.clone(), id, is_0rtt),
        RecvStream::new(conn.clone(), id, is_0rtt),
    )
}

fn send(conn: &ConnectionRef, id: StreamId, is_0rtt: bool) -> SendStream {
    SendStream::new(conn.clone(), id, is_0rtt)
}

fn recv(conn: &ConnectionRef, id: StreamId, is_0rtt: bool) -> RecvStream {
    RecvStream::new(conn.clone(), id, is_0rtt)
}

stream_future! {
    /// Future of [`Connection::open_uni`](super::Connection::open_uni).
    OpenUni, try_open, Dir::Uni, |w| &mut w.open[Dir::Uni as usize], SendStream, send
}
stream_future! {
    /// Future of [`Connection::open_bi`](super::Connection::open_bi).
    OpenBi, try_open, Dir::Bi, |w| &mut w.open[Dir::Bi as usize], (SendStream, RecvStream), both
}
stream_future! {
    /// Future of [`Connection::accept_uni`](super::Connection::accept_uni).
    AcceptUni, try_accept, Dir::Uni, |w| &mut w.accept[Dir::Uni as usize], RecvStream, recv
}
stream_future! {
    /// Future of [`Connection::accept_bi`](super::Connection::accept_bi).
    AcceptBi, try_accept, Dir::Bi, |w| &mut w.accept[Dir::Bi as usize], (SendStream, RecvStream), both
}

/// Future of [`Connection::read_datagram`](super::Connection::read_datagram).
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct ReadDatagram<'a>(Wait<'a>);

impl<'a> ReadDatagram<'a> {
    pub(super) fn new(conn: &'a ConnectionRef) -> Self {
        Self(Wait::new(conn, |w| &mut w.datagram_received))
    }
}

impl Future for ReadDatagram<'_> {
    type Output = Result<Bytes, ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0
            .poll(cx, |state| match state.machine.datagrams().recv() {
                Some(data) => Some(Ok(data)),
                None => state.error.clone().map(Err),
            })
    }
}

/// Future of [`Connection::send_datagram_wait`](super::Connection::send_datagram_wait).
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct SendDatagramWait<'a> {
    wait: Wait<'a>,
    /// `None` once it was sent.
    data: Option<Bytes>,
}

impl<'a> SendDatagramWait<'a> {
    pub(super) fn new(conn: &'a ConnectionRef, data: Bytes) -> Self {
        Self {
            wait: Wait::new(conn, |w| &mut w.datagrams_unblocked),
            data: Some(data),
        }
    }
}

impl Future for SendDatagramWait<'_> {
    type Output = Result<(), SendDatagramError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { wait, data } = &mut *self;
        wait.poll(cx, |state| {
            if let Some(error) = &state.error {
                return Some(Err(SendDatagramError::ConnectionLost(error.clone())));
            }
            let datagram = data.take().expect("polled after completion");
            match state.machine.datagrams().send(datagram, false) {
                Ok(()) => {
                    state.touch();
                    Some(Ok(()))
                }
                Err(polyquic_core::SendDatagramError::Blocked(datagram)) => {
                    *data = Some(datagram);
                    None
                }
                Err(error) => Some(Err(error.into())),
            }
        })
    }
}

/// Future of [`Connection::closed`](super::Connection::closed).
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Closed<'a>(Wait<'a>);

impl<'a> Closed<'a> {
    pub(super) fn new(conn: &'a ConnectionRef) -> Self {
        Self(Wait::new(conn, |w| &mut w.closed))
    }
}

impl Future for Closed<'_> {
    type Output = ConnectionError;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx, |state| state.error.clone())
    }
}
