//! The result of a measurement, for people and as JSON.

use std::time::Duration;

use serde::Serialize;

use super::worker::Tally;
use crate::out::say;
use crate::stats::{Summary, bit_rate, bytes};

/// One measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) test: &'static str,
    /// The client's.
    pub(crate) executor: &'static str,
    pub(crate) connections: u32,
    /// Per connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) streams: Option<u32>,
    pub(crate) seconds: f64,
    /// Of payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bits_per_second: Option<f64>,
    /// Requests, handshakes or datagrams that came to a good end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Summary>,
    /// Datagrams that did not come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) datagrams_lost: Option<u64>,
    /// Packets lost on the client's side, retransmitted as need be.
    pub(crate) packets_lost: u64,
    /// Growth of this process's memory per connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes_per_connection: Option<u64>,
}

impl Report {
    /// A report of what was counted in `elapsed`.
    pub(crate) fn new(test: &'static str, executor: &'static str, elapsed: Duration) -> Self {
        Self {
            test,
            executor,
            connections: 0,
            streams: None,
            seconds: elapsed.as_secs_f64(),
            bytes: None,
            bits_per_second: None,
            count: None,
            per_second: None,
            latency: None,
            datagrams_lost: None,
            packets_lost: 0,
            memory_bytes_per_connection: None,
        }
    }

    /// Add a number of bytes and the rate that follows.
    pub(crate) fn bytes(&mut self, tally: &Tally) {
        self.bytes = Some(tally.bytes);
        self.bits_per_second = Some(tally.bytes as f64 * 8.0 / self.seconds.max(1e-9));
    }

    /// Add a number of operations, the rate that follows, and what each took.
    pub(crate) fn operations(&mut self, tally: &Tally) {
        self.count = Some(tally.latency.count());
        self.per_second = Some(tally.latency.count() as f64 / self.seconds.max(1e-9));
        self.latency = tally.latency.summary();
    }

    /// Print it.
    pub(crate) fn print(&self, json: bool) {
        if json {
            // Numbers and strings only: this cannot fail.
            say!("{}", serde_json::to_string_pretty(self).unwrap_or_default());
            return;
        }
        let streams = self
            .streams
            .map(|n| format!(" of {n} streams"))
            .unwrap_or_default();
        say!(
            "{} on {}, {} connection{}{streams}, {:.3} s",
            self.test,
            self.executor,
            self.connections,
            if self.connections == 1 { "" } else { "s" },
            self.seconds,
        );
        if let (Some(count), Some(rate)) = (self.bytes, self.bits_per_second) {
            say!("  {} transferred, {}", bytes(count), bit_rate(rate / 8.0));
        }
        if let (Some(count), Some(rate)) = (self.count, self.per_second) {
            say!("  {count} done, {rate:.0} per second");
        }
        if let Some(latency) = &self.latency {
            say!("  {latency}");
        }
        if let Some(lost) = self.datagrams_lost {
            say!("  {lost} datagrams did not come back");
        }
        if let Some(memory) = self.memory_bytes_per_connection {
            say!("  {} of memory per connection on this side", bytes(memory));
        }
        say!("  {} packets lost", self.packets_lost);
    }
}
