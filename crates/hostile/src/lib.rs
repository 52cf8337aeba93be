//! A QUIC peer that does as it is told, for tests of what others do about it.
//!
//! [`Peer`] completes a real handshake (rustls does TLS), and so holds the right keys. Beyond that
//! it knows no rules: scripts have it send any frames in any packet, with any packet number,
//! connection id, key phase or length, and it lies about acknowledgements when asked to. What the
//! victim answers is decrypted and decoded, for scripts to assert on.
//!
//! It has no I/O and no clock. Datagrams come in by [`Peer::handle_datagram`] and go out by
//! [`Peer::poll_transmit`]. It retransmits nothing: put it on links that lose nothing, or have the
//! loss be part of the script.
//!
//! ```
//! use polyquic_hostile::{Frame, Space};
//!
//! // A frame that claims more than it says, in bytes.
//! let mut bytes = Vec::new();
//! Frame::stream(0, 100, b"x").encode(&mut bytes);
//! assert_eq!(Frame::decode_all(&bytes).unwrap(), [Frame::stream(0, 100, b"x")]);
//! assert_eq!(Space::Data as usize, 2);
//! ```
//!
//! This crate is a test tool. It is not part of the library, and must not become one.

#![forbid(unsafe_code)]

mod frame;
mod packet;
mod params;
mod peer;
mod space;
mod wire;

pub use frame::{Frame, Undecodable};
pub use packet::{Header, Kind, Packet, initial_keys, retry, version_negotiation};
pub use params::{Params, id};
pub use peer::{Close, Counters, Manners, Peer};
pub use space::Space;
pub use wire::{Reader, put_varint};
