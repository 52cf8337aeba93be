//! Cancel safety: a future that is dropped before it was ready has taken nothing, and nobody else's
//! wake-up.
//!
//! Each test drops futures of one kind over and over while data flows, and then counts.

use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use polyquic_core::ConnectionError;
use polyquic_endpoint::{Connection, Executor, SendStream, timeout};

use crate::cancelling;
use crate::fixtures::{Pair, SERVER_NAME, Setup, pair};
use crate::tools::{check_alive, code, pattern, poll_once, task, yield_now};

/// How many streams, datagrams or connections to move in a test.
const COUNT: u32 = 200;

/// Windows small enough that everything has to wait now and then.
fn narrow() -> Setup {
    Setup::new().transport(|transport| {
        transport
            .stream_receive_window(code(2000))
            .receive_window(code(6000))
            .send_window(3000)
            .max_concurrent_uni_streams(code(2))
            .max_concurrent_bidi_streams(code(2))
            .datagram_send_buffer_size(3000)
            .datagram_receive_buffer_size(Some(8 << 20));
    })
}

/// Write a number to a stream and finish it.
async fn send_number(mut stream: SendStream, number: u32) {
    stream.write_all(&number.to_le_bytes()).await.unwrap();
    stream.finish().unwrap();
}

/// Open unidirectional streams with a number each.
async fn open_numbered(connection: Connection) {
    for number in 0..COUNT {
        let stream = cancelling!(connection.open_uni()).unwrap();
        // Ids are consecutive when no cancelled future took one.
        assert_eq!(stream.id().index(), u64::from(number));
        send_number(stream, number).await;
        if number % 7 == 0 {
            yield_now().await;
        }
    }
}

/// `open_uni` and `accept_uni`.
pub async fn opening_and_accepting_unidirectional_streams<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = narrow().connect(&rt).await;
    let opening = task(&rt, open_numbered(client.clone()));
    for number in 0..COUNT {
        let mut stream = cancelling!(server.accept_uni()).unwrap();
        let mut read = [0; 4];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(u32::from_le_bytes(read), number);
        assert_eq!(stream.read(&mut read).await, Ok(None));
    }
    opening.await;
    ends.finish().await;
}

/// `open_bi` and `accept_bi`.
pub async fn opening_and_accepting_bidirectional_streams<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = narrow().connect(&rt).await;
    let asking = task(&rt, async move {
        for number in 0..COUNT {
            let (send, mut recv) = cancelling!(client.open_bi()).unwrap();
            assert_eq!(send.id().index(), u64::from(number));
            send_number(send, number).await;
            assert_eq!(recv.read_to_end(4).await.unwrap(), number.to_le_bytes());
        }
        client
    });
    for number in 0..COUNT {
        let (send, mut recv) = cancelling!(server.accept_bi()).unwrap();
        assert_eq!(recv.read_to_end(4).await.unwrap(), number.to_le_bytes());
        send_number(send, number).await;
    }
    asking.await;
    ends.finish().await;
}

/// Two wait for streams; the one that gives up does not take the other one's wake-up along.
pub async fn giving_up_leaves_the_wake_up_to_others<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = narrow().connect(&rt).await;
    let opening = task(&rt, open_numbered(client.clone()));
    let mut numbers = Vec::new();
    while numbers.len() < COUNT as usize {
        // Registered first, so that a single wake-up would go to this one.
        let mut fickle = Box::pin(server.accept_uni());
        let mut patient = Box::pin(server.accept_uni());
        let stream = match poll_once(fickle.as_mut()).await {
            Poll::Ready(stream) => stream,
            Poll::Pending => match poll_once(patient.as_mut()).await {
                Poll::Ready(stream) => stream,
                Poll::Pending => {
                    // It may well be woken before it is dropped.
                    yield_now().await;
                    drop(fickle);
                    patient.await
                }
            },
        };
        let mut read = [0; 4];
        stream.unwrap().read_exact(&mut read).await.unwrap();
        numbers.push(u32::from_le_bytes(read));
    }
    assert!(numbers.into_iter().eq(0..COUNT));
    opening.await;
    ends.finish().await;
}

/// `read`, `read_chunk`, `read_chunks`, `write` and `write_chunks`.
pub async fn reading_and_writing<R: Executor>(rt: R) {
    const LEN: usize = 300_000;
    let Pair {
        client,
        server,
        ends,
    } = narrow().connect(&rt).await;
    let writing = task(&rt, async move {
        let data = Bytes::from(pattern(1, LEN));
        let mut send = client.open_uni().await.unwrap();
        let mut written = 0;
        while written < LEN {
            let end = LEN.min(written + 1500);
            if written % 2 == 0 {
                written += cancelling!(send.write(&data[written..end])).unwrap();
            } else {
                let mut chunks = [
                    data.slice(written..written + 1),
                    data.slice(written + 1..end),
                ];
                let counted = cancelling!(send.write_chunks(&mut chunks)).unwrap();
                let left: usize = chunks.iter().map(Bytes::len).sum();
                assert_eq!(end - written, counted.bytes + left);
                written += counted.bytes;
            }
        }
        send.finish().unwrap();
        assert_eq!(send.stopped().await, Ok(None));
    });
    let mut recv = server.accept_uni().await.unwrap();
    let mut received = Vec::new();
    for way in 0.. {
        match way % 3 {
            0 => {
                let mut buf = [0; 700];
                match cancelling!(recv.read(&mut buf)).unwrap() {
                    Some(read) => received.extend_from_slice(&buf[..read]),
                    None => break,
                }
            }
            1 => match cancelling!(recv.read_chunk(900, true)).unwrap() {
                Some(chunk) => received.extend_from_slice(&chunk.bytes),
                None => break,
            },
            _ => {
                let mut bufs = [Bytes::new(), Bytes::new()];
                match cancelling!(recv.read_chunks(&mut bufs)).unwrap() {
                    Some(read) => bufs[..read]
                        .iter()
                        .for_each(|chunk| received.extend_from_slice(chunk)),
                    None => break,
                }
            }
        }
    }
    assert!(received == pattern(1, LEN), "bytes were lost or repeated");
    writing.await;
    ends.finish().await;
}

