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
    /// 128 bytes there, 1 KiB back, a stream for each, so many at a time on one connection.
    Requests {
        /// Requests under way at any moment.
        concurrency: usize,
    },
    /// 64 bytes there and back on one stream, one at a time.
    Latency,
    /// Full handshakes (no resumption), each followed by a close, so many at a time.
    Handshakes {
        /// Handshakes under way at any moment.
        concurrency: usize,
    },
    /// Connections that do nothing but exist.
    Memory {
        /// Connections counted.
        connections: usize,
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
        ("requests", Self::Requests { concurrency: 64 }),
        ("latency", Self::Latency),
        ("handshakes", Self::Handshakes { concurrency: 16 }),
        ("memory", Self::Memory { connections: 2_000 }),
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
