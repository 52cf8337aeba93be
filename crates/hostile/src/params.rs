//! Transport parameters, right or wrong (RFC 9000 section 18).

use crate::wire::put_varint;

/// Numbers of transport parameters.
pub mod id {
    /// `original_destination_connection_id`: servers only.
    pub const ORIGINAL_DCID: u64 = 0x00;
    /// `max_idle_timeout`, in milliseconds.
    pub const MAX_IDLE_TIMEOUT: u64 = 0x01;
    /// `stateless_reset_token`: servers only.
    pub const STATELESS_RESET_TOKEN: u64 = 0x02;
    /// `max_udp_payload_size`, in bytes.
    pub const MAX_UDP_PAYLOAD_SIZE: u64 = 0x03;
    /// `initial_max_data`, in bytes.
    pub const INITIAL_MAX_DATA: u64 = 0x04;
    /// `initial_max_stream_data_bidi_local`, in bytes.
    pub const INITIAL_MAX_STREAM_DATA_BIDI_LOCAL: u64 = 0x05;
    /// `initial_max_stream_data_bidi_remote`, in bytes.
    pub const INITIAL_MAX_STREAM_DATA_BIDI_REMOTE: u64 = 0x06;
    /// `initial_max_stream_data_uni`, in bytes.
    pub const INITIAL_MAX_STREAM_DATA_UNI: u64 = 0x07;
    /// `initial_max_streams_bidi`.
    pub const INITIAL_MAX_STREAMS_BIDI: u64 = 0x08;
    /// `initial_max_streams_uni`.
    pub const INITIAL_MAX_STREAMS_UNI: u64 = 0x09;
    /// `ack_delay_exponent`.
    pub const ACK_DELAY_EXPONENT: u64 = 0x0a;
    /// `max_ack_delay`, in milliseconds.
    pub const MAX_ACK_DELAY: u64 = 0x0b;
    /// `disable_active_migration`, empty.
    pub const DISABLE_ACTIVE_MIGRATION: u64 = 0x0c;
    /// `preferred_address`: servers only.
    pub const PREFERRED_ADDRESS: u64 = 0x0d;
    /// `active_connection_id_limit`.
    pub const ACTIVE_CONNECTION_ID_LIMIT: u64 = 0x0e;
    /// `initial_source_connection_id`.
    pub const INITIAL_SCID: u64 = 0x0f;
    /// `retry_source_connection_id`: servers only.
    pub const RETRY_SCID: u64 = 0x10;
    /// `max_datagram_frame_size`, in bytes (RFC 9221).
    pub const MAX_DATAGRAM_FRAME_SIZE: u64 = 0x20;
    /// `min_ack_delay`, in microseconds (draft-ietf-quic-ack-frequency).
    pub const MIN_ACK_DELAY: u64 = 0xff04_de1b;
}

/// A list of transport parameters, in the order in which they are sent.
#[derive(Debug, Clone)]
pub struct Params {
    list: Vec<(u64, Vec<u8>)>,
    tail: Vec<u8>,
    /// Whether the peer leaves the connection ids as they are here, instead of filling them in.
    pub exact: bool,
}

impl Default for Params {
    /// Those of a generous peer; connection ids are filled in.
    fn default() -> Self {
        let mut params = Self {
            list: Vec::new(),
            tail: Vec::new(),
            exact: false,
        };
        for (id, value) in [
            (id::MAX_IDLE_TIMEOUT, 30_000),
            (id::INITIAL_MAX_DATA, 10_000_000),
            (id::INITIAL_MAX_STREAM_DATA_BIDI_LOCAL, 1_000_000),
            (id::INITIAL_MAX_STREAM_DATA_BIDI_REMOTE, 1_000_000),
            (id::INITIAL_MAX_STREAM_DATA_UNI, 1_000_000),
            (id::INITIAL_MAX_STREAMS_BIDI, 100),
            (id::INITIAL_MAX_STREAMS_UNI, 100),
            (id::ACTIVE_CONNECTION_ID_LIMIT, 4),
            (id::MAX_DATAGRAM_FRAME_SIZE, 65_535),
        ] {
            params.set_integer(id, value);
        }
        params
    }
}

impl Params {
    /// Set one, replacing an earlier one of this number.
    pub fn set(&mut self, id: u64, value: &[u8]) -> &mut Self {
        match self.list.iter_mut().find(|(it, _)| *it == id) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.list.push((id, value.to_vec())),
        }
        self
    }

    /// Set one that is an integer.
    pub fn set_integer(&mut self, id: u64, value: u64) -> &mut Self {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        self.set(id, &bytes)
    }

    /// Add one, whether or not there is one of this number.
    pub fn add(&mut self, id: u64, value: &[u8]) -> &mut Self {
        self.list.push((id, value.to_vec()));
        self
    }

    /// Leave one out.
    pub fn remove(&mut self, id: u64) -> &mut Self {
        self.list.retain(|(it, _)| *it != id);
        self
    }

    /// Put these bytes after all parameters.
    pub fn tail(&mut self, bytes: &[u8]) -> &mut Self {
        self.tail = bytes.to_vec();
        self
    }

    /// Leave connection ids as they are.
    pub fn exactly(&mut self) -> &mut Self {
        self.exact = true;
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, value) in &self.list {
            put_varint(&mut bytes, *id);
            put_varint(&mut bytes, value.len() as u64);
            bytes.extend_from_slice(value);
        }
        bytes.extend_from_slice(&self.tail);
        bytes
    }
}
