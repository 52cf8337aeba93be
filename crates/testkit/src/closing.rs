//! How connections and endpoints end.

use std::io;
use std::time::Duration;

use polyquic_core::{ApplicationClose, Blame, ConnectError, ConnectionError, blame};
use polyquic_endpoint::{
    Connection, Executor, ReadError, RecvStream, ResetError, SendStream, StoppedError, WriteError,
    sleep,
};

use crate::fixtures::{Ends, Pair, SERVER_NAME, Setup, pair};
use crate::tools::{
    check_alive, check_pending, check_transfer, code, pattern, read_all, send_all, yield_now,
};

fn application_closed(error_code: u32, reason: &[u8]) -> ConnectionError {
    ConnectionError::ApplicationClosed(ApplicationClose {
        error_code: code(error_code),
        reason: reason.to_vec().into(),
    })
}

/// Code and reason of a close reach the peer; both sides know why it ended.
pub async fn a_close_reaches_the_peer<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    assert_eq!(pair.client.close_reason(), None);
    check_pending(pair.client.closed()).await;
    pair.client.close(code(4242), b"enough");
    assert_eq!(
        pair.client.close_reason(),
        Some(ConnectionError::LocallyClosed)
    );
    assert_eq!(pair.client.closed().await, ConnectionError::LocallyClosed);
    let error = pair.server.closed().await;
    assert_eq!(error, application_closed(4242, b"enough"));
    assert_eq!(blame(&error), Blame::Application);
    assert_eq!(pair.server.close_reason(), Some(error));
    // Closing again changes nothing.
    pair.server.close(code(1), b"again");
    assert_eq!(
        pair.server.close_reason(),
        Some(application_closed(4242, b"enough"))
    );
    pair.ends.finish().await;
}

/// A reason too long for a packet is cut.
pub async fn a_long_reason_is_cut<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let reason = pattern(1, 10_000);
    pair.client.close(code(1), &reason);
    match pair.server.closed().await {
        ConnectionError::ApplicationClosed(ApplicationClose { reason: got, .. }) => {
            assert!(!got.is_empty() && reason.starts_with(&got));
        }
        other => panic!("{other:?}"),
    }
    pair.ends.finish().await;
}

