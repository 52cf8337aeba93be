//! Waiting with a time limit, and errors as `std::io` knows them.

use std::future::Future;
use std::io;
use std::time::Duration;

use polyquic_core::{ConnectError, ConnectionError, VarInt};
use polyquic_endpoint::{Elapsed, ReadError, SendDatagramError, WriteError};

use crate::{block_on, block_on_timeout};

/// Block until `future` is done, or fail with `WouldBlock` after `timeout`.
///
/// The future is dropped then, so it must be one that has done nothing until it completes.
pub(crate) fn wait<F: Future>(future: F, timeout: Option<Duration>) -> io::Result<F::Output> {
    match timeout {
        None => Ok(block_on(future)),
        Some(timeout) => block_on_timeout(future, timeout).ok_or_else(would_block),
    }
}

/// [`wait`] for something that can fail by itself.
pub(crate) fn try_wait<T, E: Into<io::Error>>(
    future: impl Future<Output = Result<T, E>>,
    timeout: Option<Duration>,
) -> io::Result<T> {
    wait(future, timeout)?.map_err(Into::into)
}

/// The caller's time ran out, and nothing else happened.
///
/// Not `TimedOut`, which is what a connection reports whose peer went silent: callers that try again
/// must be able to tell the two apart. It is also what `TcpStream` returns on Unix.
fn would_block() -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, Elapsed)
}

/// The caller's time ran out, and what was attempted has been given up.
pub(crate) fn gave_up() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, Elapsed)
}

/// Check a timeout as `std::net` does: zero would mean no waiting to some, and forever to others.
pub(crate) fn check_timeout(timeout: Option<Duration>) -> io::Result<Option<Duration>> {
    if timeout == Some(Duration::ZERO) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "cannot set a 0 duration timeout",
        ));
    }
    Ok(timeout)
}

pub(crate) fn connect_error(error: ConnectError) -> io::Error {
    let kind = match error {
        ConnectError::EndpointStopping => io::ErrorKind::NotConnected,
        ConnectError::CidsExhausted => io::ErrorKind::Other,
        _ => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, error)
}

pub(crate) fn datagram_error(error: SendDatagramError) -> io::Error {
    let kind = match &error {
        SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled => {
            io::ErrorKind::Unsupported
        }
        SendDatagramError::TooLarge => io::ErrorKind::InvalidInput,
        SendDatagramError::ConnectionLost(lost) => io::Error::from(lost.clone()).kind(),
    };
    io::Error::new(kind, error)
}

/// Why the connection ended, if that is what `error` is about.
///
/// Blocking calls report everything as [`io::Error`], like those of `std::net`. QUIC's own error is
/// inside; this gets it out, whichever call it came from.
///
/// ```
/// use polyquic_blocking::connection_error;
/// use polyquic_core::ConnectionError;
///
/// let error = std::io::Error::from(ConnectionError::Reset);
/// assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
/// assert_eq!(connection_error(&error), Some(&ConnectionError::Reset));
/// ```
pub fn connection_error(error: &io::Error) -> Option<&ConnectionError> {
    let mut error: &(dyn std::error::Error + 'static) = error.get_ref()?;
    loop {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        error = error.source()?;
    }
}

/// The code with which the peer's application reset or stopped the stream, if that is what `error`
/// is about.
///
/// ```
/// use polyquic_blocking::stream_error_code;
/// use polyquic_endpoint::ReadError;
///
/// let error = std::io::Error::from(ReadError::Reset(7u32.into()));
/// assert_eq!(stream_error_code(&error), Some(7u32.into()));
/// ```
pub fn stream_error_code(error: &io::Error) -> Option<VarInt> {
    let error = error.get_ref()?;
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(ReadError::Reset(code)), _) | (_, Some(WriteError::Stopped(code))) => Some(*code),
        _ => None,
    }
}
