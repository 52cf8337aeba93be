//! What is measured, and how much of it.

use std::{str::FromStr, time::Duration};

use anyhow::bail;

/// Bytes that the transfer is measured over.
const TRANSFER_BYTES: u64 = 32 << 20;
/// Bytes before that, for the congestion window and buffers to have grown.
const TRANSFER_WARMUP_BYTES: u64 = 8 << 20;
/// Bytes that the sender hands over at once.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// Requests measured, and before that.
const REQUESTS: u64 = 10_000;
const REQUESTS_WARMUP: u64 = 1_000;
/// Requests under way at any moment, as far as the server's limit allows.
pub(crate) const REQUESTS_AT_ONCE: u64 = 64;
pub(crate) const REQUEST_BYTES: usize = 128;
pub(crate) const RESPONSE_BYTES: usize = 1024;

/// Handshakes measured, and before that.
const HANDSHAKES: u64 = 50;
const HANDSHAKES_WARMUP: u64 = 2;

/// One of the three things whose instructions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// Bytes from server to client on one stream.
    Transfer,
    /// 128 bytes there, 1 KiB back, a stream for each.
    Requests,
    /// A full handshake, the close after it, and everything up to the connection being forgotten.
    Handshakes,
}

impl Workload {
    /// How many operations are measured, and how many run before that.
    pub(crate) fn amounts(self) -> (u64, u64) {
        match self {
            Self::Transfer => (TRANSFER_BYTES, TRANSFER_WARMUP_BYTES),
            Self::Requests => (REQUESTS, REQUESTS_WARMUP),
            Self::Handshakes => (HANDSHAKES, HANDSHAKES_WARMUP),
        }
    }

    /// What the count is divided by.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Transfer => "byte",
            Self::Requests => "request",
            Self::Handshakes => "handshake",
        }
    }
}

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "transfer" => Ok(Self::Transfer),
            "requests" => Ok(Self::Requests),
            "handshakes" => Ok(Self::Handshakes),
            _ => bail!("no workload {name:?}; there are transfer, requests and handshakes"),
        }
    }
}

/// What was done while it was measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) operations: u64,
    pub(crate) datagrams_up: u64,
    pub(crate) datagrams_down: u64,
    pub(crate) virtual_time: Duration,
}
