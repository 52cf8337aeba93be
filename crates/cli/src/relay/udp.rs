//! A client's UDP socket: nobody but its target is heard.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::task::{Context, Poll, ready};

use async_io::Async;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::SockRef;

/// The largest payload of a UDP datagram over IPv4.
pub(crate) const MAX_DATAGRAM_BYTES: usize = 65_507;

/// Messages received by one system call, each of which may hold several datagrams.
const RECV_MESSAGES: usize = 8;

/// The size of a message, and so of what the kernel may coalesce.
const RECV_BYTES: usize = 64 * 1024;

/// What the kernel is asked to keep while the relay is busy; it may grant less.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;

thread_local! {
    /// Where datagrams are received into. One for each thread: nothing stays in it.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; RECV_MESSAGES * RECV_BYTES]);
}

/// How sending went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The kernel took it.
    Yes,
    /// The kernel refused it: too large for the interface, no route, not permitted.
    No,
}

/// A UDP socket that talks to one address.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: Async<UdpSocket>,
    state: UdpSocketState,
    target: SocketAddr,
    /// There may be more to receive: no need to wait.
    readable: bool,
}

impl Udp {
    /// A socket on a port that was free, for `target` only.
    pub(crate) fn open(target: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        // The kernel then drops what comes from anybody else. Where a socket that is connected may
        // not be told a destination, as on BSDs, it is left to the comparison in `poll_recv`.
        if cfg!(any(target_os = "linux", target_os = "android")) {
            socket.connect(target)?;
        }
        let options = SockRef::from(&socket);
        // What the system grants has to do.
        let _ = options.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
        let _ = options.set_send_buffer_size(SOCKET_BUFFER_BYTES);
        // Sets "do not fragment" as well, without which clients would find too large an MTU.
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            socket: Async::new(socket)?,
            state,
            target,
            readable: true,
        })
    }

    /// Most datagrams of equal size that one call of [`poll_send`](Self::poll_send) may hold.
    pub(crate) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Receive once, and hand each message to `each`: bytes, and how many of them are a datagram.
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        mut each: impl FnMut(&[u8], usize),
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.readable {
                // Whatever wakes the task, try again then. async-io does not count an event of the
                // round in which it was asked: who is polled more slowly than its thread goes round
                // would be woken time and again, and never be told why.
                self.readable = true;
                ready!(self.socket.poll_readable(cx))?;
            }
            let result: io::Result<()> = BUFFER.with_borrow_mut(|buffer| {
                let mut metas = [RecvMeta::default(); RECV_MESSAGES];
                let mut slices: [IoSliceMut<'_>; RECV_MESSAGES] = {
                    let mut chunks = buffer.chunks_exact_mut(RECV_BYTES);
                    std::array::from_fn(|_| {
                        IoSliceMut::new(chunks.next().expect("the buffer is that long"))
                    })
                };
                let few = RECV_MESSAGES.min(quinn_udp::BATCH_SIZE);
                let socket = self.socket.get_ref().into();
                let count = self
                    .state
                    .recv(socket, &mut slices[..few], &mut metas[..few])?;
                for (slice, meta) in slices.iter().zip(&metas).take(count) {
                    if meta.addr == self.target && meta.len > 0 {
                        each(&slice[..meta.len], meta.stride.max(1));
                    }
                }
                Ok(())
            });
            match result {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.readable = false,
                    // What a target that does not listen makes of the datagrams sent before (ICMP):
                    // QUIC finds out by itself, and the target may yet come.
                    io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::Interrupted => {}
                    _ if error.raw_os_error().is_some_and(is_passing) => {}
                    _ => return Poll::Ready(Err(error)),
                },
            }
        }
    }

    /// Send `contents`, of which each `segment` bytes are a datagram.
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        contents: &[u8],
        segment: usize,
    ) -> Poll<Sent> {
        let transmit = Transmit {
            destination: self.target,
            ecn: None,
            contents,
            segment_size: (segment < contents.len()).then_some(segment),
            src_ip: None,
        };
        let mut tries = 0;
        loop {
            let result = self.state.try_send(self.socket.get_ref().into(), &transmit);
            match result {
                Ok(()) => return Poll::Ready(Sent::Yes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if ready!(self.socket.poll_writable(cx)).is_err() {
                        return Poll::Ready(Sent::No);
                    }
                }
                // On a connected socket this is about a datagram sent before, and told but once.
                Err(error)
                    if tries < 2
                        && matches!(
                            error.kind(),
                            io::ErrorKind::ConnectionRefused | io::ErrorKind::Interrupted
                        ) =>
                {
                    tries += 1;
                }
                Err(error) => {
                    tracing::debug!(target = %self.target, "not sent: {error}");
                    return Poll::Ready(Sent::No);
                }
            }
        }
    }
}

