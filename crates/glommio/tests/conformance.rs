//! The contract of an adapter, on one core and on two, and within a glommio of one's own.
#![cfg(target_os = "linux")]

mod one_core {
    polyquic_testkit::conformance!(|app| polyquic_glommio::run(1, app));
}

mod two_cores {
    polyquic_testkit::conformance!(|app| polyquic_glommio::run(2, app));
}

mod own_executor {
    use glommio::LocalExecutorBuilder;
    use polyquic_glommio::GlommioRuntime;

    // glommio leaks the tasks that are left when an executor ends.
    polyquic_testkit::conformance!(
        |app| {
            let executor = LocalExecutorBuilder::default()
                .io_memory(64 << 10)
                .preempt_timer(std::time::Duration::from_secs(1))
                .make()
                .unwrap();
            executor.run(async { app(GlommioRuntime::current()).await })
        },
        except: [shutdown]
    );
}
