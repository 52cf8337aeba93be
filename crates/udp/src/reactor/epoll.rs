//! Linux: edge-triggered epoll, armed once.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use super::Ready;

/// The key of the descriptor that interrupts a wait.
const NOTIFY: u64 = u64::MAX;

/// Most events per wait. What is left over comes with the next.
const MAX_EVENTS: usize = 64;

#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    notify: OwnedFd,
}

pub(super) struct Events(Vec<epoll::Event>);

// SAFETY: an epoll event is not `Send` only because its user data may be a pointer. We store nothing
// but integers there.
unsafe impl Send for Events {}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let notify = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered, so that it never has to be read: every write is an edge, and 2^64 writes
        // are more than a process has time for.
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &notify, epoll::EventData::new_u64(NOTIFY), edge)?;
        Ok(Self { epoll, notify })
    }

    pub(super) fn add(&self, socket: &UdpSocket, key: usize) -> io::Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            socket,
            epoll::EventData::new_u64(key as u64),
            flags,
        )?;
        Ok(())
    }

    pub(super) fn delete(&self, socket: &UdpSocket) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, socket)?)
    }

    pub(super) fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.0.clear();
        // Too long a time for the kernel is as good as none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events.0),
            timeout.as_ref(),
        )?;
        Ok(())
    }

    pub(super) fn notify(&self) {
        // Can only fail when the counter is full, and then the wait is interrupted already.
        let _ = rustix::io::write(&self.notify, &1u64.to_ne_bytes());
    }
}

impl Events {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(MAX_EVENTS))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        self.0
            .iter()
            .filter(|event| event.data.u64() != NOTIFY)
            .map(|event| {
                let flags = event.flags;
                let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
                Ready {
                    key: event.data.u64() as usize,
                    readable: failed || flags.contains(epoll::EventFlags::IN),
                    writable: failed || flags.contains(epoll::EventFlags::OUT),
                }
            })
    }
}
