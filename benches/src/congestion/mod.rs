//! Congestion controllers on a model network, for `cargo xtask congestion`.
//!
//! Servers send to clients through one bottleneck of [`polyquic::sim`]; what arrives is counted, and
//! how long packets waited. [`network`] has the bottlenecks, [`transfer`] runs one simulation, and
//! [`jobs`] lists what is on the page. A simulation follows from its seed, but for BBR, whose
//! randomness is the system's.

pub mod jobs;
pub mod network;
pub mod transfer;

use std::sync::Arc;

use polyquic::{TransportConfig, congestion};

/// A congestion controller of quinn-proto, as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// The default.
    Cubic,
    /// The one of RFC 9002.
    NewReno,
    /// Experimental, by its own documentation.
    Bbr,
}

impl Controller {
    /// All there are, in the order of the page.
    pub const ALL: [Self; 3] = [Self::Cubic, Self::NewReno, Self::Bbr];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::NewReno => "newreno",
            Self::Bbr => "bbr",
        }
    }

    /// Makes connections use it.
    fn install(self, transport: &mut TransportConfig) {
        match self {
            Self::Cubic => transport
                .congestion_controller_factory(Arc::new(congestion::CubicConfig::default())),
            Self::NewReno => transport
                .congestion_controller_factory(Arc::new(congestion::NewRenoConfig::default())),
            Self::Bbr => {
                transport.congestion_controller_factory(Arc::new(congestion::BbrConfig::default()))
            }
        };
    }
}
