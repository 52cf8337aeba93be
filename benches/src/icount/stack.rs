//! The two stacks, stepped by the same source text.
//!
//! polyquic-core has quinn-proto's names, so one macro serves both and neither gets a path of its
//! own. Three things differ, as they do in the libraries that are built on the two:
//!
//! - how an endpoint is made and seeded;
//! - how many datagrams one `poll_transmit` may hold: quinn asks for at most 10, polyquic's
//!   connection decides by itself within what the socket supports;
//! - polyquic-core has a queue for the timers of all connections, which is part of what is counted;
//!   quinn-proto leaves timers to its caller, and quinn to the executor.

use std::time::{Duration, Instant};

/// There and back takes twice this.
const LATENCY: Duration = Duration::from_micros(50);
/// Datagrams that a side takes in before it looks at what to send.
const RECEIVE_BATCH: usize = 64;
/// Largest batch that quinn asks quinn-proto for.
const QUINN_SEGMENTS: usize = 10;
/// What a socket on Linux supports.
const SOCKET_SEGMENTS: usize = 64;
/// Nothing here takes longer in virtual time, unless it is stuck.
const LIMIT: Duration = Duration::from_secs(600);

/// The UDP payload of a full packet; there is no search for larger ones, as in the benchmarks.
const PACKET_BYTES: u16 = 1452;
const STREAM_WINDOW_BYTES: u32 = 1_250_000;
const SEND_WINDOW_BYTES: u64 = 10_000_000;
const STREAMS: u32 = 100;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The deadline of the only connection there is, for a stack that has no queue of its own.
#[derive(Default)]
struct OneTimer(Option<Instant>);

impl OneTimer {
    fn schedule(&mut self, _slot: usize, deadline: Instant) {
        self.0 = Some(deadline);
    }

    fn cancel(&mut self, _slot: usize) {
        self.0 = None;
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.0
    }

    fn pop_expired(&mut self, now: Instant) -> Option<usize> {
        self.0.take_if(|deadline| *deadline <= now).map(|_| 0)
    }
}

