//! What is on its way to the socket.

use std::io;
use std::mem::{swap, take};
use std::task::{Context, Poll};

use polyquic_core::{EcnCodepoint, Transmit};
use polyquic_runtime::{DatagramSocket, Ecn};

/// Larger datagrams are sent by themselves rather than copied to others.
const MAX_SHARED_BYTES: usize = 1_500;

/// Most bytes of datagrams that share a send: an IP packet's 65,535 less the headers.
const MAX_SEND_BYTES: usize = 65_535 - 40 - 8;

/// Sends transmits, together where they can be.
///
/// A connection fills its own sends. Connections with a single datagram each (acknowledgements,
/// keep-alives, handshakes) that go to the same address and have the same size share one: on a
/// client or a proxy with many connections to one server, a system call for dozens instead of one
/// for each. Nothing waits for that longer than the driver's current step.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Contents of `blocked`.
    sending: Vec<u8>,
    /// What did not fit into the socket. Goes before everything else.
    blocked: Option<Transmit>,
    /// Contents of `pending`.
    staged: Vec<u8>,
    pending: Option<Pending>,
    fresh: Vec<u8>,
}

struct Pending {
    /// With the size of all datagrams.
    transmit: Transmit,
    /// The size of all but the last.
    segment_bytes: usize,
    segments: usize,
    /// Whether others may join.
    open: bool,
}

/// What became of a transmit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// It was sent, or soon will be.
    Yes,
    /// The same, but the socket takes no more: wait until it does, then [`Outbox::flush`].
    Blocked,
}

impl Outbox {
    /// Whether the socket has no room.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// An empty buffer for the contents of the next transmit.
    pub(crate) fn fresh(&mut self) -> &mut Vec<u8> {
        self.fresh.clear();
        &mut self.fresh
    }

    /// Send `transmit`, whose contents are in [`fresh`](Self::fresh), or keep it for company until
    /// the next call or [`flush`](Self::flush). Alone if `max_segments` is 1. Not to be called while
    /// blocked.
    pub(crate) fn post(
        &mut self,
        socket: &mut impl DatagramSocket,
        cx: &mut Context<'_>,
        transmit: Transmit,
        max_segments: usize,
    ) -> io::Result<Posted> {
        let may_share = transmit.segment_size.is_none()
            && transmit.size <= MAX_SHARED_BYTES
            && max_segments > 1;
        let mut posted = Posted::Yes;
        if let Some(pending) = &mut self.pending {
            if may_share && pending.joins(&transmit, max_segments) {
                self.staged.extend_from_slice(&self.fresh[..transmit.size]);
                return Ok(Posted::Yes);
            }
            posted = self.send_pending(socket, cx)?;
        }
        swap(&mut self.staged, &mut self.fresh);
        self.staged.truncate(transmit.size);
        self.pending = Some(Pending {
            segment_bytes: transmit.segment_size.unwrap_or(transmit.size),
            segments: 1,
            open: may_share,
            transmit,
        });
        if posted == Posted::Yes && !may_share {
            posted = self.send_pending(socket, cx)?;
        }
        Ok(posted)
    }

    /// Send all there is, as far as there is room.
    pub(crate) fn flush(
        &mut self,
        socket: &mut impl DatagramSocket,
        cx: &mut Context<'_>,
    ) -> io::Result<Posted> {
        if let Some(transmit) = self.blocked.take()
            && self.send(socket, cx, transmit)? == Posted::Blocked
        {
            return Ok(Posted::Blocked);
        }
        self.send_pending(socket, cx)
    }

    /// Forget everything: it is addressed from a socket that is gone, and loss recovery sends it
    /// again.
    pub(crate) fn clear(&mut self) {
        self.blocked = None;
        self.pending = None;
    }

    fn send_pending(
        &mut self,
        socket: &mut impl DatagramSocket,
        cx: &mut Context<'_>,
    ) -> io::Result<Posted> {
        let Some(pending) = take(&mut self.pending) else {
            return Ok(Posted::Yes);
        };
        let mut transmit = pending.transmit;
        if pending.segments > 1 {
            transmit.segment_size = Some(pending.segment_bytes);
        }
        swap(&mut self.sending, &mut self.staged);
        self.send(socket, cx, transmit)
    }

