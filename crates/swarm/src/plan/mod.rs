//! What a seed stands for.

pub(crate) mod links;
pub(crate) mod more;
mod paths;
mod show;
pub(crate) mod transport;
pub(crate) mod work;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use links::LinkPlan;
use more::More;
use transport::TransportPlan;
use work::{ConnectionPlan, Ending, HalfPlan, Limits, StreamPlan, TaskPlan};

/// Everything that a simulation does, drawn from its seed; it is printed in words.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    /// No fault, no move, few losses: nothing may fail.
    pub(crate) calm: bool,
    pub(crate) routers: Vec<(LinkPlan, LinkPlan)>,
    pub(crate) nats: Vec<NatPlan>,
    pub(crate) servers: Vec<ServerPlan>,
    pub(crate) clients: Vec<ClientPlan>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) more: More,
    removed: BTreeSet<Part>,
}

/// What a simulation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Mixed,
    /// Equal streams of one connection.
    FairStreams,
    /// Equal connections through one bottleneck.
    FairConnections,
}

#[derive(Debug, Clone)]
pub(crate) struct NatPlan {
    pub(crate) router: Option<usize>,
    pub(crate) timeout: Duration,
    pub(crate) cone: bool,
    pub(crate) link: (LinkPlan, LinkPlan),
}

/// What a host is placed below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Internet,
    Router(usize),
    Nat(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct HostPlan {
    pub(crate) place: Place,
    pub(crate) link: (LinkPlan, LinkPlan),
    pub(crate) second: Option<(LinkPlan, LinkPlan)>,
    pub(crate) segments: (usize, usize),
    pub(crate) send_buffer: Option<u64>,
    pub(crate) slack: Duration,
    pub(crate) ppm: i64,
    pub(crate) transport: TransportPlan,
}

#[derive(Debug, Clone)]
pub(crate) struct ServerPlan {
    pub(crate) host: HostPlan,
    pub(crate) retry: bool,
    pub(crate) offload: bool,
    pub(crate) migration: bool,
    /// How often connections are refused, and ignored.
    pub(crate) refuse: f64,
    pub(crate) ignore: f64,
    /// At the end it closes its endpoint; otherwise its connections one by one.
    pub(crate) closes_endpoint: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct ClientPlan {
    pub(crate) host: HostPlan,
    /// Its socket is for IPv6 and IPv4; otherwise for IPv4 only.
    pub(crate) dual: bool,
    /// Each a sequence of connections; they go on at the same time.
    pub(crate) lanes: Vec<Vec<ConnectionPlan>>,
    /// At the end it closes its endpoint and waits; otherwise it drops it.
    pub(crate) closes_endpoint: bool,
}

/// A link that something may happen to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Server(usize),
    Client(usize),
    Router(usize),
    Nat(usize),
}

/// Something goes wrong at `at`, and is mended after `lasts`.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) what: What,
}

impl Fault {
    /// Whether it is there at any time from `from` to `to`.
    pub(crate) fn overlaps(&self, from: Duration, to: Duration) -> bool {
        self.at <= to && from <= self.at + self.lasts
    }
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    /// Up, down.
    Link(Node, Box<(LinkPlan, LinkPlan)>),
    /// Up, down.
    Cut(Node, bool, bool),
    Rebind(usize),
    Pause(Node),
    /// The host starts again at the end of it.
    Crash(Node),
    Clock(Node, i64),
}

/// A part of a plan that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A fault.
    Fault(usize),
    /// A sequence of connections, by client.
    Lane(usize, usize),
    /// One connection of a sequence.
    Connection(usize, usize, usize),
    /// One of its tasks.
    Task(usize, usize, usize, usize),
    /// What is wrong with the links of the server.
    ServerLink(usize),
    /// What is wrong with the links of the client.
    ClientLink(usize),
    /// What is wrong with the link of a router.
    RouterLink(usize),
    /// What is wrong with the link of a NAT.
    NatLink(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(n) => write!(f, "fault {n}"),
            Self::Lane(c, l) => write!(f, "lane {c}.{l}"),
            Self::Connection(c, l, k) => write!(f, "connection {c}.{l}.{k}"),
            Self::Task(c, l, k, t) => write!(f, "task {c}.{l}.{k}.{t}"),
            Self::ServerLink(n) => write!(f, "link of server {n}"),
            Self::ClientLink(n) => write!(f, "link of client {n}"),
            Self::RouterLink(n) => write!(f, "link of router {n}"),
            Self::NatLink(n) => write!(f, "link of NAT {n}"),
        }
    }
}

