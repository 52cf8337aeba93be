//! Plans of transport configurations.

use std::sync::Arc;
use std::time::Duration;

use polyquic::congestion::{CubicConfig, NewRenoConfig};
use polyquic::{AckFrequencyConfig, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::dice::Dice;

/// What an endpoint's connections are configured with.
#[derive(Debug, Clone)]
pub(crate) struct TransportPlan {
    pub(crate) stream_window: u64,
    pub(crate) window: u64,
    pub(crate) send_window: u64,
    pub(crate) streams_bi: u64,
    pub(crate) streams_uni: u64,
    eager_streams: bool,
    pub(crate) idle: Option<Duration>,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) datagram_receive: Option<usize>,
    pub(crate) datagram_send: usize,
    mtu_discovery: bool,
    cubic: bool,
    ack_frequency: bool,
    pub(crate) initial_rtt: Duration,
    segmentation: bool,
    fairness: bool,
    pad_to_mtu: bool,
    packet_threshold: u32,
}

impl TransportPlan {
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let idle = dice.maybe(0.9, |it| it.span(3_000, 60_000));
        Self {
            stream_window: dice.scale(1 << 10, 2 << 20),
            window: dice.scale(2 << 10, 8 << 20),
            send_window: dice.scale(1 << 10, 10 << 20),
            streams_bi: dice.scale(1, 100),
            streams_uni: dice.scale(1, 100),
            eager_streams: dice.chance(0.2),
            idle,
            keep_alive: dice.maybe(0.5, |_| idle.unwrap_or(Duration::from_secs(10)) / 3),
            datagram_receive: dice.maybe(0.9, |it| it.scale(2 << 10, 1 << 20) as usize),
            datagram_send: dice.scale(2 << 10, 1 << 20) as usize,
            mtu_discovery: dice.chance(0.7),
            cubic: dice.chance(0.6),
            ack_frequency: dice.chance(0.3),
            initial_rtt: dice.span(20, 1000),
            segmentation: dice.chance(0.8),
            fairness: dice.chance(0.8),
            pad_to_mtu: dice.chance(0.05),
            packet_threshold: dice.scale(3, 20) as u32,
        }
    }

    /// Nothing that limits, and CUBIC.
    pub(crate) fn roomy() -> Self {
        Self {
            stream_window: 4 << 20,
            window: 32 << 20,
            send_window: 32 << 20,
            streams_bi: 100,
            streams_uni: 100,
            eager_streams: false,
            idle: Some(Duration::from_secs(30)),
            keep_alive: None,
            datagram_receive: Some(1 << 20),
            datagram_send: 1 << 20,
            mtu_discovery: true,
            cubic: true,
            ack_frequency: false,
            initial_rtt: Duration::from_millis(333),
            segmentation: true,
            fairness: true,
            pad_to_mtu: false,
            packet_threshold: 3,
        }
    }

    /// The smallest of its windows, in bytes.
    pub(crate) fn window(&self) -> u64 {
        self.stream_window.min(self.window).min(self.send_window)
    }

    pub(crate) fn build(&self) -> Arc<TransportConfig> {
        let size = |value: u64| VarInt::from_u64(value).expect("far below 2^62");
        let mut config = TransportConfig::default();
        let idle = self.idle.map(|it| it.try_into().expect("below 2^62 ms"));
        config
            .stream_receive_window(size(self.stream_window))
            .receive_window(size(self.window))
            .send_window(self.send_window)
            .max_concurrent_bidi_streams(size(self.streams_bi))
            .max_concurrent_uni_streams(size(self.streams_uni))
            .eager_streams(self.eager_streams)
            .max_idle_timeout(idle)
            .keep_alive_interval(self.keep_alive)
            .datagram_receive_buffer_size(self.datagram_receive)
            .datagram_send_buffer_size(self.datagram_send)
            .mtu_discovery_config(self.mtu_discovery.then(MtuDiscoveryConfig::default))
            .ack_frequency_config(self.ack_frequency.then(AckFrequencyConfig::default))
            .initial_rtt(self.initial_rtt)
            .enable_segmentation_offload(self.segmentation)
            .send_fairness(self.fairness)
            .pad_to_mtu(self.pad_to_mtu)
            .packet_threshold(self.packet_threshold);
        match self.cubic {
            true => config.congestion_controller_factory(Arc::new(CubicConfig::default())),
            false => config.congestion_controller_factory(Arc::new(NewRenoConfig::default())),
        };
        Arc::new(config)
    }
}
