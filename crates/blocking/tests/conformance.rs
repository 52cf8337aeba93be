//! The contract of an adapter, on plain threads.

// The I/O thread serves its endpoints for as long as they have handles: there is no executor to be
// shut down.
polyquic_testkit::conformance!(|app| polyquic_blocking::run(app), except: [shutdown]);
