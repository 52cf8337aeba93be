//! QUIC (RFC 9000, 9001, 9002, 9221) without I/O.
//!
//! This crate holds the protocol as machines that consume and produce values: datagrams and the
//! current time go in; datagrams, deadlines and events come out. There is no socket here, no
//! thread, no clock and no `async`. The protocol itself is [quinn-proto], unmodified; what this
//! crate adds is what a driver for many connections on one socket needs around it:
//!
//! - [`Endpoint`]: demultiplexing, admission, connecting and accepting;
//! - [`TimerQueue`]: one for all connections of an endpoint;
//! - [`Connection`]: one connection, with a batch size for segmentation offload that adapts to what
//!   the connection does ([`BatchSizer`]);
//! - [`EndpointConfig`]: every source of randomness can be seeded, so that the same inputs give the
//!   same outputs; connection ids can name the shard that owns the connection ([`ShardKey`]);
//! - [`Blame`]: who is at fault when a connection ends.
//!
//! # The drive contract
//!
//! After anything was done to a [`Connection`] (an event or a timeout handled, a stream written,
//! read, opened or closed), drain it in this order: `poll_transmit` until it has nothing more or
//! the budget is spent, then `poll_timeout` into the endpoint's timer queue, then
//! `poll_endpoint_events`, each through [`Endpoint::handle_event`] and its answer back through
//! [`Connection::handle_event`], then `poll` for the events of the application. Both machines
//! live on one thread at a time, but not on the same: an endpoint never touches a connection,
//! except to resume one.
//!
//! A server whose configuration [says so](ServerConfig::offload_handshakes) leaves the answer to a
//! ClientHello to its driver: after draining, it asks [`Connection::take_handshake_job`], runs the
//! job wherever it likes, and calls [`Endpoint::resume`] when it is done.
//!
//! ```
//! # #[cfg(feature = "aws-lc-rs")] {
//! use polyquic_core::{Endpoint, EndpointConfig, SocketTraits};
//!
//! // A client-only endpoint with a seed: its connection ids are the same in every run.
//! let mut config = EndpointConfig::default();
//! config.seed([7; 32]);
//! let endpoint = Endpoint::new(&config, None, SocketTraits { ipv6: false, may_fragment: true });
//! assert_eq!(endpoint.open_connections(), 0);
//! # }
//! ```
//!
//! [quinn-proto]: https://docs.rs/quinn-proto

#![forbid(unsafe_code)]

mod batch;
mod cid;
mod config;
mod connection;
pub mod crypto;
mod datagrams;
mod deferral;
mod early;
mod endpoint;
mod error;
mod gate;
mod header;
mod moves;
mod timers;
mod tls;

pub use batch::BatchSizer;
pub use cid::{BpfInstruction, ShardKey, ShardedCidGenerator};
#[cfg(feature = "quic-lb")]
pub use cid::{QuicLbCidGenerator, QuicLbConfig, QuicLbError};
pub use config::{ClientConfig, EndpointConfig, ServerConfig, ShardError, TransportConfig};
pub use connection::Connection;
pub use crypto::offload::HandshakeJob;
pub use datagrams::Datagrams;
pub use endpoint::{Endpoint, EndpointStats, SocketTraits};
pub use error::{Blame, blame};
pub use timers::{DeadlineGrid, TimerQueue};
pub use tls::crypto_provider;

// The names of quinn-proto that are part of polyquic's public API. This list is the allow-list: a
// type of a dependency that is not here (or under `rustls`) must not appear in a signature.
pub use quinn_proto::{
    AcceptError, AckFrequencyConfig, ApplicationClose, BloomTokenLog, Chunk, Chunks, ClosedStream,
    ConfigError, ConnectError, ConnectionClose, ConnectionError, ConnectionEvent, ConnectionHandle,
    ConnectionId, ConnectionIdGenerator, ConnectionStats, DatagramEvent, Dir, EcnCodepoint,
    EndpointEvent, Event, FinishError, FrameStats, FrameType, IdleTimeout, Incoming, InvalidCid,
    MtuDiscoveryConfig, NoneTokenLog, NoneTokenStore, PathStats, ReadError, ReadableError,
    RecvStream, RetryError, SendDatagramError, SendStream, Side, StdSystemTime, StreamEvent,
    StreamId, Streams, TimeSource, TokenLog, TokenMemoryCache, TokenReuseError, TokenStore,
    Transmit, TransportError, TransportErrorCode, UdpStats, ValidationTokenConfig, VarInt,
    VarIntBoundsExceeded, WriteError, Written, congestion, transport_parameters,
};
#[cfg(feature = "qlog")]
pub use quinn_proto::{QlogConfig, QlogStream};
pub use rustls;

/// The clock type: `std::time::Instant`, or its stand-in in browsers.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub use std::time::Instant;
/// The clock type: `std::time::Instant`, or its stand-in in browsers.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub use web_time::Instant;
