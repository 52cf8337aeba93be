//! Early data that comes while TLS is away.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::BytesMut;
use quinn_proto::{ConnectionId, EcnCodepoint};

use crate::header;

/// Datagrams to keep, for all connections of an endpoint.
const MAX_DATAGRAMS: usize = 256;
/// A larger one is not kept: clients begin with datagrams that fit everywhere.
const MAX_BYTES: usize = 1_500;

/// Copies of the 0-RTT packets (RFC 9001 section 4.6) that came last.
///
/// quinn-proto drops them as long as it has no key for them, that is until TLS has answered. What
/// is dropped is sent again, but a round trip later, which is just what 0-RTT is to save.
#[derive(Default)]
pub(crate) struct EarlyData(VecDeque<EarlyPackets>);

/// The 0-RTT packets of one datagram.
pub(crate) struct EarlyPackets {
    cid: ConnectionId,
    pub(crate) remote: SocketAddr,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) data: BytesMut,
}

impl EarlyData {
    /// Keep the 0-RTT packets in a datagram that just came, if there are any.
    pub(crate) fn keep(&mut self, remote: SocketAddr, ecn: Option<EcnCodepoint>, datagram: &[u8]) {
        let Some((cid, begin)) = header::early_data_at(datagram) else {
            return;
        };
        let data = &datagram[begin..];
        if data.len() > MAX_BYTES {
            return;
        }
        if self.0.len() == MAX_DATAGRAMS {
            self.0.pop_front();
        }
        self.0.push_back(EarlyPackets {
            cid,
            remote,
            ecn,
            data: data.into(),
        });
    }

    /// Take what came for the connection that begins with this id.
    pub(crate) fn take(&mut self, cid: &ConnectionId) -> VecDeque<EarlyPackets> {
        let kept = std::mem::take(&mut self.0);
        let (taken, kept) = kept.into_iter().partition(|packets| packets.cid == *cid);
        self.0 = kept;
        taken
    }
}
