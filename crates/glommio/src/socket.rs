//! A UDP socket.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::task::{Context, Poll, ready};

use polyquic_runtime::{Capabilities, DatagramSocket, RecvBatch, Transmit};
use polyquic_udp::{Drained, UdpIo};

use crate::core::Local;
use crate::ring::Watch;

/// A UDP socket that is watched by the ring of the executor that first waits for it.
pub struct GlommioSocket {
    // Before `io`: stop watching before the socket closes.
    watch: Option<Watch>,
    io: UdpIo,
}

impl GlommioSocket {
    pub(crate) fn new(io: UdpIo) -> Self {
        Self { watch: None, io }
    }

    fn watch(&mut self) -> io::Result<&Watch> {
        if self.watch.is_none() {
            let Some(local) = Local::current_or_foreign() else {
                return Err(io::Error::other(
                    "a socket of glommio's was polled outside of glommio",
                ));
            };
            let watch = local.ring()?.watch(self.io.socket().as_fd())?;
            self.watch = Some(watch);
        }
        self.watch
            .as_ref()
            .ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

impl DatagramSocket for GlommioSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        loop {
            let watch = self.watch()?;
            ready!(watch.poll_readable(cx))?;
            watch.set_readable(false);
            match self.io.recv(batch) {
                Ok(Drained::Yes) => return Poll::Ready(Ok(())),
                Ok(Drained::Perhaps) => {
                    self.watch()?.set_readable(true);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.watch()?.poll_writable(cx))?;
            match self.io.send(transmit) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.watch()?.set_full()?,
                result => return Poll::Ready(result),
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

impl fmt::Debug for GlommioSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlommioSocket")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}
