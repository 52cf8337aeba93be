//! Connections.

use bytes::Bytes;
use js_sys::{Array, Object, Promise, Reflect, Uint8Array};
use polyquic::crypto::rustls::HandshakeData;
use polyquic::wasm::WasmRuntime;
use polyquic::{Connection, ConnectionError, RecvStream, SendStream};
use wasm_bindgen::prelude::*;

use crate::error::{code, of_connection, of_datagram};
use crate::stream::{RawRecvStream, RawSendStream};

/// A connection.
#[wasm_bindgen]
pub struct RawConnection {
    rt: WasmRuntime,
    connection: Connection,
}

impl RawConnection {
    pub(crate) fn new(rt: WasmRuntime, connection: Connection) -> Self {
        Self { rt, connection }
    }

    fn streams(
        &self,
        opened: impl AsyncFnOnce(
            Connection,
        )
            -> Result<(Option<SendStream>, Option<RecvStream>), ConnectionError>
        + 'static,
    ) -> Promise {
        let (rt, connection) = (self.rt.clone(), self.connection.clone());
        self.rt.promise(async move {
            let (send, recv) = opened(connection)
                .await
                .map_err(|why| of_connection(&why))?;
            let send = send.map(|it| JsValue::from(RawSendStream::new(rt.clone(), it)));
            let recv = recv.map(|it| JsValue::from(RawRecvStream::new(rt, it)));
            Ok(send.into_iter().chain(recv).collect::<Array>().into())
        })
    }
}

#[wasm_bindgen]
impl RawConnection {
    /// A promise of `[send, receive]`.
    #[wasm_bindgen(js_name = openBidirectional)]
    pub fn open_bidirectional(&self) -> Promise {
        self.streams(async |it| it.open_bi().await.map(|(s, r)| (Some(s), Some(r))))
    }

    /// A promise of `[send]`.
    #[wasm_bindgen(js_name = openUnidirectional)]
    pub fn open_unidirectional(&self) -> Promise {
        self.streams(async |it| it.open_uni().await.map(|s| (Some(s), None)))
    }

    /// A promise of `[send, receive]`, when the peer opens one.
    #[wasm_bindgen(js_name = acceptBidirectional)]
    pub fn accept_bidirectional(&self) -> Promise {
        self.streams(async |it| it.accept_bi().await.map(|(s, r)| (Some(s), Some(r))))
    }

    /// A promise of `[receive]`, when the peer opens one.
    #[wasm_bindgen(js_name = acceptUnidirectional)]
    pub fn accept_unidirectional(&self) -> Promise {
        self.streams(async |it| it.accept_uni().await.map(|r| (None, Some(r))))
    }

    /// A datagram, or a promise of one.
    ///
    /// # Errors
    ///
    /// The connection has ended.
    #[wasm_bindgen(js_name = readDatagram)]
    pub fn read_datagram(&self) -> Result<JsValue, JsValue> {
        let connection = self.connection.clone();
        self.rt.value_or_promise(async move {
            match connection.read_datagram().await {
                Ok(data) => Ok(Uint8Array::from(&data[..]).into()),
                Err(why) => Err(of_connection(&why)),
            }
        })
    }

    /// Send a datagram, when there is room for it: nothing or a promise.
    ///
    /// # Errors
    ///
    /// It is too large, the peer takes none, or the connection has ended.
    #[wasm_bindgen(js_name = sendDatagram)]
    pub fn send_datagram(&self, data: &[u8]) -> Result<JsValue, JsValue> {
        let (connection, data) = (self.connection.clone(), Bytes::copy_from_slice(data));
        self.rt.value_or_promise(async move {
            match connection.send_datagram_wait(data).await {
                Ok(()) => Ok(JsValue::UNDEFINED),
                Err(why) => Err(of_datagram(&why)),
            }
        })
    }

    /// In bytes, at the moment.
    #[wasm_bindgen(getter, js_name = maxDatagramSize)]
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.connection.max_datagram_size()
    }

    /// Close at once; what is not delivered is lost.
    ///
    /// # Errors
    ///
    /// The code is none.
    pub fn close(&self, close_code: f64, reason: &str) -> Result<(), JsValue> {
        self.connection.close(code(close_code)?, reason.as_bytes());
        Ok(())
    }

    /// A promise of the error that the connection ends with.
    pub fn closed(&self) -> Promise {
        let connection = self.connection.clone();
        self.rt
            .promise(async move { Ok(of_connection(&connection.closed().await)) })
    }

    /// The peer's, as `address`, `port`.
    #[wasm_bindgen(getter, js_name = remoteAddress)]
    pub fn remote_address(&self) -> Array {
        let addr = self.connection.remote_address();
        Array::of2(
            &addr.ip().to_canonical().to_string().into(),
            &addr.port().into(),
        )
    }

    /// What TLS agreed on.
    #[wasm_bindgen(getter)]
    pub fn protocol(&self) -> Option<String> {
        let data = self.connection.handshake_data()?;
        let protocol = data.downcast::<HandshakeData>().ok()?.protocol?;
        Some(String::from_utf8_lossy(&protocol).into_owned())
    }

    /// Numbers about the connection; times in milliseconds.
    #[wasm_bindgen(getter)]
    pub fn stats(&self) -> Object {
        let stats = self.connection.stats();
        let object = Object::new();
        for (name, value) in [
            ("smoothedRtt", self.connection.rtt().as_secs_f64() * 1000.0),
            ("minRtt", self.connection.min_rtt().as_secs_f64() * 1000.0),
            ("bytesSent", stats.udp_tx.bytes as f64),
            ("bytesReceived", stats.udp_rx.bytes as f64),
            ("packetsSent", stats.path.sent_packets as f64),
            ("packetsLost", stats.path.lost_packets as f64),
            ("datagramsSent", stats.udp_tx.datagrams as f64),
            ("datagramsReceived", stats.udp_rx.datagrams as f64),
            ("congestionEvents", stats.path.congestion_events as f64),
            ("congestionWindow", stats.path.cwnd as f64),
            ("pathMtu", f64::from(stats.path.current_mtu)),
        ] {
            // A plain object takes any property.
            let _ = Reflect::set(&object, &name.into(), &value.into());
        }
        object
    }
}
