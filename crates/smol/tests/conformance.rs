//! The contract of an adapter, on every way to run smol.

mod one_thread {
    polyquic_testkit::conformance!(|app| polyquic_smol::run(1, app));
}

mod three_threads {
    polyquic_testkit::conformance!(|app| polyquic_smol::run(3, app));
}

/// Every endpoint with two sockets and two drivers.
mod two_shards {
    polyquic_testkit::conformance!(|app| polyquic_smol::run(2, |rt| app(rt.with_shards(2))));
}

mod global_executor {
    // smol's global executor is never shut down.
    polyquic_testkit::conformance!(
        |app| smol::block_on(app(polyquic_smol::SmolRuntime::global())),
        except: [shutdown]
    );
}

mod own_executor {
    use std::sync::Arc;

    use polyquic_smol::{Executor, SmolRuntime};

    polyquic_testkit::conformance!(|app| {
        let executor = Arc::new(Executor::new());
        let rt = SmolRuntime::on(&executor);
        smol::block_on(executor.run(app(rt)));
    });
}
