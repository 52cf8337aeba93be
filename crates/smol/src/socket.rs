//! A UDP socket, on either reactor.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_io::Async;
use polyquic_runtime::{Capabilities, DatagramSocket, RecvBatch, Transmit};
use polyquic_udp::{Drained, Reactor, ReactorSocket, UdpIo};

/// A UDP socket watched by polyquic's reactor or by async-io's, like the runtime it came from.
#[derive(Debug)]
pub struct SmolSocket(Kind);

#[derive(Debug)]
enum Kind {
    Reactor(ReactorSocket),
    AsyncIo(AsyncIoSocket),
}

#[derive(Debug)]
struct AsyncIoSocket {
    /// A second descriptor, which async-io owns and only watches.
    watched: Async<std::net::UdpSocket>,
    io: UdpIo,
    /// Known to be empty: wait before asking again.
    drained: bool,
    /// Known to be full.
    full: bool,
}

impl SmolSocket {
    pub(crate) fn new(io: UdpIo, reactor: Option<&Arc<Reactor>>) -> io::Result<Self> {
        Ok(Self(match reactor {
            Some(reactor) => Kind::Reactor(ReactorSocket::new(io, reactor)?),
            None => Kind::AsyncIo(AsyncIoSocket {
                watched: Async::new(io.socket().try_clone()?)?,
                io,
                drained: false,
                full: false,
            }),
        }))
    }
}

impl AsyncIoSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        loop {
            // async-io looks at the socket again when it is asked to watch it: what came after we
            // found it empty is reported.
            if self.drained {
                // Whatever wakes the task, try again then. async-io does not count an event of the
                // round in which it was asked: who is polled more slowly than its thread goes round
                // would be woken time and again, and never be told why.
                self.drained = false;
                ready!(self.watched.poll_readable(cx))?;
            }
            let result = self.io.recv(batch);
            self.drained = !matches!(result, Ok(Drained::Perhaps));
            match result {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(|_| ())),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.full {
                // As above.
                self.full = false;
                ready!(self.watched.poll_writable(cx))?;
            }
            match self.io.send(transmit) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.full = true,
                result => return Poll::Ready(result),
            }
        }
    }
}

impl DatagramSocket for SmolSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Reactor(socket) => socket.poll_recv(cx, batch),
            Kind::AsyncIo(socket) => socket.poll_recv(cx, batch),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Kind::Reactor(socket) => socket.poll_send(cx, transmit),
            Kind::AsyncIo(socket) => socket.poll_send(cx, transmit),
        }
    }

    fn capabilities(&self) -> Capabilities {
        match &self.0 {
            Kind::Reactor(socket) => socket.capabilities(),
            Kind::AsyncIo(socket) => socket.io.capabilities(),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Kind::Reactor(socket) => socket.local_addr(),
            Kind::AsyncIo(socket) => socket.io.local_addr(),
        }
    }
}
