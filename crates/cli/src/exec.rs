//! The one place that names executors. Everything else is generic over [`Native`].

use std::future::Future;

use clap::ValueEnum;
use polyquic::Executor;

use crate::failure::Failure;

// Without an executor there is nothing that this program could run on.
#[cfg(not(any(
    feature = "smol",
    feature = "tokio",
    feature = "blocking",
    target_os = "linux"
)))]
compile_error!("enable at least one of the features smol, tokio and blocking");

/// The executors that this build can run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExecutorKind {
    /// smol's async-executor and async-io on one thread
    #[cfg(feature = "smol")]
    Smol,
    /// smol with one work-stealing thread per core
    #[cfg(feature = "smol")]
    SmolMulti,
    /// tokio's multi-thread runtime
    #[cfg(feature = "tokio")]
    Tokio,
    /// plain threads
    #[cfg(feature = "blocking")]
    Blocking,
    /// glommio: io_uring, one thread per core
    #[cfg(target_os = "linux")]
    Glommio,
}

impl ExecutorKind {
    /// What `--executor` accepts and the tables show.
    pub(crate) fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "smol")]
            Self::Smol => "smol",
            #[cfg(feature = "smol")]
            Self::SmolMulti => "smol-multi",
            #[cfg(feature = "tokio")]
            Self::Tokio => "tokio",
            #[cfg(feature = "blocking")]
            Self::Blocking => "blocking",
            #[cfg(target_os = "linux")]
            Self::Glommio => "glommio",
        }
    }
}

impl Default for ExecutorKind {
    fn default() -> Self {
        Self::value_variants()[0]
    }
}

/// An executor whose handle may go into tasks that move between threads.
///
/// [`Executor`] alone does not promise that, for the sake of thread-per-core executors; all those
/// this program runs on do.
pub(crate) trait Native: Executor<Timer: Send> + Send + Sync {}

impl<R: Executor<Timer: Send> + Send + Sync> Native for R {}

/// An application that is written once and runs on every executor.
///
/// What a generic closure would be, if Rust had any.
pub(crate) trait App: Send + 'static {
    /// What it comes back with.
    type Output: Send;

    /// Run to completion.
    fn run<R: Native>(self, rt: R) -> impl Future<Output = Result<Self::Output, Failure>> + Send;
}

/// Start an executor, run `app` on it, and shut the executor down.
pub(crate) fn run<A: App>(kind: ExecutorKind, app: A) -> Result<A::Output, Failure> {
    let result = match kind {
        #[cfg(feature = "smol")]
        ExecutorKind::Smol => polyquic::smol::run(1, |rt| app.run(rt)),
        #[cfg(feature = "smol")]
        ExecutorKind::SmolMulti => polyquic::smol::run(threads(), |rt| app.run(rt)),
        #[cfg(feature = "tokio")]
        ExecutorKind::Tokio => {
            polyquic::tokio::run(polyquic::tokio::Flavor::MultiThread(threads()), |rt| {
                app.run(rt)
            })
        }
        #[cfg(feature = "blocking")]
        ExecutorKind::Blocking => polyquic::blocking::run(|rt| app.run(rt)),
        #[cfg(target_os = "linux")]
        ExecutorKind::Glommio => polyquic::glommio::run(threads(), |rt| app.run(rt)),
    };
    result.unwrap_or_else(|error| {
        Err(Failure::io(
            format!("cannot start the executor {}", kind.name()),
            &error,
        ))
    })
}

/// Worker threads of the multi-threaded executors: one per core, and at least two, lest
/// `smol-multi` on a single core be `smol`.
#[cfg(any(feature = "smol", feature = "tokio", target_os = "linux"))]
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().max(2))
}