    /// Send what is in `sending`, or keep it for when there is room.
    fn send(
        &mut self,
        socket: &mut impl DatagramSocket,
        cx: &mut Context<'_>,
        transmit: Transmit,
    ) -> io::Result<Posted> {
        let datagrams = polyquic_runtime::Transmit {
            destination: transmit.destination,
            contents: &self.sending[..transmit.size],
            segment_size: transmit.segment_size,
            ecn: transmit.ecn.map(runtime_ecn),
            src_ip: transmit.src_ip,
        };
        match socket.poll_send(cx, &datagrams) {
            Poll::Ready(result) => result.map(|()| Posted::Yes),
            Poll::Pending => {
                self.blocked = Some(transmit);
                Ok(Posted::Blocked)
            }
        }
    }
}

impl Pending {
    /// Takes a datagram in if it can be part of the same send.
    fn joins(&mut self, other: &Transmit, max_segments: usize) -> bool {
        let all = &mut self.transmit;
        let fits = self.open
            && self.segments < max_segments
            && other.size <= self.segment_bytes
            && all.size + other.size <= MAX_SEND_BYTES
            && other.destination == all.destination
            && other.src_ip == all.src_ip
            && other.ecn == all.ecn;
        if fits {
            all.size += other.size;
            self.segments += 1;
            // Only the last one of a segmented send may be shorter.
            self.open = other.size == self.segment_bytes;
        }
        fits
    }
}

