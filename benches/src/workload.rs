//! What can be measured, by name.

use std::{fmt, str::FromStr};

/// What the two applications do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// The server sends without end, on `streams` streams of each of `connections` connections.
    Download {
        /// Connections that the client opens.
        connections: usize,
        /// Streams on each of them.
        streams: usize,
    },
    /// The same with the client sending.
    Upload {
        /// Connections that the client opens.
        connections: usize,
        /// Streams on each of them.
        streams: usize,
    },
    /// 128 bytes there, 1 KiB back, a stream for each, so many at a time, spread evenly over the
    /// connections.
    Requests {
        /// Connections that the client opens.
        connections: usize,
        /// Requests under way at any moment.
        concurrency: usize,
    },
    /// 64 bytes there and back on one stream, one at a time.
    Latency,
    /// Full handshakes (no resumption), each followed by a close, so many at a time.
    ///
    /// A handshake is over for the client when it can use the connection, which is before the
    /// server knows; closing at once is part of it, and so is what an endpoint does with the
    /// remains of connections that were closed within the last few probe timeouts.
    Handshakes {
        /// Handshakes under way at any moment.
        concurrency: usize,
    },
    /// The same with a session resumed in each.
    ///
    /// A client needs a ticket for each connection, and gets those of a connection after its
    /// handshake, so each is closed as soon as there is a ticket for the next. The time in the
    /// percentiles is that of the handshake alone; rate and processor time have all of it.
    Resumed {
        /// Connections at any moment.
        concurrency: usize,
    },
    /// Connections that each send 128 bytes in 0-RTT and are closed when 1 KiB has come back and
    /// there is a ticket for the next.
    ///
    /// The server reads and answers before its handshake is complete. The time in the percentiles
    /// is that from wanting to connect to having all of the answer.
    ZeroRtt {
        /// Connections at any moment.
        concurrency: usize,
    },
    /// Unreliable datagrams (RFC 9221) from the client to the server, as many as the connection's
    /// congestion control lets through.
    Datagrams,
    /// Connections that do nothing but exist: how much memory each adds on either side.
    ///
    /// What counts is the growth of resident memory (`Rss` of `/proc/self/smaps_rollup`) from 64
    /// connections on, half a second after the last handshake. So it includes what the allocator
    /// holds but does not use, as the peak of the handshakes leaves it, and excludes what an
    /// endpoint needs once.
    Memory {
        /// Connections counted.
        connections: usize,
    },
    /// Connections that only keep themselves alive, by a packet each second from the client.
    ///
    /// Measured for at least five seconds, as the cost is small. Their clocks are as far apart as
    /// their handshakes were, which spread over part of a second.
    Idle {
        /// Connections held.
        connections: usize,
    },
    /// A download on one stream through a relay that loses and delays datagrams in both
    /// directions; see [`relay`](crate::relay).
    Loss,
    /// Round trips of 64 bytes on one stream, a millisecond after each other, while full handshakes
    /// arrive at the server at a fixed rate from a process of their own; see
    /// [`storm`](crate::storm).
    Storm {
        /// Handshakes begun in each second.
        rate: u32,
        /// Whether the server has an RSA-4096 key, which takes it milliseconds to sign with,
        /// instead of one on P-256.
        rsa: bool,
    },
}

impl Workload {
    /// Every workload, with its name on the command line.
    pub const ALL: &[(&str, Self)] = &[
        (
            "download",
            Self::Download {
                connections: 1,
                streams: 1,
            },
        ),
        (
            "upload",
            Self::Upload {
                connections: 1,
                streams: 1,
            },
        ),
        (
            "download-streams",
            Self::Download {
                connections: 1,
                streams: 16,
            },
        ),
        (
            "upload-streams",
            Self::Upload {
                connections: 1,
                streams: 16,
            },
        ),
        (
            "connections",
            Self::Download {
                connections: 50,
                streams: 1,
            },
        ),
        (
            "requests",
            Self::Requests {
                connections: 1,
                concurrency: 64,
            },
        ),
        (
            "requests-connections",
            Self::Requests {
                connections: 32,
                concurrency: 64,
            },
        ),
        ("latency", Self::Latency),
        ("handshakes", Self::Handshakes { concurrency: 16 }),
        ("resumed", Self::Resumed { concurrency: 16 }),
        ("zero-rtt", Self::ZeroRtt { concurrency: 16 }),
        ("datagrams", Self::Datagrams),
        ("memory", Self::Memory { connections: 2_000 }),
        ("idle", Self::Idle { connections: 2_000 }),
        ("loss", Self::Loss),
        (
            "storm",
            Self::Storm {
                rate: 500,
                rsa: false,
            },
        ),
        (
            "storm-rsa",
            Self::Storm {
                rate: 100,
                rsa: true,
            },
        ),
    ];
}

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, workload)| *workload)
            .ok_or_else(|| {
                let known: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
                anyhow::anyhow!("no workload {name:?}; there are {}", known.join(", "))
            })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, workload)| workload == self);
        f.write_str(name.map_or("unnamed", |(name, _)| name))
    }
}