/// One future per operation that waits; yields the errors they end with.
async fn wait_for_everything(
    connection: &Connection,
    blocked: &mut SendStream,
    silent: &mut RecvStream,
    other: &mut RecvStream,
) -> Vec<ConnectionError> {
    let stopped = blocked.stopped();
    let writing = async {
        match blocked.write_all(&vec![0; 1 << 24]).await {
            Err(WriteError::ConnectionLost(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let reading = async {
        match silent.read(&mut [0; 1]).await {
            Err(ReadError::ConnectionLost(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let resetting = async {
        match other.received_reset().await {
            Err(ResetError::ConnectionLost(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let stopping = async {
        match stopped.await {
            Err(StoppedError::ConnectionLost(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let waiting = futures::future::join3(
        futures::future::join4(writing, reading, resetting, stopping),
        futures::future::join4(
            async { connection.accept_uni().await.unwrap_err() },
            async { connection.accept_bi().await.unwrap_err() },
            async { connection.open_uni().await.unwrap_err() },
            async { connection.open_bi().await.unwrap_err() },
        ),
        futures::future::join(
            async { connection.read_datagram().await.unwrap_err() },
            connection.closed(),
        ),
    );
    let ((a, b, c, d), (e, f, g, h), (i, j)) = waiting.await;
    vec![a, b, c, d, e, f, g, h, i, j]
}

/// Whatever waits when a connection is closed fails with the reason, on either side.
pub async fn a_close_fails_whatever_waits<R: Executor>(rt: R) {
    for close_locally in [true, false] {
        let pair = Setup::new()
            .transport(|transport| {
                transport
                    .stream_receive_window(code(1000))
                    .max_concurrent_bidi_streams(code(3))
                    .max_concurrent_uni_streams(code(0));
            })
            .connect(&rt)
            .await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(pair.client.open_bi().await.unwrap());
        }
        let [(mut blocked, _r0), (_s1, mut silent), (_s2, mut other)] =
            streams.try_into().expect("there are three");
        let waiting = wait_for_everything(&pair.client, &mut blocked, &mut silent, &mut other);
        let closing = async {
            // The writer has got as far as it can.
            let (_send, mut recv) = pair.server.accept_bi().await.unwrap();
            recv.read_exact(&mut [0; 1]).await.unwrap();
            if close_locally {
                pair.client.close(code(8), b"over");
            } else {
                pair.server.close(code(8), b"over");
            }
        };
        let (errors, ()) = futures::join!(waiting, closing);
        let expected = if close_locally {
            ConnectionError::LocallyClosed
        } else {
            application_closed(8, b"over")
        };
        for (index, error) in errors.iter().enumerate() {
            assert_eq!(*error, expected, "operation {index}");
        }
        // And so does what is tried afterwards.
        let lost = pair.client.open_uni().await.err();
        assert_eq!(lost, Some(expected.clone()));
        assert_eq!(
            blocked.write(b"x").await,
            Err(WriteError::ConnectionLost(expected.clone()))
        );
        if !close_locally {
            let error = io::Error::from(WriteError::ConnectionLost(expected));
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
        pair.ends.finish().await;
    }
}

/// What had arrived when the peer closed can still be accepted and read.
pub async fn what_arrived_can_be_read_after_a_close<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let data = pattern(2, 50_000);
    let mut send = pair.client.open_uni().await.unwrap();
    send.write_all(&data).await.unwrap();
    send.finish().unwrap();
    assert_eq!(send.stopped().await, Ok(None), "all of it has arrived");
    pair.client.close(code(0), b"");
    pair.server.closed().await;
    let recv = pair.server.accept_uni().await.unwrap();
    assert!(read_all(recv).await == data);
    assert!(pair.server.accept_uni().await.is_err());
    pair.ends.finish().await;
}

/// Dropping the last handle of a connection delivers what was finished, and then closes with 0.
pub async fn dropping_the_last_handle_delivers_and_closes<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let data = pattern(3, 500_000);
    let mut send = client.open_uni().await.unwrap();
    let (reading, ()) = futures::join!(
        async { read_all(server.accept_uni().await.unwrap()).await },
        async {
            send.write_all(&data).await.unwrap();
            send.finish().unwrap();
            drop(send);
            let another = client.clone();
            drop(client);
            check_alive_one_way(&another).await;
            drop(another);
        }
    );
    assert!(reading == data);
    let last = read_all(server.accept_uni().await.unwrap()).await;
    assert_eq!(last, b"alive");
    assert_eq!(server.closed().await, application_closed(0, b""));
    ends.finish().await;
}

async fn check_alive_one_way(connection: &Connection) {
    let stream = connection.open_uni().await.unwrap();
    send_all(stream, b"alive").await;
}

/// Streams are handles: a connection stays open as long as one of its streams is in use.
pub async fn streams_keep_the_connection_open<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    drop(client);
    for _ in 0..3 {
        send.write_all(b"still").await.unwrap();
    }
    send.finish().unwrap();
    drop(send);
    let (mut answer, question) = server.accept_bi().await.unwrap();
    assert_eq!(read_all(question).await, b"stillstillstill");
    answer.write_all(b"here").await.unwrap();
    answer.finish().unwrap();
    assert_eq!(recv.read_to_end(10).await, Ok(b"here".to_vec()));
    check_pending(server.closed()).await;
    drop(recv);
    assert_eq!(server.closed().await, application_closed(0, b""));
    ends.finish().await;
}

/// Closing an endpoint delivers what was finished, and then tells the peers.
pub async fn closing_an_endpoint_delivers_what_was_finished<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let data = pattern(4, 1_000_000);
    let mut send = client.open_uni().await.unwrap();
    send.write_all(&data).await.unwrap();
    send.finish().unwrap();
    // Neither this one, which is not finished, nor the handle must keep the close from going out.
    let mut unfinished = client.open_uni().await.unwrap();
    unfinished.write_all(b"never finished").await.unwrap();
    ends.client.close(code(7), b"bye");
    assert_eq!(client.close_reason(), Some(ConnectionError::LocallyClosed));
    let (recv, ()) = futures::join!(
        async { read_all(server.accept_uni().await.unwrap()).await },
        ends.client.wait_idle()
    );
    assert!(recv == data);
    assert_eq!(server.closed().await, application_closed(7, b"bye"));
    assert_eq!(ends.client.open_connections(), 0);
    ends.finish().await;
}

/// Closing waits for what was finished, but not for what the peer stopped, or what was reset.
pub async fn a_stop_after_the_end_does_not_hinder_closing<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = Setup::new()
        .transport(|transport| {
            transport.stream_receive_window(code(100));
        })
        .connect(&rt)
        .await;
    let mut sends = Vec::new();
    for _ in 0..4 {
        let mut send = client.open_uni().await.unwrap();
        send.write_all(&[0; 100]).await.unwrap();
        sends.push(send);
    }
    let mut recvs = Vec::new();
    for _ in 0..4 {
        recvs.push(server.accept_uni().await.unwrap());
    }
    // One stopped after its end, one before, one reset after its end, one finished.
    let [finish_stop, stop_finish, finish_reset, finish] = &mut sends[..] else {
        unreachable!("there are four")
    };
    finish_stop.finish().unwrap();
    recvs[0].stop(code(1)).unwrap();
    recvs[1].stop(code(2)).unwrap();
    assert_eq!(stop_finish.stopped().await, Ok(Some(code(2))));
    stop_finish.finish().unwrap();
    finish_reset.finish().unwrap();
    let _ = finish_reset.reset(code(3));
    finish.finish().unwrap();
    let last = recvs.pop().unwrap();
    drop(sends);
    ends.client.close(code(9), b"");
    assert_eq!(read_all(last).await, [0; 100]);
    assert_eq!(server.closed().await, application_closed(9, b""));
    ends.client.wait_idle().await;
    ends.finish().await;
}

/// A closed endpoint accepts nothing, connects to nobody, and refuses those who try.
pub async fn a_closed_endpoint_does_nothing_more<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let (accepted, ()) = futures::join!(ends.server.accept(), async {
        ends.server.close(code(1), b"");
    });
    assert!(accepted.is_none(), "who was waiting is told");
    assert!(ends.server.accept().await.is_none());
    let refused = ends.client.connect(ends.addr, SERVER_NAME).unwrap().await;
    assert!(
        matches!(refused, Err(ConnectionError::ConnectionClosed(_))),
        "{refused:?}"
    );
    ends.client.close(code(1), b"");
    assert_eq!(
        ends.client.connect(ends.addr, SERVER_NAME).err(),
        Some(ConnectError::EndpointStopping)
    );
    ends.finish().await;
}

/// `wait_idle` returns at once without connections, and otherwise when the last one is forgotten.
pub async fn wait_idle_waits_for_the_last_connection<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    ends.client.wait_idle().await;
    let (first, _first) = ends.connect().await;
    let (second, _second) = ends.connect().await;
    assert_eq!(ends.client.open_connections(), 2);
    first.close(code(0), b"");
    check_pending(ends.client.wait_idle()).await;
    check_alive(&second, &_second).await;
    second.close(code(0), b"");
    // Several may wait.
    futures::join!(ends.client.wait_idle(), ends.client.wait_idle());
    assert_eq!(ends.client.open_connections(), 0);
    ends.finish().await;
}

/// A connection lives on without the handle to its endpoint.
pub async fn connections_outlive_the_handle_of_their_endpoint<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    drop(ends);
    for _ in 0..10 {
        yield_now().await;
    }
    check_alive(&client, &server).await;
    drop(client);
    assert_eq!(server.closed().await, application_closed(0, b""));
}

/// When all handles are gone, so is the socket: the address can be used again.
pub async fn the_last_handle_frees_the_address<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    check_transfer(&client, &server, b"in use").await;
    let Ends {
        server: endpoint,
        client: other,
        addr,
    } = ends;
    assert_eq!(
        rt.bind(addr).err().map(|error| error.kind()),
        Some(io::ErrorKind::AddrInUse)
    );
    drop((client, server, endpoint, other));
    // Nobody is left who could be told, so ask until it is.
    while let Err(error) = rt.bind(addr) {
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        sleep(&rt, Duration::from_millis(5)).await;
    }
    // Without any connection as well.
    let ends = Setup::new().start(&rt);
    let addr = ends.addr;
    drop(ends);
    while rt.bind(addr).is_err() {
        sleep(&rt, Duration::from_millis(5)).await;
    }
}

/// Without a measured round-trip time, a closed connection lingers for nine of the assumed ones.
fn quick_to_forget() -> Setup {
    Setup::new().client_transport(|transport| {
        transport.initial_rtt(Duration::from_millis(20));
    })
}

/// Dropping a connection attempt gives it up.
pub async fn dropping_a_connection_attempt_gives_it_up<R: Executor>(rt: R) {
    let ends = quick_to_forget().start(&rt);
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    let incoming = ends.server.accept().await.unwrap();
    drop(connecting);
    ends.client.wait_idle().await;
    // Whether the server's handshake was complete by then is a matter of luck.
    let closed = match incoming.await {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    };
    assert!(
        matches!(
            closed,
            ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_)
        ),
        "{closed:?}"
    );
    ends.finish().await;
}

/// A client's endpoint closes while its peer is still handshaking, and nobody hangs.
pub async fn closing_during_the_handshake<R: Executor>(rt: R) {
    let ends = quick_to_forget().start(&rt);
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    ends.client.close(code(3), b"never mind");
    assert_eq!(connecting.await.err(), Some(ConnectionError::LocallyClosed));
    ends.client.wait_idle().await;
    ends.finish().await;
}
