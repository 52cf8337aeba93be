//! The halves of streams.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use js_sys::{Promise, Uint8Array};
use polyquic::wasm::WasmRuntime;
use polyquic::{RecvStream, SendStream};
use wasm_bindgen::prelude::*;

use crate::error::{code, of_read, of_stopped, of_write, stopped};

/// What a call that waits shares with the object it was made on. Borrowed only while something is
/// polled or called, never over a wait.
type Half<T> = Rc<RefCell<T>>;

/// The half that can be written to.
#[wasm_bindgen]
pub struct RawSendStream {
    rt: WasmRuntime,
    stream: Half<SendStream>,
}

impl RawSendStream {
    pub(crate) fn new(rt: WasmRuntime, stream: SendStream) -> Self {
        Self {
            rt,
            stream: Rc::new(RefCell::new(stream)),
        }
    }
}

#[wasm_bindgen]
impl RawSendStream {
    /// Write all of `data`: nothing if there was room, else a promise.
    ///
    /// # Errors
    ///
    /// The peer wants no more, the stream is finished, or the connection has ended.
    pub fn write(&self, data: Box<[u8]>) -> Result<JsValue, JsValue> {
        let stream = self.stream.clone();
        self.rt.value_or_promise(async move {
            let mut rest = &data[..];
            while !rest.is_empty() {
                let written =
                    poll_fn(|cx| Pin::new(&mut *stream.borrow_mut()).poll_write(cx, rest)).await;
                rest = &rest[written.map_err(|why| of_write(&why))?..];
            }
            Ok(JsValue::UNDEFINED)
        })
    }

    /// No more will be written. A promise that is kept when all of it was acknowledged.
    ///
    /// # Errors
    ///
    /// By the promise: the peer wants no more, or the connection has ended.
    pub fn finish(&self) -> Promise {
        // Finished or reset before: what follows tells.
        let _ = self.stream.borrow_mut().finish();
        let stopped_future = self.stream.borrow().stopped();
        self.rt.promise(async move {
            match stopped_future.await {
                Ok(None) => Ok(JsValue::UNDEFINED),
                Ok(Some(code)) => Err(stopped(code)),
                Err(why) => Err(of_stopped(&why)),
            }
        })
    }

    /// Give the stream up.
    ///
    /// # Errors
    ///
    /// The code is none.
    pub fn reset(&self, error_code: f64) -> Result<(), JsValue> {
        // It may have ended, which is as good.
        let _ = self.stream.borrow_mut().reset(code(error_code)?);
        Ok(())
    }

    /// A promise of the error by which the peer wants no more; of `undefined` if the stream ends
    /// otherwise.
    pub fn stopped(&self) -> Promise {
        let stopped_future = self.stream.borrow().stopped();
        self.rt.promise(async move {
            Ok(match stopped_future.await {
                Ok(None) => JsValue::UNDEFINED,
                Ok(Some(code)) => stopped(code),
                Err(why) => of_stopped(&why),
            })
        })
    }

    /// Streams of higher priority are sent first.
    #[wasm_bindgen(js_name = setPriority)]
    pub fn set_priority(&self, priority: i32) {
        // It may have ended.
        let _ = self.stream.borrow().set_priority(priority);
    }

    /// The number of the stream.
    #[wasm_bindgen(getter)]
    pub fn id(&self) -> f64 {
        u64::from(polyquic::VarInt::from(self.stream.borrow().id())) as f64
    }
}

/// The half that can be read from.
#[wasm_bindgen]
pub struct RawRecvStream {
    rt: WasmRuntime,
    stream: Half<RecvStream>,
}

impl RawRecvStream {
    pub(crate) fn new(rt: WasmRuntime, stream: RecvStream) -> Self {
        Self {
            rt,
            stream: Rc::new(RefCell::new(stream)),
        }
    }
}

thread_local! {
    /// What is read goes through here, as JavaScript's memory cannot be written to in place.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

#[wasm_bindgen]
impl RawRecvStream {
    /// What there is, at most `limit` bytes; `undefined` at the end; or a promise of either.
    ///
    /// # Errors
    ///
    /// The peer gave the stream up, or the connection has ended.
    pub fn read(&self, limit: usize) -> Result<JsValue, JsValue> {
        let stream = self.stream.clone();
        self.rt.value_or_promise(poll_fn(move |cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                if scratch.len() < limit {
                    scratch.resize(limit, 0);
                }
                let read = stream.borrow_mut().poll_read(cx, &mut scratch[..limit]);
                read.map(|read| match read {
                    Ok(0) => Ok(JsValue::UNDEFINED),
                    Ok(count) => Ok(Uint8Array::from(&scratch[..count]).into()),
                    Err(why) => Err(of_read(&why)),
                })
            })
        }))
    }

    /// Ask the peer to send no more.
    ///
    /// # Errors
    ///
    /// The code is none.
    pub fn stop(&self, error_code: f64) -> Result<(), JsValue> {
        // It may have ended, which is as good.
        let _ = self.stream.borrow_mut().stop(code(error_code)?);
        Ok(())
    }

    /// The number of the stream.
    #[wasm_bindgen(getter)]
    pub fn id(&self) -> f64 {
        u64::from(polyquic::VarInt::from(self.stream.borrow().id())) as f64
    }
}
