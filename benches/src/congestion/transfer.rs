//! One simulation: servers send to clients through a bottleneck, and it is watched.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use polyquic::{
    ClientConfig, Connection, Endpoint, IdleTimeout, ServerConfig, TransportConfig, VarInt,
    rustls::RootCertStore,
    sim::{Host, Link, Router, Sim, TooLarge, TraceHash, identity},
};

use super::{
    Controller,
    network::{Network, STEP, Walk},
};

/// How often the queue is looked at.
const SAMPLE: Duration = Duration::from_millis(10);
/// Samples in an entry of a series.
const SAMPLES_PER_ENTRY: u32 = 10;
/// Length of an entry of a series.
pub const ENTRY: Duration = Duration::from_millis(100);
/// Windows that limit nobody here: more than any of the links and its buffer hold.
pub const WINDOW_BYTES: u32 = 16 << 20;

/// A transfer from a server of its own to a client of its own.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// The server's controller.
    pub controller: Controller,
    /// When the client connects.
    pub start: Duration,
    /// Added to the round trip by the server's own link.
    pub round_trip: Duration,
}

impl Flow {
    /// One that starts at once, without a delay of its own.
    pub fn new(controller: Controller) -> Self {
        Self {
            controller,
            start: Duration::ZERO,
            round_trip: Duration::ZERO,
        }
    }
}

/// What happens to the bottleneck in the middle of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    /// Everything is lost, both ways, for this long.
    Outage(Duration),
    /// Larger IP packets vanish from now on.
    SmallerMtu(u16),
}

/// A simulation to be.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// What it follows from.
    pub seed: u64,
    /// The bottleneck.
    pub network: Network,
    /// Who sends.
    pub flows: Vec<Flow>,
    /// Bytes to send; `None`: as many as there is time for.
    pub bytes: Option<u64>,
    /// Stream receive window and send window; `None`: the defaults.
    pub window: Option<u32>,
    /// When it ends at the latest.
    pub watched: Duration,
    /// What happens, and when.
    pub accident: Option<(Duration, Accident)>,
}

/// What one transfer did.
#[derive(Debug, Default, Clone)]
pub struct Sent {
    /// Bytes of the stream that arrived, by [`ENTRY`] since the beginning.
    pub received: Vec<u64>,
    /// Congestion window in bytes at the end of each [`ENTRY`].
    pub windows: Vec<u64>,
    /// Rate in bit/s that the controller asks for at the end of each [`ENTRY`], if it has one.
    pub rates: Vec<u64>,
    /// When all had arrived, since the beginning.
    pub done: Option<Duration>,
    /// Packets that the server sent.
    pub packets: u64,
    /// Packets that it took for lost, and whose contents it sent again.
    pub lost: u64,
}

impl Sent {
    /// Bytes that arrived in these entries.
    pub fn bytes(&self, entries: std::ops::Range<usize>) -> u64 {
        let end = entries.end.min(self.received.len());
        self.received[entries.start.min(end)..end].iter().sum()
    }
}

/// What was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// By flow.
    pub flows: Vec<Sent>,
    /// How long each packet waited on average, in milliseconds.
    pub wait_mean: f64,
    /// How long 95 of 100 packets waited at most, to 10 ms of sending exactly.
    pub wait_p95: f64,
    /// The longest that one did.
    pub wait_longest: f64,
    /// Packets that were marked.
    pub marked: u64,
    /// What could have been sent in the time watched, in bits with IP headers.
    pub capacity: f64,
    /// When it ended.
    pub elapsed: Duration,
    /// The simulation's fingerprint.
    pub trace: TraceHash,
}

/// What the applications of a flow share with who watches them.
#[derive(Default)]
struct State {
    sent: Sent,
    server: Option<Connection>,
}

impl Transfer {
    /// A single flow through a network, as long as the network is watched.
    pub fn single(seed: u64, network: Network, controller: Controller) -> Self {
        Self {
            seed,
            watched: network.watched,
            network,
            flows: vec![Flow::new(controller)],
            bytes: None,
            window: Some(WINDOW_BYTES),
            accident: None,
        }
    }