macro_rules! impl_stack {
    ($library:ident, $timers:ty, $max_segments:expr, $endpoint:expr) => {
        use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Instant};

        use anyhow::{Context, Result, bail, ensure};
        use bytes::{Bytes, BytesMut};
        use $library::{
            ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event,
            FinishError, ReadError, ServerConfig, StreamEvent, StreamId, TransportConfig, VarInt,
            WriteError,
            crypto::rustls::{QuicClientConfig, QuicServerConfig},
        };

        use crate::{
            app::{CHUNK_BYTES, Done, REQUEST_BYTES, REQUESTS_AT_ONCE, RESPONSE_BYTES, Workload},
            measured_client, measured_server, tls,
        };

        /// Runs the warm-up and the measured part.
        pub(crate) fn run(workload: Workload) -> Result<Done> {
            let (amount, warmup) = workload.amounts();
            let mut pair = Pair::new(workload)?;
            pair.run(warmup).context("warming up")?;
            pair.measured = true;
            let before = pair.done;
            let start = pair.now;
            pair.run(amount)?;
            Ok(Done {
                operations: amount,
                datagrams_up: pair.done.datagrams_up - before.datagrams_up,
                datagrams_down: pair.done.datagrams_down - before.datagrams_down,
                virtual_time: pair.now - start,
            })
        }

        fn transport() -> Result<Arc<TransportConfig>> {
            let mut transport = TransportConfig::default();
            transport
                .initial_mtu(super::PACKET_BYTES)
                .mtu_discovery_config(None)
                .stream_receive_window(super::STREAM_WINDOW_BYTES.into())
                .receive_window(VarInt::MAX)
                .send_window(super::SEND_WINDOW_BYTES)
                .max_concurrent_bidi_streams(super::STREAMS.into())
                .max_concurrent_uni_streams(super::STREAMS.into())
                .max_idle_timeout(Some(super::IDLE_TIMEOUT.try_into()?));
            Ok(Arc::new(transport))
        }

        /// Client and server, and what is under way between them.
        struct Pair {
            workload: Workload,
            now: Instant,
            client: Peer,
            server: Peer,
            client_config: ClientConfig,
            up: VecDeque<(Instant, BytesMut)>,
            down: VecDeque<(Instant, BytesMut)>,
            measured: bool,
            done: Done,
        }

        impl Pair {
            fn new(workload: Workload) -> Result<Self> {
                let (server_tls, client_tls) = tls::configs()?;
                let transport = transport()?;
                let mut server =
                    ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server_tls)?));
                server.transport_config(transport.clone());
                let client_tls = Arc::new(QuicClientConfig::try_from(client_tls)?);
                let mut client_config = ClientConfig::new(client_tls);
                client_config.transport_config(transport);
                Ok(Self {
                    workload,
                    // The only look at a clock; nothing waits for it.
                    now: Instant::now(),
                    client: Peer::new(([10, 0, 0, 1], 1000).into(), $endpoint(1, None)),
                    server: Peer::new(([10, 0, 0, 2], 4433).into(), $endpoint(2, Some(server))),
                    client_config,
                    up: VecDeque::new(),
                    down: VecDeque::new(),
                    measured: false,
                    done: Done::default(),
                })
            }

            /// `amount` operations of the workload, from the first to the last instruction.
            fn run(&mut self, amount: u64) -> Result<()> {
                if self.workload == Workload::Handshakes {
                    for _ in 0..amount {
                        self.connect()?;
                        self.run_until(|pair| pair.is_connected())?;
                        let now = self.now;
                        self.client(|peer| peer.close(now))?;
                        self.run_until(|pair| {
                            pair.client.connection.is_none() && pair.server.connection.is_none()
                        })?;
                    }
                    return Ok(());
                }
                if self.client.connection.is_none() {
                    self.connect()?;
                    self.run_until(|pair| pair.is_connected())?;
                }
                let now = self.now;
                self.client.app.completed = 0;
                match self.workload {
                    Workload::Transfer => {
                        self.server(|peer| peer.send(now, amount))?;
                    }
                    _ => {
                        self.client(|peer| peer.request(now, amount))?;
                    }
                }
                self.run_until(|pair| pair.client.app.completed >= amount)?;
                ensure!(
                    self.client.app.completed == amount,
                    "{} instead of {amount}",
                    self.client.app.completed
                );
                Ok(())
            }

            fn connect(&mut self) -> Result<()> {
                let (now, to) = (self.now, self.server.address);
                let config = self.client_config.clone();
                self.client(|peer| peer.connect(now, config, to))
            }

            fn is_connected(&self) -> bool {
                self.client.app.connected && self.server.app.connected
            }

            fn run_until(&mut self, mut done: impl FnMut(&Self) -> bool) -> Result<()> {
                let limit = self.now + super::LIMIT;
                while !done(self) {
                    let next = [
                        self.up.front().map(|(at, _)| *at),
                        self.down.front().map(|(at, _)| *at),
                        self.client.timers.next_deadline(),
                        self.server.timers.next_deadline(),
                    ];
                    let next = next.into_iter().flatten().min().context("stuck")?;
                    ensure!(next < limit, "not done in {:?}", super::LIMIT);
                    self.now = self.now.max(next);
                    let now = self.now;
                    if let Some(inbox) = take_arrived(&mut self.up, now)
                        .or_else(|| self.server.is_due(now).then(Vec::new))
                    {
                        let from = self.client.address;
                        self.server(|peer| peer.step(now, from, inbox))?;
                    }
                    if let Some(inbox) = take_arrived(&mut self.down, now)
                        .or_else(|| self.client.is_due(now).then(Vec::new))
                    {
                        let from = self.server.address;
                        self.client(|peer| peer.step(now, from, inbox))?;
                    }
                }
                Ok(())
            }

            /// Lets the client do something, and sends what came of it.
            fn client(&mut self, step: impl FnOnce(&mut Peer) -> Result<()>) -> Result<()> {
                if self.measured {
                    measured_client(|| step(&mut self.client))?;
                } else {
                    step(&mut self.client)?;
                }
                let arrival = self.now + super::LATENCY;
                self.done.datagrams_up += self.client.flush(arrival, &mut self.up);
                Ok(())
            }

            /// The same for the server.
            fn server(&mut self, step: impl FnOnce(&mut Peer) -> Result<()>) -> Result<()> {
                if self.measured {
                    measured_server(|| step(&mut self.server))?;
                } else {
                    step(&mut self.server)?;
                }
                let arrival = self.now + super::LATENCY;
                self.done.datagrams_down += self.server.flush(arrival, &mut self.down);
                Ok(())
            }
        }

        /// What has arrived, as much as one look at a socket would bring.
        fn take_arrived(
            link: &mut VecDeque<(Instant, BytesMut)>,
            now: Instant,
        ) -> Option<Vec<BytesMut>> {
            let arrived = link.iter().take_while(|(at, _)| *at <= now).count();
            if arrived == 0 {
                return None;
            }
            let batch = link.drain(..arrived.min(super::RECEIVE_BATCH));
            Some(batch.map(|(_, datagram)| datagram).collect())
        }

        /// One side: an endpoint, its only connection, and the application on that.
        struct Peer {
            address: SocketAddr,
            endpoint: Endpoint,
            connection: Option<(ConnectionHandle, Connection)>,
            timers: $timers,
            app: App,
            /// What was sent and is to be put on the wire, with the size of a datagram.
            outbox: Vec<(Vec<u8>, usize)>,
            /// Buffers that are empty again.
            buffers: Vec<Vec<u8>>,
        }

        impl Peer {
            fn new(address: SocketAddr, endpoint: Endpoint) -> Self {
                Self {
                    address,
                    endpoint,
                    connection: None,
                    timers: Default::default(),
                    app: App::default(),
                    outbox: Vec::new(),
                    buffers: Vec::new(),
                }
            }

            fn is_due(&self, now: Instant) -> bool {
                self.timers.next_deadline().is_some_and(|at| at <= now)
            }

            /// The network's part, which is not measured.
            fn flush(&mut self, arrival: Instant, link: &mut VecDeque<(Instant, BytesMut)>) -> u64 {
                let mut datagrams = 0;
                for (mut buffer, segment) in self.outbox.drain(..) {
                    for datagram in buffer.chunks(segment) {
                        link.push_back((arrival, BytesMut::from(datagram)));
                        datagrams += 1;
                    }
                    buffer.clear();
                    self.buffers.push(buffer);
                }
                datagrams
            }

            fn connect(
                &mut self,
                now: Instant,
                config: ClientConfig,
                to: SocketAddr,
            ) -> Result<()> {
                self.connection = Some(self.endpoint.connect(now, config, to, "localhost")?);
                self.app = App::default();
                self.drive(now)
            }

            fn close(&mut self, now: Instant) -> Result<()> {
                let (_, connection) = self.connection.as_mut().context("no connection")?;
                connection.close(now, VarInt::from_u32(0), Bytes::new());
                self.drive(now)
            }

            fn send(&mut self, now: Instant, bytes: u64) -> Result<()> {
                let (_, connection) = self.connection.as_mut().context("no connection")?;
                let stream = match self.app.upload {
                    Some(stream) => stream,
                    None => {
                        let stream = connection.streams().open(Dir::Uni);
                        *self.app.upload.insert(stream.context("no stream")?)
                    }
                };
                self.app.unsent += bytes;
                self.app.fill(connection, stream)?;
                self.drive(now)
            }

            fn request(&mut self, now: Instant, count: u64) -> Result<()> {
                let (_, connection) = self.connection.as_mut().context("no connection")?;
                self.app.wanted = count;
                self.app.ask(connection)?;
                self.drive(now)
            }

            /// Takes in what has arrived and does what is due.
            fn step(&mut self, now: Instant, from: SocketAddr, inbox: Vec<BytesMut>) -> Result<()> {
                for datagram in inbox {
                    let mut response = self.buffers.pop().unwrap_or_default();
                    let local = Some(self.address.ip());
                    let event =
                        self.endpoint
                            .handle(now, from, local, None, datagram, &mut response);
                    match event {
                        None => {}
                        Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                            if let Some((own, connection)) = &mut self.connection
                                && *own == handle
                            {
                                connection.handle_event(event);
                            }
                        }
                        Some(DatagramEvent::NewConnection(incoming)) => {
                            let accepted = self.endpoint.accept(incoming, now, &mut response, None);
                            self.connection =
                                Some(accepted.ok().context("the attempt was not accepted")?);
                            self.app = App::default();
                        }
                        Some(DatagramEvent::Response(_)) => bail!("an answer without a connection"),
                    }
                    response.clear();
                    self.buffers.push(response);
                }
                while self.timers.pop_expired(now).is_some() {
                    if let Some((_, connection)) = &mut self.connection {
                        connection.handle_timeout(now);
                    }
                }
                self.drive(now)
            }

            fn drive(&mut self, now: Instant) -> Result<()> {
                loop {
                    let Some((handle, connection)) = &mut self.connection else {
                        return Ok(());
                    };
                    loop {
                        let mut buffer = self.buffers.pop().unwrap_or_default();
                        match connection.poll_transmit(now, $max_segments, &mut buffer) {
                            Some(transmit) => {
                                let segment = transmit.segment_size.unwrap_or(transmit.size);
                                buffer.truncate(transmit.size);
                                self.outbox.push((buffer, segment));
                            }
                            None => {
                                self.buffers.push(buffer);
                                break;
                            }
                        }
                    }
                    match connection.poll_timeout() {
                        Some(deadline) => self.timers.schedule(handle.0, deadline),
                        None => self.timers.cancel(handle.0),
                    }
                    let mut drained = false;
                    while let Some(event) = connection.poll_endpoint_events() {
                        drained |= event.is_drained();
                        if let Some(answer) = self.endpoint.handle_event(*handle, event) {
                            connection.handle_event(answer);
                        }
                    }
                    if drained {
                        self.timers.cancel(handle.0);
                        self.connection = None;
                        return Ok(());
                    }
                    let mut acted = false;
                    while let Some(event) = connection.poll() {
                        acted |= self.app.handle(connection, event)?;
                    }
                    if !acted {
                        return Ok(());
                    }
                }
            }
        }

        /// The application of either side, in all workloads.
        #[derive(Default)]
        struct App {
            connected: bool,
            /// Bytes received, or responses.
            completed: u64,
            /// Requests yet to be started, and under way.
            wanted: u64,
            under_way: u64,
            upload: Option<StreamId>,
            unsent: u64,
            chunk: Bytes,
        }

        impl App {
            /// Whether anything was done to the connection.
            fn handle(&mut self, connection: &mut Connection, event: Event) -> Result<bool> {
                match event {
                    Event::Connected => {
                        self.connected = true;
                        return Ok(false);
                    }
                    Event::ConnectionLost { .. } | Event::HandshakeDataReady => return Ok(false),
                    Event::Stream(StreamEvent::Opened { dir }) => {
                        while let Some(stream) = connection.streams().accept(dir) {
                            self.read(connection, stream)?;
                        }
                    }
                    Event::Stream(StreamEvent::Readable { id }) => self.read(connection, id)?,
                    Event::Stream(StreamEvent::Writable { id }) => self.fill(connection, id)?,
                    Event::Stream(StreamEvent::Available { .. }) => self.ask(connection)?,
                    Event::Stream(StreamEvent::Finished { .. }) => return Ok(false),
                    other => bail!("unexpected: {other:?}"),
                }
                Ok(true)
            }

            /// Writes to the stream whatever it takes of what is to be sent.
            fn fill(&mut self, connection: &mut Connection, stream: StreamId) -> Result<()> {
                if self.chunk.is_empty() {
                    self.chunk = Bytes::from(vec![0x5a; CHUNK_BYTES]);
                }
                let mut stream = connection.send_stream(stream);
                while self.unsent > 0 {
                    let len = self.unsent.min(CHUNK_BYTES as u64) as usize;
                    let mut chunks = [self.chunk.slice(..len)];
                    match stream.write_chunks(&mut chunks) {
                        Ok(written) => self.unsent -= written.bytes as u64,
                        Err(WriteError::Blocked) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(())
            }

            /// Starts requests, as many as may be under way.
            fn ask(&mut self, connection: &mut Connection) -> Result<()> {
                while self.wanted > 0 && self.under_way < REQUESTS_AT_ONCE {
                    let Some(stream) = connection.streams().open(Dir::Bi) else {
                        return Ok(());
                    };
                    self.wanted -= 1;
                    self.under_way += 1;
                    write(connection, stream, &[0x5a; REQUEST_BYTES])?;
                }
                Ok(())
            }

            /// Reads whatever there is, and reacts to the end of a request or a response.
            fn read(&mut self, connection: &mut Connection, id: StreamId) -> Result<()> {
                let mut stream = connection.recv_stream(id);
                // A stream that was read to its end has nothing more to say.
                let Ok(mut chunks) = stream.read(true) else {
                    return Ok(());
                };
                let mut bytes = 0;
                let finished = loop {
                    match chunks.next(usize::MAX) {
                        Ok(Some(chunk)) => bytes += chunk.bytes.len() as u64,
                        Ok(None) => break true,
                        Err(ReadError::Blocked) => break false,
                        Err(error) => return Err(error.into()),
                    }
                };
                // The connection is looked at after this in any case.
                let _ = chunks.finalize();
                if id.dir() == Dir::Uni {
                    self.completed += bytes;
                } else if finished && connection.side().is_server() {
                    write(connection, id, &[0x5a; RESPONSE_BYTES])?;
                } else if finished {
                    self.completed += 1;
                    self.under_way -= 1;
                    self.ask(connection)?;
                }
                Ok(())
            }
        }

        /// Writes something small, which is everything.
        fn write(connection: &mut Connection, id: StreamId, data: &[u8]) -> Result<()> {
            let mut stream = connection.send_stream(id);
            let written = stream.write(data)?;
            ensure!(written == data.len(), "a small message met a full window");
            match stream.finish() {
                Ok(()) | Err(FinishError::Stopped(_)) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
    };
}

/// polyquic-core.
pub(crate) mod ours {
    impl_stack!(
        polyquic_core,
        polyquic_core::TimerQueue,
        super::SOCKET_SEGMENTS,
        endpoint
    );

    fn endpoint(seed: u8, server: Option<ServerConfig>) -> Endpoint {
        let mut config = polyquic_core::EndpointConfig::default();
        config.seed([seed; 32]);
        let socket = polyquic_core::SocketTraits {
            ipv6: false,
            may_fragment: false,
        };
        Endpoint::new(&config, server.map(Arc::new), socket)
    }
}

/// quinn-proto, as quinn uses it.
pub(crate) mod bare {
    impl_stack!(
        quinn_proto,
        super::OneTimer,
        super::QUINN_SEGMENTS,
        endpoint
    );

    fn endpoint(seed: u8, server: Option<ServerConfig>) -> Endpoint {
        let mut config = quinn_proto::EndpointConfig::default();
        config.rng_seed(Some([seed; 32]));
        Endpoint::new(Arc::new(config), server.map(Arc::new), true, None)
    }
}
