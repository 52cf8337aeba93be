//! Inputs to begin with: what a fuzzer would take long to come upon.

use polyquic_core::TransportConfig;

use crate::host::{DATE, Host, client_config, converse, epoch, server_config};
use crate::plain::{PlainTls, seal_token};

/// A few inputs for the target of this name, with names of their own. They are the same in each run.
pub fn seeds(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    match target {
        "client" => vec![
            // A damaged Retry packet, the right one, and another.
            (
                "retry",
                [
                    &[1, 0, 0, 2, 5, 5, 3, 7, 7, 7, 9, 4, 11][..],
                    &[1, 0, 0, 2, 5, 5, 3, 7, 7, 7, 0, 4, 11],
                    &[1, 0, 0, 2, 6, 6, 3, 8, 8, 8, 0, 4, 11],
                ]
                .concat(),
            ),
            // What says nothing, and then the server's Retry.
            (
                "harmless",
                [
                    &[2, 0x30, 1, 4, 2, 0, 9, 9, 9, 9, 1, 0, 5, 1, 2, 3, 4, 5, 0][..],
                    &[1, 0, 3, 0, 4, 6, 6, 6, 6, 1, 5, 1, 4, 12, 5, 1, 5, 0, 5, 0],
                ]
                .concat(),
            ),
            ("negotiation", vec![2, 0x40, 1, 4, 1, 0, 9, 9, 9, 9, 4, 5]),
            ("initial", vec![3, 1, 7, 5, 6, 0, 3, 2, 0, 0, 0, 5, 0]),
        ],
        "connection" => connection(),
        "connection_ids" => vec![
            ("plain", (0..90).collect()),
            ("encrypted", (0..90).rev().collect()),
            ("long_header", [[7; 40], [0xc7; 40]].concat()),
        ],
        "endpoint" => vec![
            (
                "initials",
                [4, 1, 0, 0, 0, 0, 1, 2, 1, 0, 9, 9, 0, 3].repeat(6),
            ),
            (
                "copies",
                [1, 0, 0, 9, 1, 1, 1, 8, 2, 2, 2, 9, 8, 1, 2, 0, 0, 3].repeat(6),
            ),
            (
                "unknown",
                [7, 3, 1, 2, 3, 4, 5, 6, 7, 8, 40, 9, 6, 1, 2, 3, 1, 0, 1, 9].repeat(4),
            ),
            ("chat", [11, 200, 0, 11, 3, 1, 10, 5].repeat(8)),
        ],
        "files" => vec![
            ("certificate", vec![0, 0, 0, 0, 60, b'A']),
            ("key", vec![1, 1, 0, 0, 60, b'A']),
            ("both", vec![2, 1, 1, 3, b'a', b'\n', b'b']),
            ("sessions", [&[4, 0, 2][..], SESSIONS.as_bytes()].concat()),
        ],
        "streams" => vec![
            (
                "upload",
                [
                    &[0; 8][..],
                    &[0, 40, 1, 0, 6, 60, 0, 100, 2, 60, 0, 0, 10, 9, 0, 200].repeat(4),
                ]
                .concat(),
            ),
            (
                "both_ways",
                [
                    &[0x11; 8][..],
                    &[
                        0, 40, 1, 1, 4, 9, 0, 50, 7, 3, 0, 0, 3, 60, 0, 1, 18, 60, 0, 255,
                    ]
                    .repeat(3),
                ]
                .concat(),
            ),
            (
                "out_of_order",
                [
                    &[0x55; 8][..],
                    &[0, 40, 1, 0, 4, 3, 0, 150, 2, 63, 0, 0, 15, 2, 0, 20].repeat(6),
                ]
                .concat(),
            ),
        ],
        "tokens" => vec![
            ("retry", [0, 0, 3, 8, 10, 1, 0, 2].repeat(4)),
            (
                "replayed",
                [0, 0, 4, 10, 1, 0, 2, 0, 0, 1, 0, 0, 2].repeat(3),
            ),
            (
                "raw",
                [
                    &[0, 0, 0, 36][..],
                    &seal_token(&[1, 0, 10, 0, 0, 10], [3; 16]),
                ]
                .concat(),
            ),
            (
                "sealed",
                [
                    &[0, 0, 2, 14][..],
                    &[1, 0, 10, 0, 0, 10],
                    &DATE.to_be_bytes(),
                    &[4; 16],
                ]
                .concat(),
            ),
        ],
        "transport_parameters" => vec![
            ("limits", vec![0, 4, 1, 10, 7, 1, 5, 8, 1, 2, 9, 1, 1]),
            (
                "numbers",
                vec![1, 3, 2, 0x44, 0xb0, 10, 1, 20, 11, 2, 0x7f, 0xff, 14, 1, 8],
            ),
            (
                "flags",
                vec![
                    0, 12, 0, 0x6a, 0xb2, 0, 0x20, 2, 0x44, 0, 0xc0, 0, 0, 0, 0xff, 4, 0xde, 0x1a,
                    1, 1,
                ],
            ),
            (
                "preferred",
                [&[1, 13, 49][..], &[1; 24], &[8], &[2; 8], &[3; 16]].concat(),
            ),
        ],
        "relay" => [
            ("ipv6", &b"%5B::1%5D:44"[..]),
            ("name", b"Host.Example.:443"),
            ("private", b"10.0.0.1:4433"),
            ("mapped", b"[::ffff:10.0.0.1]:443"),
            ("rule", b"[fd00::/8]:*"),
            ("network", b"10.0.0.0/8:4433"),
            ("file", b"GET /a?b HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            ("post", b"POST / HTTP/1.1\r\n\r\n"),
            (
                "number",
                &[0x11, 0x51, 10, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
            (
                "session",
                &[
                    1, 21, 0, 0, 0xd1, 0xd7, 0x50, 1, b'h', 0x51, 4, b'/', b'u', b'd', b'p', 0xc1,
                    0xd7, 0x50, 1, b'x', 0xc1,
                ],
            ),
            ("capsule", &[0x68, 0x43, 5, 0, 0, 0, 1, b'x']),
        ]
        .into_iter()
        .map(|(name, data)| (name, data.to_vec()))
        .collect(),
        "urls" => [
            "https://[::1]:4433/d/%2e%2e/s?q#f",
            "GET /d/../../s\r\n",
            "d/e/%2541",
            "hq://h:1",
            "in",
            "over/s",
            "%2e%2e%2fs",
            "0.1e2",
            "d/",
            "..a",
            "a%20b",
        ]
        .into_iter()
        .zip([
            "url", "request", "escaped", "short", "link", "link_out", "up", "seconds", "index",
            "dots", "space",
        ])
        .map(|(text, name)| (name, text.into()))
        .collect(),
        _ => Vec::new(),
    }
}

const SESSIONS: &str = r#"{"format":"polyquic session cache 1","servers":{"localhost:4433":{"address":"127.0.0.1:4433","used_at":1,"sessions":[{"trust":"00","made_at":4000000000,"cipher_suite":4865,"ticket":"0400000d00093a8000000000000001000000","key":"00","transport_parameters":"","certificates":["00"]}],"tokens":["0102"]}}}"#;

/// Streams in order and not, acknowledgements, limits, and a genuine flight of packets.
fn connection() -> Vec<(&'static str, Vec<u8>)> {
    // What a client says of itself, as raw frames.
    let mut flights = Vec::new();
    let mut client = Host::new(1, None);
    let mut server = Host::new(
        2,
        Some(server_config(
            PlainTls::default(),
            TransportConfig::default(),
        )),
    );
    let config = client_config(PlainTls::default(), TransportConfig::default());
    client.connect(epoch(), config, server.addr);
    converse(epoch(), &mut client, &mut server, |_, data| {
        // Action 19 takes frames as they are.
        let frames = &data[data.len().saturating_sub(90)..];
        flights.extend([19, frames.len() as u8]);
        flights.extend_from_slice(frames);
        flights.extend([1, 9, 9, 9, 9]);
    });
    let stream = [0, 2, 0, 100, 1, 2, 1, 9, 9, 9, 9, 160, 2, 1, 3, 1];
    vec![
        ("raw", [&[0][..], &flights].concat()),
        ("streams", [&[0][..], &stream.repeat(8)].concat()),
        ("streams_to_client", [&[1][..], &stream.repeat(8)].concat()),
        (
            "limits",
            [
                &[0][..],
                &[
                    165, 1, 166, 3, 200, 8, 3, 250, 1, 9, 9, 9, 9, 7, 230, 1, 9, 9, 9, 9, 10, 0, 3,
                    1, 9, 9, 9, 9,
                ]
                .repeat(4),
            ]
            .concat(),
        ),
    ]
}
