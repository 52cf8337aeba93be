//! The one name that an application writes for its executor.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use polyquic_runtime::{Runtime, Spawn, Task, Timer};

use crate::Driver;

/// An executor that can run polyquic and an application's own tasks.
///
/// Implemented by every [`Runtime`] that can spawn its own driver and [`Task`]s; there is nothing
/// to implement by hand. Write applications generic over it, and they run on all of them:
///
/// ```no_run
/// use polyquic_endpoint::{Endpoint, Executor, spawn};
/// # use polyquic_core::ServerConfig;
///
/// async fn serve<R: Executor>(rt: R, config: ServerConfig) -> std::io::Result<()> {
///     let endpoint = Endpoint::server(&rt, config, ([127, 0, 0, 1], 4433).into())?;
///     while let Some(incoming) = endpoint.accept().await {
///         spawn(&rt, async move {
///             match incoming.await {
///                 Ok(connection) => println!("hello, {}", connection.remote_address()),
///                 Err(error) => eprintln!("handshake failed: {error}"),
///             }
///         });
///     }
///     Ok(())
/// }
/// ```
pub trait Executor: Runtime + Spawn<Driver<Self>> + Spawn<Task> {}

impl<R: Runtime + Spawn<Driver<R>> + Spawn<Task>> Executor for R {}

/// Start a task of the application, detached.
pub fn spawn<R: Spawn<Task>>(rt: &R, future: impl Future<Output = ()> + Send + 'static) {
    rt.spawn(Box::pin(future));
}

/// Wait for `duration`.
///
/// Cancel-safe: dropping it has no effect.
pub fn sleep<R: Runtime>(rt: &R, duration: Duration) -> Sleep<R> {
    let mut timer = Box::pin(rt.timer());
    timer.as_mut().reset(rt.clock().now() + duration);
    Sleep { timer }
}

/// Future of [`sleep`].
#[derive(Debug)]
pub struct Sleep<R: Runtime> {
    timer: Pin<Box<R::Timer>>,
}

impl<R: Runtime> Future for Sleep<R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll_expired(cx)
    }
}

/// Run `future`, but give up after `duration`, counted from now, and drop it.
///
/// # Errors
///
/// [`Elapsed`] when time ran out first.
pub fn timeout<R: Runtime, F: Future>(
    rt: &R,
    duration: Duration,
    future: F,
) -> impl Future<Output = Result<F::Output, Elapsed>> + use<R, F> {
    // Made here, so that the future does not hold a reference to `rt`: it would not be `Send` for
    // those that are not `Sync`.
    let mut sleep = sleep(rt, duration);
    async move {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(move |cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            Pin::new(&mut sleep).poll(cx).map(|()| Err(Elapsed))
        })
        .await
    }
}

/// Time ran out in [`timeout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> Self {
        Self::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}