impl HostPlan {
    fn draw(dice: &mut Dice, place: Place, calm: bool) -> Self {
        let mut link = || {
            let harsh = !calm && dice.chance(0.5);
            (LinkPlan::draw(dice, harsh), LinkPlan::draw(dice, harsh))
        };
        let (first, second) = (link(), link());
        let mut transport = TransportPlan::draw(dice);
        if calm {
            // Applications pause for less than that.
            transport.idle = transport.idle.map(|it| it.max(Duration::from_secs(20)));
        } else {
            // Who only waits, and waits forever, does not notice that the other side is gone.
            transport.idle = transport.idle.or(Some(Duration::from_secs(40)));
        }
        Self {
            place,
            link: first,
            second: dice.maybe(0.4, |_| second),
            segments: (dice.scale(1, 64) as usize, dice.scale(1, 64) as usize),
            send_buffer: dice.maybe(0.4, |it| it.scale(3_000, 200_000)),
            slack: dice.maybe(0.5, |it| it.span(1, 15)).unwrap_or_default(),
            ppm: dice
                .maybe(0.3, |it| it.range(0, 1000) as i64 - 500)
                .unwrap_or(0),
            transport,
        }
    }

    fn plain(place: Place, link: LinkPlan) -> Self {
        Self {
            place,
            link: (link.clone(), link),
            second: None,
            segments: (64, 64),
            send_buffer: None,
            slack: Duration::ZERO,
            ppm: 0,
            transport: TransportPlan::roomy(),
        }
    }

    /// Bits per second.
    fn slowest(&self) -> u64 {
        let second = self.second.iter().flat_map(|it| [&it.0, &it.1]);
        [&self.link.0, &self.link.1]
            .into_iter()
            .chain(second)
            .filter_map(|it| it.bandwidth)
            .min()
            .unwrap_or(u64::MAX)
    }
}

impl Plan {
    /// What `seed` stands for.
    pub fn new(seed: u64) -> Self {
        let mut plan = Self::basic(seed);
        plan.draw_more();
        plan
    }

    /// The same without what was added later (`more`), which is as it was when seeds found the bugs
    /// that tests name.
    pub fn basic(seed: u64) -> Self {
        match Dice::new(seed, "kind").range(0, 49) {
            0 => Self::fair_streams(seed),
            1 => Self::fair_connections(seed),
            _ => Self::mixed(seed),
        }
    }

