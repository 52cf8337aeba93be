//! The model network: a tree of hosts, routers and NATs below an internet that is perfect itself.
//!
//! A tree, so that there is one path between any two hosts, and so that whoever reads a test sees
//! which links a packet crosses. Hosts with several interfaces are in it several times.

pub(crate) mod link;
pub(crate) mod nat;
pub(crate) mod packet;
pub(crate) mod pipe;
pub(crate) mod socket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rand::rngs::StdRng;
use rustc_hash::FxHashMap;

use link::Link;
use nat::{NatConfig, NatState};
use packet::Packet;
use pipe::{Pipe, Step};
use socket::Sockets;

use crate::queue::{Event, Queue};
use crate::trace::{Fate, Trace};

pub(crate) type NodeId = usize;
pub(crate) type HostId = usize;

/// How long hosts believe what they were told about a path's MTU: ten minutes (RFC 8201 section 4).
const PATH_MTU_NANOS: u64 = 600_000_000_000;

/// The node that all others are below.
pub(crate) const INTERNET: NodeId = 0;

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) parent: NodeId,
    pub(crate) kind: Kind,
    pub(crate) up: Pipe,
    pub(crate) down: Pipe,
}

pub(crate) enum Kind {
    Router,
    Nat(Box<NatState>),
    Interface {
        host: HostId,
        v4: IpAddr,
        v6: IpAddr,
    },
}

/// One direction of a link, or a host's way to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PipeId {
    Up(NodeId),
    Down(NodeId),
    Loopback(HostId),
}

pub(crate) struct Net {
    pub(crate) nodes: Vec<Node>,
    addresses: FxHashMap<IpAddr, NodeId>,
    pub(crate) loopbacks: Vec<Pipe>,
    pub(crate) sockets: Sockets,
    /// The largest packets that hosts know to fit, by ICMP, and since when.
    path_mtu: FxHashMap<(HostId, IpAddr), (u16, u64)>,
    next_packet: u64,
    rng: StdRng,
    steps: Vec<Step>,
}

impl Net {
    pub(crate) fn new(rng: StdRng) -> Self {
        let internet = Node {
            name: "internet".into(),
            parent: INTERNET,
            kind: Kind::Router,
            up: Pipe::default(),
            down: Pipe::default(),
        };
        Self {
            nodes: vec![internet],
            addresses: FxHashMap::default(),
            loopbacks: Vec::new(),
            sockets: Sockets::default(),
            path_mtu: FxHashMap::default(),
            next_packet: 0,
            rng,
            steps: Vec::new(),
        }
    }

