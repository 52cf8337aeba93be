//! Other platforms, through the `polling` crate. Tested on Linux as well, used elsewhere.

// On Linux this is compiled for its test only.
#![cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code))]

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use polling::PollMode;

use super::Ready;

#[derive(Debug)]
pub(super) struct Poller {
    inner: polling::Poller,
    mode: PollMode,
}

pub(super) struct Events(polling::Events);

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let inner = polling::Poller::new()?;
        if !inner.supports_edge() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this platform has no edge-triggered readiness, which polyquic's reactor needs",
            ));
        }
        Ok(Self {
            inner,
            mode: PollMode::Edge,
        })
    }

    pub(super) fn add(&self, socket: &UdpSocket, key: usize) -> io::Result<()> {
        // SAFETY: `IoSource` owns `socket` and calls `delete` before it drops it.
        unsafe {
            self.inner
                .add_with_mode(socket, polling::Event::all(key), self.mode)
        }
    }

    pub(super) fn delete(&self, socket: &UdpSocket) -> io::Result<()> {
        self.inner.delete(socket)
    }

    pub(super) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.0.clear();
        self.inner.wait(&mut events.0, timeout)?;
        Ok(())
    }

    pub(super) fn notify(&self) {
        if let Err(error) = self.inner.notify() {
            tracing::error!(%error, "cannot interrupt a wait for I/O");
        }
    }
}

impl Events {
    pub(super) fn new() -> Self {
        Self(polling::Events::new())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        self.0.iter().map(|event| Ready {
            key: event.key,
            readable: event.readable,
            writable: event.writable,
        })
    }
}