    /// Simulates it.
    ///
    /// # Panics
    ///
    /// A configuration is refused, which none of ours is.
    pub fn run(&self) -> Seen {
        let sim = Sim::new(self.seed);
        let router = sim.router("bottleneck", self.network.down.clone());
        let access = router.access();
        access.set_up(self.network.up.clone());
        // Inside, so that what configurations draw comes from the simulation too.
        let states: Vec<_> = sim.run(async {
            let flows = self.flows.iter().enumerate();
            flows
                .map(|(index, flow)| self.begin(&sim, &router, index, *flow))
                .collect()
        });

        let mut waits: Vec<(f64, u64)> = Vec::new();
        let mut walk = Walk::new(self.seed, self.network.rate);
        let mut rate = self.network.rate;
        let mut capacity = 0.0;
        sim.run(async {
            let mut before = access.stats_down();
            let mut count = 0;
            while sim.elapsed() < self.watched
                && states.iter().any(|it| it.borrow().sent.done.is_none())
            {
                let now = SAMPLE * count;
                if let Some((at, accident)) = self.accident {
                    match accident {
                        Accident::Outage(_) if now == at => access.cut(),
                        Accident::Outage(length) if now == at + length => access.mend(),
                        Accident::SmallerMtu(mtu) if now == at => {
                            let link = access.down().mtu(mtu, TooLarge::Vanishes);
                            access.set_down(link);
                        }
                        _ => {}
                    }
                }
                if self.network.walks && count % (STEP.as_millis() / SAMPLE.as_millis()) as u32 == 0
                {
                    rate = walk.step();
                    access.set_down(access.down().bandwidth(rate));
                }
                capacity += rate as f64 * SAMPLE.as_secs_f64();
                count += 1;
                let until = SAMPLE * count;
                sim.sleep(until.saturating_sub(sim.elapsed())).await;

                let stats = access.stats_down();
                let passed = stats.passed - before.passed;
                if passed > 0 {
                    let waited = (stats.waited - before.waited).as_secs_f64() * 1e3;
                    waits.push((waited / passed as f64, passed));
                }
                before = stats;
                if count % SAMPLES_PER_ENTRY == 0 {
                    for state in &states {
                        watch(&mut state.borrow_mut());
                    }
                }
            }
        });

        let stats = access.stats_down();
        for state in &states {
            count(&mut state.borrow_mut());
        }
        Seen {
            flows: states.iter().map(|it| it.borrow().sent.clone()).collect(),
            wait_mean: stats.waited.as_secs_f64() * 1e3 / stats.passed.max(1) as f64,
            wait_p95: percentile(&mut waits, 0.95),
            wait_longest: stats.longest_wait.as_secs_f64() * 1e3,
            marked: stats.marked,
            capacity,
            elapsed: sim.elapsed(),
            trace: sim.trace(),
        }
    }

    /// Starts the applications of a flow.
    fn begin(&self, sim: &Sim, router: &Router, index: usize, flow: Flow) -> Rc<RefCell<State>> {
        let mut own = Link::new().delay(flow.round_trip / 2);
        if self.flows.len() > 1 {
            // Or else the same one of two finds the queue full again and again.
            own = own.jitter(Duration::from_micros(500));
        }
        let server = sim.host_with(&format!("server {index}"), own);
        let client = sim.host_below(&format!("client {index}"), router, Link::new());
        let state = Rc::default();
        self.serve(flow.controller, &server, &state);
        self.fetch(sim, flow, &server, &client, &state);
        state
    }

    fn transport(&self, controller: Controller) -> Arc<TransportConfig> {
        let mut transport = TransportConfig::default();
        controller.install(&mut transport);
        let idle = IdleTimeout::try_from(Duration::from_secs(60)).expect("short enough");
        transport.max_idle_timeout(Some(idle));
        if let Some(window) = self.window {
            transport
                .stream_receive_window(VarInt::from_u32(window))
                // What is lost is kept too.
                .send_window(2 * u64::from(window));
        }
        Arc::new(transport)
    }

