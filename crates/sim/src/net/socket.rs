//! What is bound on hosts, and what waits there to be received.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::task::Waker;

use rustc_hash::FxHashMap;

use super::packet::{Packet, mapped};
use super::{HostId, unspecified};
use crate::trace::Fate;

/// Where ports that nobody asked for begin (RFC 6335 section 6).
const FIRST_EPHEMERAL: u16 = 49_152;

pub(crate) type SocketId = u64;

#[derive(Default)]
pub(crate) struct Sockets {
    bound: FxHashMap<(HostId, SocketAddr), SocketId>,
    open: FxHashMap<SocketId, Bound>,
    next: SocketId,
}

pub(crate) struct Bound {
    pub(crate) host: HostId,
    pub(crate) addr: SocketAddr,
    pub(crate) received: VecDeque<Packet>,
    /// With headers, so that empty ones count.
    bytes: u64,
    capacity: u64,
    waker: Option<Waker>,
}

impl Bound {
    pub(crate) fn take(&mut self) -> Option<Packet> {
        let packet = self.received.pop_front()?;
        self.bytes -= packet.size();
        Some(packet)
    }

    /// Be told when there is something.
    pub(crate) fn wait(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

impl Sockets {
    /// `capacity` is that of the receive buffer in bytes.
    pub(crate) fn bind(
        &mut self,
        host: HostId,
        mut addr: SocketAddr,
        capacity: usize,
    ) -> io::Result<SocketId> {
        if addr.port() == 0 {
            let free = (FIRST_EPHEMERAL..=u16::MAX).find(|&port| {
                addr.set_port(port);
                !self.in_use(host, addr)
            });
            free.ok_or(ErrorKind::AddrInUse)?;
        } else if self.in_use(host, addr) {
            return Err(ErrorKind::AddrInUse.into());
        }
        self.next += 1;
        self.bound.insert((host, addr), self.next);
        self.open.insert(
            self.next,
            Bound {
                host,
                addr,
                received: VecDeque::new(),
                bytes: 0,
                capacity: capacity as u64,
                waker: None,
            },
        );
        Ok(self.next)
    }

    /// As on Linux: an unspecified address and another one exclude each other.
    fn in_use(&self, host: HostId, addr: SocketAddr) -> bool {
        if addr.ip().is_unspecified() {
            return self
                .bound
                .keys()
                .any(|(owner, other)| *owner == host && other.port() == addr.port());
        }
        self.bound.contains_key(&(host, addr))
            || self.bound.contains_key(&(host, unspecified(addr)))
    }

    pub(crate) fn get(&mut self, id: SocketId) -> Option<&mut Bound> {
        self.open.get_mut(&id)
    }

    pub(crate) fn close(&mut self, id: SocketId) {
        if let Some(socket) = self.open.remove(&id) {
            self.bound.remove(&(socket.host, socket.addr));
        }
    }

    /// Close all of a host's.
    pub(crate) fn close_all(&mut self, host: HostId) {
        self.bound.retain(|(owner, _), _| *owner != host);
        self.open.retain(|_, socket| socket.host != host);
    }

    /// Returns who is to be woken.
    pub(crate) fn deliver(&mut self, host: HostId, packet: &Packet) -> Result<Option<Waker>, Fate> {
        let dst = packet.dst;
        let id = [dst, unspecified(dst), unspecified(mapped(dst))]
            .into_iter()
            .find_map(|addr| self.bound.get(&(host, addr)))
            .ok_or(Fate::NobodyListens)?;
        let socket = self.open.get_mut(id).expect("what is bound is open");
        if socket.bytes + packet.size() > socket.capacity {
            return Err(Fate::BufferFull);
        }
        socket.bytes += packet.size();
        socket.received.push_back(packet.clone());
        Ok(socket.waker.take())
    }
}
