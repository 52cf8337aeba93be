//! The traits between the protocol and its cryptography, and their implementation with rustls.
//!
//! The traits are quinn-proto's. So is most of what follows from them; what differs is what a
//! connection keeps: see [`rustls`].

pub use quinn_proto::crypto::{
    AeadKey, ClientConfig, CryptoError, ExportKeyingMaterialError, HandshakeTokenKey, HeaderKey,
    HmacKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};

mod exporter;
mod keys;
pub(crate) mod offload;
pub(crate) mod retry;
mod session;

pub mod rustls;
