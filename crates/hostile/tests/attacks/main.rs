//! Attacks on a live endpoint, each with an innocent client beside it.
//!
//! See `docs/TESTING.md` for the list, and [`arena::attack`] for what every one of them asserts.

mod arena;
mod attempts;
mod client;
mod floods;
mod frames;
mod handshake;
mod heap;
mod net;
mod paths;

/// Error codes of transports (RFC 9000 section 20.1).
mod code {
    pub(crate) const FLOW_CONTROL_ERROR: u64 = 0x03;
    pub(crate) const STREAM_LIMIT_ERROR: u64 = 0x04;
    pub(crate) const STREAM_STATE_ERROR: u64 = 0x05;
    pub(crate) const FINAL_SIZE_ERROR: u64 = 0x06;
    pub(crate) const FRAME_ENCODING_ERROR: u64 = 0x07;
    pub(crate) const TRANSPORT_PARAMETER_ERROR: u64 = 0x08;
    pub(crate) const CONNECTION_ID_LIMIT_ERROR: u64 = 0x09;
    pub(crate) const PROTOCOL_VIOLATION: u64 = 0x0a;
    pub(crate) const INVALID_TOKEN: u64 = 0x0b;
    pub(crate) const CRYPTO_BUFFER_EXCEEDED: u64 = 0x0d;
    pub(crate) const KEY_UPDATE_ERROR: u64 = 0x0e;
    pub(crate) const INTERNAL_ERROR: u64 = 0x01;
}
