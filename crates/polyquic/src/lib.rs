//! QUIC on any executor.
//!
//! QUIC gives two programs encrypted connections with many independent streams over UDP (RFC 9000).
//! Implementations in Rust usually come with the executor that they were written for. This one does
//! not: the same endpoint, connections and streams run on smol, on tokio, on plain threads, or on
//! an executor of your own, and an application that uses them need not know which.
//!
//! # The model
//!
//! - A *runtime handle* (`rt`) stands for an executor: [`smol::SmolRuntime`],
//!   [`tokio::TokioRuntime`], [`blocking::BlockingRuntime`], [`glommio::GlommioRuntime`]. It is named where a program starts.
//! - An [`Endpoint`] is one UDP socket with any number of connections, as client, server or both.
//!   Making one takes `&rt` and starts a [`Driver`] there, the only task that polyquic has.
//! - A [`Connection`] opens and accepts streams and sends datagrams; [`SendStream`] and
//!   [`RecvStream`] are the halves of a stream.
//!
//! These handles have no executor in their types, are `Send` and `Sync`, and can be used from any
//! thread. An application that spawns tasks of its own takes an [`Executor`] and calls [`spawn`].
//!
//! ```
//! # #[cfg(feature = "smol")] {
//! use std::error::Error;
//! use std::sync::Arc;
//!
//! use polyquic::rustls::{RootCertStore, pki_types::PrivatePkcs8KeyDer};
//! use polyquic::{ClientConfig, Endpoint, Executor, ServerConfig, spawn};
//!
//! async fn app<R: Executor>(rt: R) -> Result<(), Box<dyn Error + Send + Sync>> {
//!     // A certificate made on the spot, which the client is told to trust.
//!     let made = rcgen::generate_simple_self_signed(["localhost".into()])?;
//!     let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
//!     let mut roots = RootCertStore::empty();
//!     roots.add(made.cert.der().clone())?;
//!     let server_config = ServerConfig::with_single_cert(vec![made.cert.into()], key.into())?;
//!     let client_config = ClientConfig::with_root_certificates(Arc::new(roots))?;
//!
//!     let server = Endpoint::server(&rt, server_config, "127.0.0.1:0".parse()?)?;
//!     let addr = server.local_addr()?;
//!     spawn(&rt, async move {
//!         let incoming = server.accept().await.expect("nobody closed it");
//!         let connection = incoming.await.expect("the client is ours");
//!         while let Ok((mut send, mut recv)) = connection.accept_bi().await {
//!             let request = recv.read_to_end(1000).await.expect("a short request");
//!             send.write_all(&request).await.expect("the client listens");
//!             send.finish().expect("not finished before");
//!         }
//!     });
//!
//!     let client = Endpoint::client(&rt, "127.0.0.1:0".parse()?)?;
//!     let connection = client.connect_with(client_config, addr, "localhost")?.await?;
//!     let (mut send, mut recv) = connection.open_bi().await?;
//!     send.write_all(b"hello").await?;
//!     send.finish()?;
//!     assert_eq!(recv.read_to_end(1000).await?, b"hello");
//!
//!     client.close(0u32.into(), b"done");
//!     client.wait_idle().await; // so that the server hears of it
//!     Ok(())
//! }
//!
//! // The line that names an executor:
//! polyquic::smol::run(1, app).unwrap().unwrap();
//! # }
//! ```
//!
//! Other lines: `polyquic::smol::run(4, app)` (four threads that steal work from each other),
//! `polyquic::tokio::run(Flavor::CurrentThread, app)`, `polyquic::blocking::run(app)`,
//! `polyquic::glommio::run(4, app)` (four threads that keep their tasks). Inside a
//! program that runs an executor already: `app(TokioRuntime::current())`,
//! `app(SmolRuntime::global())`. Without `async` at all: [`blocking::Endpoint`] and its relatives.
//!
//! # Features
//!
//! | feature | | what for |
//! |---|---|---|
//! | `smol` | default | [`smol`]: one thread, or several that steal work |
//! | `tokio` | | [`tokio`]: either flavour of its runtime; streams implement its I/O traits |
//! | `blocking` | | [`blocking`]: plain threads, and the synchronous API |
//! | `glommio` | | [`glommio`]: a thread per core on io_uring; Linux only |
//! | `wasm` | | [`wasm`]: JavaScript's event loop, in Node and in browsers; empty on targets other than WebAssembly |
//! | `sim` | | [`sim`]: simulations with virtual time and a model network, for tests |
//! | `aws-lc-rs` | default | cryptography by AWS-LC, with hybrid post-quantum key exchange; needs a C compiler |
//! | `ring` | | cryptography by ring, used if `aws-lc-rs` is off |
//! | `qlog` | | event logs of connections |
//! | `platform-verifier` | | [`ClientConfig`] that trusts what the operating system trusts |
//! | `quic-lb` | | connection ids by which load balancers know the server (`docs/LOAD-BALANCING.md`) |
//!
//! Any combination with at least one kind of cryptography works; features add, and change nothing
//! that is there. With `default-features = false`, name your cryptography.
//!
//! # What to expect
//!
//! Names and meanings are those of the quinn crate, with deliberate exceptions:
//!
//! - a [`SendStream`] that is dropped without [`finish`](SendStream::finish) is reset, so that the
//!   peer does not take part of the data for all of it;
//! - [`Endpoint::close`], and dropping the last handle to a connection, deliver what was finished;
//! - each `async` method says whether it is cancel-safe: whether dropping its future early, as
//!   `select!` does, loses anything.
//!
//! Errors say what happened; [`blame`] says whose doing it was.
//!
//! # What this is not
//!
//! There is no HTTP/3 here, no multipath, and no QUIC version but 1. UDP is needed, or a relay that has
//! it. Large parts of the protocol, and its bugs, are those of [quinn-proto].
//!
//! # Further
//!
//! The repository has a book for beginners (`docs/book`), a guide to adapters for other executors
//! (`docs/ADAPTERS.md`; [`Runtime`] is where it starts), and the inside story
//! (`docs/ARCHITECTURE.md`).
//!
//! [quinn-proto]: https://docs.rs/quinn-proto

