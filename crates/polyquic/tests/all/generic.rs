//! The echo example's application, compiled once per executor and unchanged.

use crate::app::{Result, app};

fn check(answer: Result<String>) {
    assert_eq!(answer.unwrap(), "hello, whoever runs this");
}

#[test]
fn an_executor_of_ones_own() {
    check(crate::adapter::run(app));
}

#[cfg(feature = "smol")]
mod smol {
    use std::sync::Arc;

    use polyquic::smol::{Executor, SmolRuntime, run};

    use super::*;

    #[test]
    fn on_one_thread() {
        check(run(1, app).unwrap());
    }

    #[test]
    fn on_several_threads() {
        check(run(3, app).unwrap());
    }

    #[test]
    fn on_the_global_executor() {
        check(::smol::block_on(app(SmolRuntime::global())));
    }

    #[test]
    fn on_an_executor_that_is_there_already() {
        let executor = Arc::new(Executor::new());
        let rt = SmolRuntime::on(&executor);
        check(::smol::block_on(executor.run(app(rt))));
    }
}

#[cfg(feature = "tokio")]
mod tokio {
    use polyquic::tokio::{Flavor, TokioRuntime, run};

    use super::*;

    #[test]
    fn on_one_thread() {
        check(run(Flavor::CurrentThread, app).unwrap());
    }

    #[test]
    fn on_several_threads() {
        check(run(Flavor::MultiThread(3), app).unwrap());
    }

    #[::tokio::test]
    async fn on_a_current_thread_runtime_that_is_there_already() {
        check(app(TokioRuntime::current()).await);
    }

    #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn on_a_multi_thread_runtime_that_is_there_already() {
        check(app(TokioRuntime::current()).await);
    }
}

#[cfg(feature = "blocking")]
mod blocking {
    use super::*;

    #[test]
    fn on_threads() {
        check(polyquic::blocking::run(app).unwrap());
    }
}

/// An application that brings futures which must not move, on an executor that does not move them.
#[test]
fn tasks_that_are_not_send_where_the_executor_allows() {
    use std::cell::Cell;
    use std::rc::Rc;

    use polyquic::Spawn;

    let done = Rc::new(Cell::new(false));
    let set = done.clone();
    crate::adapter::run(async |rt| {
        rt.spawn(async move { set.set(true) });
        futures::pending!();
    });
    assert!(done.get());
}
