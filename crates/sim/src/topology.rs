//! Handles to what is between hosts.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use crate::net::{INTERNET, Kind, NodeId, PipeId};
use crate::world::World;
use crate::{Link, LinkStats, Packet, Verdict};

/// What something is placed below, see [`Sim::host_below`](crate::Sim::host_below).
#[derive(Debug, Clone, Copy)]
pub struct Below(pub(crate) NodeId);

/// The internet, which everything is below: perfect itself, and reached by links that are not.
#[derive(Debug, Clone, Copy)]
pub struct Internet;

impl From<Internet> for Below {
    fn from(_: Internet) -> Self {
        Self(INTERNET)
    }
}

/// What connects something with what is above it. Up is towards the internet, down is away from it.
#[derive(Clone)]
pub struct Access {
    pub(crate) world: Rc<World>,
    pub(crate) node: NodeId,
}

impl Access {
    fn pipe<T>(&self, id: PipeId, f: impl FnOnce(&mut crate::net::pipe::Pipe) -> T) -> T {
        f(self.world.net.borrow_mut().pipe(id))
    }

    /// Make it like this, both ways. What waits in queues stays there.
    pub fn set(&self, link: Link) {
        self.set_up(link.clone());
        self.set_down(link);
    }

    /// Make it like this on the way up.
    pub fn set_up(&self, link: Link) {
        self.pipe(PipeId::Up(self.node), |pipe| pipe.link = link);
    }

    /// Make it like this on the way down.
    pub fn set_down(&self, link: Link) {
        self.pipe(PipeId::Down(self.node), |pipe| pipe.link = link);
    }

    /// How it is on the way up.
    pub fn up(&self) -> Link {
        self.pipe(PipeId::Up(self.node), |pipe| pipe.link.clone())
    }

    /// How it is on the way down.
    pub fn down(&self) -> Link {
        self.pipe(PipeId::Down(self.node), |pipe| pipe.link.clone())
    }

    /// Lose everything, both ways, until [`mend`](Self::mend): a partition.
    pub fn cut(&self) {
        self.cut_up(true);
        self.cut_down(true);
    }

    /// End a [`cut`](Self::cut).
    pub fn mend(&self) {
        self.cut_up(false);
        self.cut_down(false);
    }

    /// Lose everything on the way up, or no more.
    pub fn cut_up(&self, cut: bool) {
        self.pipe(PipeId::Up(self.node), |pipe| pipe.cut = cut);
    }

    /// Lose everything on the way down, or no more.
    pub fn cut_down(&self, cut: bool) {
        self.pipe(PipeId::Down(self.node), |pipe| pipe.cut = cut);
    }

    /// Have each packet on the way up looked at: it can be changed, or dropped. This is how chosen
    /// packets are lost, and what attackers on the path do. Replaces an earlier one. It must not call
    /// into the simulation.
    pub fn filter_up(&self, filter: impl FnMut(&mut Packet) -> Verdict + 'static) {
        self.pipe(PipeId::Up(self.node), |pipe| {
            pipe.filter = Some(Box::new(filter));
        });
    }

    /// The same on the way down.
    pub fn filter_down(&self, filter: impl FnMut(&mut Packet) -> Verdict + 'static) {
        self.pipe(PipeId::Down(self.node), |pipe| {
            pipe.filter = Some(Box::new(filter));
        });
    }

    /// What happened on the way up so far.
    pub fn stats_up(&self) -> LinkStats {
        self.pipe(PipeId::Up(self.node), |pipe| pipe.stats)
    }

    /// What happened on the way down so far.
    pub fn stats_down(&self) -> LinkStats {
        self.pipe(PipeId::Down(self.node), |pipe| pipe.stats)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let net = self.world.net.borrow();
        write!(f, "Access({})", net.nodes[self.node].name)
    }
}

/// An interface of a host: addresses, and a link to what is above.
#[derive(Debug, Clone)]
pub struct Interface(pub(crate) Access);

impl Interface {
    /// Its IPv4 address.
    pub fn ip(&self) -> IpAddr {
        self.addresses().0
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> IpAddr {
        self.addresses().1
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        let net = self.0.world.net.borrow();
        net.addresses(self.0.node).expect("interfaces have some")
    }

    /// Its link.
    pub fn access(&self) -> Access {
        self.0.clone()
    }
}

/// Forwards packets between what is below it and what is above.
#[derive(Debug, Clone)]
pub struct Router(pub(crate) Access);

impl Router {
    /// Its link to what is above: a bottleneck that all below share.
    pub fn access(&self) -> Access {
        self.0.clone()
    }
}

impl From<&Router> for Below {
    fn from(router: &Router) -> Self {
        Self(router.0.node)
    }
}

/// Translates the addresses of what is below it into its own.
#[derive(Debug, Clone)]
pub struct Nat(pub(crate) Access);

impl Nat {
    /// Its link to what is above.
    pub fn access(&self) -> Access {
        self.0.clone()
    }

    /// Its IPv4 address outside.
    pub fn ip(&self) -> IpAddr {
        let net = self.0.world.net.borrow();
        net.addresses(self.0.node).expect("a NAT has some").0
    }

    /// Forget all mappings, as when it is restarted: what comes from inside next gets other ports.
    pub fn rebind(&self) {
        let mut net = self.0.world.net.borrow_mut();
        if let Kind::Nat(nat) = &mut net.nodes[self.0.node].kind {
            nat.forget();
        }
    }
}

impl From<&Nat> for Below {
    fn from(nat: &Nat) -> Self {
        Self(nat.0.node)
    }
}
