//! Datagrams by way of a JavaScript object.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use js_sys::{Function, Object, Reflect, Uint8Array};
use polyquic_runtime::{Capabilities, DatagramSocket, Received, RecvBatch, RecvMeta, Transmit};
use wasm_bindgen::prelude::*;

use crate::{js, tasks, timers};

/// Datagrams that are kept until the driver comes for them; what is more is dropped, as a full
/// socket buffer does.
const MAX_QUEUED_BYTES: usize = 4 << 20;

/// Datagrams that one call to `sendBatch` may hold. The stack takes that for segmentation offload,
/// since it is told by the same number; what it saves is the way from WebAssembly to JavaScript and
/// back, per datagram.
const BATCH_DATAGRAMS: usize = 32;

#[wasm_bindgen]
extern "C" {
    /// A JavaScript object that moves datagrams, for [`JsSocket`].
    ///
    /// ```ts
    /// interface Transport {
    ///   /** Called once. Whatever arrives goes to `receiver`, not before this. */
    ///   start(receiver: {
    ///     datagram(data: Uint8Array, address: string, port: number): void;
    ///     /** There is room again, after `send` returned `false`. */
    ///     writable(): void;
    ///     /** Nothing will ever arrive again; connections are lost. */
    ///     failed(message: string): void;
    ///   }): void;
    ///   /** One datagram. `false`: no room, not sent. What cannot be sent for any other reason is
    ///    *  lost, as datagrams may be. The array may be kept. It is called in the middle of things:
    ///    *  the receiver may be called from it, and nothing else of polyquic. */
    ///   send(data: Uint8Array, address: string, port: number): boolean | void;
    ///   /** Optional: several, each `size` bytes long but for the last one. All or nothing. */
    ///   sendBatch?(data: Uint8Array, size: number, address: string, port: number): boolean | void;
    ///   /** Called once, when the endpoint is done with it. */
    ///   close(): void;
    ///   readonly localAddress: { address: string; port: number };
    ///   /** Longest datagram that is worth sending, in bytes; at least 1200. */
    ///   readonly maxDatagramSize: number;
    ///   /** Whether what is too large for the path may arrive in fragments. Without it, larger
    ///    *  packets are tried than the least that QUIC needs. Default: `true`. */
    ///   readonly mayFragment?: boolean;
    /// }
    /// ```
    pub type JsTransport;

    #[wasm_bindgen(method, catch)]
    fn start(this: &JsTransport, receiver: &Object) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    fn send(
        this: &JsTransport,
        data: Uint8Array,
        address: &JsValue,
        port: u16,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch, js_name = sendBatch)]
    fn send_batch(
        this: &JsTransport,
        data: Uint8Array,
        size: u32,
        address: &JsValue,
        port: u16,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn close(this: &JsTransport) -> Result<(), JsValue>;
    #[wasm_bindgen(method, getter, js_name = localAddress)]
    fn local_address(this: &JsTransport) -> JsValue;
    #[wasm_bindgen(method, getter, js_name = maxDatagramSize)]
    fn max_datagram_size(this: &JsTransport) -> Option<f64>;
    #[wasm_bindgen(method, getter, js_name = mayFragment)]
    fn may_fragment(this: &JsTransport) -> Option<bool>;
}

/// A [transport](JsTransport) as polyquic's driver wants it.
///
/// Datagrams that arrive in one turn of the event loop are one batch. Several that leave together
/// cross to JavaScript together, if the transport has `sendBatch`.
pub struct JsSocket {
    transport: JsTransport,
    local_addr: SocketAddr,
    max_datagram_size: usize,
    capabilities: Capabilities,
    inbox: Rc<Inbox>,
    /// The last address that was sent to, in JavaScript's form.
    destination: Option<(IpAddr, JsValue)>,
    /// What `send` threw was reported.
    has_thrown: bool,
    /// What JavaScript calls; dropped with the socket, so that a late call is an error there.
    _callbacks: Callbacks,
}

