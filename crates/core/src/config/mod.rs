//! Configuration of endpoints and connections.

mod client;
mod endpoint;
mod server;
mod tokens;
mod transport;

pub use client::ClientConfig;
pub(crate) use client::FirstPacket;
pub use endpoint::{EndpointConfig, ShardError};
pub use server::ServerConfig;
pub(crate) use transport::Additions;
pub use transport::TransportConfig;
