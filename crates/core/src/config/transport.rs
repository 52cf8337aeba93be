//! What holds for a connection's transport.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{AckFrequencyConfig, Dir, IdleTimeout, MtuDiscoveryConfig, VarInt, congestion};

use crate::gate::GatedFactory;

/// Of received datagrams to keep.
const DATAGRAM_BYTES: usize = 1_250_000;

/// Streams that the peer may open before it has opened any, by [`Dir`]. More are granted as it
/// does, see [`Additions::grown`].
///
/// An exchange with HTTP/3 or the like takes bidirectional streams, and a handful of unidirectional
/// ones for control. Together they stay below 28, where quinn-proto's table of them doubles.
const INITIAL_STREAMS: [VarInt; 2] = [VarInt::from_u32(16), VarInt::from_u32(8)];

/// Change in bytes below which a search for the path MTU ends.
///
/// Half of the way from 1200 to 1452 bytes, the usual bounds. The search then tries 1452 first,
/// which most paths carry, and is done after one probe instead of four. Should that fail, it tries
/// the middle.
const MTU_MINIMUM_CHANGE_BYTES: u16 = 127;

/// Configuration of a connection's transport.
///
/// The setters are quinn's. Two defaults are better suited to servers with many connections:
///
/// - **Streams are granted as they are used.** quinn-proto allocates state for every stream that the
///   peer may open, some 7 KB for the usual 100 of each kind, whether it opens any or not. So the peer
///   is first allowed 16 bidirectional and 8 unidirectional ones (or the configured limit, if lower),
///   and the configured limit as soon as it has opened half of these. Only a peer that opens more at
///   the very start notices, by one round trip. [`eager_streams`](Self::eager_streams) switches this off.
/// - **Path MTU discovery asks for the usual size first**, one probe instead of four after every
///   handshake.
pub struct TransportConfig {
    /// Shared with connections, from when on it can no longer be changed.
    inner: Arc<quinn_proto::TransportConfig>,
    additions: Additions,
    eager_streams: bool,
    /// Whether the congestion controller is the application's choice.
    controller_chosen: bool,
}

/// What holds for a connection beyond quinn-proto's configuration, or cannot be read from there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Additions {
    /// How many streams the peer may have open at once, by [`Dir`].
    streams: [VarInt; 2],
    /// Whether its datagrams may share a send.
    pub(crate) segmentation_offload: bool,
    /// Of received datagrams to keep, with what each costs besides its bytes.
    pub(crate) datagram_bytes: usize,
    /// Whether packets with application data are padded, and so are those that only acknowledge.
    pub(crate) pad_to_mtu: bool,
}

impl Additions {
    /// The new limit of streams, when a peer that may open `current` streams has `open` of them.
    pub(crate) fn grown(&self, dir: Dir, open: u64, current: u64) -> Option<VarInt> {
        let limit = self.streams[dir as usize];
        (current < limit.into_inner() && open * 2 >= current).then_some(limit)
    }

    /// Change the limit of streams, as the application asked for.
    pub(crate) fn set(&mut self, dir: Dir, limit: VarInt) {
        self.streams[dir as usize] = limit;
    }
}

impl TransportConfig {
    fn edit(&mut self) -> &mut quinn_proto::TransportConfig {
        Arc::get_mut(&mut self.inner)
            .expect("a transport configuration cannot be changed once it is in use")
    }

    /// What connections are made with, and what they need besides.
    pub(crate) fn parts(&self) -> (Arc<quinn_proto::TransportConfig>, Additions) {
        (self.inner.clone(), self.additions)
    }

    fn set_streams(&mut self, dir: Dir, limit: VarInt) {
        self.additions.set(dir, limit);
        let initial = if self.eager_streams {
            limit
        } else {
            limit.min(INITIAL_STREAMS[dir as usize])
        };
        match dir {
            Dir::Bi => self.edit().max_concurrent_bidi_streams(initial),
            Dir::Uni => self.edit().max_concurrent_uni_streams(initial),
        };
    }

    /// Bidirectional streams that the peer may have open at once. Default: 100.
    ///
    /// Worst-case memory grows with this times [`stream_receive_window`](Self::stream_receive_window).
    pub fn max_concurrent_bidi_streams(&mut self, count: VarInt) -> &mut Self {
        self.set_streams(Dir::Bi, count);
        self
    }

    /// Unidirectional streams that the peer may have open at once. Default: 100.
    pub fn max_concurrent_uni_streams(&mut self, count: VarInt) -> &mut Self {
        self.set_streams(Dir::Uni, count);
        self
    }

    /// Allow the peer all its streams from the start, as quinn does, for 40 bytes of memory or so
    /// each. Default: false.
    pub fn eager_streams(&mut self, eager: bool) -> &mut Self {
        self.eager_streams = eager;
        for dir in [Dir::Bi, Dir::Uni] {
            self.set_streams(dir, self.additions.streams[dir as usize]);
        }
        self
    }

