//! The way of a connection's packets: what it passes, how long that takes, and what disturbs it.

use std::time::Duration;

use super::links::LinkPlan;
use super::{HostPlan, Node, Place, Plan, What};

/// Clocks are wrong by at most so much, see [`What::Clock`].
const CLOCK_PERCENT: u32 = 106;

impl Plan {
    /// The nodes between a client and the internet by its first interface, or between the internet
    /// and a server.
    fn nodes(&self, end: Node) -> Vec<Node> {
        let place = match end {
            Node::Client(n) => self.clients[n].host.place,
            Node::Server(n) => self.servers[n].host.place,
            Node::Router(_) | Node::Nat(_) => Place::Internet,
        };
        let mut nodes = vec![end];
        match place {
            Place::Internet => {}
            Place::Router(n) => nodes.extend(self.routers_from(n)),
            Place::Nat(n) => {
                nodes.push(Node::Nat(n));
                nodes.extend(
                    self.nats[n]
                        .router
                        .into_iter()
                        .flat_map(|it| self.routers_from(it)),
                );
            }
        }
        nodes
    }

    /// A router, and what is above it.
    fn routers_from(&self, router: usize) -> Vec<Node> {
        let mut nodes = vec![Node::Router(router)];
        if self.more.stacked && router > 0 {
            nodes.push(Node::Router(0));
        }
        nodes
    }

    /// What packets between these two pass.
    pub(crate) fn path(&self, client: usize, server: usize) -> Vec<Node> {
        let mut nodes = self.nodes(Node::Client(client));
        nodes.extend(self.nodes(Node::Server(server)));
        nodes
    }

    /// Whether a node is on the way between a server and the internet.
    pub(crate) fn serves(&self, node: Node, server: usize) -> bool {
        self.nodes(Node::Server(server)).contains(&node)
    }

    /// Bytes that fit into all queues of links.
    pub(crate) fn queues(&self) -> u64 {
        self.links().map(LinkPlan::queue_bytes).sum()
    }

    /// Whether a client has another way, which does not pass the nodes of the first.
    pub(crate) fn has_second(&self, client: usize) -> bool {
        self.clients[client].host.second.is_some()
    }

    /// The NAT that a client is behind.
    pub(crate) fn nat_of(&self, client: usize) -> Option<usize> {
        match self.clients[client].host.place {
            Place::Nat(n) => Some(n),
            Place::Internet | Place::Router(_) => None,
        }
    }

    fn planned(&self, node: Node) -> &(LinkPlan, LinkPlan) {
        match node {
            Node::Server(n) => &self.servers[n].host.link,
            Node::Client(n) => &self.clients[n].host.link,
            Node::Router(n) => &self.routers[n],
            Node::Nat(n) => &self.nats[n].link,
        }
    }

    /// The links of a node, as planned and as faults have them.
    fn all_links(&self, node: Node) -> impl Iterator<Item = &(LinkPlan, LinkPlan)> {
        let faults = self.faults().filter_map(move |fault| match &fault.what {
            What::Link(at, both) if *at == node => Some(&**both),
            _ => None,
        });
        std::iter::once(self.planned(node)).chain(faults)
    }

    /// No round trip between these two takes longer, however full queues are.
    pub(crate) fn worst_round_trip(&self, client: usize, server: usize) -> Duration {
        let both = |link: &(LinkPlan, LinkPlan)| link.0.worst() + link.1.worst();
        let node = |node: Node| {
            let links = self.all_links(node).map(both);
            links.max().unwrap_or_default()
        };
        let first: Duration = self.nodes(Node::Client(client)).into_iter().map(node).sum();
        let second = self.clients[client].host.second.as_ref().map(both);
        let theirs: Duration = self.nodes(Node::Server(server)).into_iter().map(node).sum();
        first.max(second.unwrap_or_default()) + theirs
    }

    /// Whether the links between these two lose, as planned, so much that a connection may be lost.
    pub(crate) fn is_harsh(&self, client: usize, server: usize) -> bool {
        let second = self.clients[client].host.second.iter();
        let path = self.path(client, server);
        path.iter()
            .map(|node| self.planned(*node))
            .chain(second)
            .any(|it| it.0.is_harsh() || it.1.is_harsh())
    }

