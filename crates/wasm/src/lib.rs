//! polyquic on JavaScript's event loop, in Node and in browsers.
//!
//! The facade has this crate as `polyquic::wasm`, with the feature `wasm`. It is for the target
//! `wasm32-unknown-unknown` with wasm-bindgen, and **empty on all others**, so that a workspace can
//! turn the feature on everywhere.
//!
//! An application that is generic over `Executor` runs here as it does elsewhere:
//!
//! ```ignore
//! use polyquic::wasm::WasmRuntime;
//!
//! #[wasm_bindgen]
//! pub fn start(open: js_sys::Function) {
//!     // `open(address, port)` makes the transports that endpoints bind to.
//!     let rt = WasmRuntime::with_sockets(open);
//!     rt.spawn(app(rt.clone()));
//! }
//! ```
//!
//! Whoever writes JavaScript rather than Rust wants the package in `crates/js/npm`.
//!
//! # Tasks
//!
//! There is one thread, and tasks need not be `Send`. A task that is woken runs in a microtask of
//! the same turn of the event loop; after 128 runs in a row the rest waits for a turn of its own, so
//! that sockets and JavaScript's timers get theirs. What a datagram wakes runs in a turn of its own
//! too, when the event loop has delivered all datagrams that it had: they are one batch. Tasks live
//! until they end: there is no shutting down short of leaving the page or the process.
//!
//! # Time
//!
//! All timers share one `setTimeout`, set for the earliest and set anew only when an earlier one
//! comes up. Its resolution is a millisecond, in browsers 4 when they come thick, and a second or a
//! minute in a tab that nobody looks at.
//!
//! The clock is `performance.now()`, with one exception. When a timer fires much too late, the event
//! loop was held up (by a long computation, a sleeping laptop, a tab in the background), and
//! datagrams wait that came in time. The clock then stands still until these were taken in: in Node for
//! some turns of the event loop, in browsers, where they come from another process, until there were
//! none for 20 ms, and at most for 200. So they are not taken for late, and what they acknowledge is
//! not taken for lost.
//!
//! # Datagrams
//!
//! There is no UDP in JavaScript, as a language. A *transport* is a JavaScript object that moves
//! datagrams, see [`JsSocket`](https://docs.rs/polyquic-wasm); the package has one for Node's UDP
//! and one for relays over WebSocket. [`Runtime::bind`] asks the function that
//! `WasmRuntime::with_sockets` was given for one, and is unsupported without.
//!
//! # What is missing
//!
//! Threads, and with them anything that `offload` could be good for: it runs inline. Segmentation
//! offload, ECN and local addresses, which neither `node:dgram` nor WebSockets have. Post-quantum key
//! exchange, because ring has none and AWS-LC does not build for this target.
//!
//! [`Runtime::bind`]: https://docs.rs/polyquic-runtime

#![forbid(unsafe_code)]

#[cfg(any(test, all(target_family = "wasm", target_os = "unknown")))]
mod clock;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod js;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod runtime;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod socket;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod tasks;
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
mod timers;

#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub use {
    runtime::WasmRuntime,
    socket::{JsSocket, JsTransport},
    timers::WasmTimer,
};
