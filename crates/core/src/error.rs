//! Who is at fault when a connection ends.

use quinn_proto::{ConnectionError, TransportErrorCode};

/// Whose doing the end of a connection was.
///
/// An application often only wants to know whether to retry, to report a bug, or to do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Blame {
    /// The application on one of the two sides closed it. Not a failure by itself.
    Application,
    /// The peer broke the protocol or could not be authenticated; retrying will not help.
    Peer,
    /// The peer's QUIC stack gave up, or says that we broke the protocol.
    PeerSaysUs,
    /// The network or the peer went silent, or the peer lost its state; retrying may help.
    Network,
    /// Resources or configuration on this side, or a bug in it.
    Local,
}

/// Say whose doing the end of a connection was.
///
/// ```
/// use polyquic_core::{Blame, ConnectionError, blame};
/// assert_eq!(blame(&ConnectionError::TimedOut), Blame::Network);
/// assert_eq!(blame(&ConnectionError::LocallyClosed), Blame::Application);
/// ```
pub fn blame(error: &ConnectionError) -> Blame {
    match error {
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed => {
            Blame::Application
        }
        ConnectionError::TransportError(e) if e.code == TransportErrorCode::INTERNAL_ERROR => {
            Blame::Local
        }
        ConnectionError::VersionMismatch | ConnectionError::TransportError(_) => Blame::Peer,
        ConnectionError::ConnectionClosed(_) => Blame::PeerSaysUs,
        ConnectionError::Reset | ConnectionError::TimedOut => Blame::Network,
        ConnectionError::CidsExhausted => Blame::Local,
    }
}