    /// Whether links between these two lose packets, as planned, other than by full queues.
    pub(crate) fn loses(&self, client: usize, server: usize) -> bool {
        let path = self.path(client, server);
        let mut links = path.iter().map(|node| self.planned(*node));
        links.any(|it| it.0.loses() || it.1.loses())
    }

    /// How long it takes to send so many bytes by the slowest link between these two.
    pub(crate) fn transmission(&self, client: usize, server: usize, bytes: u64) -> Duration {
        let path = self.path(client, server);
        let links = path.iter().map(|node| self.planned(*node));
        let rates = links
            .flat_map(|it| [it.0.bandwidth, it.1.bandwidth])
            .flatten();
        let rate = rates.min().unwrap_or(u64::MAX);
        // With headers.
        Duration::from_secs_f64(bytes as f64 * 10.0 / rate as f64)
    }

    fn hosts(&self, client: usize, server: usize) -> [&HostPlan; 2] {
        [&self.clients[client].host, &self.servers[server].host]
    }

    /// The idle timeout that these two agree on.
    pub(crate) fn idle(&self, client: usize, server: usize) -> Option<Duration> {
        let hosts = self.hosts(client, server);
        hosts.iter().filter_map(|it| it.transport.idle).min()
    }

    /// How often one of these two says something, whatever applications do.
    pub(crate) fn keep_alive(&self, client: usize, server: usize) -> Option<Duration> {
        let hosts = self.hosts(client, server);
        hosts.iter().filter_map(|it| it.transport.keep_alive).min()
    }

    /// The longest that a side of a connection is silent before it gives up: the idle timeout, or three
    /// probe timeouts if these are longer (RFC 9000 section 10.1), by a clock that is wrong.
    ///
    /// A probe timeout is at most four of the largest round-trip times that were measured, or guessed
    /// at first (RFC 9002 section 6.2.1, the peer's delay is at most one more). Who pauses measures the
    /// pause.
    ///
    /// Who does not know the other side yet (`alone`) goes by its own idle timeout, which may be the
    /// longer one.
    pub(crate) fn patience(
        &self,
        client: usize,
        server: usize,
        by: Duration,
        alone: bool,
    ) -> Option<Duration> {
        let hosts = self.hosts(client, server);
        let guessed = hosts.iter().map(|it| it.transport.initial_rtt).max();
        let paused = self.faults().filter_map(|fault| match fault.what {
            What::Pause(Node::Client(n)) if n == client && fault.at < by => Some(fault.lasts),
            What::Pause(Node::Server(n)) if n == server && fault.at < by => Some(fault.lasts),
            _ => None,
        });
        let measured = self.worst_round_trip(client, server) + paused.sum::<Duration>();
        let round_trip = measured.max(guessed.unwrap_or_default());
        let probe = 4 * round_trip + Duration::from_millis(100);
        let idles = hosts.iter().filter_map(|it| it.transport.idle);
        let idle = if alone { idles.max() } else { idles.min() };
        let idle = idle?.max(3 * probe);
        Some(idle * CLOCK_PERCENT / 100 + Duration::from_secs(1))
    }

    /// Whether a fault between these two happens at any time from `from` to `to`.
    pub(crate) fn is_disturbed(
        &self,
        (client, server): (usize, usize),
        (from, to): (Duration, Duration),
    ) -> bool {
        let path = self.path(client, server);
        self.faults().any(|fault| {
            let on_path = match &fault.what {
                What::Link(node, _)
                | What::Cut(node, ..)
                | What::Pause(node)
                | What::Crash(node)
                | What::Clock(node, _) => path.contains(node),
                What::Rebind(nat) => path.contains(&Node::Nat(*nat)),
            };
            on_path && fault.overlaps(from, to)
        })
    }

    /// Whether a NAT may forget a client that is silent for so long, or is told to.
    pub(crate) fn nat_forgets(&self, client: usize, silence: Duration) -> bool {
        self.nat_of(client).is_some_and(|nat| {
            self.nats[nat].timeout <= silence
                || self
                    .faults()
                    .any(|it| matches!(it.what, What::Rebind(n) if n == nat))
        })
    }
}
