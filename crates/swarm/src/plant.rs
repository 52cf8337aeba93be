//! Faults to plant, each of which an invariant must find.

use std::str::FromStr;

/// A fault of an application, or of what it is told, that is not in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// Readers see a byte that was not written.
    Byte,
    /// A reader that waits is not woken until its connection is over.
    WakeUp,
    /// A server's task is never done.
    Task,
    /// Windows are larger than planned.
    Windows,
    /// More streams are allowed than planned.
    Streams,
    /// Datagrams arrive twice.
    Datagram,
    /// Streams are reset with another code than the application gave.
    Code,
    /// Connections are closed with another code than the application gave.
    Close,
    /// Nobody has an idle timeout.
    Idle,
    /// A task wakes itself a few thousand times.
    Storm,
    /// What was acknowledged is not read.
    Delivery,
    /// A client that ends in haste delivers nothing.
    Haste,
    /// A server sends to a client that asked for nothing.
    Amplify,
    /// One of those that share opens its stream late.
    Unfair,
    /// Connections keep far more than they are configured to.
    Memory,
    /// Connections leave something behind.
    Leak,
    /// A task panics.
    Panic,
    /// Nothing goes on, in real time.
    Hang,
}

impl Plant {
    /// All but [`Hang`](Self::Hang), which ends the process.
    pub const ALL: [Self; 17] = [
        Self::Byte,
        Self::WakeUp,
        Self::Task,
        Self::Windows,
        Self::Streams,
        Self::Datagram,
        Self::Code,
        Self::Close,
        Self::Idle,
        Self::Storm,
        Self::Delivery,
        Self::Haste,
        Self::Amplify,
        Self::Unfair,
        Self::Memory,
        Self::Leak,
        Self::Panic,
    ];

    /// The invariant that finds it.
    pub fn found_by(self) -> &'static str {
        match self {
            Self::Byte => "integrity",
            Self::WakeUp => "errors",
            Self::Task => "leaks",
            Self::Windows => "flow control",
            Self::Streams => "stream limits",
            Self::Datagram => "datagrams",
            Self::Code => "codes",
            Self::Close => "errors",
            Self::Idle => "idle timeout",
            Self::Storm => "wake-ups",
            Self::Delivery | Self::Haste => "delivery",
            Self::Amplify => "amplification",
            Self::Unfair => "fairness",
            Self::Memory | Self::Leak => "memory",
            Self::Panic | Self::Hang => "panics",
        }
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = Self::ALL.into_iter().chain([Self::Hang]);
        let mut named = all.filter(|it| format!("{it:?}").eq_ignore_ascii_case(name));
        named.next().ok_or(format!("no such fault: {name}"))
    }
}
