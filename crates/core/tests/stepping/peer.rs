//! One side: an endpoint machine, its connections and timers, driven as the crate's documentation
//! says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use polyquic_core::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint,
    EndpointConfig, HandshakeJob, Instant, ServerConfig, SocketTraits, TimerQueue, Transmit,
};

use crate::app::App;
use crate::link::{Datagram, Link};

/// What a server does with connection attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Accept,
    /// Accept only who has proved their address.
    Retry,
    Refuse,
    Ignore,
}

/// One connection and its application.
pub(crate) struct Conn {
    slot: usize,
    pub(crate) machine: Connection,
    pub(crate) app: App,
    pub(crate) drained: bool,
}

/// What one call of `poll_transmit` gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) bytes: usize,
    pub(crate) datagrams: usize,
    pub(crate) ecn: Option<EcnCodepoint>,
}

pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    pub(crate) core: Endpoint,
    pub(crate) admission: Admission,
    /// Whether attempts that were accepted or sent away had proved their address.
    pub(crate) validated: Vec<bool>,
    /// In the order in which they were made; drained ones stay.
    pub(crate) conns: Vec<Conn>,
    slots: BTreeMap<usize, usize>,
    timers: TimerQueue,
    /// Connections that something was done to, by index.
    dirty: BTreeSet<usize>,
    /// What the socket would support.
    pub(crate) max_segments: usize,
    pub(crate) sent: Vec<Sent>,
    /// How often a connection's deadline came due.
    pub(crate) wakeups: usize,
    /// How long TLS takes that is done elsewhere.
    pub(crate) tls_takes: Duration,
    /// Drop it instead.
    pub(crate) drop_jobs: bool,
    /// TLS under way: when it is done, and for which connection.
    pub(crate) jobs: Vec<(Instant, usize, HandshakeJob)>,
    buf: Vec<u8>,
}

const TRAITS: SocketTraits = SocketTraits {
    ipv6: false,
    may_fragment: false,
};

impl Peer {
    pub(crate) fn new(
        addr: SocketAddr,
        config: &EndpointConfig,
        server_config: Option<ServerConfig>,
    ) -> Self {
        Self {
            addr,
            core: Endpoint::new(config, server_config.map(Into::into), TRAITS),
            admission: Admission::Accept,
            validated: Vec::new(),
            conns: Vec::new(),
            slots: BTreeMap::new(),
            timers: TimerQueue::default(),
            dirty: BTreeSet::new(),
            max_segments: 64,
            sent: Vec::new(),
            wakeups: 0,
            tls_takes: Duration::ZERO,
            drop_jobs: false,
            jobs: Vec::new(),
            buf: Vec::new(),
        }
    }

    /// Lose everything, like a process that was killed, and come back with this configuration.
    pub(crate) fn restart(&mut self, config: &EndpointConfig, server_config: Option<ServerConfig>) {
        *self = Self {
            max_segments: self.max_segments,
            ..Self::new(self.addr, config, server_config)
        };
    }

    pub(crate) fn connect(&mut self, now: Instant, config: ClientConfig, to: SocketAddr) -> usize {
        let (handle, machine) = self.core.connect(now, config, to, "localhost").unwrap();
        self.insert(handle, machine)
    }

    fn insert(&mut self, handle: ConnectionHandle, machine: Connection) -> usize {
        let index = self.conns.len();
        self.conns.push(Conn {
            slot: handle.0,
            machine,
            app: App::default(),
            drained: false,
        });
        let old = self.slots.insert(handle.0, index);
        assert!(old.is_none(), "slot {} is in use", handle.0);
        self.dirty.insert(index);
        index
    }

    /// Have a connection looked at: the application did something.
    pub(crate) fn touch(&mut self, index: usize) -> &mut Conn {
        self.dirty.insert(index);
        &mut self.conns[index]
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let jobs = self.jobs.iter().map(|(due, ..)| *due);
        self.timers.next_deadline().into_iter().chain(jobs).min()
    }

    pub(crate) fn scheduled(&self) -> usize {
        self.timers.len()
    }

