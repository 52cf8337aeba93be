//! How a client's time ends, and what is said about it.

use std::fmt;
use std::time::Duration;

use crate::relay::allow::Target;

/// Why a client is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It said goodbye.
    Closed,
    /// Its connection broke.
    Lost(String),
    /// The relay shuts down.
    Leaving,
    /// No datagram for so long.
    Idle(Duration),
    /// Not even an answer to a ping for so long.
    Silent(Duration),
    /// A message that is longer than any datagram.
    TooBig,
    /// A message of text.
    NotBinary,
    /// Something that is no WebSocket.
    Protocol(String),
    /// `--max-bytes` have come.
    UsedUp,
    /// `--max-clients` are there.
    Clients,
    /// `--max-clients-per-address` are there.
    PerAddress,
    /// As many names are being looked up as may be.
    Lookups,
    /// A page of that site may not use this relay.
    Origin(String),
    /// No rule allows it.
    NotAllowed(Target),
    /// A rule allows the name, but none the addresses that it leads to.
    AddressNotAllowed(Target),
    /// Something that is not HOST:PORT.
    BadTarget(String),
    /// The name leads nowhere.
    Unresolved(Target, String),
    /// This machine is in the way.
    Local(String),
}

impl End {
    /// What the client is told, if there is still somebody to tell: close code, name of the error.
    pub(crate) fn code(&self) -> Option<(u16, &'static str)> {
        Some(match self {
            Self::Closed | Self::Lost(_) => return None,
            Self::Leaving => (1001, "shutting-down"),
            Self::Idle(_) | Self::Silent(_) => (4408, "idle"),
            Self::TooBig => (1009, "message-too-big"),
            Self::NotBinary => (1003, "not-binary"),
            Self::Protocol(_) => (1002, "protocol-error"),
            Self::UsedUp => (4429, "used-up"),
            Self::Clients => (4429, "too-many-clients"),
            Self::PerAddress => (4429, "too-many-clients-of-this-address"),
            Self::Lookups => (4429, "too-many-lookups"),
            Self::Origin(_) => (4403, "origin-not-allowed"),
            Self::NotAllowed(_) | Self::AddressNotAllowed(_) => (4403, "not-allowed"),
            Self::BadTarget(_) => (4404, "bad-target"),
            Self::Unresolved(..) => (4404, "cannot-resolve"),
            Self::Local(_) => (1011, "internal"),
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |target: &Target| format!("{}, port {}", target.host, target.port);
        match self {
            Self::Closed => f.write_str("the client closed"),
            Self::Lost(why) => write!(f, "the client is gone: {why}"),
            Self::Leaving => f.write_str("the relay is shutting down"),
            Self::Idle(time) => write!(f, "no datagram for {} s", time.as_secs_f64()),
            Self::Silent(time) => {
                write!(
                    f,
                    "no sign of life from the client for {} s",
                    time.as_secs_f64()
                )
            }
            Self::TooBig => f.write_str("a message is larger than a datagram can be"),
            Self::NotBinary => f.write_str("a message is text: datagrams are binary messages"),
            Self::Protocol(why) => write!(f, "this is no WebSocket: {why}"),
            Self::UsedUp => f.write_str("as many bytes were carried as a client may have"),
            Self::Clients => f.write_str("the relay has as many clients as it may have"),
            Self::PerAddress => {
                f.write_str("the relay has as many clients of this address as it may have")
            }
            Self::Lookups => f.write_str("the relay looks up as many names as it may"),
            Self::Origin(origin) => write!(f, "pages of {origin} may not use this relay"),
            Self::NotAllowed(target) => {
                write!(f, "this relay does not allow {}", at(target))
            }
            Self::AddressNotAllowed(target) => write!(
                f,
                "this relay does not allow the addresses that {} leads to",
                at(target)
            ),
            Self::BadTarget(why) => write!(f, "no target to carry datagrams to: {why}"),
            Self::Unresolved(target, why) => {
                write!(f, "cannot resolve the host name {}: {why}", target.host)
            }
            Self::Local(why) => write!(f, "the relay's machine is in the way: {why}"),
        }
    }
}

/// What was carried for a client, or for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) up_datagrams: u64,
    pub(crate) up_bytes: u64,
    pub(crate) down_datagrams: u64,
    pub(crate) down_bytes: u64,
    /// Over `--rate` or `--datagram-rate`, either way.
    pub(crate) over_rate: u64,
    /// The client read too slowly.
    pub(crate) queue_full: u64,
    /// Refused by the kernel on their way to the target (too large, no route), or too large for the
    /// client's WebTransport.
    pub(crate) unsendable: u64,
}

impl Counters {
    pub(crate) fn add(&mut self, other: &Self) {
        self.up_datagrams += other.up_datagrams;
        self.up_bytes += other.up_bytes;
        self.down_datagrams += other.down_datagrams;
        self.down_bytes += other.down_bytes;
        self.over_rate += other.over_rate;
        self.queue_full += other.queue_full;
        self.unsendable += other.unsendable;
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "up {} datagrams, {} bytes; down {} datagrams, {} bytes; dropped {} over the rate, {} at \
             a full queue, {} unsendable",
            self.up_datagrams,
            self.up_bytes,
            self.down_datagrams,
            self.down_bytes,
            self.over_rate,
            self.queue_full,
            self.unsendable,
        )
    }
}
