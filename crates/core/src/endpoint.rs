//! The endpoint machine: from datagrams to connections.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use bytes::BytesMut;
use quinn_proto::{
    AcceptError, ConnectError, ConnectionEvent, ConnectionHandle, DatagramEvent, EcnCodepoint,
    EndpointEvent, Incoming, RetryError, Transmit,
};

use crate::config::{Additions, FirstPacket};
use crate::crypto::offload::Seat;
use crate::crypto::retry;
use crate::deferral::Deferral;
use crate::early::EarlyData;
use crate::gate::Gate;
use crate::{ClientConfig, Connection, EndpointConfig, Instant, ServerConfig, header};

/// What the machine must know of the socket it is used with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketTraits {
    /// Whether the socket's addresses are IPv6; IPv4 peers are then mapped (`::ffff:a.b.c.d`).
    pub ipv6: bool,
    /// Whether the network layer may fragment packets. Path MTU discovery (RFC 8899) is off then.
    pub may_fragment: bool,
}

/// Counters over an endpoint's life.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Handshakes accepted.
    pub accepted_handshakes: u64,
    /// Handshakes started as a client.
    pub outgoing_handshakes: u64,
    /// Connection attempts refused.
    pub refused_handshakes: u64,
    /// Connection attempts ignored.
    pub ignored_handshakes: u64,
    /// Connection attempts that were answered with a Retry packet.
    pub retried_handshakes: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Datagrams received that belonged to no connection and started none.
    pub datagrams_discarded: u64,
    /// Stateless answers that were dropped because too many were waiting to be sent.
    pub responses_dropped: u64,
    /// Changes of socket that failed, the old socket having been kept.
    pub rebind_failures: u64,
    /// Datagrams that arrived at the shard that they belong to (endpoints with several shards).
    pub datagrams_steered: u64,
    /// Datagrams that arrived at another shard, and were handed over.
    pub datagrams_handed_over: u64,
    /// Datagrams that could not be handed over, because too many were waiting.
    pub hand_overs_dropped: u64,
    /// Shards that ended before their time: their driver panicked, its socket failed, or its
    /// executor went away.
    pub shards_lost: u64,
}

impl std::ops::AddAssign for EndpointStats {
    fn add_assign(&mut self, other: Self) {
        // All of them, or the compiler complains.
        let Self {
            accepted_handshakes,
            outgoing_handshakes,
            refused_handshakes,
            ignored_handshakes,
            retried_handshakes,
            datagrams_received,
            datagrams_discarded,
            responses_dropped,
            rebind_failures,
            datagrams_steered,
            datagrams_handed_over,
            hand_overs_dropped,
            shards_lost,
        } = other;
        self.accepted_handshakes += accepted_handshakes;
        self.outgoing_handshakes += outgoing_handshakes;
        self.refused_handshakes += refused_handshakes;
        self.ignored_handshakes += ignored_handshakes;
        self.retried_handshakes += retried_handshakes;
        self.datagrams_received += datagrams_received;
        self.datagrams_discarded += datagrams_discarded;
        self.responses_dropped += responses_dropped;
        self.rebind_failures += rebind_failures;
        self.datagrams_steered += datagrams_steered;
        self.datagrams_handed_over += datagrams_handed_over;
        self.hand_overs_dropped += hand_overs_dropped;
        self.shards_lost += shards_lost;
    }
}

/// Routes datagrams to connections, and makes connections.
///
/// # Kinds of methods
///
/// *Getters*: [`open_connections`](Self::open_connections), [`stats`](Self::stats). *Input*:
/// [`handle`](Self::handle) for datagrams, [`handle_event`](Self::handle_event) for what
/// connections say. *Decisions*: [`connect`](Self::connect), and for each [`Incoming`] exactly one
/// of [`accept`](Self::accept), [`refuse`](Self::refuse), [`retry`](Self::retry),
/// [`ignore`](Self::ignore).
///
/// Methods that take a `Vec<u8>` write the datagram to be sent, described by the [`Transmit`] that
/// they return, into it; it must be empty.
pub struct Endpoint {
    inner: quinn_proto::Endpoint,
    /// Of the current server configuration; connections that were attempted under an older one get
    /// them, too.
    server_additions: Option<Additions>,
    seat: Arc<Seat>,
    /// While TLS may be away.
    early_data: Option<EarlyData>,
    /// Of our clients, for as long as a Retry may be followed.
    first_packets: HashMap<ConnectionHandle, FirstPacket>,
    ipv6: bool,
    stats: EndpointStats,
}

impl Endpoint {
    /// A new endpoint; a server if there is a server configuration.
    pub fn new(
        config: &EndpointConfig,
        server_config: Option<Arc<ServerConfig>>,
        socket: SocketTraits,
    ) -> Self {
        crate::tls::warm_up();
        let seat = Arc::default();
        let early_data = keeps_early_data(server_config.as_deref());
        let (server_config, server_additions) =
            server_config.map(|config| config.parts(&seat)).unzip();
        Self {
            inner: quinn_proto::Endpoint::new(
                Arc::new(config.build()),
                server_config,
                !socket.may_fragment,
                None,
            ),
            server_additions,
            seat,
            early_data: early_data.then(EarlyData::default),
            first_packets: HashMap::new(),
            ipv6: socket.ipv6,
            stats: EndpointStats::default(),
        }
    }

