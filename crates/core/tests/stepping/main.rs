//! Two cores stepped against each other on virtual time.
//!
//! [`pair::Pair`] holds a client and a server and two directions of a model network between them.
//! It goes from one moment at which something is due to the next: a datagram arrives, or the
//! earliest deadline in an endpoint's [`TimerQueue`](polyquic_core::TimerQueue) passes. A connection
//! is looked at only when one of these concerns it or its application did something, exactly as the
//! driver does it; a protocol that needed to be polled for any other reason would get stuck here.
//!
//! Everything random follows from a seed. A failing test prints it; `POLYQUIC_SEED=n cargo test -p
//! polyquic-core --test stepping name` replays it.

mod admission;
mod app;
mod batches;
mod closing;
mod datagrams;
mod determinism;
mod fixtures;
mod junk;
mod link;
mod offload;
mod pair;
mod paths;
mod peer;
mod timers;
mod transfer;
mod zero_rtt;
