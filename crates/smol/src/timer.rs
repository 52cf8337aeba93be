//! A deadline, on either reactor.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use polyquic_runtime::Timer;
use polyquic_udp::{Reactor, ReactorTimer};

/// A timer of polyquic's reactor or of async-io's, like the runtime it came from.
pub struct SmolTimer(Kind);

enum Kind {
    Reactor(ReactorTimer),
    AsyncIo { timer: async_io::Timer, armed: bool },
}

impl SmolTimer {
    pub(crate) fn new(reactor: Option<&Arc<Reactor>>) -> Self {
        Self(match reactor {
            Some(reactor) => Kind::Reactor(reactor.timer()),
            None => Kind::AsyncIo {
                timer: async_io::Timer::never(),
                armed: false,
            },
        })
    }
}

impl Timer for SmolTimer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        match &mut self.0 {
            Kind::Reactor(timer) => Pin::new(timer).reset(deadline),
            Kind::AsyncIo { timer, armed } => {
                timer.set_at(deadline);
                *armed = true;
            }
        }
    }

    fn poll_expired(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Kind::Reactor(timer) => Pin::new(timer).poll_expired(cx),
            // A timer that fired stays ready in async-io.
            Kind::AsyncIo { armed: false, .. } => Poll::Pending,
            Kind::AsyncIo { timer, armed } => Pin::new(timer).poll(cx).map(|_| *armed = false),
        }
    }
}

impl fmt::Debug for SmolTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Reactor(_) => "SmolTimer(polyquic)",
            Kind::AsyncIo { .. } => "SmolTimer(async-io)",
        })
    }
}