    /// Replace the configuration for future incoming connections; with `None`, attempts to connect
    /// are not answered.
    pub fn set_server_config(&mut self, server_config: Option<Arc<ServerConfig>>) {
        if keeps_early_data(server_config.as_deref()) {
            self.early_data.get_or_insert_default();
        }
        let (server_config, server_additions) =
            server_config.map(|config| config.parts(&self.seat)).unzip();
        self.inner.set_server_config(server_config);
        self.server_additions = server_additions.or(self.server_additions);
    }

    /// Note that the socket was replaced by one of this address family.
    pub fn set_ipv6(&mut self, ipv6: bool) {
        self.ipv6 = ipv6;
    }

    /// Connections that have not been drained yet.
    pub fn open_connections(&self) -> usize {
        self.inner.open_connections()
    }

    /// Counters.
    pub fn stats(&self) -> EndpointStats {
        self.stats
    }

    /// Counters, for the driver to add to.
    pub fn stats_mut(&mut self) -> &mut EndpointStats {
        &mut self.stats
    }

    /// Take in one datagram.
    ///
    /// Never fails: a datagram that makes no sense is discarded and counted.
    pub fn handle(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        ecn: Option<EcnCodepoint>,
        data: BytesMut,
        response: &mut Vec<u8>,
    ) -> Option<DatagramEvent> {
        self.stats.datagrams_received += 1;
        // With receive offload a datagram is a slice of a much larger buffer, which attempts that wait
        // for a decision would keep, and what counts their bytes does not know of.
        let data = match data.first() {
            Some(first) if first & header::LONG != 0 => BytesMut::from(&data[..]),
            _ => data,
        };
        if let Some(early_data) = &mut self.early_data {
            early_data.keep(remote, ecn, &data);
        }
        // A copy, because only the routing tells whose it is.
        let answer = (!self.first_packets.is_empty() && header::answers_first_packet(&data))
            .then(|| data.clone());
        let mut event = self
            .inner
            .handle(now, remote, local_ip, ecn, data, response);
        if let (Some(answer), Some(DatagramEvent::ConnectionEvent(handle, _))) = (answer, &event)
            && !self.may_follow(*handle, &answer)
        {
            event = None;
        }
        if event.is_none() {
            self.stats.datagrams_discarded += 1;
        }
        event
    }

    /// Whether the connection may be given this datagram, which negotiates the version or ends in a
    /// Retry packet.
    ///
    /// quinn-proto judges them, too, but takes only the first, and counts the wrong ones: a damaged
    /// one would end the handshake.
    fn may_follow(&mut self, handle: ConnectionHandle, datagram: &[u8]) -> bool {
        let Some(first) = self.first_packets.get(&handle) else {
            return true;
        };
        if let Some(mut versions) = header::offered_versions(datagram) {
            // It was not an answer to us (RFC 9000 section 6.2).
            return !versions.any(|version| version == first.version);
        }
        let Some(retry) = header::retry_in(datagram) else {
            return true;
        };
        match retry::is_genuine(&retry, &first.dst_cid) {
            Some(true) => {
                self.first_packets.remove(&handle);
                true
            }
            Some(false) => false,
            // Of a version that quinn-proto does not know, either. A right one may yet come.
            None => true,
        }
    }

    /// Take in what a connection has to say; the answer, if any, goes back to that connection.
    pub fn handle_event(
        &mut self,
        handle: ConnectionHandle,
        event: EndpointEvent,
    ) -> Option<ConnectionEvent> {
        // The first of them is about ids for after the handshake, or the end: no Retry is due then.
        self.first_packets.remove(&handle);
        self.inner.handle_event(handle, event)
    }