    fn serve(&self, controller: Controller, host: &Host, state: &Rc<RefCell<State>>) {
        let (certificate, key) = identity();
        let mut config =
            ServerConfig::with_single_cert(vec![certificate], key).expect("a good certificate");
        config.transport_config(self.transport(controller));
        let endpoint =
            Endpoint::server(host, config, host.addr(443)).expect("the address is its own");
        let (state, bytes) = (state.clone(), self.bytes);
        host.spawn(async move {
            let Some(incoming) = endpoint.accept().await else {
                return;
            };
            let Ok(connection) = incoming.await else {
                return;
            };
            state.borrow_mut().server = Some(connection.clone());
            let Ok(mut stream) = connection.open_uni().await else {
                return;
            };
            let block = Bytes::from_static(&[0; 64 << 10]);
            let mut left = bytes.unwrap_or(u64::MAX);
            while left > 0 {
                let length = left.min(block.len() as u64);
                if stream
                    .write_chunk(block.slice(..length as usize))
                    .await
                    .is_err()
                {
                    return;
                }
                left -= length;
            }
            let _ = stream.finish();
            connection.closed().await;
        });
    }

    fn fetch(&self, sim: &Sim, flow: Flow, server: &Host, host: &Host, state: &Rc<RefCell<State>>) {
        let (certificate, _) = identity();
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a good certificate");
        let mut config = ClientConfig::with_root_certificates(Arc::new(roots)).expect("good roots");
        config.transport_config(self.transport(flow.controller));
        let endpoint = Endpoint::client(host, host.addr(0)).expect("the address is its own");
        let wait = sim.sleep(flow.start);
        let (clock, state, server) = (host.clone(), state.clone(), server.addr(443));
        let begin = sim.elapsed();
        let started = polyquic::Runtime::clock(&clock).now();
        host.spawn(async move {
            wait.await;
            let elapsed = || begin + (polyquic::Runtime::clock(&clock).now() - started);
            let Ok(connecting) = endpoint.connect_with(config, server, "localhost") else {
                return;
            };
            let Ok(connection) = connecting.await else {
                return;
            };
            let Ok(mut stream) = connection.accept_uni().await else {
                return;
            };
            // As it comes, so that what waits for a retransmission is not counted late.
            while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, false).await {
                let entry = (elapsed().as_millis() / ENTRY.as_millis()) as usize;
                let received = &mut state.borrow_mut().sent.received;
                if received.len() <= entry {
                    received.resize(entry + 1, 0);
                }
                received[entry] += chunk.bytes.len() as u64;
            }
            state.borrow_mut().sent.done = Some(elapsed());
        });
    }
}

/// Notes what the sender of a flow is up to.
fn watch(state: &mut State) {
    count(state);
    let Some(server) = &state.server else {
        state.sent.windows.push(0);
        return;
    };
    let metrics = server.congestion_state().metrics();
    state.sent.windows.push(metrics.congestion_window);
    state.sent.rates.extend(metrics.pacing_rate);
}

/// Notes what it has sent.
fn count(state: &mut State) {
    if let Some(server) = &state.server {
        let path = server.stats().path;
        state.sent.packets = path.sent_packets;
        state.sent.lost = path.lost_packets;
    }
}

/// The value below which `share` of the weight is.
fn percentile(values: &mut [(f64, u64)], share: f64) -> f64 {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: u64 = values.iter().map(|it| it.1).sum();
    let mut seen = 0;
    for (value, weight) in values.iter() {
        seen += weight;
        if seen as f64 >= total as f64 * share {
            return *value;
        }
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_go_by_weight() {
        let mut values = [(3.0, 1), (1.0, 18), (2.0, 1)];
        assert_eq!(percentile(&mut values, 0.5), 1.0);
        assert_eq!(percentile(&mut values, 0.95), 2.0);
        assert_eq!(percentile(&mut values, 1.0), 3.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
    }
}
