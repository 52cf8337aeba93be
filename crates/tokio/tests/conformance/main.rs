//! The contract of an adapter, on every way to run tokio.

mod io_traits;

use polyquic_tokio::{Flavor, TokioRuntime};

mod current_thread {
    use super::*;

    polyquic_testkit::conformance!(|app| polyquic_tokio::run(Flavor::CurrentThread, app));
}

mod multi_thread {
    use super::*;

    polyquic_testkit::conformance!(|app| polyquic_tokio::run(Flavor::MultiThread(3), app));
}

/// Every endpoint with two sockets and two drivers.
mod two_shards {
    use super::*;

    polyquic_testkit::conformance!(|app| polyquic_tokio::run(Flavor::MultiThread(2), |rt| app(
        rt.with_shards(2)
    )));
}

/// In a runtime that the program has made for itself.
mod existing_runtime {
    use super::*;

    polyquic_testkit::conformance!(|app| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        // On the thread that blocks, which is none of the runtime's.
        runtime.block_on(async { app(TokioRuntime::current()).await });
    });
}
