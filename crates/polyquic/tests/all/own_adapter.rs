//! The adapter of `docs/ADAPTERS.md` keeps the contract.

// Several sockets on one address are optional, and of no use on one thread.
polyquic_testkit::conformance!(|app| crate::adapter::run(app), except: [shards]);