    fn add(&mut self, name: String, parent: NodeId, kind: Kind, link: &Link) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(Node {
            name,
            parent,
            kind,
            up: Pipe::new(link),
            down: Pipe::new(link),
        });
        id
    }

    pub(crate) fn add_router(&mut self, name: String, parent: NodeId, link: &Link) -> NodeId {
        self.add(name, parent, Kind::Router, link)
    }

    pub(crate) fn add_nat(
        &mut self,
        name: String,
        parent: NodeId,
        link: &Link,
        config: NatConfig,
    ) -> NodeId {
        let (v4, v6) = addresses(self.nodes.len());
        let kind = Kind::Nat(Box::new(NatState::new(config, v4, v6)));
        let id = self.add(name, parent, kind, link);
        self.addresses.insert(v4, id);
        self.addresses.insert(v6, id);
        id
    }

    pub(crate) fn add_interface(
        &mut self,
        name: String,
        parent: NodeId,
        link: &Link,
        host: HostId,
    ) -> NodeId {
        let (v4, v6) = addresses(self.nodes.len());
        let id = self.add(name, parent, Kind::Interface { host, v4, v6 }, link);
        self.addresses.insert(v4, id);
        self.addresses.insert(v6, id);
        id
    }

    /// The addresses of a node, for IPv4 and IPv6.
    pub(crate) fn addresses(&self, node: NodeId) -> Option<(IpAddr, IpAddr)> {
        match &self.nodes[node].kind {
            Kind::Interface { v4, v6, .. } => Some((*v4, *v6)),
            Kind::Nat(nat) => Some((nat.v4, nat.v6)),
            Kind::Router => None,
        }
    }

    /// The interface of `host` that has this address.
    pub(crate) fn interface_of(&self, host: HostId, ip: IpAddr) -> Option<NodeId> {
        let node = *self.addresses.get(&ip)?;
        match self.nodes[node].kind {
            Kind::Interface { host: owner, .. } if owner == host => Some(node),
            _ => None,
        }
    }

    pub(crate) fn pipe(&mut self, id: PipeId) -> &mut Pipe {
        self.pipe_and_rng(id).0
    }

    fn pipe_and_rng(&mut self, id: PipeId) -> (&mut Pipe, &mut StdRng) {
        let pipe = match id {
            PipeId::Up(node) => &mut self.nodes[node].up,
            PipeId::Down(node) => &mut self.nodes[node].down,
            PipeId::Loopback(host) => &mut self.loopbacks[host],
        };
        (pipe, &mut self.rng)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.next_packet += 1;
        self.next_packet
    }

    /// A host sends a packet by one of its interfaces.
    pub(crate) fn send(
        &mut self,
        host: HostId,
        interface: NodeId,
        packet: Packet,
        now: u64,
        queue: &mut Queue,
        trace: &mut Trace,
    ) {
        trace.packet(now, Fate::Sent, &packet);
        trace.capture(now, host, false, &packet);
        let to = packet.dst.ip();
        let way = self.way_out(host, interface, to);
        if way == PipeId::Up(interface)
            && let Some(&(mtu, since)) = self.path_mtu.get(&(host, to))
        {
            if now - since > PATH_MTU_NANOS {
                self.path_mtu.remove(&(host, to));
            } else if packet.size() > mtu.into() {
                return trace.packet(now, Fate::TooLarge, &packet);
            }
        }
        self.enter(way, packet, now, queue, trace);
    }

    /// The link by which a packet to `dst` leaves a host that would send it by `interface`.
    pub(crate) fn way_out(&self, host: HostId, interface: NodeId, dst: IpAddr) -> PipeId {
        if dst.is_loopback() || self.interface_of(host, dst).is_some() {
            PipeId::Loopback(host)
        } else {
            PipeId::Up(interface)
        }
    }

    /// Tell the host that sent a packet that it was larger than this, as routers do by ICMP; NATs on
    /// the way back translate what the message quotes.
    fn report(&mut self, packet: &Packet, mtu: u16, now: u64) {
        let (mut src, mut to) = (packet.src, packet.dst.ip());
        let Some(&sender) = self.addresses.get(&src.ip()) else {
            return;
        };
        // NATs that the packet came into from outside: nobody before them knows what is inside.
        let mut at = self.addresses.get(&to).copied().unwrap_or(INTERNET);
        while at != INTERNET {
            at = self.nodes[at].parent;
            if let Kind::Nat(nat) = &self.nodes[at].kind
                && !self.is_below(sender, at)
            {
                to = if to.is_ipv4() { nat.v4 } else { nat.v6 };
            }
        }
        // NATs that it left.
        let mut node = sender;
        while let Kind::Nat(nat) = &self.nodes[node].kind {
            let Some(inside) = nat.owner(src) else { return };
            src = inside;
            let Some(&next) = self.addresses.get(&src.ip()) else {
                return;
            };
            node = next;
        }
        if let Kind::Interface { host, .. } = self.nodes[node].kind {
            self.path_mtu.insert((host, to), (mtu, now));
        }
    }

    fn is_below(&self, node: NodeId, above: NodeId) -> bool {
        self.child_towards(above, node).is_some()
    }

    fn enter(
        &mut self,
        id: PipeId,
        packet: Packet,
        now: u64,
        queue: &mut Queue,
        trace: &mut Trace,
    ) {
        let mut steps = std::mem::take(&mut self.steps);
        let (pipe, rng) = self.pipe_and_rng(id);
        pipe.enter(now, packet, rng, &mut steps);
        self.follow(id, steps, now, queue, trace);
    }

    /// The transmitter of a link is free.
    pub(crate) fn transmitted(
        &mut self,
        id: PipeId,
        now: u64,
        queue: &mut Queue,
        trace: &mut Trace,
    ) {
        let mut steps = std::mem::take(&mut self.steps);
        let (pipe, rng) = self.pipe_and_rng(id);
        pipe.sent(now, rng, &mut steps);
        let waiting = std::mem::take(&mut pipe.waiting);
        self.follow(id, steps, now, queue, trace);
        for waker in waiting {
            waker.wake();
        }
    }

    fn follow(
        &mut self,
        id: PipeId,
        mut steps: Vec<Step>,
        now: u64,
        queue: &mut Queue,
        trace: &mut Trace,
    ) {
        for step in steps.drain(..) {
            match step {
                Step::Arrives(at, packet) => queue.push(at, Event::Arrival(id, Box::new(packet))),
                Step::Busy(until) => queue.push(until, Event::Transmitted(id)),
                Step::Note(fate, packet) => trace.packet(now, fate, &packet),
                Step::Report(packet, mtu) => self.report(&packet, mtu, now),
            }
        }
        self.steps = steps;
    }

    /// A packet has come out of a pipe.
    pub(crate) fn arrive(
        &mut self,
        from: PipeId,
        packet: Packet,
        now: u64,
        queue: &mut Queue,
        trace: &mut Trace,
    ) {
        match from {
            PipeId::Loopback(host) => self.deliver(host, packet, now, trace),
            PipeId::Up(child) => {
                let node = self.nodes[child].parent;
                self.route(node, true, packet, now, queue, trace);
            }
            PipeId::Down(node) => self.route(node, false, packet, now, queue, trace),
        }
    }

    fn route(
        &mut self,
        node: NodeId,
        from_below: bool,
        mut packet: Packet,
        now: u64,
        queue: &mut Queue,
        trace: &mut Trace,
    ) {
        match &mut self.nodes[node].kind {
            Kind::Interface { host, .. } => {
                let host = *host;
                return self.deliver(host, packet, now, trace);
            }
            Kind::Nat(nat) => {
                if from_below {
                    packet.src = nat.outbound(now, packet.src, packet.dst);
                }
                let own = [nat.v4, nat.v6].contains(&packet.dst.ip());
                if own || !from_below {
                    // Addresses inside mean nothing outside.
                    let inside = if own {
                        nat.inbound(now, packet.src, packet.dst)
                    } else {
                        None
                    };
                    match inside {
                        Some(inside) => packet.dst = inside,
                        None => return trace.packet(now, Fate::Unmapped, &packet),
                    }
                }
            }
            Kind::Router => {}
        }
        let Some(&target) = self.addresses.get(&packet.dst.ip()) else {
            return trace.packet(now, Fate::NoRoute, &packet);
        };
        match self.child_towards(node, target) {
            Some(child) => self.enter(PipeId::Down(child), packet, now, queue, trace),
            None if node == INTERNET => trace.packet(now, Fate::NoRoute, &packet),
            None => self.enter(PipeId::Up(node), packet, now, queue, trace),
        }
    }

    /// The node below `node` that `target` is, or is below; `None` if it is elsewhere.
    fn child_towards(&self, node: NodeId, target: NodeId) -> Option<NodeId> {
        let mut at = target;
        while at != INTERNET {
            let parent = self.nodes[at].parent;
            if parent == node {
                return Some(at);
            }
            at = parent;
        }
        None
    }

    fn deliver(&mut self, host: HostId, packet: Packet, now: u64, trace: &mut Trace) {
        let fate = match self.sockets.deliver(host, &packet) {
            Ok(waker) => {
                trace.packet(now, Fate::Delivered, &packet);
                trace.capture(now, host, true, &packet);
                if let Some(waker) = waker {
                    waker.wake();
                }
                return;
            }
            Err(fate) => fate,
        };
        trace.packet(now, fate, &packet);
    }
}

/// The addresses of node `number`.
fn addresses(number: usize) -> (IpAddr, IpAddr) {
    let number = u16::try_from(number).expect("a simulation has less than 65,536 nodes");
    let [high, low] = number.to_be_bytes();
    (
        Ipv4Addr::new(10, 0, high, low).into(),
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number).into(),
    )
}

/// The unspecified address of the same family.
pub(crate) fn unspecified(addr: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match addr.ip() {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (ip, addr.port()).into()
}