    /// Give a connection up after this long without anything from the peer (RFC 9000 section
    /// 10.1), or after what the peer says if that is shorter. `None`: never. Default: 30 seconds.
    pub fn max_idle_timeout(&mut self, timeout: Option<IdleTimeout>) -> &mut Self {
        self.edit().max_idle_timeout(timeout);
        self
    }

    /// Bytes that the peer may send on one stream before the application reads them (RFC 9000
    /// section 4.1). Default: 1,250,000, which is 100 Mbit/s over 100 ms.
    pub fn stream_receive_window(&mut self, bytes: VarInt) -> &mut Self {
        self.edit().stream_receive_window(bytes);
        self
    }

    /// Bytes that the peer may send on all streams before the application reads them. Default:
    /// unlimited, that is, limited by streams.
    pub fn receive_window(&mut self, bytes: VarInt) -> &mut Self {
        self.edit().receive_window(bytes);
        self
    }

    /// Bytes written by the application that are kept until they are acknowledged, over all
    /// streams. Default: 10,000,000.
    pub fn send_window(&mut self, bytes: u64) -> &mut Self {
        self.edit().send_window(bytes);
        self
    }

    /// Whether streams of equal priority take turns; otherwise they are sent in the order in which
    /// they were written to. Default: true.
    pub fn send_fairness(&mut self, fair: bool) -> &mut Self {
        self.edit().send_fairness(fair);
        self
    }

    /// Packets by which one may be overtaken before it counts as lost (RFC 9002 section 6.1.1).
    /// Default: 3, which is also the least that makes sense.
    pub fn packet_threshold(&mut self, packets: u32) -> &mut Self {
        self.edit().packet_threshold(packets);
        self
    }

    /// Round-trip times by which a packet may be late before it counts as lost (RFC 9002 section
    /// 6.1.2). Default: 9/8.
    pub fn time_threshold(&mut self, round_trips: f32) -> &mut Self {
        self.edit().time_threshold(round_trips);
        self
    }

    /// Round-trip time to assume before one was measured. Default: 333 ms (RFC 9002 section 6.2.2).
    pub fn initial_rtt(&mut self, rtt: Duration) -> &mut Self {
        self.edit().initial_rtt(rtt);
        self
    }

    /// UDP payload in bytes to start with, at least 1200, which is the default. What the path does
    /// not carry is lost until a black hole is detected.
    ///
    /// Unless [a congestion controller](Self::congestion_controller_factory) was chosen, its initial
    /// window follows (RFC 9002 section 7.2): one that is smaller than a packet would never let
    /// anything out.
    pub fn initial_mtu(&mut self, bytes: u16) -> &mut Self {
        self.edit().initial_mtu(bytes);
        if !self.controller_chosen {
            let mut cubic = congestion::CubicConfig::default();
            cubic.initial_window(initial_window(bytes));
            let factory = GatedFactory(Arc::new(cubic));
            self.edit().congestion_controller_factory(Arc::new(factory));
        }
        self
    }

    /// UDP payload in bytes that every path is known to carry, at least 1200, which is the default.
    pub fn min_mtu(&mut self, bytes: u16) -> &mut Self {
        self.edit().min_mtu(bytes);
        self
    }

    /// How to discover larger path MTUs (RFC 8899); `None` switches it off. By default up to 1452
    /// bytes, trying that first.
    pub fn mtu_discovery_config(&mut self, config: Option<MtuDiscoveryConfig>) -> &mut Self {
        self.edit().mtu_discovery_config(config);
        self
    }

    /// Pad packets with application data to full size, against analysis of their sizes, and with them
    /// those that only acknowledge: whoever downloads then sends half as many bytes as arrive. In
    /// statistics, the congestion window holds these besides. Default: false.
    pub fn pad_to_mtu(&mut self, pad: bool) -> &mut Self {
        self.edit().pad_to_mtu(pad);
        self.additions.pad_to_mtu = pad;
        self
    }

    /// Have the peer acknowledge less often, if it can (QUIC Acknowledgement Frequency). Default:
    /// `None`, not asked for.
    pub fn ack_frequency_config(&mut self, config: Option<AckFrequencyConfig>) -> &mut Self {
        self.edit().ack_frequency_config(config);
        self
    }

    /// Probe timeouts in a row after which the network counts as persistently congested (RFC 9002
    /// section 7.6). Default: 3.
    pub fn persistent_congestion_threshold(&mut self, probe_timeouts: u32) -> &mut Self {
        self.edit().persistent_congestion_threshold(probe_timeouts);
        self
    }

    /// Send something after this long in silence, so that the connection does not time out. One side
    /// is enough; choose it below both sides' idle timeout. Default: `None`, off.
    pub fn keep_alive_interval(&mut self, interval: Option<Duration>) -> &mut Self {
        self.edit().keep_alive_interval(interval);
        self
    }

    /// Most bytes of TLS handshake to hold that arrived out of order. Default: 16 KiB.
    pub fn crypto_buffer_size(&mut self, bytes: usize) -> &mut Self {
        self.edit().crypto_buffer_size(bytes);
        self
    }

