//! What a client may do to the relay's WebTransport.

use futures::FutureExt;
use polyquic::ConnectionError;

use crate::tunnel::echo;
use crate::webtransport::{Client, H3_REQUEST_REJECTED, relay};

/// A frame of HTTP/3 with this type and these bytes, none of which has more than 14 bits in its length.
fn frame(kind: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap() | 0x4000;
    [&[kind][..], &length.to_be_bytes(), bytes].concat()
}

const DATA: u8 = 0x00;
const HEADERS: u8 = 0x01;
/// Reserved, to be ignored (RFC 9114 section 7.2.8).
const GREASE: u8 = 0x21;

/// Three bytes for each header of a letter, which have a table and 32 bytes each once they are read.
fn many_headers(count: usize) -> Vec<u8> {
    let lines = [0x21, b'x', 0].repeat(count);
    frame(HEADERS, &[&[0, 0][..], &lines].concat())
}

#[test]
fn requests_without_measure_are_rejected() {
    let target = echo();
    let relay = relay(&["--allow", &target]);
    let door = relay.door.clone();
    polyquic::smol::run(1, |rt| async move {
        let length = |kind: u8, length: u64| {
            [&[kind][..], &(length | 0xc000_0000_0000_0000).to_be_bytes()].concat()
        };
        for (what, bytes) in [
            (
                "a header section of 16 KiB and a byte",
                length(HEADERS, (16 << 10) + 1),
            ),
            ("one of 2^62 bytes", length(HEADERS, (1 << 62) - 1)),
            (
                "a frame to be ignored, of 2^62 bytes",
                length(GREASE, (1 << 62) - 1),
            ),
            (
                "frames to be ignored, without end",
                frame(GREASE, b"").repeat(6_000),
            ),
            ("data before headers", frame(DATA, &[1; 1000])),
            ("5,000 headers", many_headers(5_000)),
        ] {
            let client = Client::connect(&rt, &door).await;
            let (mut send, _recv) = client.connection.open_bi().await.unwrap();
            // It does not wait for what was announced, and may have closed the connection by now.
            let _ = send.write_all(&bytes).await;
            match client.connection.closed().await {
                ConnectionError::ApplicationClosed(close) => {
                    assert_eq!(close.error_code.into_inner(), H3_REQUEST_REJECTED, "{what}");
                    // And not because it waited in vain for the rest.
                    assert_eq!(close.reason, "no session", "{what}");
                }
                other => panic!("{what}: {other}"),
            }
        }
        let client = Client::connect(&rt, &door).await;
        let (_send, _recv) = client.ask(&format!("/udp?target={target}"), None).await;
        assert_eq!(client.message().await["target"], target.as_str());
        client.leave().await;
    })
    .unwrap();
}

/// A connection has one session. Whatever else comes on it is dropped, or waits within limits.
#[test]
#[cfg(target_os = "linux")]
fn what_else_comes_with_a_session_fills_no_memory() {
    /// What eight streams of each kind and the datagrams may hold is less than 1 MiB.
    const GROWTH_KIB: u64 = 16 << 10;
    const STREAMS: usize = 8;
    let target = echo();
    let relay = relay(&["--allow", &target]);
    let door = relay.door.clone();
    polyquic::smol::run(1, |rt| async move {
        let client = Client::connect(&rt, &door).await;
        let path = format!("/udp?target={target}");
        let (mut send, _recv) = client.ask(&path, None).await;
        client.message().await;
        client.send(b"before");
        assert_eq!(client.receive().await, &b"before"[..]);
        let before = relay.server.resident_kib().unwrap();

        // More sessions: they are not answered, and there is no room for a ninth stream.
        let mut sessions = Vec::new();
        for _ in 1..STREAMS {
            sessions.push(client.ask(&path, None).await);
        }
        assert!(client.connection.open_bi().now_or_never().is_none());
        // As much as goes onto streams that nobody reads.
        let mut streams = Vec::new();
        while let Some(stream) = client.connection.open_uni().now_or_never() {
            let mut stream = stream.unwrap();
            while stream.write(&[0x21; 4096]).now_or_never().is_some() {}
            streams.push(stream);
        }
        assert_eq!(streams.len(), STREAMS - 1, "the control stream is one");
        // On the request's stream, as much as does not end the session: the beginning of a capsule that
        // nobody knows.
        send.write_all(&frame(DATA, &[0x21; 16_000])).await.unwrap();
        // Datagrams of sessions that there are not.
        for number in 0..20_000u32 {
            let _ = client.connection.send_datagram(vec![9; 1000].into());
            if number % 100 == 0 {
                client.send(b"among them");
                assert_eq!(client.receive().await, &b"among them"[..]);
            }
        }

        let after = relay.server.resident_kib().unwrap();
        let grew = after.saturating_sub(before);
        assert!(grew < GROWTH_KIB, "{grew} KiB");
        client.send(b"after");
        assert_eq!(client.receive().await, &b"after"[..]);
        let other = Client::connect(&rt, &door).await;
        let (_send, _recv) = other.ask(&path, None).await;
        assert_eq!(other.message().await["target"], target.as_str());
        other.leave().await;
        client.leave().await;
    })
    .unwrap();
}
