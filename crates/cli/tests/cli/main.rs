//! Drives the built `polyquic` program as a user would: over real sockets, by its exit codes and by
//! what it prints.

mod failures;
mod harness;
mod measure;
mod relay;
mod reload;
mod shards;
mod shutdown;
mod transfer;
mod tunnel;
mod webtransport;
mod webtransport_attacks;