    /// Whether observers may measure the round-trip time by the spin bit (RFC 9000 section 17.4).
    /// Default: true.
    pub fn allow_spin(&mut self, allow: bool) -> &mut Self {
        self.edit().allow_spin(allow);
        self
    }

    /// Bytes of received datagrams to keep until they are read, the oldest being dropped, 48 of
    /// overhead for each included; `None` refuses datagrams (RFC 9221). Default: 1,250,000.
    pub fn datagram_receive_buffer_size(&mut self, bytes: Option<usize>) -> &mut Self {
        self.edit().datagram_receive_buffer_size(bytes);
        self.additions.datagram_bytes = bytes.unwrap_or(0);
        self
    }

    /// Bytes of datagrams to keep until they are sent. Default: 1 MiB.
    pub fn datagram_send_buffer_size(&mut self, bytes: usize) -> &mut Self {
        self.edit().datagram_send_buffer_size(bytes);
        self
    }

    /// The congestion controller: [`congestion::CubicConfig`] (the default),
    /// [`congestion::NewRenoConfig`], [`congestion::BbrConfig`] (experimental), or one of your own.
    /// CUBIC is the one to keep unless a path is known to lose packets without being congested and is
    /// nobody else's: `docs/CONGESTION.md` in the repository has figures.
    /// See that its initial window holds at least two packets of [`initial_mtu`](Self::initial_mtu).
    pub fn congestion_controller_factory(
        &mut self,
        factory: Arc<dyn congestion::ControllerFactory + Send + Sync + 'static>,
    ) -> &mut Self {
        let factory = Arc::new(GatedFactory(factory));
        self.edit().congestion_controller_factory(factory);
        self.controller_chosen = true;
        self
    }

    /// Whether to hand several packets to the kernel at once where it can segment them (GSO).
    /// Default: true.
    pub fn enable_segmentation_offload(&mut self, enable: bool) -> &mut Self {
        self.edit().enable_segmentation_offload(enable);
        self.additions.segmentation_offload = enable;
        self
    }

    /// Write a log of events (qlog) of the connection made with this configuration.
    #[cfg(feature = "qlog")]
    pub fn qlog_stream(&mut self, stream: Option<quinn_proto::QlogStream>) -> &mut Self {
        self.edit().qlog_stream(stream);
        self
    }
}

impl Default for TransportConfig {
    fn default() -> Self {
        let limit = VarInt::from_u32(100);
        let mut mtu_discovery = MtuDiscoveryConfig::default();
        mtu_discovery.minimum_change(MTU_MINIMUM_CHANGE_BYTES);
        let mut this = Self {
            inner: Arc::default(),
            additions: Additions {
                streams: [limit; 2],
                segmentation_offload: true,
                datagram_bytes: 0,
                pad_to_mtu: false,
            },
            eager_streams: false,
            controller_chosen: false,
        };
        this.set_streams(Dir::Bi, limit);
        this.set_streams(Dir::Uni, limit);
        this.datagram_receive_buffer_size(Some(DATAGRAM_BYTES));
        this.mtu_discovery_config(Some(mtu_discovery));
        let factory = Arc::new(GatedFactory(Arc::new(congestion::CubicConfig::default())));
        this.edit().congestion_controller_factory(factory);
        this
    }
}

impl fmt::Debug for TransportConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportConfig")
            .field("stream_limits", &self.additions.streams)
            .field("eager_streams", &self.eager_streams)
            .field("inner", &self.inner)
            .finish()
    }
}

/// Bytes that may be in flight at first with packets of this size (RFC 9002 section 7.2).
fn initial_window(mtu: u16) -> u64 {
    let mtu = u64::from(mtu);
    (10 * mtu).min((2 * mtu).max(14_720))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_grow_once_half_is_used() {
        let (_, additions) = TransportConfig::default().parts();
        assert_eq!(additions.grown(Dir::Bi, 7, 16), None);
        assert_eq!(additions.grown(Dir::Bi, 8, 16), Some(VarInt::from_u32(100)));
        assert_eq!(
            additions.grown(Dir::Bi, 100, 100),
            None,
            "never beyond what was configured"
        );
    }

    #[test]
    fn the_initial_window_is_that_of_the_rfc() {
        for (mtu, window) in [
            (1200, 12_000),
            (1452, 14_520),
            (8972, 17_944),
            (65_507, 131_014),
        ] {
            assert_eq!(initial_window(mtu), window);
        }
    }

    #[test]
    fn low_limits_are_granted_at_once() {
        let mut config = TransportConfig::default();
        config.max_concurrent_bidi_streams(VarInt::from_u32(3));
        let (_, additions) = config.parts();
        assert_eq!(additions.grown(Dir::Bi, 3, 3), None);
    }

    #[test]
    #[should_panic = "cannot be changed once it is in use"]
    fn configurations_in_use_are_frozen() {
        let mut config = TransportConfig::default();
        let _connection = config.parts();
        config.allow_spin(false);
    }
}
