//! Endpoints.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use js_sys::Promise;
use polyquic::wasm::{JsSocket, JsTransport, WasmRuntime};
use polyquic::{
    ClientConfig, DatagramSocket, Endpoint, EndpointConfig, ServerConfig, TransportConfig,
};
use wasm_bindgen::prelude::*;

use crate::connection::RawConnection;
use crate::error::{code, error, invalid, of_connection};
use crate::options::Options;
use crate::trust;

/// An endpoint on a transport.
#[wasm_bindgen]
pub struct RawEndpoint {
    rt: WasmRuntime,
    endpoint: Endpoint,
    local_addr: SocketAddr,
    transport: Arc<TransportConfig>,
}

#[wasm_bindgen]
impl RawEndpoint {
    /// One that accepts connections, if it is a `server`.
    ///
    /// # Errors
    ///
    /// An option or the transport is not usable.
    #[wasm_bindgen(constructor)]
    pub fn new(transport: JsTransport, options: JsValue, server: bool) -> Result<Self, JsValue> {
        let options = Options(options);
        let rt = WasmRuntime::new();
        let socket = JsSocket::new(transport).map_err(invalid)?;
        let local_addr = socket.local_addr().map_err(invalid)?;
        let transport = options.transport(socket.max_datagram_size())?;
        let server = if server {
            let mut config = ServerConfig::with_crypto(trust::server(&options)?);
            config.transport_config(transport.clone());
            Some(config)
        } else {
            None
        };
        let endpoint = Endpoint::with_socket(&rt, EndpointConfig::default(), server, socket)
            .map_err(invalid)?;
        Ok(Self {
            rt,
            endpoint,
            local_addr,
            transport,
        })
    }

    /// A promise of a connection.
    ///
    /// # Errors
    ///
    /// An argument is not usable.
    pub fn connect(
        &self,
        address: &str,
        port: u16,
        server_name: &str,
        options: JsValue,
    ) -> Result<Promise, JsValue> {
        let ip: IpAddr = address
            .parse()
            .map_err(|_| invalid(format!("not an IP address: {address}")))?;
        let mut config = ClientConfig::new(trust::client(&Options(options))?);
        config.transport_config(self.transport.clone());
        let connecting = self
            .endpoint
            .connect_with(config, SocketAddr::new(ip, port), server_name)
            .map_err(invalid)?;
        let rt = self.rt.clone();
        Ok(self.rt.promise(async move {
            match connecting.await {
                Ok(connection) => Ok(RawConnection::new(rt, connection).into()),
                Err(why) => Err(of_connection(&why)),
            }
        }))
    }

    /// A promise of somebody who wants to connect: a [`RawIncoming`], or `undefined` once the endpoint
    /// is closed.
    pub fn accept(&self) -> Promise {
        let (rt, endpoint) = (self.rt.clone(), self.endpoint.clone());
        self.rt.promise(async move {
            let incoming = endpoint.accept().await;
            Ok(incoming.map_or(JsValue::UNDEFINED, |it| {
                RawIncoming {
                    rt,
                    incoming: Some(it),
                }
                .into()
            }))
        })
    }

    /// Close all connections, delivering what was finished.
    ///
    /// # Errors
    ///
    /// The code is none.
    pub fn close(&self, close_code: f64, reason: &str) -> Result<(), JsValue> {
        self.endpoint.close(code(close_code)?, reason.as_bytes());
        Ok(())
    }

    /// A promise that is kept when all peers know that their connections are closed.
    #[wasm_bindgen(js_name = waitIdle)]
    pub fn wait_idle(&self) -> Promise {
        let endpoint = self.endpoint.clone();
        self.rt.promise(async move {
            endpoint.wait_idle().await;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// IP address.
    #[wasm_bindgen(getter, js_name = localAddress)]
    pub fn local_address(&self) -> String {
        self.local_addr.ip().to_string()
    }

    /// UDP port.
    #[wasm_bindgen(getter, js_name = localPort)]
    pub fn local_port(&self) -> u16 {
        self.local_addr.port()
    }
}

/// Somebody who wants to connect.
#[wasm_bindgen]
pub struct RawIncoming {
    rt: WasmRuntime,
    incoming: Option<polyquic::Incoming>,
}

#[wasm_bindgen]
impl RawIncoming {
    /// A promise of the connection.
    pub fn accept(&mut self) -> Promise {
        let (rt, incoming) = (self.rt.clone(), self.incoming.take());
        self.rt.promise(async move {
            let incoming =
                incoming.ok_or_else(|| error("InvalidStateError", "decided already", &[]))?;
            match incoming.await {
                Ok(connection) => Ok(RawConnection::new(rt, connection).into()),
                Err(why) => Err(of_connection(&why)),
            }
        })
    }

    /// Tell them that there is nothing here.
    pub fn refuse(&mut self) {
        if let Some(incoming) = self.incoming.take() {
            incoming.refuse();
        }
    }
}
