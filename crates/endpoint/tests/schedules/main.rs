//! Drivers and handles under shuttle, which runs threads one at a time and decides at every lock and
//! atomic number which goes on. `cargo xtask schedules` builds and runs this; in any other build there
//! is nothing in here.

#![cfg(polyquic_shuttle)]

mod check;
mod closing;
mod fixtures;
mod losses;
mod planted;
mod shards;
mod streams;
mod world;
