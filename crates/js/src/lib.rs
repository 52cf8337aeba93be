//! What the JavaScript package in `npm/` is made of: handles of polyquic as classes.
//!
//! Nothing here is meant to be used directly. The package puts streams, iteration and documentation
//! on top. Built by `cargo xtask wasm`; empty on targets other than WebAssembly.

#![forbid(unsafe_code)]

#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod connection;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod endpoint;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod error;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod options;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod stream;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod trust;

#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub use {
    connection::RawConnection,
    endpoint::{RawEndpoint, RawIncoming},
    error::initialize,
    stream::{RawRecvStream, RawSendStream},
};
