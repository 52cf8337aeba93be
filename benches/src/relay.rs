//! A network that loses and delays, for the workload `loss`.
//!
//! A process between client and server, on loopback like them. Each UDP datagram is lost or kept
//! on its own, in either direction; kernels hand over what was sent with segmentation offload in
//! separate datagrams, unless the receiver asks for more, which this one does not. What is kept
//! arrives after a fixed delay, in order. Which ones are lost follows from a seed and a datagram's
//! number in its direction, so that all stacks that send alike lose alike. `loss` is a property of
//! the path, not of the load: the relay has no bandwidth limit and no queue that overflows, short
//! of its socket buffers.
//!
//! The delay is what makes congestion control matter. Without one, the round trip would be what
//! the scheduler makes of three processes on two processors.

use std::{
    collections::VecDeque,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use serde_json::json;

use crate::{
    probe::{Probe, emit},
    settings::Settings,
};

/// Of so many datagrams one is lost, on average, in each direction.
pub const ONE_LOST_OF: u64 = 100;
/// From the relay's receiving a datagram to its sending it.
pub const ONE_WAY_DELAY: Duration = Duration::from_millis(1);
/// Datagrams taken from a socket before the other is looked at.
const BATCH: usize = 64;
/// Room for any datagram, and one byte more than there is.
const BUFFER_BYTES: usize = 1 << 16;

/// Relays between whoever sends to its address and `server`, without end.
///
/// It counts in `probe` what it received as begun and what it kept as completed.
pub(crate) fn run(
    settings: &Settings,
    probe: &Arc<Probe>,
    listen: SocketAddr,
    server: SocketAddr,
    seed: u64,
) -> Result<()> {
    let towards_client = settings.socket(listen)?;
    let towards_server = settings.socket(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    towards_server.connect(server)?;
    for socket in [&towards_client, &towards_server] {
        socket.set_nonblocking(true)?;
    }
    emit(
        "ready",
        json!({
            "address": towards_client.local_addr()?.to_string(),
            "settings": describe(),
        }),
    );

    let mut client = None;
    let mut upstream = Direction::new(seed);
    let mut downstream = Direction::new(!seed);
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let next = [&upstream, &downstream]
            .into_iter()
            .filter_map(Direction::next)
            .min();
        wait(&towards_client, &towards_server, next)?;
        for _ in 0..BATCH {
            let Some((length, from)) = receive(&towards_client, &mut buffer)? else {
                break;
            };
            client = Some(from);
            upstream.pass(&buffer[..length], probe);
        }
        for _ in 0..BATCH {
            let Some((length, _)) = receive(&towards_server, &mut buffer)? else {
                break;
            };
            downstream.pass(&buffer[..length], probe);
        }
        upstream.deliver(|datagram| towards_server.send(datagram))?;
        if let Some(client) = client {
            downstream.deliver(|datagram| towards_client.send_to(datagram, client))?;
        }
    }
}

/// What a reader has to know of the path.
fn describe() -> String {
    format!(
        "1 of {ONE_LOST_OF} datagrams lost and {} ms of delay in each direction, by a relay; \
         the round's number is the seed",
        ONE_WAY_DELAY.as_secs_f64() * 1e3
    )
}

/// One way through the relay.
struct Direction {
    random: u64,
    waiting: VecDeque<(Instant, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Direction {
    fn new(seed: u64) -> Self {
        Self {
            random: seed,
            waiting: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    fn next(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    fn pass(&mut self, datagram: &[u8], probe: &Probe) {
        probe.began();
        if self.loses() {
            return;
        }
        probe.completed();
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(datagram);
        self.waiting
            .push_back((Instant::now() + ONE_WAY_DELAY, copy));
    }

    /// SplitMix64, one step for each datagram.
    fn loses(&mut self) -> bool {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) < u64::MAX / ONE_LOST_OF
    }

    /// Sends what is due, and keeps what the kernel has no room for.
    fn deliver(&mut self, send: impl Fn(&[u8]) -> io::Result<usize>) -> Result<()> {
        let now = Instant::now();
        while let Some((due, datagram)) = self.waiting.front() {
            if *due > now {
                break;
            }
            match send(datagram) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A side that has gone away; the driver will notice.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error).context("relaying a datagram"),
            }
            self.spare
                .extend(self.waiting.pop_front().map(|(_, datagram)| datagram));
        }
        Ok(())
    }
}

/// Until a datagram comes or one is due.
fn wait(a: &UdpSocket, b: &UdpSocket, next: Option<Instant>) -> Result<()> {
    let mut sockets = [a, b].map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    let timeout = next.map(|next| TimeSpec::from(next.saturating_duration_since(Instant::now())));
    match ppoll(&mut sockets, timeout, None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error).context("waiting for datagrams"),
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<(usize, SocketAddr)>> {
    match socket.recv_from(buffer) {
        Ok(received) => Ok(Some(received)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).context("receiving a datagram"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(seed: u64) -> Vec<bool> {
        let mut direction = Direction::new(seed);
        (0..100_000).map(|_| direction.loses()).collect()
    }

    #[test]
    fn loses_what_the_seed_says() {
        assert_eq!(lost(1), lost(1));
        assert_ne!(lost(1), lost(2));
    }

    #[test]
    fn loses_as_many_as_it_says() {
        for seed in [0, 1, 2, !0, !1] {
            let count = lost(seed).into_iter().filter(|lost| *lost).count();
            assert!((900..1_100).contains(&count), "{count}");
        }
    }

    #[test]
    fn keeps_the_order_and_the_delay() {
        let probe = Probe::new();
        let mut direction = Direction::new(0);
        let start = Instant::now();
        for number in 0..100 {
            direction.pass(&[number], &probe);
        }
        assert!(direction.next().unwrap() >= start + ONE_WAY_DELAY);
        while direction.next().is_some_and(|due| due > Instant::now()) {
            std::thread::yield_now();
        }
        let seen = std::cell::RefCell::new(Vec::new());
        while direction.next().is_some() {
            direction
                .deliver(|datagram| {
                    seen.borrow_mut().push(datagram[0]);
                    Ok(1)
                })
                .unwrap();
        }
        let seen = seen.into_inner();
        assert!(seen.is_sorted() && seen.len() > 90, "{seen:?}");
    }
}
