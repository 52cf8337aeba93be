//! What the event loop offers.

use js_sys::{Function, Reflect, global};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = queueMicrotask)]
    pub(crate) fn queue_microtask(run: &Function);

    // A number in browsers, an object in Node.
    #[wasm_bindgen(js_name = setTimeout)]
    pub(crate) fn set_timeout(run: &Function, milliseconds: f64) -> JsValue;

    #[wasm_bindgen(js_name = clearTimeout)]
    pub(crate) fn clear_timeout(timeout: &JsValue);

    #[wasm_bindgen(js_namespace = console, js_name = warn)]
    pub(crate) fn console_warn(message: &str);

    #[wasm_bindgen(js_name = setImmediate)]
    fn set_immediate(run: &Function);

    type MessageChannel;
    #[wasm_bindgen(constructor)]
    fn new() -> MessageChannel;
    #[wasm_bindgen(method, getter)]
    fn port1(this: &MessageChannel) -> MessagePort;
    #[wasm_bindgen(method, getter)]
    fn port2(this: &MessageChannel) -> MessagePort;

    pub(crate) type MessagePort;
    #[wasm_bindgen(method, setter)]
    fn set_onmessage(this: &MessagePort, run: &Function);
    #[wasm_bindgen(method, js_name = postMessage)]
    fn post_message(this: &MessagePort, message: &JsValue);
}

/// A way to have a function called in a turn of the event loop of its own, soon.
pub(crate) enum Soon {
    /// Node: after the I/O that is due.
    Immediate(Function),
    /// Browsers: a message to oneself. Their `setTimeout` waits for 4 ms.
    Message(MessagePort),
}

/// Whether a turn of the event loop asks the system's sockets, as in Node and its likes.
pub(crate) fn has_immediate() -> bool {
    Reflect::has(&global(), &"setImmediate".into()).unwrap_or(false)
}

impl Soon {
    pub(crate) fn new(run: Function) -> Self {
        if has_immediate() {
            return Self::Immediate(run);
        }
        let channel = MessageChannel::new();
        channel.port1().set_onmessage(&run);
        Self::Message(channel.port2())
    }

    pub(crate) fn call(&self) {
        match self {
            Self::Immediate(run) => set_immediate(run),
            Self::Message(port) => port.post_message(&JsValue::NULL),
        }
    }
}