    /// Start a connection to `remote`, whose certificate must be valid for `server_name`.
    ///
    /// # Errors
    ///
    /// Bad parameters: an address of the wrong family or with port 0, a malformed name, a version
    /// that this endpoint does not speak; or no connection ids left.
    pub fn connect(
        &mut self,
        now: Instant,
        config: ClientConfig,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<(ConnectionHandle, Connection), ConnectError> {
        let remote = match remote {
            SocketAddr::V6(_) if !self.ipv6 => {
                return Err(ConnectError::InvalidRemoteAddress(remote));
            }
            SocketAddr::V4(v4) if self.ipv6 => {
                SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into()
            }
            _ => remote,
        };
        let (config, additions, first) = config.into_parts();
        let gate = Arc::<Gate>::default();
        let (handle, connection) =
            gate.around(|| self.inner.connect(now, config, remote, server_name))?;
        self.first_packets.insert(handle, first);
        self.stats.outgoing_handshakes += 1;
        let connection = Connection::new(connection, gate, now, additions, None);
        Ok((handle, connection))
    }

    /// Accept a connection attempt, with another configuration if one is given.
    ///
    /// # Errors
    ///
    /// Why the handshake failed at once, and possibly what to answer. A client that closed the
    /// connection in its first packet counts as well.
    pub fn accept(
        &mut self,
        incoming: Incoming,
        now: Instant,
        response: &mut Vec<u8>,
        server_config: Option<Arc<ServerConfig>>,
    ) -> Result<(ConnectionHandle, Connection), Box<AcceptError>> {
        let validated = incoming.remote_address_validated();
        if keeps_early_data(server_config.as_deref()) {
            self.early_data.get_or_insert_default();
        }
        let (server_config, additions) =
            server_config.map(|config| config.parts(&self.seat)).unzip();
        let additions = additions
            .or(self.server_additions)
            .expect("nobody connects unless there is a server");
        let gate = Arc::<Gate>::default();
        let accepted = gate.around(|| {
            let accepted = (self.inner).accept(incoming, now, response, server_config);
            accepted.map_err(Box::new)
        });
        let deferral = (self.seat.take()).map(|link| Deferral::new(link, validated));
        match accepted {
            Ok((handle, mut connection)) if connection.is_closed() => {
                // A client that gave up before its first packet says so in it. quinn-proto then waits
                // for nothing that would end the connection but its idle timeout, if it has one.
                // What a client did wrong in a packet that came before this call it is told.
                let answer = connection.poll_transmit(now, 1, response);
                self.inner.handle_event(handle, EndpointEvent::drained());
                let cause = std::iter::from_fn(|| connection.poll())
                    .find_map(|event| match event {
                        quinn_proto::Event::ConnectionLost { reason } => Some(reason),
                        _ => None,
                    })
                    .unwrap_or(quinn_proto::ConnectionError::Reset);
                Err(Box::new(AcceptError {
                    cause,
                    response: answer,
                }))
            }
            Ok((handle, connection)) => {
                self.stats.accepted_handshakes += 1;
                let connection = Connection::new(connection, gate, now, additions, deferral);
                Ok((handle, connection))
            }
            Err(error) => Err(error),
        }
    }

    /// Have a connection of this endpoint go on whose [`HandshakeJob`](crate::HandshakeJob) was run
    /// or dropped. Drain it afterwards. Harmless if it has ended meanwhile, or waits for nothing.
    pub fn resume(&mut self, now: Instant, connection: &mut Connection) {
        let (remote, local_ip) = (connection.remote_address(), connection.local_ip());
        let closed = connection.is_closed();
        let Some(deferral) = connection.deferral() else {
            return;
        };
        let held = deferral.release();
        if closed {
            return;
        }
        let Some(data_ready) = deferral.link.deliver() else {
            return;
        };
        deferral.data_ready = data_ready;
        let link = deferral.link.clone();
        if let Some(packet) = link.packet() {
            link.set_open(true);
            self.inject(now, connection, remote, local_ip, None, packet);
            link.set_open(false);
        }
        let early = (self.early_data.as_mut().zip(link.cid()))
            .map(|(early_data, cid)| early_data.take(cid))
            .unwrap_or_default();
        // What came from elsewhere does not count, nor would it be taken.
        for packets in early.into_iter().filter(|it| it.remote == remote) {
            let (from, ecn, data) = (packets.remote, packets.ecn, packets.data);
            self.inject(now, connection, from, local_ip, ecn, data);
        }
        for event in held {
            connection.handle_event(event);
        }
    }

    /// Give a connection a datagram that does not come from the network, or came before.
    fn inject(
        &mut self,
        now: Instant,
        connection: &mut Connection,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        ecn: Option<EcnCodepoint>,
        data: BytesMut,
    ) {
        let bytes = data.len();
        let mut response = Vec::new();
        let event = self
            .inner
            .handle(now, remote, local_ip, ecn, data, &mut response);
        // Nothing else: it is for the connection id that this connection began with.
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            connection.inject(event, bytes);
        }
    }

    /// Refuse a connection attempt with CONNECTION_REFUSED (RFC 9000 section 20.1).
    pub fn refuse(&mut self, incoming: Incoming, response: &mut Vec<u8>) -> Transmit {
        self.stats.refused_handshakes += 1;
        self.inner.refuse(incoming, response)
    }

    /// Have the peer prove that it receives at its address (RFC 9000 section 8.1.2).
    ///
    /// # Errors
    ///
    /// Gives `incoming` back when it already bears a Retry token.
    pub fn retry(
        &mut self,
        incoming: Incoming,
        response: &mut Vec<u8>,
    ) -> Result<Transmit, RetryError> {
        let transmit = self.inner.retry(incoming, response)?;
        self.stats.retried_handshakes += 1;
        Ok(transmit)
    }

    /// Forget a connection attempt without an answer.
    pub fn ignore(&mut self, incoming: Incoming) {
        self.stats.ignored_handshakes += 1;
        self.inner.ignore(incoming);
    }
}

fn keeps_early_data(config: Option<&ServerConfig>) -> bool {
    config.is_some_and(ServerConfig::offloads_handshakes)
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("open_connections", &self.open_connections())
            .field("ipv6", &self.ipv6)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
