//! What needs the operating system's UDP underneath: addresses, changing sockets, restarts, and
//! networks that lose, delay and invent datagrams.

mod addresses;
mod hostile;
mod migration;
mod paths;
pub mod relay;
mod restart;

pub use addresses::*;
pub use hostile::*;
pub use migration::*;
pub use paths::*;
pub use restart::*;
