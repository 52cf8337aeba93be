//! Servers send no more than three times what they received to an address that did not prove to
//! receive (RFC 9000 section 8), as seen on their link. quinn-proto looks before it writes a datagram
//! whether anything may be sent, not how much: it may be too much by one datagram, for each connection
//! that begins at an address or comes to it from elsewhere (`core` keeps the limit over all moves).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

use polyquic::sim::{Access, Packet, Verdict};

use crate::model::Model;

/// The largest that servers send.
const DATAGRAM_BYTES: u64 = 1452;

/// Of the connection ids that servers give out.
const ID_BYTES: usize = 8;

#[derive(Default)]
struct Peer {
    received: u64,
    sent: u64,
    validated: bool,
    /// The connection ids that first packets from there were for.
    hellos: BTreeSet<Vec<u8>>,
    /// The connection ids that short packets from there were for.
    moved: BTreeSet<[u8; ID_BYTES]>,
    /// What quinn-proto sends beyond the limit.
    excess: u64,
}

/// Count what goes through a server's link. `duplicates`: whether the way down delivers some packets
/// twice, which the count does not see.
pub(crate) fn watch(access: &Access, model: &Rc<Model>, duplicates: bool) {
    let peers: Rc<RefCell<BTreeMap<(SocketAddr, SocketAddr), Peer>>> = Rc::default();
    let known = peers.clone();
    // The model knows hosts, which know the links, which know the filter.
    let watching = Rc::downgrade(model);
    let copies = if duplicates { 2 } else { 1 };
    access.filter_down(move |packet| {
        let mut peers = known.borrow_mut();
        // A server that has not accepted an attempt yet keeps what comes for it; quinn-proto then
        // counts all of that for the address where the attempt began.
        let hello = long_dcid(&packet.payload).map(<[u8]>::to_vec);
        let elsewhere = peers.iter_mut().filter(|((src, _), peer)| {
            let waits = peer.sent == 0 && *src != packet.src;
            waits && hello.as_ref().is_some_and(|it| peer.hellos.contains(it))
        });
        for (_, peer) in elsewhere {
            peer.received += packet.payload.len() as u64 * copies;
        }
        let peer = peers.entry((packet.src, packet.dst)).or_default();
        peer.hellos.extend(hello);
        // One for each connection that may begin, and for each that comes from elsewhere: over all its
        // moves, `core` keeps to one.
        let id = short_dcid(&packet.payload);
        if id.is_none_or(|id| peer.moved.insert(id)) {
            peer.excess += DATAGRAM_BYTES;
        }
        peer.received += packet.payload.len() as u64 * copies;
        peer.validated |= validates(packet, peer.sent > 0);
        if let Some(model) = watching.upgrade() {
            let (received, sent, validated) = (peer.received, peer.sent, peer.validated);
            model.log(|| {
                format!(
                    "  in  {packet:?} {:02x?}: {received} {sent} {validated}",
                    packet.payload.first()
                )
            });
        }
        Verdict::Pass
    });
    let model = Rc::downgrade(model);
    access.filter_up(move |packet| {
        let mut peers = peers.borrow_mut();
        let peer = peers.entry((packet.dst, packet.src)).or_default();
        peer.sent += packet.payload.len() as u64;
        if let Some(model) = model.upgrade() {
            let (received, sent, validated) = (peer.received, peer.sent, peer.validated);
            model.log(|| {
                format!(
                    "  out {packet:?} {:02x?}: {received} {sent} {validated}",
                    packet.payload.first()
                )
            });
        }
        if let Some(model) = model.upgrade().filter(|_| !peer.validated) {
            model.count("checks: amplification");
        }
        if !peer.validated && peer.sent > 3 * peer.received + peer.excess {
            let (sent, received) = (peer.sent, peer.received);
            if let Some(model) = model.upgrade() {
                let dst = packet.dst;
                model.violation(
                    "amplification",
                    format_args!("{sent} bytes to {dst}, which sent {received}"),
                );
            }
            peer.validated = true;
        }
        Verdict::Pass
    });
}

/// Whether a packet may show that its sender receives: one with a token, a Handshake packet, or
/// anything short, if it may be an answer.
fn validates(packet: &Packet, answers: bool) -> bool {
    let Some(&first) = packet.payload.first() else {
        return false;
    };
    if first & 0x80 == 0 {
        return answers;
    }
    match (first >> 4) & 3 {
        0 => has_token(&packet.payload),
        2 => true,
        _ => false,
    }
}

/// Whom a packet with a long header is for (RFC 9000 section 17.2).
fn long_dcid(payload: &[u8]) -> Option<&[u8]> {
    let long = payload.first()? & 0x80 != 0;
    let length = usize::from(*payload.get(5)?);
    payload.get(6..6 + length).filter(|_| long)
}

/// Whom a packet with a short header is for.
fn short_dcid(payload: &[u8]) -> Option<[u8; ID_BYTES]> {
    let id = payload.get(1..=ID_BYTES)?.try_into().ok()?;
    (payload[0] & 0x80 == 0).then_some(id)
}

/// Whether an Initial packet carries a token (RFC 9000 section 17.2.2).
fn has_token(payload: &[u8]) -> bool {
    let read = || {
        let dcid = *payload.get(5)? as usize;
        let scid = *payload.get(6 + dcid)? as usize;
        payload.get(7 + dcid + scid)
    };
    read().is_some_and(|length| *length != 0)
}