    fn mixed(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "topology");
        let calm = dice.chance(0.25);
        let harsh = !calm && dice.chance(0.5);
        let link = |dice: &mut Dice| (LinkPlan::draw(dice, harsh), LinkPlan::draw(dice, harsh));
        let routers: Vec<_> = (0..dice.range(0, 2)).map(|_| link(&mut dice)).collect();
        let router = |dice: &mut Dice| {
            let count = routers.len() as u64;
            (count > 0 && dice.chance(0.5)).then(|| dice.range(0, count - 1) as usize)
        };
        let nats: Vec<_> = (0..dice.range(0, 2))
            .map(|_| NatPlan {
                router: router(&mut dice),
                timeout: match calm {
                    true => Duration::from_secs(3600),
                    false => dice.span(2_000, 120_000),
                },
                cone: dice.chance(0.3),
                link: link(&mut dice),
            })
            .collect();
        let servers: Vec<_> = (0..dice.scale(1, 3))
            .map(|index| {
                let place = router(&mut dice).map_or(Place::Internet, Place::Router);
                let mut dice = Dice::new(seed, format_args!("server {index}"));
                let rare = if calm { 0.0 } else { 0.05 };
                ServerPlan {
                    host: HostPlan::draw(&mut dice, place, calm),
                    retry: dice.chance(0.3),
                    offload: dice.chance(0.3),
                    migration: dice.chance(0.8),
                    refuse: dice.maybe(rare, |_| 0.2).unwrap_or(0.0),
                    ignore: dice.maybe(rare, |_| 0.2).unwrap_or(0.0),
                    closes_endpoint: dice.chance(0.5),
                }
            })
            .collect();
        let mut slowest = servers.iter().map(|it| it.host.slowest()).min();
        for link in routers.iter().chain(nats.iter().map(|it| &it.link)) {
            let both = [&link.0, &link.1].into_iter();
            slowest = slowest.min(Some(
                both.filter_map(|it| it.bandwidth).min().unwrap_or(u64::MAX),
            ));
        }
        let clients = (0..dice.scale(1, 5)).map(|index| {
            let place = match dice.chance(0.4) && !nats.is_empty() {
                true => Place::Nat(dice.range(0, nats.len() as u64 - 1) as usize),
                false => router(&mut dice).map_or(Place::Internet, Place::Router),
            };
            let mut dice = Dice::new(seed, format_args!("client {index}"));
            let host = HostPlan::draw(&mut dice, place, calm);
            let rate = host.slowest().min(slowest.expect("there is a server"));
            // Each window takes a round trip.
            let transports = servers.iter().map(|it| &it.host.transport);
            let windows = transports
                .chain([&host.transport])
                .map(TransportPlan::window);
            let window = windows.min().expect("there is one");
            let limits = Limits {
                size: (rate / 8).clamp(10_000, 1 << 20).min(256 * window),
                servers: servers.len(),
                moves: !calm,
                polite: calm && dice.chance(0.5),
            };
            let dual = dice.chance(0.7);
            let lanes = (0..dice.scale(1, 3)).map(|lane| {
                let mut dice = Dice::new(seed, format_args!("client {index} lane {lane}"));
                (0..dice.scale(1, 4))
                    .map(|_| ConnectionPlan::draw(&mut dice, &limits))
                    .map(|plan| ConnectionPlan {
                        ipv6: plan.ipv6 && dual,
                        ..plan
                    })
                    .collect()
            });
            ClientPlan {
                lanes: lanes.collect(),
                host,
                dual,
                closes_endpoint: dice.chance(0.5),
            }
        });
        let mut plan = Self {
            seed,
            kind: Kind::Mixed,
            calm,
            clients: clients.collect(),
            routers,
            nats,
            servers,
            faults: Vec::new(),
            more: More::default(),
            removed: BTreeSet::new(),
        };
        if !calm {
            plan.draw_faults(&mut Dice::new(seed, "faults"));
        }
        plan
    }

    fn draw_faults(&mut self, dice: &mut Dice) {
        let mut nodes = Vec::new();
        nodes.extend((0..self.servers.len()).map(Node::Server));
        nodes.extend((0..self.clients.len()).map(Node::Client));
        let hosts = nodes.clone();
        nodes.extend((0..self.routers.len()).map(Node::Router));
        nodes.extend((0..self.nats.len()).map(Node::Nat));
        for _ in 0..dice.range(0, 10) {
            let what = match dice.range(0, 9) {
                0..=1 => {
                    let node = dice.pick(&nodes);
                    let up = LinkPlan::draw(dice, true);
                    What::Link(node, Box::new((up, LinkPlan::draw(dice, true))))
                }
                2..=4 => {
                    let (up, down) = dice.pick(&[(true, true), (true, false), (false, true)]);
                    What::Cut(dice.pick(&nodes), up, down)
                }
                5 if !self.nats.is_empty() => {
                    What::Rebind(dice.range(0, self.nats.len() as u64 - 1) as usize)
                }
                6 => What::Crash(dice.pick(&hosts)),
                7 => What::Clock(dice.pick(&hosts), dice.range(0, 100_000) as i64 - 50_000),
                _ => What::Pause(dice.pick(&hosts)),
            };
            self.faults.push(Fault {
                at: dice.span(10, 40_000),
                lasts: match what {
                    What::Cut(..) => dice.span(10, 120_000),
                    _ => dice.span(10, 30_000),
                },
                what,
            });
        }
        self.faults.sort_by_key(|it| it.at);
    }

    fn fair(seed: u64, kind: Kind) -> Self {
        let mut dice = Dice::new(seed, "fair");
        let bandwidth = dice.scale(4_000_000, 40_000_000);
        let delay = dice.millis(2, 40);
        let bottleneck = LinkPlan::bottleneck(bandwidth, delay);
        // Fairness is about long transfers: some 20 s in all.
        let streams = match kind {
            Kind::FairStreams => dice.range(2, 12),
            _ => 1,
        };
        let clients = match kind {
            Kind::FairStreams => 1,
            _ => dice.range(2, 4),
        };
        let size = bandwidth / 8 * 20 / streams / clients;
        let stream = StreamPlan {
            there: HalfPlan::plain(size),
            back: None,
            open_cancels: 0,
            gap: Duration::ZERO,
            pushes: Vec::new(),
        };
        let connection = ConnectionPlan {
            after: Duration::ZERO,
            server: 0,
            ipv6: false,
            early: false,
            patience: None,
            tasks: (0..streams)
                .map(|_| (false, TaskPlan::Streams(vec![stream.clone()])))
                .collect(),
            ending: Ending::Close,
            server_key_updates: Vec::new(),
            slow_datagrams: None,
            hasty: None,
        };
        let client = ClientPlan {
            host: HostPlan::plain(Place::Router(0), LinkPlan::clean()),
            dual: false,
            lanes: vec![vec![connection]],
            closes_endpoint: true,
        };
        Self {
            seed,
            kind,
            calm: true,
            routers: vec![(bottleneck.clone(), bottleneck)],
            nats: Vec::new(),
            servers: vec![ServerPlan {
                host: HostPlan::plain(Place::Internet, LinkPlan::clean()),
                retry: false,
                offload: false,
                migration: true,
                refuse: 0.0,
                ignore: 0.0,
                closes_endpoint: true,
            }],
            clients: vec![client; clients as usize],
            faults: Vec::new(),
            more: More::default(),
            removed: BTreeSet::new(),
        }
    }

    /// How many streams share, if it is about fairness.
    pub(crate) fn shares(&self) -> usize {
        let connections = self.clients.iter().flat_map(|it| it.lanes.iter().flatten());
        connections.map(|it| it.tasks.len()).sum()
    }

    fn fair_streams(seed: u64) -> Self {
        Self::fair(seed, Kind::FairStreams)
    }

    fn fair_connections(seed: u64) -> Self {
        Self::fair(seed, Kind::FairConnections)
    }

    /// Everything that can be left out, large parts first.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        for (c, client) in self.clients.iter().enumerate() {
            for (l, lane) in client.lanes.iter().enumerate() {
                parts.push(Part::Lane(c, l));
                for (k, connection) in lane.iter().enumerate() {
                    parts.push(Part::Connection(c, l, k));
                    parts.extend((0..connection.tasks.len()).map(|t| Part::Task(c, l, k, t)));
                }
            }
        }
        parts.extend((0..self.faults.len()).map(Part::Fault));
        parts.sort();
        parts.extend((0..self.servers.len()).map(Part::ServerLink));
        parts.extend((0..self.clients.len()).map(Part::ClientLink));
        parts.extend((0..self.routers.len()).map(Part::RouterLink));
        parts.extend((0..self.nats.len()).map(Part::NatLink));
        parts
    }

    /// Leave a part out. The others stay as they are.
    pub fn remove(&mut self, part: Part) {
        self.removed.insert(part);
        let clean = || (LinkPlan::clean(), LinkPlan::clean());
        match part {
            Part::Task(c, l, k, t) => self.clients[c].lanes[l][k].tasks[t].0 = true,
            Part::ServerLink(n) => self.servers[n].host.link = clean(),
            Part::ClientLink(n) => self.clients[n].host.link = clean(),
            Part::RouterLink(n) => self.routers[n] = clean(),
            Part::NatLink(n) => self.nats[n].link = clean(),
            Part::Fault(_) | Part::Lane(..) | Part::Connection(..) => {}
        }
    }

    pub(crate) fn has(&self, part: Part) -> bool {
        !self.removed.contains(&part)
    }

    /// Faults that were not left out.
    pub(crate) fn faults(&self) -> impl Iterator<Item = &Fault> {
        let all = self.faults.iter().enumerate();
        all.filter(|(index, _)| self.has(Part::Fault(*index)))
            .map(|(_, fault)| fault)
    }

    /// All links there are, or become by faults.
    fn links(&self) -> impl Iterator<Item = &LinkPlan> {
        let hosts = self.servers.iter().map(|it| &it.host);
        let hosts = hosts.chain(self.clients.iter().map(|it| &it.host));
        let hosts = hosts.flat_map(|it| [Some(&it.link), it.second.as_ref()]);
        let between = self
            .routers
            .iter()
            .chain(self.nats.iter().map(|it| &it.link));
        let both = hosts.flatten().chain(between).flat_map(|it| [&it.0, &it.1]);
        both.chain(self.faults.iter().flat_map(|it| match &it.what {
            What::Link(_, both) => vec![&both.0, &both.1],
            _ => Vec::new(),
        }))
    }

    /// Whether any link delivers packets twice.
    pub(crate) fn duplicates(&self) -> bool {
        self.links().any(|it| it.duplicate > 0.0)
    }
}
