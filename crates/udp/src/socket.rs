//! A UDP socket for QUIC.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};

use polyquic_runtime::{Capabilities, Ecn, Received, RecvBatch, RecvMeta, Transmit};
use quinn_udp::{BATCH_SIZE, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::RecvPool;

/// Size to ask for, in bytes, for the kernel's buffers on each side of a socket. Systems cap it
/// (`net.core.rmem_max` and `wmem_max` on Linux); what was granted is logged and can be asked for.
///
/// A burst of a full congestion window has to fit, or it is lost on the same machine.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Bind a UDP socket the way QUIC wants it.
///
/// The unspecified IPv6 address gives a dual-stack socket where the platform has these, whatever its
/// default is.
///
/// # Errors
///
/// What the platform reports, the address being named in the message.
pub fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    bind_with(addr, |_| Ok(()))
}

/// As [`bind`], with `set_up` called before the address is taken.
pub(crate) fn bind_with(
    addr: SocketAddr,
    set_up: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<UdpSocket> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6()
            && addr.ip().is_unspecified()
            && let Err(error) = socket.set_only_v6(false)
        {
            tracing::debug!(%error, "no dual-stack socket here: IPv6 only");
        }
        set_up(&socket)?;
        socket.bind(&addr.into())?;
        Ok(UdpSocket::from(socket))
    };
    bind().map_err(|error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot bind UDP socket to {addr}: {error}"),
        )
    })
}

/// Whether [`UdpIo::recv`] left the socket empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// The kernel had no more: wait for readiness, there is no need to ask again.
    Yes,
    /// There may be more.
    Perhaps,
}

/// A non-blocking UDP socket, its offloads and its receive buffers.
///
/// Performs I/O at once or reports [`ErrorKind::WouldBlock`]; waiting is the adapter's part.
#[derive(Debug)]
pub struct UdpIo {
    socket: UdpSocket,
    state: UdpSocketState,
    pool: RecvPool,
}