struct Callbacks {
    _datagram: Closure<dyn FnMut(Uint8Array, JsValue, f64)>,
    _writable: Closure<dyn FnMut()>,
    _failed: Closure<dyn FnMut(JsValue)>,
}

/// What has arrived.
#[derive(Default)]
struct Inbox {
    datagrams: RefCell<VecDeque<Received>>,
    bytes: Cell<usize>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    failure: RefCell<Option<String>>,
    /// The last address that something came from, in both forms.
    peer: RefCell<Option<(JsValue, IpAddr)>>,
}

impl Inbox {
    fn datagram(&self, data: &Uint8Array, address: JsValue, port: f64) {
        timers::datagram();
        let len = data.length() as usize;
        if len == 0 || self.bytes.get() + len > MAX_QUEUED_BYTES {
            return;
        }
        let Some(ip) = self.ip(address) else { return };
        let mut buffer = BytesMut::zeroed(len);
        data.copy_to(&mut buffer);
        self.bytes.set(self.bytes.get() + len);
        self.datagrams.borrow_mut().push_back(Received {
            data: buffer,
            meta: RecvMeta {
                peer: SocketAddr::new(ip, port as u16),
                local_ip: None,
                ecn: None,
                stride: len,
            },
        });
        if let Some(waker) = self.reader.take() {
            tasks::wake_for_datagram(waker);
        }
    }

    fn ip(&self, address: JsValue) -> Option<IpAddr> {
        let mut peer = self.peer.borrow_mut();
        if let Some((known, ip)) = &*peer
            && *known == address
        {
            return Some(*ip);
        }
        let ip = parse_ip(&address)?;
        *peer = Some((address, ip));
        Some(ip)
    }

    fn writable(&self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    fn failed(&self, message: &JsValue) {
        *self.failure.borrow_mut() = Some(describe(message));
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
        self.writable();
    }

    fn failure(&self) -> Option<io::Error> {
        self.failure.borrow().clone().map(io::Error::other)
    }
}

impl JsSocket {
    /// A socket on `transport`, which is started.
    ///
    /// # Errors
    ///
    /// Its properties are not as they should be, its `maxDatagramSize` is below the 1200 bytes that
    /// QUIC needs (RFC 9000 section 14), or `start` throws.
    pub fn new(transport: JsTransport) -> io::Result<Self> {
        let invalid = |message| io::Error::new(io::ErrorKind::InvalidInput, message);
        let local = transport.local_address();
        let get = |name: &str| Reflect::get(&local, &name.into()).unwrap_or(JsValue::UNDEFINED);
        let local_addr = parse_ip(&get("address"))
            .zip(get("port").as_f64())
            .map(|(ip, port)| SocketAddr::new(ip, port as u16))
            .ok_or_else(|| invalid("a transport's localAddress must be { address, port }"))?;
        let max_datagram_size = transport.max_datagram_size().unwrap_or(0.0) as usize;
        if max_datagram_size < 1200 {
            return Err(invalid(
                "a transport's maxDatagramSize must be at least 1200",
            ));
        }
        let batches = Reflect::get(&transport, &"sendBatch".into())
            .is_ok_and(|it| it.is_instance_of::<Function>());
        let capabilities = Capabilities::minimal()
            .with_send_segments(if batches { BATCH_DATAGRAMS } else { 1 })
            .with_may_fragment(transport.may_fragment().unwrap_or(true));

        let inbox = Rc::new(Inbox::default());
        let [one, two, three] = [inbox.clone(), inbox.clone(), inbox.clone()];
        let datagram = Closure::new(move |data: Uint8Array, address, port| {
            one.datagram(&data, address, port);
        });
        let writable = Closure::new(move || two.writable());
        let failed = Closure::new(move |message| three.failed(&message));
        let receiver = Object::new();
        for (name, function) in [
            ("datagram", Closure::as_ref(&datagram)),
            ("writable", Closure::as_ref(&writable)),
            ("failed", Closure::as_ref(&failed)),
        ] {
            // A plain object takes any property.
            let _ = Reflect::set(&receiver, &name.into(), function);
        }
        transport
            .start(&receiver)
            .map_err(|error| io_error(&error))?;
        Ok(Self {
            transport,
            local_addr,
            max_datagram_size,
            capabilities,
            inbox,
            destination: None,
            has_thrown: false,
            _callbacks: Callbacks {
                _datagram: datagram,
                _writable: writable,
                _failed: failed,
            },
        })
    }

