//! The conformance suite: what polyquic's handles promise, as tests that any executor can be put
//! to, over real sockets.
//!
//! # For whoever writes an adapter
//!
//! Add this crate to your `[dev-dependencies]`, and write one line in `tests/conformance.rs`:
//!
//! ```ignore
//! polyquic_testkit::conformance!(|app| my_adapter::run(app));
//! ```
//!
//! which gives one `#[test]` per promise, named `group::promise`. What you pass is a closure that
//! starts your executor, calls `app` with its handle, drives the future that `app` returns to
//! completion, and then returns:
//!
//! - `app` is a `FnOnce(R) -> impl Future<Output = ()> + 'static`, where `R`, your handle, is an
//!   [`Executor`]: a [`Runtime`] that can spawn drivers and [`Task`]s.
//! - The future is `Send` when `R` and its timer are; nothing asks for that, or for `R: Sync`.
//! - The closure returns `()`, or a `Result<(), E>` whose error is a failure of the test.
//! - It is called anew for each test, on a thread of that test's own. Tests run in parallel.
//! - It must not swallow panics of the future: they are how a test fails.
//!
//! Several executors, or several flavours of one, go into one test binary as modules:
//!
//! ```ignore
//! mod one_thread {
//!     polyquic_testkit::conformance!(|app| my_adapter::run(1, app));
//! }
//! mod work_stealing {
//!     polyquic_testkit::conformance!(|app| my_adapter::run(4, app));
//! }
//! ```
//!
//! ## Groups that cannot apply
//!
//! A group can be left out by name; say why where you do:
//!
//! ```ignore
//! // This executor is never shut down.
//! polyquic_testkit::conformance!(|app| my_adapter::run(app), except: [shutdown]);
//! ```
//!
//! | group | what it is about | what it needs besides [`Executor`] |
//! |---|---|---|
//! | `streams` | streams: order, ends, limits, codes | |
//! | `reading` | the ways to read and to write | |
//! | `datagrams` | unreliable datagrams | |
//! | `closing` | closing, dropping, waiting for the end | |
//! | `cancel` | dropped futures lose nothing | |
//! | `handshake` | authentication, admission, what was negotiated | |
//! | `zero_rtt` | resumption, 0-RTT and 0.5-RTT | |
//! | `liveness` | idle timeout, keep-alive, key updates | a clock that advances |
//! | `scale` | many connections, much data | |
//! | `udp` | addresses, rebinding, restarts, loss, junk | sockets that are the operating system's UDP |
//! | `shards` | several sockets on one address | [`Runtime::bind_group`] |
//! | `threads` | handles on other threads | threads besides the executor's |
//! | `shutdown` | handles that outlive their executor | your closure drops all tasks before it returns |
//!
//! ## When a test fails
//!
//! Each test has a watchdog ([`harness::WATCHDOG`]): one that hangs fails with its name, and the
//! others go on. `POLYQUIC_TESTKIT_WATCHDOG_SECS` changes it, for debuggers and emulators. The
//! usual suspects of a new adapter, and the test that finds them:
//!
//! - everything stalls: a waker that is not called when readiness came before it was registered;
//! - `liveness` stalls: a timer that stays quiet when it is reset to an earlier deadline;
//! - `scale` and `udp` stall: a socket that reports `Pending` without having a waker registered;
//! - `threads` stalls: an executor that does not notice wake-ups from foreign threads;
//! - `shutdown` stalls: tasks that are leaked instead of dropped.
//!
//! # For whoever adds a promise
//!
//! A promise is an `async fn` that takes an executor, in the module of its group, and its name in
//! the list of `conformance!`. Keep bodies to a few lines: what concerns certificates and
//! configuration belongs to [`fixtures`], so that a change of the API touches one place. Wait for
//! events, never for time; where nothing happening is the point, compare with something that does.
//! Do not hold a `&R` across an `.await`, because that makes the body demand `R: Sync`.
//!
//! [`Executor`]: polyquic_endpoint::Executor
//! [`Runtime`]: polyquic_runtime::Runtime
//! [`Runtime::bind_group`]: polyquic_runtime::Runtime::bind_group
//! [`Task`]: polyquic_runtime::Task

#![forbid(unsafe_code)]

pub mod fixtures;
pub mod harness;
mod macros;
pub mod tools;

pub mod cancel;
pub mod closing;
pub mod datagrams;
pub mod handshake;
pub mod liveness;
pub mod reading;
pub mod scale;
pub mod shards;
pub mod shutdown;
pub mod streams;
pub mod threads;
pub mod udp;
pub mod zero_rtt;