#![forbid(unsafe_code)]
// Links in the documentation above lead to executors that a build may lack.
#![cfg_attr(
    not(all(
        feature = "smol",
        feature = "tokio",
        feature = "blocking",
        feature = "glommio",
        feature = "sim",
        feature = "wasm"
    )),
    allow(rustdoc::broken_intra_doc_links)
)]

#[cfg(all(feature = "glommio", not(target_os = "linux")))]
compile_error!(
    "the feature `glommio` needs Linux, as glommio is made of io_uring: leave it out on other systems"
);

pub use polyquic_core::{
    AckFrequencyConfig, ApplicationClose, Blame, BloomTokenLog, BpfInstruction, Chunk,
    ClientConfig, ClosedStream, ConfigError, ConnectError, ConnectionClose, ConnectionError,
    ConnectionId, ConnectionIdGenerator, ConnectionStats, Dir, EcnCodepoint, EndpointConfig,
    EndpointStats, FrameStats, FrameType, IdleTimeout, Instant, InvalidCid, MtuDiscoveryConfig,
    NoneTokenLog, NoneTokenStore, PathStats, ServerConfig, ShardError, ShardKey, Side,
    StdSystemTime, StreamId, TimeSource, TokenLog, TokenMemoryCache, TokenReuseError, TokenStore,
    TransportConfig, TransportError, TransportErrorCode, UdpStats, ValidationTokenConfig, VarInt,
    VarIntBoundsExceeded, Written, blame, congestion, crypto, crypto_provider, rustls,
    transport_parameters,
};
#[cfg(feature = "qlog")]
pub use polyquic_core::{QlogConfig, QlogStream};
#[cfg(feature = "quic-lb")]
pub use polyquic_core::{QuicLbConfig, QuicLbError};
pub use polyquic_endpoint::{
    Abandoned, Accept, AcceptBi, AcceptUni, Closed, Connecting, Connection, Driver, Elapsed,
    Endpoint, EndpointBuilder, Executor, Incoming, IncomingFuture, Offloaded, OpenBi, OpenUni,
    ReadDatagram, ReadError, ReadExactError, ReadToEndError, RecvStream, ResetError, RetryError,
    SendDatagramError, SendDatagramWait, SendStream, Sleep, StoppedError, WriteError,
    ZeroRttAccepted, offload, sleep, spawn, spawn_on_shards, timeout,
};
pub use polyquic_runtime::{Capabilities, Clock, DatagramSocket, Runtime, Spawn, Task, Timer};

#[cfg(feature = "blocking")]
pub use polyquic_blocking as blocking;
#[cfg(all(feature = "glommio", target_os = "linux"))]
pub use polyquic_glommio as glommio;
#[cfg(feature = "sim")]
pub use polyquic_sim as sim;
#[cfg(feature = "smol")]
pub use polyquic_smol as smol;
#[cfg(feature = "tokio")]
pub use polyquic_tokio as tokio;
#[cfg(feature = "wasm")]
pub use polyquic_wasm as wasm;