impl UdpIo {
    /// Set `socket` up: non-blocking, offloads on, buffers enlarged.
    ///
    /// # Errors
    ///
    /// The socket lacks an option that QUIC cannot do without.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let sock = SockRef::from(&socket);
        // Best effort: a smaller buffer costs throughput, not correctness.
        for result in [
            sock.set_recv_buffer_size(SOCKET_BUFFER_BYTES),
            sock.set_send_buffer_size(SOCKET_BUFFER_BYTES),
        ] {
            if let Err(error) = result {
                tracing::debug!(%error, "cannot enlarge a socket buffer");
            }
        }
        let io = Self {
            socket,
            state,
            pool: RecvPool::default(),
        };
        let (recv_bytes, send_bytes) = io.buffer_bytes();
        tracing::debug!(
            recv_bytes,
            send_bytes,
            asked = SOCKET_BUFFER_BYTES,
            "socket buffers"
        );
        Ok(io)
    }

    /// The socket itself, to be registered for readiness.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// What the kernel granted for the receive and the send buffer, in bytes; 0 when it won't tell.
    pub fn buffer_bytes(&self) -> (usize, usize) {
        let sock = SockRef::from(&self.socket);
        (
            sock.recv_buffer_size().unwrap_or_default(),
            sock.send_buffer_size().unwrap_or_default(),
        )
    }

    /// The address the socket is bound to.
    ///
    /// # Errors
    ///
    /// What the platform reports.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What the socket can do.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities::minimal()
            .with_send_segments(self.state.max_gso_segments())
            .with_recv_segments(self.state.gro_segments())
            .with_ecn(true)
            .with_may_fragment(self.state.may_fragment())
    }

    /// Receive as many messages as there are and `batch` takes, at least one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] when there is none, else what broke the socket. Errors that a peer
    /// can cause are skipped.
    pub fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<Drained> {
        let wanted = batch.remaining().clamp(1, BATCH_SIZE);
        loop {
            let mut metas = [quinn_udp::RecvMeta::default(); BATCH_SIZE];
            let mut slots = self.pool.slots(wanted).iter_mut();
            let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
                IoSliceMut::new(slots.next().map_or(&mut [], |slot| &mut slot[..]))
            });
            let socket = UdpSockRef::from(&self.socket);
            let received = self
                .state
                .recv(socket, &mut buffers[..wanted], &mut metas[..wanted]);
            let count = match received {
                Ok(count) => count,
                Err(error) if is_peers_doing(&error) => continue,
                Err(error) => return Err(error),
            };
            let before = batch.len();
            for (index, meta) in metas[..count].iter().enumerate() {
                // Empty datagrams mean nothing to QUIC.
                if meta.len > 0 {
                    batch.push(Received {
                        data: self.pool.take(index, meta.len),
                        meta: RecvMeta {
                            peer: meta.addr,
                            local_ip: meta.dst_ip,
                            ecn: meta.ecn.map(ecn_from_udp),
                            stride: meta.stride,
                        },
                    });
                }
            }
            // The kernel stops early only when it has no more. Where it takes one message at a time,
            // one call tells nothing.
            let drained = if count < wanted && BATCH_SIZE > 1 {
                Drained::Yes
            } else {
                Drained::Perhaps
            };
            if batch.len() > before {
                return Ok(drained);
            }
            // Nothing but empty datagrams: a peer must not make us report a batch of none.
            if drained == Drained::Yes {
                return Err(ErrorKind::WouldBlock.into());
            }
        }
    }

    /// Send all datagrams of `transmit`.
    ///
    /// # Errors
    ///
    /// Only [`ErrorKind::WouldBlock`], when the kernel's buffer is full. What else goes wrong is
    /// logged once a minute, and loss recovery deals with it.
    pub fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let datagrams = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(ecn_to_udp),
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let Some(segment_size) = transmit
            .segment_size
            .filter(|&size| size < transmit.contents.len())
        else {
            return self.state.send(UdpSockRef::from(&self.socket), &datagrams);
        };
        match self
            .state
            .try_send(UdpSockRef::from(&self.socket), &datagrams)
        {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(error),
            Err(_) => {
                // Some network interfaces cannot segment, which shows here. quinn-udp remembers it;
                // send these ones singly. Lost is what no longer fits the buffer.
                for contents in transmit.contents.chunks(segment_size) {
                    let single = quinn_udp::Transmit {
                        contents,
                        segment_size: None,
                        ..datagrams.clone()
                    };
                    if self
                        .state
                        .send(UdpSockRef::from(&self.socket), &single)
                        .is_err()
                    {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Errors that the network or a peer can provoke, and that say nothing about the socket.
fn is_peers_doing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::Interrupted
    )
}

fn ecn_from_udp(ecn: quinn_udp::EcnCodepoint) -> Ecn {
    match ecn {
        quinn_udp::EcnCodepoint::Ect0 => Ecn::Ect0,
        quinn_udp::EcnCodepoint::Ect1 => Ecn::Ect1,
        quinn_udp::EcnCodepoint::Ce => Ecn::Ce,
    }
}

fn ecn_to_udp(ecn: Ecn) -> quinn_udp::EcnCodepoint {
    match ecn {
        Ecn::Ect0 => quinn_udp::EcnCodepoint::Ect0,
        Ecn::Ect1 => quinn_udp::EcnCodepoint::Ect1,
        Ecn::Ce => quinn_udp::EcnCodepoint::Ce,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn pair() -> (UdpIo, UdpIo) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        (
            UdpIo::new(bind(any).unwrap()).unwrap(),
            UdpIo::new(bind(any).unwrap()).unwrap(),
        )
    }

    /// Receive until `count` datagrams have come, each as `(payload, ecn)`.
    fn receive(io: &mut UdpIo, count: usize) -> Vec<(Vec<u8>, Option<Ecn>)> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut datagrams = Vec::new();
        while datagrams.len() < count && Instant::now() < deadline {
            let mut batch = RecvBatch::new(8);
            match io.recv(&mut batch) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => panic!("{error}"),
            }
            for received in batch.drain() {
                for datagram in received.data.chunks(received.meta.stride) {
                    datagrams.push((datagram.to_vec(), received.meta.ecn));
                }
            }
        }
        datagrams
    }

    #[test]
    fn segments_arrive_whole_with_ecn_and_address() {
        let (sender, mut receiver) = pair();
        let contents: Vec<u8> = (0..10_500u32).map(|i| (i / 1000) as u8).collect();
        let segments = sender.capabilities().max_send_segments;
        let transmit = |contents, segment_size| Transmit {
            destination: receiver.local_addr().unwrap(),
            contents,
            segment_size,
            ecn: Some(Ecn::Ect0),
            src_ip: None,
        };
        if segments > 10 {
            sender.send(&transmit(&contents, Some(1000))).unwrap();
        } else {
            contents
                .chunks(1000)
                .for_each(|c| sender.send(&transmit(c, None)).unwrap());
        }
        let datagrams = receive(&mut receiver, 11);
        assert_eq!(datagrams.len(), 11);
        for (index, (datagram, ecn)) in datagrams.iter().enumerate() {
            assert_eq!(datagram.len(), if index == 10 { 500 } else { 1000 });
            assert!(datagram.iter().all(|&byte| byte == index as u8));
            assert_eq!(*ecn, Some(Ecn::Ect0));
        }
    }

    /// CVE-2026-11352's analogue: empty datagrams must neither stall nor be reported.
    #[test]
    fn empty_datagrams_are_skipped() {
        let (sender, mut receiver) = pair();
        let to = receiver.local_addr().unwrap();
        for _ in 0..5 {
            sender.socket().send_to(&[], to).unwrap();
        }
        sender.socket().send_to(b"x", to).unwrap();
        assert_eq!(receive(&mut receiver, 1), [(b"x".to_vec(), None)]);
        sender.socket().send_to(&[], to).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let error = receiver.recv(&mut RecvBatch::new(8)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn refused_ports_and_large_datagrams_are_no_errors() {
        let (sender, mut receiver) = pair();
        let gone = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let destination = gone.local_addr().unwrap();
        drop(gone);
        let transmit = |contents| Transmit {
            destination,
            contents,
            segment_size: None,
            ecn: None,
            src_ip: None,
        };
        sender.send(&transmit(b"nobody")).unwrap();
        sender.send(&transmit(&[0; 66_000])).unwrap();
        assert_eq!(
            receiver.recv(&mut RecvBatch::new(1)).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
    }

    #[test]
    fn an_occupied_port_is_named() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let addr = first.local_addr().unwrap();
        let error = bind(addr).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
}
