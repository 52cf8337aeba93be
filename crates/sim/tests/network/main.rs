//! What the model network does to packets, and what hosts and time do.

mod captures;
mod faults;
mod hosts;
mod logs;
mod nat;
mod queues;
mod quic;
mod replay;
mod seeds;

use std::net::SocketAddr;
use std::time::Duration;

use polyquic_sim::{Host, Link, RawSocket, Sim};

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Two hosts with a socket each; what the sender sends goes up `link`.
struct Pair {
    sim: Sim,
    from: Host,
    to: Host,
    sender: RawSocket,
    receiver: RawSocket,
    dst: SocketAddr,
}

impl Pair {
    fn new(link: Link) -> Self {
        let sim = Sim::new(7);
        let from = sim.host("from");
        from.access().set_up(link);
        let to = sim.host("to");
        let sender = from.udp(from.addr(1000)).unwrap();
        let receiver = to.udp(to.addr(2000)).unwrap();
        let dst = to.addr(2000);
        Self {
            sim,
            from,
            to,
            sender,
            receiver,
            dst,
        }
    }

    /// Send `count` datagrams of `len` bytes, numbered, with `pause` between them.
    async fn send(&self, count: u32, len: usize, pause: Duration) {
        for number in 0..count {
            let mut payload = vec![0; len.max(4)];
            payload[..4].copy_from_slice(&number.to_le_bytes());
            self.sender.send_to(&payload, self.dst).unwrap();
            if !pause.is_zero() {
                self.sim.sleep(pause).await;
            }
        }
    }

    /// The numbers of what arrives within `wait` from now.
    async fn received(&self, wait: Duration) -> Vec<u32> {
        self.sim.sleep(wait).await;
        std::iter::from_fn(|| self.receiver.try_recv())
            .map(|it| u32::from_le_bytes(it.payload[..4].try_into().unwrap()))
            .collect()
    }

    /// Send and receive.
    fn exchange(&self, count: u32, len: usize) -> Vec<u32> {
        self.sim.run(async {
            self.send(count, len, Duration::ZERO).await;
            self.received(Duration::from_secs(60)).await
        })
    }
}
