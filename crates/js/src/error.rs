//! Errors as JavaScript sees them.

use std::cell::RefCell;
use std::fmt::Display;

use js_sys::{Function, Object, Reflect};
use polyquic::{
    ConnectionError, ReadError, SendDatagramError, StoppedError, TransportErrorCode, VarInt,
    WriteError,
};
use wasm_bindgen::prelude::*;

thread_local! {
    /// `(name, message, details) => Error`.
    static MAKE: RefCell<Option<Function>> = const { RefCell::new(None) };
}

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(message: &str);
}

/// To be called once: how errors are made, and what panics say.
#[wasm_bindgen(js_name = initialize)]
pub fn initialize(make_error: Function) {
    MAKE.set(Some(make_error));
    // What follows is a trap, which says nothing.
    std::panic::set_hook(Box::new(|panic| {
        console_error(&format!("polyquic: {panic}"))
    }));
}

/// An error called `name`, with more properties.
pub(crate) fn error(name: &str, message: impl Display, details: &[(&str, JsValue)]) -> JsValue {
    let object = Object::new();
    for (key, value) in details {
        // A plain object takes any property.
        let _ = Reflect::set(&object, &(*key).into(), value);
    }
    let message = message.to_string();
    MAKE.with_borrow(|make| {
        make.as_ref()
            .and_then(|make| {
                make.call3(
                    &JsValue::UNDEFINED,
                    &name.into(),
                    &message.as_str().into(),
                    &object,
                )
                .ok()
            })
            .unwrap_or_else(|| message.as_str().into())
    })
}

/// What the caller passed is not usable.
pub(crate) fn invalid(message: impl Display) -> JsValue {
    error("InvalidArgumentError", message, &[])
}

/// A code as a number; codes are below 2^62, and beyond 2^53 JavaScript rounds them.
pub(crate) fn number(code: VarInt) -> JsValue {
    (code.into_inner() as f64).into()
}

/// A code that came from JavaScript.
pub(crate) fn code(number: f64) -> Result<VarInt, JsValue> {
    let whole = number >= 0.0 && number.fract() == 0.0;
    whole
        .then(|| VarInt::from_u64(number as u64).ok())
        .flatten()
        .ok_or_else(|| invalid("a code must be a whole number from 0 to 2^62 - 1"))
}

/// Why a connection ended.
pub(crate) fn of_connection(why: &ConnectionError) -> JsValue {
    let session = ("source", "session".into());
    match why {
        ConnectionError::ApplicationClosed(close) => error(
            "ConnectionClosedError",
            why,
            &[
                session,
                ("closeCode", number(close.error_code)),
                (
                    "reason",
                    String::from_utf8_lossy(&close.reason).into_owned().into(),
                ),
            ],
        ),
        ConnectionError::LocallyClosed => error("ConnectionClosedError", why, &[session]),
        ConnectionError::TimedOut => error("TimeoutError", why, &[session]),
        ConnectionError::TransportError(it) => {
            error(name(it.code), why, &[session, transport_code(it.code)])
        }
        ConnectionError::ConnectionClosed(it) => error(
            name(it.error_code),
            why,
            &[session, transport_code(it.error_code)],
        ),
        ConnectionError::Reset => error("ConnectionResetError", why, &[session]),
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
            error("TransportError", why, &[session])
        }
    }
}

fn transport_code(code: TransportErrorCode) -> (&'static str, JsValue) {
    ("transportErrorCode", (u64::from(code) as f64).into())
}

/// TLS alerts travel as codes from 0x100 (RFC 9001 section 4.8).
fn name(code: TransportErrorCode) -> &'static str {
    match u64::from(code) {
        // bad_certificate to certificate_unknown, unknown_ca, and access_denied for a hash.
        0x12a..=0x12e | 0x130 | 0x131 => "CertificateError",
        0x100..=0x1ff => "TlsError",
        0x2 => "ConnectionRefusedError",
        _ => "TransportError",
    }
}

/// Why nothing more can be read.
pub(crate) fn of_read(why: &ReadError) -> JsValue {
    let stream = ("source", "stream".into());
    match why {
        ReadError::Reset(code) => error(
            "StreamResetError",
            why,
            &[stream, ("streamErrorCode", number(*code))],
        ),
        ReadError::ConnectionLost(lost) => of_connection(lost),
        _ => error("StreamClosedError", why, &[stream]),
    }
}

/// Why nothing more can be written.
pub(crate) fn of_write(why: &WriteError) -> JsValue {
    let stream = ("source", "stream".into());
    match why {
        WriteError::Stopped(code) => stopped(*code),
        WriteError::ConnectionLost(lost) => of_connection(lost),
        _ => error("StreamClosedError", why, &[stream]),
    }
}

/// The peer wants no more.
pub(crate) fn stopped(code: VarInt) -> JsValue {
    error(
        "StreamStoppedError",
        WriteError::Stopped(code),
        &[
            ("source", "stream".into()),
            ("streamErrorCode", number(code)),
        ],
    )
}

/// Why it is not known whether everything arrived.
pub(crate) fn of_stopped(why: &StoppedError) -> JsValue {
    match why {
        StoppedError::ConnectionLost(lost) => of_connection(lost),
        StoppedError::ZeroRttRejected => error("StreamClosedError", why, &[]),
    }
}

/// Why a datagram cannot be sent.
pub(crate) fn of_datagram(why: &SendDatagramError) -> JsValue {
    match why {
        SendDatagramError::ConnectionLost(lost) => of_connection(lost),
        SendDatagramError::TooLarge => error("DatagramTooLargeError", why, &[]),
        _ => error("DatagramsUnsupportedError", why, &[]),
    }
}