/// Errors that have no kind of their own, and pass.
fn is_passing(code: i32) -> bool {
    // EMSGSIZE and EPROTO: an ICMP message said so.
    cfg!(any(target_os = "linux", target_os = "android")) && matches!(code, 90 | 71)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::{Arc, mpsc};
    use std::task::{Wake, Waker};
    use std::thread;
    use std::time::Duration;

    use futures::executor::block_on;

    fn receive(udp: &mut Udp) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        block_on(poll_fn(|cx| {
            udp.poll_recv(cx, |bytes, stride| {
                all.extend(bytes.chunks(stride).map(<[u8]>::to_vec));
            })
        }))
        .unwrap();
        all
    }

    #[test]
    fn only_the_target_is_heard() {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut udp = Udp::open(target.local_addr().unwrap()).unwrap();
        let port = udp.socket.get_ref().local_addr().unwrap().port();
        stranger.send_to(b"strange", ("127.0.0.1", port)).unwrap();
        target.send_to(b"wanted", ("127.0.0.1", port)).unwrap();
        assert_eq!(receive(&mut udp), [b"wanted".to_vec()]);
    }

    struct Channel(mpsc::Sender<()>);

    impl Wake for Channel {
        fn wake(self: Arc<Self>) {
            // When all is received, nobody waits for a wake that is yet to come.
            let _ = self.0.send(());
        }
    }

    /// async-io's thread goes round once more before such a task looks again.
    #[test]
    fn a_task_that_is_polled_late_receives_too() {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut udp = Udp::open(target.local_addr().unwrap()).unwrap();
        let to = udp.socket.get_ref().local_addr().unwrap();
        let (woken, wakes) = mpsc::channel();
        let waker = Waker::from(Arc::new(Channel(woken)));
        let mut cx = Context::from_waker(&waker);
        for round in 0..10 {
            assert!(udp.poll_recv(&mut cx, |_, _| ()).is_pending(), "{round}");
            target.send_to(b"late", to).unwrap();
            wakes.recv().unwrap();
            thread::sleep(Duration::from_millis(5));
            assert!(udp.poll_recv(&mut cx, |_, _| ()).is_ready(), "{round}");
            while wakes.try_recv().is_ok() {}
        }
    }

    #[test]
    fn a_batch_arrives_as_single_datagrams_and_a_refusal_ends_nothing() {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = target.local_addr().unwrap();
        let mut udp = Udp::open(address).unwrap();
        let two = udp.max_segments().min(2);
        let contents = &b"aaaabb"[..if two == 2 { 6 } else { 4 }];
        let sent = block_on(poll_fn(|cx| udp.poll_send(cx, contents, 4)));
        assert_eq!(sent, Sent::Yes);
        let mut buffer = [0; 10];
        assert_eq!(target.recv(&mut buffer).unwrap(), 4);
        drop(target);
        // Each refused by the kernel of the target, which says so by ICMP.
        for _ in 0..3 {
            let sent = block_on(poll_fn(|cx| udp.poll_send(cx, b"x", 1)));
            assert_eq!(sent, Sent::Yes);
        }
        let again = UdpSocket::bind(address).unwrap();
        again
            .send_to(b"back", udp.socket.get_ref().local_addr().unwrap())
            .unwrap();
        assert_eq!(receive(&mut udp), [b"back".to_vec()]);
    }

    #[test]
    fn what_is_too_large_is_refused_and_not_fragmented() {
        let target = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut udp = Udp::open(target.local_addr().unwrap()).unwrap();
        let huge = vec![0; MAX_DATAGRAM_BYTES + 1];
        let sent = block_on(poll_fn(|cx| udp.poll_send(cx, &huge, huge.len())));
        assert_eq!(sent, Sent::No);
    }
}
