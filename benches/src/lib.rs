//! The workloads of `cargo xtask bench`, written once for every stack that is measured.
//!
//! A measurement is two processes on loopback, a server and a client, each pinned to its own
//! processors. Each stack (polyquic, quinn, later others) has a program of its own in `src/bin`
//! that implements [`stack::Stack`], a thin trait over the stack's public API, and hands itself
//! to [`peer`]; what the applications do is in [`client`] and [`server`] and never names a stack.
//! Everything that could make a comparison unfair (windows, packet size, certificate, socket
//! buffers, cryptography) is decided in [`settings`], for all of them, and printed with the result.
//!
//! `xtask` starts the processes, alternates between the stacks round by round, and computes
//! ratios. The peers know nothing of each other's speed: they answer with [`probe::Snapshot`]s,
//! and whoever asked does the arithmetic. The conversation is one JSON object per line on standard
//! output (`ready`, `begin`, `end`, `snapshot`, `done`, `failed`, in the key `event`), and the
//! words `snapshot` and `stop` on standard input. A peer whose standard input ends exits, so that
//! none outlives its driver.
//!
//! Two workloads have a third process: `loss` a [`relay`] between the two, which the driver starts,
//! and `storm` the [arriving clients](storm), which the client starts. Both are this same program.
//!
//! A workload that promises something checks it: that sessions were resumed, that 0-RTT was
//! accepted, that datagrams were lost, that connections kept themselves alive, that handshakes
//! arrived at their rate. Where it was otherwise, the measurement fails and says so.
//!
//! What this is not: a load generator for real networks. There is no delay, no competing traffic
//! and, but for `loss`, no loss on loopback; it measures what the software costs.

#![forbid(unsafe_code)]

pub mod client;
#[cfg(feature = "congestion")]
pub mod congestion;
pub mod options;
pub mod peer;
pub mod probe;
pub mod relay;
pub mod server;
pub mod settings;
pub mod stack;
pub mod storm;
pub mod tickets;
pub mod workload;
