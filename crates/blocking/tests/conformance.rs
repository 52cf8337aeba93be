//! The contract of an adapter, on plain threads.

// The I/O threads serve their endpoints for as long as these have handles: there is no executor to be
// shut down.

mod one_shard {
    polyquic_testkit::conformance!(|app| polyquic_blocking::run(app), except: [shutdown]);
}

/// Every endpoint with two sockets, and an I/O thread for each.
mod two_shards {
    polyquic_testkit::conformance!(
        |app| polyquic_blocking::run(|rt| app(rt.with_shards(2))),
        except: [shutdown]
    );
}