    /// The longest datagram that the transport takes, in bytes. Path MTU discovery should not go
    /// beyond.
    pub fn max_datagram_size(&self) -> usize {
        self.max_datagram_size
    }
}

impl DatagramSocket for JsSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        let mut datagrams = self.inbox.datagrams.borrow_mut();
        if datagrams.is_empty() {
            if let Some(error) = self.inbox.failure() {
                return Poll::Ready(Err(error));
            }
            *self.inbox.reader.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = batch.remaining().min(datagrams.len());
        for received in datagrams.drain(..count) {
            self.inbox
                .bytes
                .set(self.inbox.bytes.get() - received.data.len());
            batch.push(received);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.inbox.failure() {
            return Poll::Ready(Err(error));
        }
        let ip = transmit.destination.ip();
        if self.destination.as_ref().is_none_or(|known| known.0 != ip) {
            self.destination = Some((ip, ip.to_canonical().to_string().into()));
        }
        let address = &self.destination.as_ref().expect("set just now").1;
        let port = transmit.destination.port();
        let size = transmit.segment_size.unwrap_or(transmit.contents.len());
        if size > self.max_datagram_size {
            return Poll::Ready(Ok(()));
        }
        // Copied: the module's memory moves when it grows, and the transport may take its time.
        let data = Uint8Array::from(transmit.contents);
        let sent = match transmit.segment_size {
            Some(size) => self.transport.send_batch(data, size as u32, address, port),
            None => self.transport.send(data, address, port),
        };
        if sent.as_ref().is_ok_and(|it| *it == JsValue::FALSE) {
            *self.inbox.writer.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // One that throws has lost it. It may do so for each, of which one is enough to know.
        if let Err(error) = &sent
            && !std::mem::replace(&mut self.has_thrown, true)
        {
            let error = describe(error);
            js::console_warn(&format!("polyquic: the transport does not send: {error}"));
        }
        Poll::Ready(Ok(()))
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local_addr)
    }
}

impl Drop for JsSocket {
    fn drop(&mut self) {
        // What it throws is of no use to anybody now.
        let _ = self.transport.close();
    }
}

impl fmt::Debug for JsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsSocket")
            .field("local_addr", &self.local_addr)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

fn parse_ip(address: &JsValue) -> Option<IpAddr> {
    let text = address.as_string()?;
    // Node appends the zone to link-local addresses.
    text.split('%').next()?.parse().ok()
}

/// What JavaScript threw, as an error. Node says what the system called it.
pub(crate) fn io_error(error: &JsValue) -> io::Error {
    let code = Reflect::get(error, &"code".into())
        .ok()
        .and_then(|it| it.as_string());
    let kind = match code.as_deref() {
        Some("EADDRINUSE") => io::ErrorKind::AddrInUse,
        Some("EADDRNOTAVAIL") => io::ErrorKind::AddrNotAvailable,
        Some("EACCES" | "EPERM") => io::ErrorKind::PermissionDenied,
        Some("EAFNOSUPPORT") => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, describe(error))
}

/// What JavaScript threw, in words.
fn describe(error: &JsValue) -> String {
    let message = Reflect::get(error, &"message".into())
        .ok()
        .and_then(|it| it.as_string());
    message
        .or_else(|| error.as_string())
        .unwrap_or_else(|| format!("{error:?}"))
}
