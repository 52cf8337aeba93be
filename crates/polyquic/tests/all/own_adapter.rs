//! The adapter of `docs/ADAPTERS.md` keeps the contract.

polyquic_testkit::conformance!(|app| crate::adapter::run(app));