fn runtime_ecn(ecn: EcnCodepoint) -> Ecn {
    match ecn {
        EcnCodepoint::Ect0 => Ecn::Ect0,
        EcnCodepoint::Ect1 => Ecn::Ect1,
        EcnCodepoint::Ce => Ecn::Ce,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::task::Waker;

    use polyquic_runtime::{Capabilities, RecvBatch};

    use super::*;

    /// What was sent: destination, sizes of the datagrams, contents.
    type Sent = (u16, Vec<usize>, Vec<u8>);

    #[derive(Default)]
    struct Socket {
        sent: Vec<Sent>,
        /// Sends to refuse.
        full: usize,
    }

    impl DatagramSocket for Socket {
        fn poll_recv(&mut self, _: &mut Context<'_>, _: &mut RecvBatch) -> Poll<io::Result<()>> {
            unreachable!()
        }

        fn poll_send(
            &mut self,
            _: &mut Context<'_>,
            transmit: &polyquic_runtime::Transmit<'_>,
        ) -> Poll<io::Result<()>> {
            if self.full > 0 {
                self.full -= 1;
                return Poll::Pending;
            }
            let step = transmit.segment_size.unwrap_or(transmit.contents.len());
            let sizes = transmit.contents.chunks(step).map(<[u8]>::len).collect();
            let contents = transmit.contents.to_vec();
            self.sent
                .push((transmit.destination.port(), sizes, contents));
            Poll::Ready(Ok(()))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            unreachable!()
        }

        fn capabilities(&self) -> Capabilities {
            unreachable!()
        }
    }

    struct Post {
        port: u16,
        bytes: usize,
        segment: Option<usize>,
        ecn: Option<EcnCodepoint>,
    }

    fn one(port: u16, bytes: usize) -> Post {
        Post {
            port,
            bytes,
            segment: None,
            ecn: None,
        }
    }

    fn post(outbox: &mut Outbox, socket: &mut Socket, post: &Post, max_segments: usize) -> Posted {
        outbox.fresh().resize(post.bytes, post.bytes as u8);
        let transmit = Transmit {
            destination: ([127, 0, 0, 1], post.port).into(),
            ecn: post.ecn,
            size: post.bytes,
            segment_size: post.segment,
            src_ip: None,
        };
        let mut cx = Context::from_waker(Waker::noop());
        outbox
            .post(socket, &mut cx, transmit, max_segments)
            .unwrap()
    }

    fn flush(outbox: &mut Outbox, socket: &mut Socket) -> Posted {
        let mut cx = Context::from_waker(Waker::noop());
        outbox.flush(socket, &mut cx).unwrap()
    }

    fn sizes(posts: &[Post], max_segments: usize) -> Vec<(u16, Vec<usize>)> {
        let (mut outbox, mut socket) = (Outbox::default(), Socket::default());
        for it in posts {
            assert_eq!(
                post(&mut outbox, &mut socket, it, max_segments),
                Posted::Yes
            );
        }
        assert_eq!(flush(&mut outbox, &mut socket), Posted::Yes);
        let order: Vec<u8> = posts
            .iter()
            .flat_map(|it| vec![it.bytes as u8; it.bytes])
            .collect();
        let contents: Vec<u8> = socket.sent.iter().flat_map(|sent| sent.2.clone()).collect();
        assert!(contents == order, "nothing lost, nothing out of order");
        socket
            .sent
            .into_iter()
            .map(|(port, sizes, _)| (port, sizes))
            .collect()
    }

    #[test]
    fn equal_datagrams_to_one_peer_share_a_send() {
        let posts = [one(1, 30), one(1, 30), one(1, 30)];
        assert_eq!(sizes(&posts, 64), [(1, vec![30; 3])]);
        assert_eq!(sizes(&posts, 2), [(1, vec![30; 2]), (1, vec![30])]);
        assert_eq!(
            sizes(&posts, 1),
            [(1, vec![30]), (1, vec![30]), (1, vec![30])]
        );
    }

    #[test]
    fn a_shorter_one_is_the_last() {
        let posts = [one(1, 30), one(1, 20), one(1, 20), one(1, 30)];
        assert_eq!(
            sizes(&posts, 64),
            [(1, vec![30, 20]), (1, vec![20]), (1, vec![30])]
        );
    }

    #[test]
    fn what_differs_is_sent_apart() {
        let posts = [one(1, 30), one(2, 30), one(1, 30)];
        assert_eq!(
            sizes(&posts, 64),
            [(1, vec![30]), (2, vec![30]), (1, vec![30])]
        );
        let marked = Post {
            ecn: Some(EcnCodepoint::Ect0),
            ..one(1, 30)
        };
        assert_eq!(sizes(&[one(1, 30), marked], 64).len(), 2);
        assert_eq!(sizes(&[one(1, 1501), one(1, 1501)], 64).len(), 2);
        let batch = || Post {
            segment: Some(100),
            ..one(1, 250)
        };
        let expected = [
            (1, vec![100, 100, 50]),
            (1, vec![100, 100, 50]),
            (1, vec![50]),
        ];
        assert_eq!(sizes(&[batch(), batch(), one(1, 50)], 64), expected);
    }

    #[test]
    fn a_send_has_an_end() {
        let posts: Vec<_> = (0..60).map(|_| one(1, 1400)).collect();
        let sent = sizes(&posts, 64);
        assert_eq!(
            sent.iter()
                .map(|(_, sizes)| sizes.len())
                .collect::<Vec<_>>(),
            [46, 14]
        );
    }

    #[test]
    fn nothing_is_lost_when_the_socket_is_full() {
        let (mut outbox, mut socket) = (Outbox::default(), Socket::default());
        assert_eq!(post(&mut outbox, &mut socket, &one(1, 10), 64), Posted::Yes);
        socket.full = 2;
        // Sending the first one fails; the second waits behind it.
        assert_eq!(
            post(&mut outbox, &mut socket, &one(2, 20), 64),
            Posted::Blocked
        );
        assert!(outbox.is_blocked());
        assert_eq!(flush(&mut outbox, &mut socket), Posted::Blocked);
        assert_eq!(flush(&mut outbox, &mut socket), Posted::Yes);
        assert!(!outbox.is_blocked());
        let ports: Vec<_> = socket.sent.iter().map(|sent| sent.0).collect();
        assert_eq!(ports, [1, 2]);
        // A batch of a connection's own, which does not wait for company.
        socket.full = 1;
        let batch = Post {
            segment: Some(100),
            ..one(3, 250)
        };
        assert_eq!(post(&mut outbox, &mut socket, &batch, 64), Posted::Blocked);
        assert_eq!(flush(&mut outbox, &mut socket), Posted::Yes);
        assert_eq!(socket.sent.last().unwrap().1, [100, 100, 50]);
    }
}
