//! The conformance suite, and an application that knows no executor, for Node to run: see
//! `crates/js/tests/conformance.test.js`. Empty on targets other than WebAssembly.

#![cfg(all(target_family = "wasm", target_os = "unknown"))]
#![forbid(unsafe_code)]

// The very file that other executors run.
#[path = "../../../polyquic/examples/echo/app.rs"]
mod app;

use std::cell::RefCell;
use std::future::Future;

use js_sys::{Array, Function, Promise};
use polyquic_wasm::WasmRuntime;
use wasm_bindgen::prelude::*;

thread_local! {
    static RUNTIME: RefCell<WasmRuntime> = RefCell::default();
    static UNDER_WAY: RefCell<Option<Promise>> = const { RefCell::new(None) };
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(message: &str);
}

/// Starts `app`; the promise is for [`run`] to return.
fn start<F: Future<Output = ()> + 'static>(app: impl FnOnce(WasmRuntime) -> F) {
    let rt = RUNTIME.with_borrow(WasmRuntime::clone);
    let future = app(rt.clone());
    let promise = rt.promise(async move {
        future.await;
        Ok(JsValue::UNDEFINED)
    });
    UNDER_WAY.set(Some(promise));
}

polyquic_testkit::conformance!(|app| crate::start(app));

type Group = &'static [(&'static str, fn())];

const GROUPS: &[Group] = &[
    streams::PROMISES,
    reading::PROMISES,
    datagrams::PROMISES,
    closing::PROMISES,
    cancel::PROMISES,
    handshake::PROMISES,
    zero_rtt::PROMISES,
    liveness::PROMISES,
    scale::PROMISES,
    udp::PROMISES,
    shards::PROMISES,
    threads::PROMISES,
    shutdown::PROMISES,
];

/// To be called once: `open` makes the transports that endpoints bind to.
#[wasm_bindgen]
pub fn initialize(open: Function) {
    RUNTIME.set(WasmRuntime::with_sockets(open));
    std::panic::set_hook(Box::new(|panic| console_error(&panic.to_string())));
}

/// The names of all promises.
#[wasm_bindgen]
pub fn promises() -> Array {
    let names = GROUPS.iter().flat_map(|group| group.iter());
    names.map(|(name, _)| JsValue::from(*name)).collect()
}

/// Puts the executor to one promise.
///
/// # Errors
///
/// There is none of that name.
#[wasm_bindgen]
pub fn run(name: &str) -> Result<Promise, JsValue> {
    let (_, promise) = GROUPS
        .iter()
        .flat_map(|group| group.iter())
        .find(|(known, _)| *known == name)
        .ok_or("no such promise")?;
    promise();
    UNDER_WAY
        .take()
        .ok_or_else(|| "the suite did not start anything".into())
}

/// Runs the application of `crates/polyquic/examples/echo`, and returns its answer.
#[wasm_bindgen]
pub fn echo() -> Promise {
    let rt = RUNTIME.with_borrow(WasmRuntime::clone);
    rt.promise(async {
        let rt = RUNTIME.with_borrow(WasmRuntime::clone);
        let answer = app::app(rt).await;
        answer
            .map(JsValue::from)
            .map_err(|error| error.to_string().into())
    })
}
