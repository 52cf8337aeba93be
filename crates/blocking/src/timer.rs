//! A deadline that the I/O thread watches.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use polyquic_runtime::Timer;
use polyquic_udp::ReactorTimer;

use crate::io_thread::IoThread;

/// A timer of a [`BlockingRuntime`](crate::BlockingRuntime).
///
/// Starts the I/O thread, as there may be no endpoint that has done so.
pub struct BlockingTimer {
    inner: ReactorTimer,
    io: Arc<IoThread>,
}

impl BlockingTimer {
    pub(crate) fn new(io: Arc<IoThread>) -> Self {
        Self {
            inner: io.reactor().timer(),
            io,
        }
    }
}

impl Timer for BlockingTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        Pin::new(&mut self.inner).reset(deadline);
        self.io.watch_timers();
    }

    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.inner).poll_expired(cx)
    }
}

impl fmt::Debug for BlockingTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingTimer")
    }
}
