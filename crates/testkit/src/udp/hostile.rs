//! Datagrams that nobody asked for.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use polyquic_endpoint::{Connection, Executor};

use crate::fixtures::{Ends, SERVER_NAME, Setup};
use crate::tools::{check_alive, check_transfer, pattern, spawn_thread};

/// Capture the first datagram of a connection attempt.
async fn capture_initial(ends: &Ends) -> Vec<u8> {
    let trap = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    trap.set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let addr = trap.local_addr().unwrap();
    let attempt = ends.client.connect(addr, SERVER_NAME).unwrap();
    let initial = spawn_thread(move || {
        let mut buf = vec![0; 1 << 16];
        let (len, _) = trap.recv_from(&mut buf).unwrap();
        buf.truncate(len);
        buf
    })
    .await;
    drop(attempt);
    assert!(initial.len() >= 1200);
    initial
}

/// Numbers that look random and are the same in each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % below
    }
}

/// Send `count` datagrams of junk: random bytes with and without the look of QUIC, and `initial`
/// truncated, extended and with bits flipped.
fn send_junk(to: SocketAddr, initial: &[u8], seed: u64, count: usize) {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
    let random = pattern(seed, 4096);
    let mut noise = Noise(seed);
    let mut datagram = Vec::new();
    for number in 0..count {
        datagram.clear();
        match number % 5 {
            // Anything.
            0 => {
                let start = noise.next(2000);
                datagram.extend_from_slice(&random[start..][..noise.next(1472)]);
            }
            // A long header of version 1, with lengths that make no sense.
            1 => {
                datagram.extend_from_slice(&[0xc0 | noise.next(64) as u8, 0, 0, 0, 1]);
                datagram.extend_from_slice(&random[noise.next(2000)..][..noise.next(1400)]);
            }
            // A short header for nobody's connection.
            2 => {
                datagram.push(0x40 | noise.next(64) as u8);
                datagram.extend_from_slice(&random[noise.next(2000)..][..noise.next(1400)]);
            }
            // A real one, cut off.
            3 => datagram.extend_from_slice(&initial[..noise.next(initial.len())]),
            // A real one, damaged.
            _ => {
                datagram.extend_from_slice(initial);
                for _ in 0..=noise.next(3) {
                    let bit = noise.next(datagram.len() * 8);
                    datagram[bit / 8] ^= 1 << (bit % 8);
                }
            }
        }
        // A full buffer drops them, which is as good as a server that does.
        let _ = socket.send_to(&datagram, to);
    }
}

/// Transfers go on as if nothing happened while junk arrives, whatever it looks like.
async fn transfer_during_junk(pair: (&Connection, &Connection), junk: impl Future<Output = ()>) {
    let (client, server) = pair;
    let data = pattern(9, 300_000);
    let mut junk = Box::pin(junk);
    loop {
        let transfers = Box::pin(async {
            check_transfer(client, server, &data).await;
            check_transfer(server, client, &data).await;
        });
        match futures::future::select(junk, transfers).await {
            futures::future::Either::Left(((), transfers)) => return transfers.await,
            futures::future::Either::Right(((), rest)) => junk = rest,
        }
    }
}

/// Junk to the ports of both sides while transfers are under way.
pub async fn junk_does_not_disturb_transfers<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let initial = capture_initial(&ends).await;
    let (client, server) = ends.connect().await;
    let junk = [ends.addr, ends.client.local_addr().unwrap()].map(|to| {
        let initial = initial.clone();
        spawn_thread(move || send_junk(to, &initial, 7, 5_000))
    });
    let junk = async {
        futures::future::join_all(junk).await;
    };
    transfer_during_junk((&client, &server), junk).await;
    assert!(ends.server.stats().datagrams_discarded > 100);
    // Others can still connect, as soon as those are decided upon that looked like an attempt.
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    let accepting = async {
        loop {
            let incoming = ends.server.accept().await.unwrap();
            if let Ok(connection) = incoming.await {
                break connection;
            }
        }
    };
    let (second, accepted) = futures::join!(connecting, accepting);
    check_alive(&second.unwrap(), &accepted).await;
    ends.finish().await;
}

/// Resident memory of this process in bytes, where that can be known.
fn resident_bytes() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = statm.split_whitespace().nth(1)?.parse().ok()?;
    // A page may be larger, in which case the bound below is stricter than it says.
    Some(pages * 4096)
}

/// A hundred thousand datagrams of junk leave nothing behind in memory.
pub async fn junk_leaves_memory_flat<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let initial = capture_initial(&ends).await;
    let (client, server) = ends.connect().await;
    let round = |seed, count| {
        let (initial, to) = (initial.clone(), ends.addr);
        let junk = spawn_thread(move || send_junk(to, &initial, seed, count));
        transfer_during_junk((&client, &server), junk)
    };
    // Everything that grows to a working size does so here.
    round(1, 20_000).await;
    let before = resident_bytes();
    let discarded = ends.server.stats().datagrams_discarded;
    round(2, 100_000).await;
    assert!(
        ends.server.stats().datagrams_discarded > discarded + 1000,
        "too little of it arrived to tell"
    );
    if let (Some(before), Some(after)) = (before, resident_bytes()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes more than before the junk");
    }
    assert_eq!(ends.server.open_connections(), 1);
    ends.finish().await;
}
