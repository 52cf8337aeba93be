//! Options as JavaScript passes them: an object, all of whose properties may be missing.

use std::sync::Arc;
use std::time::Duration;

use js_sys::{Array, Reflect, Uint8Array};
use polyquic::{MtuDiscoveryConfig, TransportConfig, VarInt, congestion};
use wasm_bindgen::prelude::*;

use crate::error::{code, invalid};

pub(crate) struct Options(pub(crate) JsValue);

impl Options {
    fn get(&self, name: &str) -> JsValue {
        // Of `undefined`, too.
        Reflect::get(&self.0, &name.into()).unwrap_or(JsValue::UNDEFINED)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, JsValue> {
        let value = self.get(name);
        if value.is_undefined() || value.is_null() {
            return Ok(None);
        }
        let text = value.as_string();
        text.map(Some)
            .ok_or_else(|| invalid(format!("`{name}` must be a string")))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, JsValue> {
        let value = self.get(name);
        if value.is_undefined() {
            return Ok(None);
        }
        let number = value.as_f64().filter(|it| *it >= 0.0);
        number
            .map(Some)
            .ok_or_else(|| invalid(format!("`{name}` must be a number, and not negative")))
    }

    fn integer(&self, name: &str) -> Result<Option<VarInt>, JsValue> {
        self.number(name)?.map(code).transpose()
    }

    /// Milliseconds.
    fn duration(&self, name: &str) -> Result<Option<Duration>, JsValue> {
        let Some(milliseconds) = self.number(name)? else {
            return Ok(None);
        };
        Duration::try_from_secs_f64(milliseconds / 1000.0)
            .map(Some)
            .map_err(|_| invalid(format!("`{name}` is too long")))
    }

    fn list(&self, name: &str) -> Result<Vec<JsValue>, JsValue> {
        let value = self.get(name);
        if value.is_undefined() {
            return Ok(Vec::new());
        }
        if !Array::is_array(&value) {
            return Err(invalid(format!("`{name}` must be an array")));
        }
        Ok(Array::from(&value).to_vec())
    }

    pub(crate) fn alpn(&self) -> Result<Vec<Vec<u8>>, JsValue> {
        let protocols = self.list("alpn")?.into_iter().map(|it| {
            it.as_string()
                .filter(|it| (1..256).contains(&it.len()))
                .map(String::into_bytes)
                .ok_or_else(|| invalid("`alpn` must hold strings of 1 to 255 bytes"))
        });
        protocols.collect()
    }

    /// As WebTransport has them: `{ algorithm: "sha-256", value }`.
    pub(crate) fn hashes(&self, name: &str) -> Result<Vec<[u8; 32]>, JsValue> {
        let hashes = self.list(name)?.into_iter().map(|it| {
            let hash = Self(it);
            if hash.text("algorithm")?.as_deref() != Some("sha-256") {
                return Err(invalid(format!(
                    "`{name}`: the algorithm must be \"sha-256\""
                )));
            }
            // The package has made a Uint8Array of it.
            let value = hash.get("value").dyn_into::<Uint8Array>().ok();
            value
                .and_then(|it| it.to_vec().try_into().ok())
                .ok_or_else(|| invalid(format!("`{name}`: a hash has 32 bytes")))
        });
        hashes.collect()
    }

    /// What holds for each connection. `max_datagram_size` is what the transport takes.
    pub(crate) fn transport(
        &self,
        max_datagram_size: usize,
    ) -> Result<Arc<TransportConfig>, JsValue> {
        let mut config = TransportConfig::default();
        let keep_alive = self.duration("keepAliveInterval")?;
        // QUIC would take zero for "at once, all the time".
        config.keep_alive_interval(keep_alive.filter(|it| !it.is_zero()));
        if let Some(timeout) = self.duration("maxIdleTimeout")? {
            let timeout = (!timeout.is_zero()).then(|| timeout.try_into()).transpose();
            config.max_idle_timeout(timeout.map_err(|_| invalid("`maxIdleTimeout` is too long"))?);
        }
        if let Some(count) = self.integer("maxIncomingBidirectionalStreams")? {
            config.max_concurrent_bidi_streams(count);
        }
        if let Some(count) = self.integer("maxIncomingUnidirectionalStreams")? {
            config.max_concurrent_uni_streams(count);
        }
        match self.text("congestionControl")?.as_deref() {
            None | Some("cubic") => {}
            Some("bbr") => {
                config.congestion_controller_factory(Arc::new(congestion::BbrConfig::default()));
            }
            Some("new-reno") => {
                config
                    .congestion_controller_factory(Arc::new(congestion::NewRenoConfig::default()));
            }
            Some(other) => {
                return Err(invalid(format!(
                    "`congestionControl` is \"cubic\", \"bbr\" or \"new-reno\", not \"{other}\""
                )));
            }
        }
        let largest = max_datagram_size.min(1452) as u16;
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(largest);
        config.mtu_discovery_config(Some(discovery));
        if let Some(size) = self.number("initialDatagramSize")? {
            if !(1200.0..=max_datagram_size as f64).contains(&size) {
                return Err(invalid(format!(
                    "`initialDatagramSize` must be from 1200 to {max_datagram_size}, which is what the transport takes"
                )));
            }
            config.initial_mtu(size as u16);
        }
        Ok(Arc::new(config))
    }
}
