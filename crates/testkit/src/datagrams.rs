//! Unreliable datagrams.

use bytes::Bytes;
use polyquic_endpoint::{Executor, SendDatagramError};

use crate::fixtures::{Pair, Setup, pair};
use crate::tools::{check_alive, check_pending, code, pattern, task};

/// A datagram with a number, `len` bytes long.
fn numbered(number: u32, len: usize) -> Bytes {
    let mut datagram = number.to_le_bytes().to_vec();
    datagram.extend(pattern(number.into(), len - 4));
    datagram.into()
}

/// Its number, if it is whole.
fn number(datagram: &[u8]) -> u32 {
    let number = u32::from_le_bytes(datagram[..4].try_into().unwrap());
    assert!(datagram == numbered(number, datagram.len()), "damaged");
    number
}

/// Datagrams pass both ways, whole, empty ones too.
pub async fn datagrams_both_ways<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    for (from, to) in [(&pair.client, &pair.server), (&pair.server, &pair.client)] {
        for len in [0, 1, 100, 1000] {
            let sent = Bytes::from(pattern(len as u64, len));
            from.send_datagram(sent.clone()).unwrap();
            assert_eq!(to.read_datagram().await, Ok(sent));
        }
    }
    assert!(pair.client.stats().frame_tx.datagram >= 4);
    pair.ends.finish().await;
}

/// The limit is exact: what it allows can be sent, one byte more cannot.
pub async fn the_size_limit_is_exact<R: Executor>(rt: R) {
    let pair = Setup::new()
        .transport(|transport| {
            // Otherwise the limit grows while the test runs.
            transport.mtu_discovery_config(None);
        })
        .connect(&rt)
        .await;
    let max = pair.client.max_datagram_size().unwrap();
    assert!(max >= 1000, "{max} bytes is less than any path carries");
    let largest = Bytes::from(pattern(1, max));
    pair.client.send_datagram(largest.clone()).unwrap();
    assert_eq!(pair.server.read_datagram().await, Ok(largest.clone()));
    pair.client
        .send_datagram_wait(largest.clone())
        .await
        .unwrap();
    assert_eq!(pair.server.read_datagram().await, Ok(largest));

    let too_large = Bytes::from(pattern(1, max + 1));
    assert_eq!(
        pair.client.send_datagram(too_large.clone()),
        Err(SendDatagramError::TooLarge)
    );
    assert_eq!(
        pair.client.send_datagram_wait(too_large).await,
        Err(SendDatagramError::TooLarge)
    );
    pair.ends.finish().await;
}

/// Who takes no datagrams says so, and who cannot send any is told why.
pub async fn datagrams_can_be_switched_off<R: Executor>(rt: R) {
    let pair = Setup::new()
        .server_transport(|transport| {
            transport.datagram_receive_buffer_size(None);
        })
        .connect(&rt)
        .await;
    let datagram = Bytes::from_static(b"x");
    assert_eq!(pair.client.max_datagram_size(), None);
    assert_eq!(
        pair.client.send_datagram(datagram.clone()),
        Err(SendDatagramError::UnsupportedByPeer)
    );
    assert_eq!(
        pair.client.send_datagram_wait(datagram.clone()).await,
        Err(SendDatagramError::UnsupportedByPeer)
    );
    assert_eq!(
        pair.server.send_datagram(datagram),
        Err(SendDatagramError::Disabled)
    );
    check_alive(&pair.client, &pair.server).await;
    pair.ends.finish().await;
}

/// `send_datagram_wait` waits for room instead of dropping anything, and does not send out of order.
pub async fn waiting_senders_drop_nothing<R: Executor>(rt: R) {
    const COUNT: u32 = 3000;
    let Pair {
        client,
        server,
        ends,
    } = Setup::new()
        .transport(|transport| {
            transport
                .datagram_send_buffer_size(5000)
                .datagram_receive_buffer_size(Some(8 << 20));
        })
        .connect(&rt)
        .await;
    let counting = task(&rt, async move {
        let mut numbers = Vec::new();
        while let Ok(datagram) = server.read_datagram().await {
            numbers.push(number(&datagram));
        }
        numbers
    });
    for number in 0..COUNT {
        client
            .send_datagram_wait(numbered(number, 1000))
            .await
            .unwrap();
    }
    // A marker behind them, on which the peer can rely.
    while client.stats().frame_tx.datagram < u64::from(COUNT) {
        crate::tools::yield_now().await;
    }
    client.close(code(0), b"");
    let numbers = counting.await;
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "out of order or repeated"
    );
    // The network may lose some, but not this one.
    assert!(
        numbers.len() > COUNT as usize / 2,
        "only {} of {COUNT} arrived",
        numbers.len()
    );
    ends.finish().await;
}

/// Those that arrived can still be read after the connection was closed.
pub async fn what_arrived_can_be_read_after_a_close<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    check_pending(pair.server.read_datagram()).await;
    for number in 0..5 {
        pair.client.send_datagram(numbered(number, 100)).unwrap();
    }
    // Acknowledged data behind them.
    check_alive(&pair.client, &pair.server).await;
    pair.client.close(code(1), b"");
    let error = pair.server.closed().await;
    for expected in 0..5 {
        let datagram = pair.server.read_datagram().await.unwrap();
        assert_eq!(number(&datagram), expected);
    }
    assert_eq!(pair.server.read_datagram().await, Err(error.clone()));
    assert_eq!(
        pair.server.send_datagram(Bytes::new()),
        Err(SendDatagramError::ConnectionLost(error))
    );
    pair.ends.finish().await;
}
