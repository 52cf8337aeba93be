//! Errors of streams and datagrams.

use std::io;

use polyquic_core::{ClosedStream, ConnectionError, ReadableError, VarInt};
use thiserror::Error;

/// Why nothing more can be written to a stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
    /// The peer wants no more, with this code of its application (RFC 9000 section 3.5).
    #[error("sending stopped by peer: error {0}")]
    Stopped(VarInt),
    /// The connection is lost.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was finished or reset before.
    #[error("closed stream")]
    ClosedStream,
    /// The stream was opened in 0-RTT, which the server rejected.
    #[error("0-RTT rejected")]
    ZeroRttRejected,
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        let kind = match &error {
            WriteError::Stopped(_) | WriteError::ZeroRttRejected => io::ErrorKind::ConnectionReset,
            WriteError::ConnectionLost(lost) => connection_error_kind(lost),
            WriteError::ClosedStream => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}

/// Why nothing more can be read from a stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The peer gave the stream up, with this code of its application (RFC 9000 section 3.5). Data
    /// may be missing.
    #[error("stream reset by peer: error {0}")]
    Reset(VarInt),
    /// The connection is lost.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was stopped before.
    #[error("closed stream")]
    ClosedStream,
    /// An ordered read after an unordered one.
    #[error("ordered read after unordered read")]
    IllegalOrderedRead,
    /// The stream was opened in 0-RTT, which the server rejected.
    #[error("0-RTT rejected")]
    ZeroRttRejected,
}

impl From<ReadableError> for ReadError {
    fn from(error: ReadableError) -> Self {
        match error {
            ReadableError::ClosedStream => Self::ClosedStream,
            ReadableError::IllegalOrderedRead => Self::IllegalOrderedRead,
        }
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        let kind = match &error {
            ReadError::Reset(_) | ReadError::ZeroRttRejected => io::ErrorKind::ConnectionReset,
            ReadError::ConnectionLost(lost) => connection_error_kind(lost),
            ReadError::ClosedStream => io::ErrorKind::NotConnected,
            ReadError::IllegalOrderedRead => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// Why [`RecvStream::read_exact`](crate::RecvStream::read_exact) failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadExactError {
    /// The stream ended after this many bytes.
    #[error("stream finished early ({0} bytes read)")]
    FinishedEarly(usize),
    /// Reading failed.
    #[error(transparent)]
    ReadError(#[from] ReadError),
}

impl From<ReadExactError> for io::Error {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::ReadError(error) => error.into(),
            early @ ReadExactError::FinishedEarly(_) => {
                Self::new(io::ErrorKind::UnexpectedEof, early)
            }
        }
    }
}

/// Why [`RecvStream::read_to_end`](crate::RecvStream::read_to_end) failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadToEndError {
    /// Reading failed.
    #[error("read error: {0}")]
    Read(#[from] ReadError),
    /// The stream is longer than the limit that the caller set.
    #[error("stream too long")]
    TooLong,
}

impl From<ReadToEndError> for io::Error {
    fn from(error: ReadToEndError) -> Self {
        match error {
            ReadToEndError::Read(error) => error.into(),
            long @ ReadToEndError::TooLong => Self::new(io::ErrorKind::InvalidData, long),
        }
    }
}

/// Why [`SendStream::stopped`](crate::SendStream::stopped) could not tell.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoppedError {
    /// The connection is lost.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was opened in 0-RTT, which the server rejected.
    #[error("0-RTT rejected")]
    ZeroRttRejected,
}

impl From<StoppedError> for io::Error {
    fn from(error: StoppedError) -> Self {
        let kind = match &error {
            StoppedError::ConnectionLost(lost) => connection_error_kind(lost),
            StoppedError::ZeroRttRejected => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}

/// Why [`RecvStream::received_reset`](crate::RecvStream::received_reset) could not tell.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ResetError {
    /// The connection is lost.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
    /// The stream was opened in 0-RTT, which the server rejected.
    #[error("0-RTT rejected")]
    ZeroRttRejected,
}

impl From<ResetError> for io::Error {
    fn from(error: ResetError) -> Self {
        let kind = match &error {
            ResetError::ConnectionLost(lost) => connection_error_kind(lost),
            ResetError::ZeroRttRejected => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}

/// Why a datagram cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SendDatagramError {
    /// The peer does not take datagrams.
    #[error("datagrams not supported by peer")]
    UnsupportedByPeer,
    /// Datagrams are switched off in the transport configuration of this side.
    #[error("datagram support disabled")]
    Disabled,
    /// Larger than the path, the peer or the send buffer allows.
    #[error("datagram too large")]
    TooLarge,
    /// The connection is lost.
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] ConnectionError),
}

impl From<polyquic_core::SendDatagramError> for SendDatagramError {
    fn from(error: polyquic_core::SendDatagramError) -> Self {
        use polyquic_core::SendDatagramError::*;
        match error {
            UnsupportedByPeer => Self::UnsupportedByPeer,
            Disabled => Self::Disabled,
            // `Blocked` is answered by waiting where waiting is asked for, and never returned to
            // who allows older datagrams to be dropped; then only a buffer too small is left.
            TooLarge | Blocked(_) => Self::TooLarge,
        }
    }
}

fn connection_error_kind(error: &ConnectionError) -> io::ErrorKind {
    io::Error::from(error.clone()).kind()
}

/// `ClosedStream` as an I/O error.
pub(crate) fn closed_stream(error: ClosedStream) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, error)
}
