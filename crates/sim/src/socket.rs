//! Sockets of the model network.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};

use bytes::BytesMut;
use polyquic_runtime::{
    Capabilities, DatagramSocket, Ecn, Received, RecvBatch, RecvMeta, Transmit,
};

use crate::host::Host;
use crate::net::NodeId;
use crate::net::packet::{Packet, mapped, unmapped};
use crate::net::socket::SocketId;

/// A UDP socket on a [`Host`], for endpoints.
pub struct SimSocket {
    host: Host,
    id: SocketId,
}

impl SimSocket {
    pub(crate) fn new(host: Host, id: SocketId) -> Self {
        Self { host, id }
    }

    fn bound_to(&self) -> io::Result<SocketAddr> {
        let mut net = self.host.world.net.borrow_mut();
        let socket = net.sockets.get(self.id);
        socket.map(|it| it.addr).ok_or_else(crashed)
    }

    /// The interface and the source address for what a socket bound to `bound` sends.
    fn route(&self, bound: SocketAddr, transmit: &Transmit<'_>) -> Option<(NodeId, IpAddr)> {
        let source = transmit.src_ip.unwrap_or(bound.ip()).to_canonical();
        let dst = unmapped(transmit.destination);
        self.host.route(Some(source), dst.ip())
    }

    fn send(&self, src: Option<SocketAddr>, transmit: &Transmit<'_>) -> io::Result<()> {
        let bound = self.bound_to()?;
        let dst = unmapped(transmit.destination);
        // As the network does with packets that it cannot route: they are lost.
        let Some((interface, ip)) = self.route(bound, transmit) else {
            return Ok(());
        };
        let src = src.unwrap_or_else(|| (ip, bound.port()).into());
        let world = &self.host.world;
        let (mut net, mut queue) = (world.net.borrow_mut(), world.queue.borrow_mut());
        let mut trace = world.trace.borrow_mut();
        let size = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        // Nothing has no chunks, but is a datagram.
        let nothing = transmit.contents.is_empty().then_some(&[][..]);
        for payload in transmit.contents.chunks(size).chain(nothing) {
            let packet = Packet {
                id: net.number(),
                src,
                dst,
                ecn: transmit.ecn,
                payload: payload.into(),
            };
            let now = world.now();
            net.send(self.host.id, interface, packet, now, &mut queue, &mut trace);
        }
        Ok(())
    }
}

/// A socket that its host's crash has closed.
fn crashed() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "the host of this socket crashed")
}

impl DatagramSocket for SimSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        let segments = self.host.state(|it| it.recv_segments);
        let mut net = self.host.world.net.borrow_mut();
        let Some(socket) = net.sockets.get(self.id) else {
            return Poll::Ready(Err(crashed()));
        };
        let v6 = socket.addr.is_ipv6();
        let shown = |addr| if v6 { mapped(addr) } else { addr };
        while batch.remaining() > 0 {
            let Some(first) = socket.take() else { break };
            let stride = first.payload.len();
            // Empty datagrams mean nothing to QUIC.
            if stride == 0 {
                continue;
            }
            let meta = RecvMeta {
                peer: shown(first.src),
                local_ip: Some(shown(first.dst).ip()),
                ecn: first.ecn,
                stride,
            };
            let mut data = first.payload;
            // As GRO does: datagrams of one size from one sender, the last of which may be shorter.
            let mut count = 1;
            while count < segments && data.len() == count * stride {
                let fits = socket.received.front().is_some_and(|next| {
                    (1..=stride).contains(&next.payload.len())
                        && (next.src, next.dst, next.ecn) == (first.src, first.dst, first.ecn)
                        && data.len() + next.payload.len() <= 65_535
                });
                if !fits {
                    break;
                }
                data.extend_from_slice(&socket.take().expect("looked at").payload);
                count += 1;
            }
            batch.push(Received { data, meta });
        }
        if batch.is_empty() {
            socket.wait(cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        let bound = match self.bound_to() {
            Ok(bound) => bound,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Some((interface, _)) = self.route(bound, transmit) {
            let limit = self.host.state(|it| it.send_buffer);
            let mut net = self.host.world.net.borrow_mut();
            let dst = unmapped(transmit.destination).ip();
            let way = net.way_out(self.host.id, interface, dst);
            let pipe = net.pipe(way);
            if pipe.backlog() > limit {
                pipe.waiting.push(cx.waker().clone());
                return Poll::Pending;
            }
        }
        Poll::Ready(self.send(None, transmit))
    }

    fn capabilities(&self) -> Capabilities {
        let (send, receive) = self.host.state(|it| (it.send_segments, it.recv_segments));
        Capabilities::minimal()
            .with_send_segments(send)
            .with_recv_segments(receive)
            .with_ecn(true)
            .with_may_fragment(false)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.bound_to()
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.host.world.net.borrow_mut().sockets.close(self.id);
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSocket({:?} on {:?})", self.bound_to(), self.host)
    }
}

/// A datagram that a [`RawSocket`] received.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Datagram {
    /// Its source.
    pub src: SocketAddr,
    /// Its destination.
    pub dst: SocketAddr,
    /// Its ECN codepoint.
    pub ecn: Option<Ecn>,
    /// Its payload.
    pub payload: BytesMut,
}

/// A bare UDP socket; from [`Host::udp`].
#[derive(Debug)]
pub struct RawSocket(pub(crate) SimSocket);

impl RawSocket {
    /// The address that it is bound to.
    ///
    /// # Errors
    ///
    /// Its host crashed.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.bound_to()
    }

    /// Send a datagram.
    ///
    /// # Errors
    ///
    /// Its host crashed.
    pub fn send_to(&self, payload: &[u8], dst: SocketAddr) -> io::Result<()> {
        self.0.send(None, &plain(payload, dst))
    }

    /// Send a datagram that claims to come from `src`.
    ///
    /// # Errors
    ///
    /// Its host crashed.
    pub fn send_as(&self, src: SocketAddr, payload: &[u8], dst: SocketAddr) -> io::Result<()> {
        self.0.send(Some(src), &plain(payload, dst))
    }

    /// Receive a datagram, if there is one.
    pub fn try_recv(&self) -> Option<Datagram> {
        let mut net = self.0.host.world.net.borrow_mut();
        let packet = net.sockets.get(self.0.id)?.take()?;
        Some(Datagram {
            src: packet.src,
            dst: packet.dst,
            ecn: packet.ecn,
            payload: packet.payload,
        })
    }

    /// Receive a datagram. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Its host crashed.
    pub async fn recv(&self) -> io::Result<Datagram> {
        poll_fn(|cx| {
            if let Some(datagram) = self.try_recv() {
                return Poll::Ready(Ok(datagram));
            }
            let mut net = self.0.host.world.net.borrow_mut();
            match net.sockets.get(self.0.id) {
                Some(socket) => {
                    socket.wait(cx.waker());
                    Poll::Pending
                }
                None => Poll::Ready(Err(crashed())),
            }
        })
        .await
    }
}

fn plain(contents: &[u8], destination: SocketAddr) -> Transmit<'_> {
    Transmit {
        destination,
        contents,
        segment_size: None,
        ecn: None,
        src_ip: None,
    }
}
