//! The one name that an application writes for its executor.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use polyquic_runtime::{Runtime, Spawn, Task, Timer};

use crate::{Driver, Endpoint};

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

/// Start a task for each shard of an endpoint, where the shard lives: `task` is called there with the
/// runtime's handle for that place and with a handle to that shard only.
///
/// On executors with a core for each shard, a connection that is accepted and served there never
/// leaves its core. On others this is as good as any way to start tasks.
///
/// ```no_run
/// use polyquic_endpoint::{Endpoint, Executor, spawn_on_shards};
/// use polyquic_runtime::Task;
///
/// fn serve<R: Executor>(rt: &R, endpoint: &Endpoint) -> std::io::Result<()> {
///     spawn_on_shards(rt, endpoint, |_rt, shard| -> Task {
///         Box::pin(async move {
///             while let Some(incoming) = shard.accept().await {
///                 println!("from {}", incoming.remote_address());
///             }
///         })
///     })
/// }
/// ```
///
/// # Errors
///
/// A place is gone, see [`Runtime::place`]. Tasks of other shards may have been started.
pub fn spawn_on_shards<R, F>(
    rt: &R,
    endpoint: &Endpoint,
    task: impl Fn(R, Endpoint) -> F + Clone + Send + 'static,
) -> io::Result<()>
where
    R: Runtime + Spawn<F>,
    F: Future<Output = ()> + 'static,
{
    for index in 0..endpoint.shards() {
        let shard = endpoint.shard(index).expect("counted");
        let task = task.clone();
        rt.place(
            index,
            Box::new(move |rt: R| {
                let future = task(rt.clone(), shard);
                rt.spawn(future);
            }),
        )?;
    }
    Ok(())
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