    /// Take in a datagram that arrived.
    pub(crate) fn handle(&mut self, now: Instant, datagram: Datagram, link: &mut Link) {
        let mut response = std::mem::take(&mut self.buf);
        response.clear();
        let event = self.core.handle(
            now,
            datagram.from,
            Some(self.addr.ip()),
            datagram.ecn(),
            BytesMut::from(&datagram.data[..]),
            &mut response,
        );
        match event {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let index = self.slots[&handle.0];
                let bytes = datagram.data.len();
                self.touch(index)
                    .machine
                    .handle_datagram(event, datagram.from, bytes);
            }
            Some(DatagramEvent::Response(transmit)) => {
                self.respond(now, &transmit, &response, link);
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let validated = incoming.remote_address_validated();
                self.validated.push(validated);
                let answer = match self.admission {
                    Admission::Retry if !validated => {
                        Some(self.core.retry(incoming, &mut response).unwrap())
                    }
                    Admission::Accept | Admission::Retry => {
                        match self.core.accept(incoming, now, &mut response, None) {
                            Ok((handle, machine)) => {
                                self.insert(handle, machine);
                                None
                            }
                            Err(error) => error.response,
                        }
                    }
                    Admission::Refuse => Some(self.core.refuse(incoming, &mut response)),
                    Admission::Ignore => {
                        self.core.ignore(incoming);
                        None
                    }
                };
                if let Some(transmit) = answer {
                    self.respond(now, &transmit, &response, link);
                }
            }
        }
        self.buf = response;
    }

    fn respond(&mut self, now: Instant, transmit: &Transmit, data: &[u8], link: &mut Link) {
        assert_eq!(transmit.segment_size, None, "answers are single datagrams");
        self.transmit(now, transmit, data, link);
    }

    /// Put a batch on the wire, after checking what a socket relies on.
    fn transmit(&mut self, now: Instant, transmit: &Transmit, data: &[u8], link: &mut Link) {
        let contents = &data[..transmit.size];
        let segment = transmit.segment_size.unwrap_or(transmit.size);
        let datagrams = contents.chunks(segment).len();
        assert!(datagrams <= self.max_segments, "{datagrams} datagrams");
        assert!(
            datagrams == 1 || transmit.size <= 65_535 - 48,
            "{} bytes do not fit into one IP packet",
            transmit.size
        );
        self.sent.push(Sent {
            at: now,
            bytes: transmit.size,
            datagrams,
            ecn: transmit.ecn,
        });
        for datagram in contents.chunks(segment) {
            link.send(now, self.addr, transmit.destination, transmit.ecn, datagram);
        }
    }

    /// Make connections dirty whose deadline has passed, or whose TLS is done.
    pub(crate) fn expire_timers(&mut self, now: Instant) {
        while let Some(slot) = self.timers.pop_expired(now) {
            self.wakeups += 1;
            self.dirty.insert(self.slots[&slot]);
        }
        for (_, index, job) in self.jobs.extract_if(.., |(due, ..)| *due <= now) {
            if self.drop_jobs {
                drop(job);
            } else {
                job.run();
            }
            self.core.resume(now, &mut self.conns[index].machine);
            self.dirty.insert(index);
        }
    }

    /// Do what the connections have to do. Only those that are dirty are looked at.
    pub(crate) fn drive(&mut self, now: Instant, link: &mut Link) {
        while let Some(index) = self.dirty.pop_first() {
            self.drive_connection(now, index, link);
        }
    }

    fn drive_connection(&mut self, now: Instant, index: usize, link: &mut Link) {
        if self.conns[index].drained {
            return;
        }
        let machine = &mut self.conns[index].machine;
        if machine.poll_timeout().is_some_and(|at| at <= now) {
            machine.handle_timeout(now);
        }
        let mut buf = std::mem::take(&mut self.buf);
        loop {
            buf.clear();
            let machine = &mut self.conns[index].machine;
            let Some(transmit) = machine.poll_transmit(now, self.max_segments, &mut buf) else {
                break;
            };
            self.transmit(now, &transmit, &buf, link);
        }
        self.buf = buf;
        let Conn { slot, machine, .. } = &mut self.conns[index];
        let slot = *slot;
        if let Some(deadline) = machine.poll_timeout() {
            self.timers.schedule(slot, deadline);
        }
        while let Some(event) = self.conns[index].machine.poll_endpoint_events() {
            let drained = event.is_drained();
            if let Some(answer) = self.core.handle_event(ConnectionHandle(slot), event) {
                self.touch(index).machine.handle_event(answer);
            }
            if drained {
                self.timers.cancel(slot);
                self.slots.remove(&slot);
                self.conns[index].drained = true;
            }
        }
        let Conn { machine, app, .. } = &mut self.conns[index];
        while let Some(event) = machine.poll() {
            if app.handle(now, machine, event) {
                self.dirty.insert(index);
            }
        }
        if let Some(job) = machine.take_handshake_job() {
            self.jobs.push((now + self.tls_takes, index, job));
        }
    }
}
