//! The handle to the event loop.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;

use js_sys::{Function, Promise};
use polyquic_runtime::{Clock, Job, Runtime, Spawn};
use wasm_bindgen::prelude::*;

use crate::socket::{JsSocket, JsTransport, io_error};
use crate::tasks;
use crate::timers::{self, WasmTimer};

/// A handle to JavaScript's event loop.
#[derive(Clone, Default)]
pub struct WasmRuntime {
    open: Option<Function>,
}

impl WasmRuntime {
    /// The event loop, without sockets of its own: endpoints are made by `Endpoint::with_socket`,
    /// from a [`JsSocket`].
    pub const fn new() -> Self {
        Self { open: None }
    }

    /// The event loop, with sockets: `open(address, port)` returns a [transport](JsTransport) that is
    /// bound already (not a promise), or throws.
    pub fn with_sockets(open: Function) -> Self {
        Self { open: Some(open) }
    }

    /// Run `future` at once as far as it gets. What it returns, if it is ready by then; a `Promise` for
    /// it, if not. So what need not wait costs no turn, and no promise.
    ///
    /// # Errors
    ///
    /// What `future` returned, if it was ready.
    pub fn value_or_promise(
        &self,
        future: impl Future<Output = Result<JsValue, JsValue>> + 'static,
    ) -> Result<JsValue, JsValue> {
        let mut future = Box::pin(future);
        // Polled once more if it has to wait, and then with its task's waker: futures here are
        // cancel-safe, and being polled twice is no harm.
        let waker = std::task::Waker::noop();
        if let std::task::Poll::Ready(result) = future
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker))
        {
            return result;
        }
        Ok(self.promise(future).into())
    }

    /// Run `future` at once as far as it gets, and then as a task. The promise is settled by what it
    /// returns.
    pub fn promise(
        &self,
        future: impl Future<Output = Result<JsValue, JsValue>> + 'static,
    ) -> Promise {
        let mut future = Some(future);
        Promise::new(&mut move |resolve, reject| {
            let Some(future) = future.take() else { return };
            tasks::start(async move {
                // Neither throws.
                let _ = match future.await {
                    Ok(value) => resolve.call1(&JsValue::UNDEFINED, &value),
                    Err(error) => reject.call1(&JsValue::UNDEFINED, &error),
                };
            });
        })
    }
}

impl fmt::Debug for WasmRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmRuntime")
            .field("sockets", &self.open.is_some())
            .finish()
    }
}

impl<F: Future<Output = ()> + 'static> Spawn<F> for WasmRuntime {
    fn spawn(&self, future: F) {
        tasks::spawn(future);
    }
}

impl Runtime for WasmRuntime {
    type Timer = WasmTimer;
    type Socket = JsSocket;

    fn clock(&self) -> Clock {
        timers::clock()
    }

    fn timer(&self) -> WasmTimer {
        WasmTimer::new()
    }

    fn bind(&self, addr: SocketAddr) -> io::Result<JsSocket> {
        let Some(open) = &self.open else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "no UDP here: make endpoints from a JsSocket, or the runtime with WasmRuntime::with_sockets",
            ));
        };
        let transport = open
            .call2(
                &JsValue::UNDEFINED,
                &addr.ip().to_string().into(),
                &addr.port().into(),
            )
            .map_err(|error| io_error(&error))?;
        JsSocket::new(transport.unchecked_into::<JsTransport>())
    }

    fn offload(&self, job: Job) {
        job();
    }
}
