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
mod on_smol {
    use std::sync::Arc;

    use polyquic::smol::{Executor, SmolRuntime, run};

    use super::*;

    #[test]
    fn one_thread() {
        check(run(1, app).unwrap());
    }

    #[test]
    fn several_threads() {
        check(run(3, app).unwrap());
    }

    #[test]
    fn the_global_executor() {
        check(smol::block_on(app(SmolRuntime::global())));
    }

    #[test]
    fn an_executor_that_is_there_already() {
        let executor = Arc::new(Executor::new());
        let rt = SmolRuntime::on(&executor);
        check(smol::block_on(executor.run(app(rt))));
    }
}

#[cfg(feature = "tokio")]
mod on_tokio {
    use polyquic::tokio::{Flavor, TokioRuntime, run};

    use super::*;

    #[test]
    fn one_thread() {
        check(run(Flavor::CurrentThread, app).unwrap());
    }

    #[test]
    fn several_threads() {
        check(run(Flavor::MultiThread(3), app).unwrap());
    }

    #[tokio::test]
    async fn a_current_thread_runtime_that_is_there_already() {
        check(app(TokioRuntime::current()).await);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_multi_thread_runtime_that_is_there_already() {
        check(app(TokioRuntime::current()).await);
    }
}

#[cfg(all(feature = "glommio", target_os = "linux"))]
mod on_glommio {
    use polyquic::glommio::run;

    use super::*;

    #[test]
    fn one_core() {
        check(run(1, app).unwrap());
    }

    #[test]
    fn several_cores() {
        check(run(2, app).unwrap());
    }
}

#[cfg(feature = "blocking")]
mod on_blocking {
    use super::*;

    #[test]
    fn threads() {
        check(polyquic::blocking::run(app).unwrap());
    }
}

/// An executor that does not move tasks takes those that must not be moved.
#[test]
fn tasks_that_are_not_send_where_the_executor_allows() {
    use std::rc::Rc;

    use futures::channel::oneshot;
    use polyquic::Spawn;

    let answer = crate::adapter::run(|rt| {
        let (send, receive) = oneshot::channel();
        rt.spawn(async move { drop(send.send(Rc::new(42))) });
        receive
    });
    assert_eq!(*answer.unwrap(), 42);
}
