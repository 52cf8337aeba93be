//! A UDP socket watched by a [`Reactor`].

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use polyquic_runtime::{Capabilities, DatagramSocket, RecvBatch, Transmit};

use crate::{Drained, IoSource, Reactor, UdpIo};

/// A UDP socket that learns of its readiness from a [`Reactor`].
#[derive(Debug)]
pub struct ReactorSocket {
    // Before `io`: stop watching before the socket closes.
    source: IoSource,
    io: UdpIo,
}

impl ReactorSocket {
    /// Have `reactor` watch `io`.
    ///
    /// # Errors
    ///
    /// What the platform reports.
    pub fn new(io: UdpIo, reactor: &Arc<Reactor>) -> io::Result<Self> {
        Ok(Self {
            source: reactor.register(io.socket())?,
            io,
        })
    }
}

impl DatagramSocket for ReactorSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        loop {
            ready!(self.source.poll_readable(cx));
            // Before the attempt: an arrival in between then counts.
            self.source.set_readable(false);
            match self.io.recv(batch) {
                Ok(Drained::Yes) => return Poll::Ready(Ok(())),
                Ok(Drained::Perhaps) => {
                    self.source.set_readable(true);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.source.poll_writable(cx));
            match self.io.send(transmit) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
            self.source.set_writable(false);
            // Once more after noting it: room that was made in between is reported by no edge.
            match self.io.send(transmit) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => {
                    self.source.set_writable(true);
                    return Poll::Ready(result);
                }
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        self.io.capabilities()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}
