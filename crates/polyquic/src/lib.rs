//! One QUIC stack, any executor.
//!
//! (The page that a newcomer reads first is written last.)

#![forbid(unsafe_code)]

pub use polyquic_core::{
    AckFrequencyConfig, ApplicationClose, Blame, BloomTokenLog, Chunk, ClientConfig, ClosedStream,
    ConfigError, ConnectError, ConnectionClose, ConnectionError, ConnectionId,
    ConnectionIdGenerator, ConnectionStats, Dir, EcnCodepoint, EndpointConfig, EndpointStats,
    FrameStats, FrameType, IdleTimeout, Instant, InvalidCid, MtuDiscoveryConfig, NoneTokenLog,
    NoneTokenStore, PathStats, ServerConfig, ShardKey, Side, StdSystemTime, StreamId, TimeSource,
    TokenLog, TokenMemoryCache, TokenReuseError, TokenStore, TransportConfig, TransportError,
    TransportErrorCode, UdpStats, ValidationTokenConfig, VarInt, VarIntBoundsExceeded, Written,
    blame, congestion, crypto, crypto_provider, rustls,
};
#[cfg(feature = "qlog")]
pub use polyquic_core::{QlogConfig, QlogStream};
pub use polyquic_endpoint::{
    Accept, AcceptBi, AcceptUni, Closed, Connecting, Connection, Driver, Elapsed, Endpoint,
    Executor, Incoming, IncomingFuture, OpenBi, OpenUni, ReadDatagram, ReadError, ReadExactError,
    ReadToEndError, RecvStream, ResetError, RetryError, SendDatagramError, SendDatagramWait,
    SendStream, Sleep, StoppedError, WriteError, ZeroRttAccepted, sleep, spawn, timeout,
};
pub use polyquic_runtime::{Capabilities, Clock, DatagramSocket, Runtime, Spawn, Task, Timer};

#[cfg(feature = "blocking")]
pub use polyquic_blocking as blocking;
#[cfg(feature = "smol")]
pub use polyquic_smol as smol;
#[cfg(feature = "tokio")]
pub use polyquic_tokio as tokio;