/// `read_datagram` and `send_datagram_wait`.
pub async fn datagrams<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = narrow().connect(&rt).await;
    let receiving = task(&rt, async move {
        let mut numbers = Vec::new();
        while let Ok(datagram) = cancelling!(server.read_datagram()) {
            numbers.push(u32::from_le_bytes(datagram[..4].try_into().unwrap()));
        }
        numbers
    });
    for number in 0..COUNT {
        let mut datagram = number.to_le_bytes().to_vec();
        datagram.resize(900, 0);
        let datagram = Bytes::from(datagram);
        cancelling!(client.send_datagram_wait(datagram.clone())).unwrap();
    }
    while client.stats().frame_tx.datagram < COUNT.into() {
        yield_now().await;
    }
    assert_eq!(
        client.stats().frame_tx.datagram,
        u64::from(COUNT),
        "cancelled futures sent some"
    );
    client.close(code(0), b"");
    let numbers = receiving.await;
    assert!(numbers.is_sorted_by(|a, b| a < b));
    // Few enough for the socket's buffer: none has a reason to be lost, except on a busy machine.
    assert!(numbers.len() as u32 > COUNT * 9 / 10, "{}", numbers.len());
    ends.finish().await;
}

/// `stopped` and `received_reset`.
pub async fn waiting_for_the_end_of_streams<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let accepting = task(&rt, async move {
        for number in 0..COUNT {
            let (mut send, mut recv) = server.accept_bi().await.unwrap();
            send.reset(code(number)).unwrap();
            recv.stop(code(number + 1)).unwrap();
        }
        server
    });
    for number in 0..COUNT {
        let (mut send, mut recv) = client.open_bi().await.unwrap();
        send.write_all(b"x").await.unwrap();
        let stopped = cancelling!(send.stopped());
        assert_eq!(stopped, Ok(Some(code(number + 1))));
        let reset = cancelling!(recv.received_reset());
        assert_eq!(reset, Ok(Some(code(number))));
    }
    accepting.await;
    ends.finish().await;
}

/// `Endpoint::accept`, `Connecting::handshake_data` and `wait_idle`.
pub async fn accepting_connections<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let client = ends.client.clone();
    let addr = ends.addr;
    let connecting = task(&rt, async move {
        for _ in 0..COUNT / 10 {
            let mut connecting = client.connect(addr, SERVER_NAME).unwrap();
            // What was negotiated is no matter here, and not `Send`.
            let known = cancelling!(async { connecting.handshake_data().await.is_ok() });
            assert!(known);
            connecting.await.unwrap().closed().await;
        }
    });
    for _ in 0..COUNT / 10 {
        let incoming = cancelling!(ends.server.accept()).unwrap();
        let connection = incoming.await.unwrap();
        connection.close(code(0), b"");
    }
    connecting.await;
    cancelling!(ends.client.wait_idle());
    assert_eq!(ends.client.open_connections(), 0);
    ends.finish().await;
}

/// `closed`.
pub async fn waiting_for_the_end_of_connections<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    for number in 0..COUNT / 10 {
        let (client, server) = ends.connect().await;
        let ((), error) = join(
            async {
                yield_now().await;
                client.close(code(number), b"");
            },
            async { cancelling!(server.closed()) },
        )
        .await;
        match error {
            ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code, code(number));
            }
            other => panic!("{other:?}"),
        }
    }
    ends.finish().await;
}

/// A [`timeout`] around an operation gives up in time, and loses nothing either.
pub async fn timeouts_lose_nothing<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let timed_out = {
        let waiting = timeout(&rt, Duration::from_millis(5), server.accept_uni());
        waiting.await.is_err()
    };
    assert!(timed_out);
    check_alive(&client, &server).await;
    let long = Duration::from_secs(600);
    let mut send = client.open_uni().await.unwrap();
    send.write_all(b"x").await.unwrap();
    let accepted = timeout(&rt, long, server.accept_uni()).await;
    let mut recv = accepted.expect("there is plenty of time").unwrap();
    let mut byte = [0; 1];
    let read = timeout(&rt, Duration::from_millis(5), recv.read_exact(&mut byte)).await;
    assert_eq!(read, Ok(Ok(())));
    let read = timeout(&rt, Duration::from_millis(5), recv.read(&mut byte)).await;
    assert!(read.is_err());
    send.write_all(b"y").await.unwrap();
    let read = timeout(&rt, long, recv.read(&mut byte)).await;
    assert_eq!((read, byte), (Ok(Ok(Some(1))), *b"y"));
    ends.finish().await;
}
