//! The simulated network: a server, a client, and a host for all attackers.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use polyquic_sim::{Host, Link, Packet, RawSocket, Sim, Verdict};

/// From anybody to anybody.
const LATENCY: Duration = Duration::from_millis(5);

/// What an observer remembers.
const OVERHEARD_DATAGRAMS: usize = 64;

/// What one address sent to another.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
}

#[derive(Default)]
struct Wire {
    /// By sender and receiver.
    traffic: BTreeMap<(SocketAddr, SocketAddr), Traffic>,
    under_way_bytes: usize,
    /// Datagrams that attackers sent, in whosever name.
    evil_datagrams: u64,
    sleeps: u64,
    tap: Option<(SocketAddr, SocketAddr)>,
    overheard: VecDeque<(SocketAddr, SocketAddr, Vec<u8>)>,
}

/// The simulation and who is in it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    sim: Rc<Sim>,
    pub(crate) server: Host,
    pub(crate) client: Host,
    evil: Host,
    spoofing: Rc<RawSocket>,
    wire: Rc<RefCell<Wire>>,
}

impl World {
    pub(crate) fn new() -> Self {
        // As the simulator prints it when a test fails.
        let seed = std::env::var("POLYQUIC_SIM_SEED").ok();
        let sim = Sim::new(seed.map_or(1, |it| it.parse().expect("a seed is a number")));
        let [server, client, evil] = ["server", "client", "evil"].map(|name| sim.host(name));
        let wire = Rc::<RefCell<Wire>>::default();
        let known = [server.ip(), client.ip(), evil.ip()];
        for host in [&server, &client, &evil] {
            // All delay is on the way up, so that what passes the way down has arrived.
            let access = host.access();
            access.set_up(Link::new().delay(LATENCY));
            let sent = wire.clone();
            let is_evil = host.ip() == evil.ip();
            access.filter_up(move |packet| {
                let mut wire = sent.borrow_mut();
                wire.evil_datagrams += u64::from(is_evil);
                // Datagrams to addresses that nobody has arrive nowhere.
                wire.sent(packet, known.contains(&packet.dst.ip()));
                Verdict::Pass
            });
            let arrived = wire.clone();
            access.filter_down(move |packet| {
                arrived.borrow_mut().under_way_bytes -= packet.payload.len();
                Verdict::Pass
            });
        }
        let spoofing = evil.udp(evil.addr(1)).expect("the port is free");
        Self {
            sim: Rc::new(sim),
            server,
            client,
            evil,
            spoofing: Rc::new(spoofing),
            wire,
        }
    }

    pub(crate) fn run<T>(&self, app: impl Future<Output = T>) -> T {
        self.sim.run(app)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.wire.borrow_mut().sleeps += 1;
        self.sim.sleep(time).await;
    }

    /// How often tasks ran, without the scripts' own.
    pub(crate) fn polls(&self) -> u64 {
        self.sim.polls().saturating_sub(self.wire.borrow().sleeps)
    }

    pub(crate) fn evil_addr(&self, port: u16) -> SocketAddr {
        self.evil.addr(port)
    }

    pub(crate) fn evil_socket(&self, addr: SocketAddr) -> Socket {
        let raw = self.evil.udp(addr).expect("every attacker has its port");
        Socket { raw, addr }
    }

    /// Bring the attackers so near that what they send arrives before everybody else's.
    pub(crate) fn bring_attackers_near(&self) {
        self.evil.access().set_up(Link::new());
    }

    /// Put a datagram on the wire that says it is from somebody.
    pub(crate) fn send(&self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        let sent = self.spoofing.send_as(from, data, to);
        sent.expect("the attackers' host is up");
    }

    pub(crate) fn traffic(&self, from: SocketAddr, to: SocketAddr) -> Traffic {
        let wire = self.wire.borrow();
        wire.traffic.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Datagrams that attackers sent, in whosever name.
    pub(crate) fn evil_datagrams(&self) -> u64 {
        self.wire.borrow().evil_datagrams
    }

    /// Bytes of datagrams that are on the wire.
    pub(crate) fn under_way_bytes(&self) -> usize {
        self.wire.borrow().under_way_bytes
    }

    /// Begin to listen to what goes back and forth between two addresses.
    pub(crate) fn listen(&self, a: SocketAddr, b: SocketAddr) {
        self.wire.borrow_mut().tap = Some((a, b));
    }

    /// What was heard since the last time: from, to, what.
    pub(crate) fn overheard(&self) -> Vec<(SocketAddr, SocketAddr, Vec<u8>)> {
        self.wire.borrow_mut().overheard.drain(..).collect()
    }
}

impl Wire {
    fn sent(&mut self, packet: &Packet, arrives: bool) {
        let ends = (packet.src, packet.dst);
        let traffic = self.traffic.entry(ends).or_default();
        traffic.datagrams += 1;
        traffic.bytes += packet.payload.len() as u64;
        if arrives {
            self.under_way_bytes += packet.payload.len();
        }
        let swapped = (packet.dst, packet.src);
        if self.tap.is_some_and(|tap| tap == ends || tap == swapped) {
            if self.overheard.len() == OVERHEARD_DATAGRAMS {
                self.overheard.pop_front();
            }
            let heard = (packet.src, packet.dst, packet.payload.to_vec());
            self.overheard.push_back(heard);
        }
    }
}

/// An attacker's socket.
pub(crate) struct Socket {
    raw: RawSocket,
    addr: SocketAddr,
}

impl Socket {
    pub(crate) fn send(&self, to: SocketAddr, data: &[u8]) {
        let sent = self.raw.send_to(data, to);
        sent.expect("the attackers' host is up");
    }

    pub(crate) fn try_recv(&self) -> Option<(SocketAddr, Vec<u8>)> {
        let datagram = self.raw.try_recv()?;
        Some((datagram.src, datagram.payload.to_vec()))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}
