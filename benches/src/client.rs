//! The client's part of each workload, and the measurement.

use std::{
    net::SocketAddr,
    process,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use futures_channel::mpsc;
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::{
    options::Options,
    probe::{Probe, emit},
    server::{CHUNK_BYTES, PING_BYTES, REQUEST_BYTES, RESPONSE_BYTES},
    settings::Settings,
    stack::{Connection, Endpoint, RecvStream, SendStream, Stack},
    storm::Storm,
    workload::Workload,
};

mod sessions;

/// Connections of the memory workload that exist before memory is first looked at, so that what
/// an endpoint needs once (buffers, code, the allocator's first arenas) is not counted.
const MEMORY_WARMUP_CONNECTIONS: usize = 64;
/// Handshakes at a time while the memory workload sets up its connections.
const MEMORY_CONCURRENCY: usize = 16;
/// A datagram's payload; it is what media over QUIC use, and smaller only where the packets are.
const DATAGRAM_BYTES: usize = 1_200;
/// What a packet with one datagram has besides it at most: short header with the longest connection
/// ID and packet number, AEAD tag, and the frame's type and length.
const DATAGRAM_OVERHEAD_BYTES: usize = 1 + 20 + 4 + 16 + 1 + 2;
/// Rest before the server is asked how many datagrams have come, for the last to come.
const DATAGRAM_SETTLE: Duration = Duration::from_millis(200);
/// Packets that an idle connection must have sent in each second to have kept itself alive.
const MIN_KEEP_ALIVE_RATE: f64 = 0.5;
/// A shorter interval says nothing about the rate of keep-alives.
const MIN_KEEP_ALIVE_SECONDS: f64 = 2.0;
/// Between two round trips of the storm workload, as far as an executor's timers are that fine.
const PING_PAUSE: Duration = Duration::from_millis(1);
/// Rest before memory is looked at, for acknowledgements and closed handshakes to be over with.
const MEMORY_SETTLE: Duration = Duration::from_millis(500);

/// Runs the workload, prints what was measured and ends the process.
pub(crate) async fn run<S: Stack>(
    stack: S,
    options: &Options,
    settings: &Settings,
    probe: Arc<Probe>,
    server: SocketAddr,
) -> Result<()> {
    let client = Client {
        endpoint: stack.client(settings).context("starting the client")?,
        stack,
        settings: settings.clone(),
        server,
        probe,
        warmup: options.warmup,
        duration: options.duration,
    };
    let result = match options.workload {
        Workload::Download {
            connections,
            streams,
        } => client.bulk(connections, streams, Direction::Download).await,
        Workload::Upload {
            connections,
            streams,
        } => client.bulk(connections, streams, Direction::Upload).await,
        Workload::Requests {
            connections,
            concurrency,
        } => client.requests(connections, concurrency).await,
        Workload::Latency => client.latency().await,
        Workload::Handshakes { concurrency } => client.handshakes(concurrency).await,
        Workload::Resumed { concurrency } => client.resumed(concurrency).await,
        Workload::ZeroRtt { concurrency } => client.zero_rtt(concurrency).await,
        Workload::Datagrams => client.datagrams().await,
        Workload::Memory { connections } => client.memory(connections).await,
        Workload::Idle { connections } => client.idle(connections).await,
        Workload::Loss => client.bulk(1, 1, Direction::Download).await,
        Workload::Storm { rate, .. } => client.storm(Storm::start(options, server, rate)?).await,
    }?;
    emit("done", result);
    // At once: a stack's shutdown is not part of any workload.
    process::exit(0);
}

#[derive(Clone, Copy)]
enum Direction {
    Download,
    Upload,
}

struct Client<S: Stack> {
    stack: S,
    endpoint: S::Endpoint,
    settings: Settings,
    server: SocketAddr,
    probe: Arc<Probe>,
    warmup: Duration,
    duration: Duration,
}

impl<S: Stack> Client<S> {
    async fn bulk(
        &self,
        connections: usize,
        streams: usize,
        direction: Direction,
    ) -> Result<Value> {
        let mut tasks = Tasks::new(&self.stack);
        // Kept to the end: dropping the last handle would close a connection.
        let mut handles = Vec::new();
        for _ in 0..connections {
            let connection = self.endpoint.connect(self.server).await?;
            for _ in 0..streams {
                let (send, recv) = connection.open_bi().await?;
                let probe = self.probe.clone();
                match direction {
                    Direction::Download => tasks.spawn(drain(send, recv, probe)),
                    Direction::Upload => tasks.spawn(fill(send, recv, probe)),
                }
            }
            let watched = connection.clone();
            self.probe.watch_packet_size(move || watched.packet_size());
            handles.push(connection);
        }
        self.probe.start_clock(self.warmup, self.duration);
        tasks.join().await?;
        Ok(json!({}))
    }

    async fn requests(&self, connections: usize, concurrency: usize) -> Result<Value> {
        let mut handles = Vec::new();
        for _ in 0..connections {
            handles.push(self.endpoint.connect(self.server).await?);
        }
        let mut tasks = Tasks::new(&self.stack);
        for connection in handles.iter().cycle().take(concurrency) {
            tasks.spawn(request(connection.clone(), self.probe.clone()));
        }
        self.probe.start_clock(self.warmup, self.duration);
        Ok(latencies(tasks.join().await?))
    }

    async fn latency(&self) -> Result<Value> {
        let connection = self.endpoint.connect(self.server).await?;
        let (send, recv) = connection.open_bi().await?;
        let mut tasks = Tasks::new(&self.stack);
        tasks.spawn(ping(send, recv, self.probe.clone()));
        self.probe.start_clock(self.warmup, self.duration);
        Ok(latencies(tasks.join().await?))
    }

    async fn handshakes(&self, concurrency: usize) -> Result<Value> {
        let mut tasks = Tasks::new(&self.stack);
        for _ in 0..concurrency {
            let (endpoint, server) = (self.endpoint.clone(), self.server);
            let probe = self.probe.clone();
            tasks.spawn(async move {
                let mut durations = Vec::new();
                while !probe.stopped() {
                    let start = Instant::now();
                    let connection = endpoint.connect(server).await?;
                    if probe.measuring() {
                        durations.push(start.elapsed());
                    }
                    connection.close();
                    probe.completed();
                }
                Ok(durations)
            });
        }
        self.probe.start_clock(self.warmup, self.duration);
        let result = latencies(tasks.join().await?);
        let full = self.settings.full_handshakes();
        // Zero where the stack has TLS of its own.
        ensure!(
            full == 0 || full >= self.probe.snapshot().operations,
            "of {} handshakes only {full} were full ones",
            self.probe.snapshot().operations
        );
        Ok(result)
    }

    async fn datagrams(&self) -> Result<Value> {
        let connection = self.endpoint.connect(self.server).await?;
        let room = usize::from(self.settings.packet_size).saturating_sub(DATAGRAM_OVERHEAD_BYTES);
        let payload = Bytes::from(vec![0x5a; DATAGRAM_BYTES.min(room)]);
        let bytes = payload.len();
        let mut tasks = Tasks::new(&self.stack);
        let (sender, probe) = (connection.clone(), self.probe.clone());
        let watched = connection.clone();
        self.probe.watch_packet_size(move || watched.packet_size());
        tasks.spawn(async move {
            let mut sent = 0u64;
            while !probe.stopped() {
                sender.send_datagram(payload.clone()).await?;
                probe.completed();
                sent += 1;
            }
            Ok(vec![sent])
        });
        self.probe.start_clock(self.warmup, self.duration);
        let sent: u64 = tasks.join().await?.iter().sum();
        self.stack.sleep(DATAGRAM_SETTLE).await;
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(&[0]).await?;
        send.finish()?;
        let answer = recv.read_to_end(8).await?;
        let arrived = u64::from_be_bytes(answer.as_slice().try_into()?);
        ensure!(arrived > 0, "of {sent} datagrams none arrived");
        Ok(json!({ "sent": sent, "arrived": arrived, "datagram_bytes": bytes }))
    }

    async fn storm(&self, mut storm: Storm) -> Result<Value> {
        let connection = self.endpoint.connect(self.server).await?;
        let (send, recv) = connection.open_bi().await?;
        let mut tasks = Tasks::new(&self.stack);
        tasks.spawn(paced_ping(
            self.stack.clone(),
            send,
            recv,
            self.probe.clone(),
        ));
        let (probe, warmup, duration) = (self.probe.clone(), self.warmup, self.duration);
        let clock = thread::spawn(move || {
            thread::sleep(warmup);
            let asked = storm.ask();
            probe.begin();
            thread::sleep(duration);
            let asked = asked.and_then(|()| storm.ask());
            // In any case, or the round trips would never end.
            probe.end();
            asked.map(|()| storm)
        });
        let mut result = latencies(tasks.join().await?);
        let storm = clock
            .join()
            .map_err(|_| anyhow!("the clock's thread panicked"))??;
        result["storm_rate"] = storm.finish()?.into();
        Ok(result)
    }

    async fn idle(&self, connections: usize) -> Result<Value> {
        let handles = self.idle_connections(connections).await?;
        let packets = || -> Option<u64> { handles.iter().map(Connection::packets_sent).sum() };
        self.stack.sleep(MEMORY_SETTLE.max(self.warmup)).await;
        let before = packets();
        self.probe.begin();
        self.stack.sleep(self.duration).await;
        self.probe.end();
        let seconds = self.duration.as_secs_f64();
        let rate = packets().zip(before).map(|(after, before)| {
            // A connection more or less does not matter here.
            (after - before) as f64 / seconds / connections as f64
        });
        if let Some(rate) = rate {
            ensure!(
                seconds < MIN_KEEP_ALIVE_SECONDS || rate >= MIN_KEEP_ALIVE_RATE,
                "a connection sent {rate} packets in a second and is not kept alive"
            );
        }
        Ok(json!({ "connections": connections, "keep_alives_per_second": rate }))
    }

    async fn memory(&self, connections: usize) -> Result<Value> {
        let mut handles = self.idle_connections(MEMORY_WARMUP_CONNECTIONS).await?;
        self.stack.sleep(MEMORY_SETTLE).await;
        self.probe.begin();
        handles.extend(self.idle_connections(connections).await?);
        self.stack.sleep(MEMORY_SETTLE).await;
        self.probe.end();
        Ok(json!({ "connections": connections }))
    }

    async fn idle_connections(
        &self,
        count: usize,
    ) -> Result<Vec<<S::Endpoint as Endpoint>::Connection>> {
        let mut tasks = Tasks::new(&self.stack);
        for worker in 0..MEMORY_CONCURRENCY {
            let share = (count + worker) / MEMORY_CONCURRENCY;
            let (endpoint, server) = (self.endpoint.clone(), self.server);
            tasks.spawn(async move {
                let mut handles = Vec::with_capacity(share);
                for _ in 0..share {
                    handles.push(endpoint.connect(server).await?);
                }
                Ok(handles)
            });
        }
        tasks.join().await
    }
}

async fn drain(
    mut send: impl SendStream,
    mut recv: impl RecvStream,
    probe: Arc<Probe>,
) -> Result<Vec<()>> {
    // The peer does not know of a stream before something has been sent on it.
    send.write_all(&[0]).await?;
    while !probe.stopped() {
        let chunk = recv
            .read_chunk()
            .await?
            .context("the server ended the stream")?;
        probe.received(chunk.len());
    }
    recv.stop();
    Ok(Vec::new())
}

async fn fill(
    mut send: impl SendStream,
    _recv: impl RecvStream,
    probe: Arc<Probe>,
) -> Result<Vec<()>> {
    let chunk = Bytes::from(vec![0x5a; CHUNK_BYTES]);
    while !probe.stopped() {
        send.write_chunk(chunk.clone()).await?;
    }
    Ok(Vec::new())
}

async fn request(connection: impl Connection, probe: Arc<Probe>) -> Result<Vec<Duration>> {
    static REQUEST: [u8; REQUEST_BYTES] = [0x5a; REQUEST_BYTES];
    let mut durations = Vec::new();
    while !probe.stopped() {
        let start = Instant::now();
        let (mut send, mut recv) = connection.open_bi().await?;
        send.write_all(&REQUEST).await?;
        send.finish()?;
        let response = recv.read_to_end(RESPONSE_BYTES).await?;
        ensure!(
            response.len() == RESPONSE_BYTES,
            "a response of {} bytes",
            response.len()
        );
        if probe.measuring() {
            durations.push(start.elapsed());
        }
        probe.completed();
    }
    Ok(durations)
}

async fn ping(
    mut send: impl SendStream,
    mut recv: impl RecvStream,
    probe: Arc<Probe>,
) -> Result<Vec<Duration>> {
    let mut durations = Vec::new();
    while !probe.stopped() {
        let duration = round_trip(&mut send, &mut recv).await?;
        if probe.measuring() {
            durations.push(duration);
        }
        probe.completed();
    }
    Ok(durations)
}

/// Round trips that begin at moments of their own. One right after the other, most would fall into
/// the quiet times that follow a slow one, and percentiles would be about those.
async fn paced_ping<S: Stack>(
    stack: S,
    mut send: impl SendStream,
    mut recv: impl RecvStream,
    probe: Arc<Probe>,
) -> Result<Vec<Duration>> {
    let mut durations = Vec::new();
    while !probe.stopped() {
        stack.sleep(PING_PAUSE).await;
        let duration = round_trip(&mut send, &mut recv).await?;
        if probe.measuring() {
            durations.push(duration);
        }
        probe.completed();
    }
    Ok(durations)
}

async fn round_trip(send: &mut impl SendStream, recv: &mut impl RecvStream) -> Result<Duration> {
    static PING: [u8; PING_BYTES] = [0x5a; PING_BYTES];
    let start = Instant::now();
    send.write_all(&PING).await?;
    let mut missing = PING_BYTES;
    while missing > 0 {
        let chunk = recv
            .read_chunk()
            .await?
            .context("the server ended the stream")?;
        missing = missing
            .checked_sub(chunk.len())
            .context("more came back than was sent")?;
    }
    Ok(start.elapsed())
}

/// Percentiles of all durations, in microseconds.
fn latencies(mut durations: Vec<Duration>) -> Value {
    durations.sort_unstable();
    let percentile = |percent: usize| {
        let index = (durations.len() * percent / 100).min(durations.len().saturating_sub(1));
        durations
            .get(index)
            .map(|duration| duration.as_secs_f64() * 1e6)
    };
    json!({ "samples": durations.len(), "p50": percentile(50), "p99": percentile(99) })
}

/// Tasks whose results are collected; the first failure is the result of all.
struct Tasks<'a, S, T> {
    stack: &'a S,
    spawned: usize,
    sender: mpsc::UnboundedSender<Result<Vec<T>>>,
    receiver: mpsc::UnboundedReceiver<Result<Vec<T>>>,
}

impl<'a, S: Stack, T: Send + 'static> Tasks<'a, S, T> {
    fn new(stack: &'a S) -> Self {
        let (sender, receiver) = mpsc::unbounded();
        Self {
            stack,
            spawned: 0,
            sender,
            receiver,
        }
    }

    fn spawn(&mut self, task: impl Future<Output = Result<Vec<T>>> + Send + 'static) {
        let sender = self.sender.clone();
        self.spawned += 1;
        self.stack.spawn(async move {
            // The receiver is gone when another task has failed before.
            let _ = sender.unbounded_send(task.await);
        });
    }

    async fn join(self) -> Result<Vec<T>> {
        let Self {
            spawned,
            sender,
            mut receiver,
            ..
        } = self;
        // What ends the loop if a task disappears without a result.
        drop(sender);
        let mut collected = Vec::new();
        for _ in 0..spawned {
            match receiver.next().await {
                Some(result) => collected.extend(result?),
                None => bail!("a task was dropped before it ended"),
            }
        }
        Ok(collected)
    }
}
