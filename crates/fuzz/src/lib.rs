//! Fuzz targets for polyquic.
//!
//! Each target is a function from bytes to nothing that panics when a promise is broken. libFuzzer
//! calls it (`cargo xtask fuzz`, the harness is in `fuzz/`), and so does a plain test with every input
//! in `corpus/` and `regressions/`. What the targets check is listed in `docs/TESTING.md`.
//!
//! The machines under test are those that are shipped, but for their cryptography (`plain.rs`): packets
//! are neither encrypted nor authenticated, so that a fuzzer can write them, and a model read them.

#![forbid(unsafe_code)]

mod client;
mod connection;
mod connection_ids;
mod cursor;
mod endpoint;
mod files;
mod host;
mod model;
mod plain;
mod relay;
mod runtime;
mod seeds;
mod streams;
mod tokens;
mod transport_parameters;
mod urls;
mod wire;

pub use client::client;
pub use connection::connection;
pub use connection_ids::connection_ids;
pub use endpoint::endpoint;
pub use files::files;
pub use relay::relay;
pub use seeds::seeds;
pub use streams::streams;
pub use tokens::tokens;
pub use transport_parameters::transport_parameters;
pub use urls::urls;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets by their names, which are those of their directories, too.
pub const TARGETS: &[(&str, Target)] = &[
    ("client", client),
    ("connection", connection),
    ("connection_ids", connection_ids),
    ("endpoint", endpoint),
    ("files", files),
    ("relay", relay),
    ("streams", streams),
    ("tokens", tokens),
    ("transport_parameters", transport_parameters),
    ("urls", urls),
];
