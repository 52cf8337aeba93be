//! Looking up names: the system's resolver blocks, for as long as it likes, and clients choose the names.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::Duration;

use futures::channel::oneshot;
use polyquic::{sleep, timeout};

use crate::exec::Native;
use crate::relay::limits::Registry;

/// How long a client waits for an answer. The resolver may go on for longer.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// Names that are being looked up at a time, each by a thread, however many clients wait.
const MAX_LOOKUPS: u32 = 32;
const MAX_LOOKUPS_PER_ADDRESS: u32 = 4;

/// When to see again whether there is room.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// What the resolver is asked for needs no more, but its modules might.
const STACK_BYTES: usize = 512 << 10;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NotFound {
    /// There was no room for one more question.
    Busy,
    /// The resolver's error.
    Failed(io::Error),
    /// It did not answer.
    TimedOut,
    /// It could not be asked.
    Local(io::Error),
}

/// All questions that are open.
#[derive(Debug)]
pub(crate) struct Lookups {
    open: Registry,
}

impl Lookups {
    pub(crate) fn new() -> Self {
        Self {
            open: Registry::new(MAX_LOOKUPS, MAX_LOOKUPS_PER_ADDRESS),
        }
    }

    /// The addresses of `host`, for a client at `peer`.
    pub(crate) async fn find<R: Native>(
        &self,
        rt: &R,
        peer: IpAddr,
        host: &str,
        port: u16,
    ) -> Result<Vec<SocketAddr>, NotFound> {
        let host = host.to_owned();
        let resolve = move || Ok((host, port).to_socket_addrs()?.collect());
        self.ask(rt, peer, LOOKUP_LIMIT, resolve).await
    }

    /// Has `resolve` run when there is room for it. It keeps its place for as long as it runs, whether or
    /// not somebody still waits.
    async fn ask<R: Native, T: Send + 'static>(
        &self,
        rt: &R,
        peer: IpAddr,
        limit: Duration,
        resolve: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, NotFound> {
        let room = async {
            loop {
                match self.open.enter(peer) {
                    Ok(entered) => return entered,
                    Err(_) => sleep(rt, RETRY_INTERVAL).await,
                }
            }
        };
        let Ok(place) = timeout(rt, limit, room).await else {
            return Err(NotFound::Busy);
        };
        let (tell, answer) = oneshot::channel();
        // A thread of its own: files are read by those of the executor, which must not wait for names.
        thread::Builder::new()
            .name("lookup".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let result = resolve();
                drop(place);
                // Nobody may be left to hear it.
                let _ = tell.send(result);
            })
            .map_err(NotFound::Local)?;
        match timeout(rt, limit, answer).await {
            Ok(Ok(result)) => result.map_err(NotFound::Failed),
            Ok(Err(_)) => Err(NotFound::Failed(io::Error::other("the resolver failed"))),
            Err(_) => Err(NotFound::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    use clap::ValueEnum;

    use crate::exec::{self, App, ExecutorKind};
    use crate::failure::Failure;

    const AT_ONCE: Duration = Duration::from_millis(1);
    const IN_TIME: Duration = Duration::from_secs(60);

    struct Crowd;

    impl App for Crowd {
        type Output = ();

        async fn run<R: Native>(self, rt: R) -> Result<(), Failure> {
            let lookups = Lookups::new();
            let peer = |n: u8| IpAddr::from([10, 0, 0, n]);
            // The resolver hangs, and whoever asked has given up.
            let mut hanging = Vec::new();
            for n in 0..MAX_LOOKUPS {
                let (release, released) = mpsc::channel::<()>();
                let hang = move || Ok(released.recv().is_err());
                let from = peer((n / MAX_LOOKUPS_PER_ADDRESS) as u8);
                let result = lookups.ask(&rt, from, AT_ONCE, hang).await;
                assert!(matches!(result, Err(NotFound::TimedOut)), "{n}");
                hanging.push(release);
                if n + 1 == MAX_LOOKUPS_PER_ADDRESS {
                    let result = lookups.ask(&rt, from, AT_ONCE, || Ok(())).await;
                    assert!(matches!(result, Err(NotFound::Busy)), "of one address");
                }
            }
            let result = lookups.ask(&rt, peer(99), AT_ONCE, || Ok(())).await;
            assert!(matches!(result, Err(NotFound::Busy)), "of all");
            // One that ends makes room.
            drop(hanging.pop());
            let result = lookups.ask(&rt, peer(99), IN_TIME, || Ok(7)).await;
            assert_eq!(result.unwrap(), 7);
            Ok(())
        }
    }

    #[test]
    fn names_that_are_never_answered_take_so_many_threads_and_no_more() {
        for kind in ExecutorKind::value_variants() {
            exec::run(*kind, Crowd).unwrap();
        }
    }
}
