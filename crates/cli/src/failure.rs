//! How the program fails: one line for a person, one exit code for a script.

use std::fmt;
use std::io;

use polyquic::{ConnectionError, ReadError, WriteError};

/// Exit codes, as documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A transfer (or a cell of the demo) failed after the connection was established.
    Transfer,
    /// The command line cannot be carried out as written.
    Usage,
    /// No connection: name resolution, handshake, certificate verification.
    Connect,
    /// Something on this machine: files, certificates, keys, ports, disk space.
    Local,
    /// Ended by a signal, reported as shells do.
    Signal(i32),
}

impl Exit {
    /// The number that the process exits with.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Transfer => 1,
            Self::Usage => 2,
            Self::Connect => 3,
            Self::Local => 4,
            Self::Signal(number) => 128u8.wrapping_add(number as u8),
        }
    }

    /// Order of severity when several things went wrong: the exit code names the first cause.
    pub(crate) fn worst(self, other: Self) -> Self {
        let rank = |exit: Self| match exit {
            Self::Transfer => 0,
            Self::Connect => 1,
            Self::Local => 2,
            Self::Usage => 3,
            Self::Signal(_) => 4,
        };
        if rank(other) > rank(self) {
            other
        } else {
            self
        }
    }
}

/// An error that ends a command, or one transfer of it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// What the process exits with when this is what ends it.
    pub(crate) exit: Exit,
    message: String,
}

impl Failure {
    /// A failure with a message that is complete in itself.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
        }
    }

    /// The command line asks for something that cannot be.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Something on this machine is in the way.
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::new(Exit::Local, message)
    }

    /// No connection could be established.
    pub(crate) fn connect(message: impl Into<String>) -> Self {
        Self::new(Exit::Connect, message)
    }

    /// A transfer failed.
    pub(crate) fn transfer(message: impl Into<String>) -> Self {
        Self::new(Exit::Transfer, message)
    }

    /// A local I/O error, with what was being done to what.
    pub(crate) fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        Self::local(format!("{what}: {}", io_reason(error)))
    }

    /// The same failure with `what` in front of its message.
    pub(crate) fn context(self, what: impl fmt::Display) -> Self {
        Self {
            exit: self.exit,
            message: format!("{what}: {}", self.message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An I/O error in words, without "(os error N)".
pub(crate) fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::AddrInUse => "address already in use".into(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".into(),
        io::ErrorKind::StorageFull => "no space left on device".into(),
        io::ErrorKind::QuotaExceeded => "disk quota exceeded".into(),
        io::ErrorKind::IsADirectory => "is a directory".into(),
        io::ErrorKind::NotADirectory => "not a directory".into(),
        io::ErrorKind::ReadOnlyFilesystem => "read-only file system".into(),
        _ => {
            let text = error.to_string();
            match text.find(" (os error") {
                Some(end) => text[..end].to_lowercase(),
                None => text,
            }
        }
    }
}

/// Why a connection ended, in words that say whose doing it was.
pub(crate) fn connection_reason(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => {
            "timed out: the peer stopped answering for longer than the idle timeout".into()
        }
        ConnectionError::ApplicationClosed(close) if close.reason.is_empty() => {
            format!("closed by the peer (code {})", close.error_code)
        }
        ConnectionError::ApplicationClosed(close) => format!(
            "closed by the peer: {} (code {})",
            printable(&close.reason),
            close.error_code
        ),
        ConnectionError::ConnectionClosed(close) if close.reason.is_empty() => {
            format!("refused by the peer: {}", close.error_code)
        }
        ConnectionError::ConnectionClosed(close) => format!(
            "refused by the peer: {} ({})",
            printable(&close.reason),
            close.error_code
        ),
        ConnectionError::Reset => "the peer lost this connection (it restarted, perhaps)".into(),
        ConnectionError::VersionMismatch => "the peer does not speak QUIC version 1".into(),
        ConnectionError::LocallyClosed => "closed by this side".into(),
        ConnectionError::TransportError(error) => tls_reason(&error.to_string()),
        other => other.to_string(),
    }
}

/// Text from a peer, fit for a terminal: no control characters, and not too much of it.
pub(crate) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .take(200)
        .map(|c| if c.is_control() { '.' } else { c })
        .collect()
}

/// What rustls says about a handshake, with a hint where the usual cause is known.
fn tls_reason(text: &str) -> String {
    // The text is quinn-proto's rendering of rustls' error; matching on it is the only way, as
    // the error itself is not carried along.
    if text.contains("UnknownIssuer") {
        format!("{text} (the certificate's CA is not trusted: --ca FILE names one to trust)")
    } else {
        text.to_owned()
    }
}

/// Why reading a response failed.
pub(crate) fn read_reason(error: &ReadError) -> String {
    match error {
        ReadError::Reset(code) => crate::hq::code_meaning(code.into_inner()),
        ReadError::ConnectionLost(error) => connection_reason(error),
        other => other.to_string(),
    }
}

/// Why sending failed.
pub(crate) fn write_reason(error: &WriteError) -> String {
    match error {
        WriteError::Stopped(code) => format!("the peer stopped reading (code {code})"),
        WriteError::ConnectionLost(error) => connection_reason(error),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_error_numbers_are_left_out() {
        let error = io::Error::from_raw_os_error(28);
        assert_eq!(io_reason(&error), "no space left on device");
        let other = io::Error::from_raw_os_error(5);
        assert!(
            !io_reason(&other).contains("os error"),
            "{}",
            io_reason(&other)
        );
    }

    #[test]
    fn control_characters_of_a_peer_do_not_reach_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\n"), "a.[2Jb.");
        assert_eq!(printable(&[b'x'; 5000]).len(), 200);
    }

    #[test]
    fn local_trouble_outranks_a_failed_transfer() {
        assert_eq!(Exit::Transfer.worst(Exit::Local), Exit::Local);
        assert_eq!(Exit::Local.worst(Exit::Transfer), Exit::Local);
        assert_eq!(Exit::Signal(15).code(), 143);
    }
}
