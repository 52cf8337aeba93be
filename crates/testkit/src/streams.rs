//! Streams: what is written arrives, in order, once, and ends as it was ended.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::{Either, join_all, select};
use polyquic_core::{Dir, Side};
use polyquic_endpoint::{
    Connection, Executor, ReadError, ReadToEndError, RecvStream, SendStream, WriteError,
};

use crate::fixtures::{Pair, Setup, pair};
use crate::tools::{
    check_alive, check_echo, check_pending, check_transfer, code, echo, pattern, read_all,
    send_all, task,
};

/// What is written to a bidirectional stream comes back from a peer that sends it back.
pub async fn echo_on_a_bidirectional_stream<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let echoing = task(&rt, echo(server));
    check_echo(&client, b"hello").await;
    check_echo(&client, &pattern(1, 100_000)).await;
    client.close(code(0), b"");
    echoing.await;
    ends.finish().await;
}

/// Unidirectional streams can be opened by either side.
pub async fn unidirectional_streams_both_ways<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    for round in 0..10 {
        check_transfer(&pair.client, &pair.server, &pattern(round, 10_000)).await;
        check_transfer(&pair.server, &pair.client, &pattern(round + 100, 10_000)).await;
    }
    pair.ends.finish().await;
}

/// Streams of the same kind are accepted in the order in which they were opened, whatever the order
/// in which they were used; both ends see the same id, initiator and direction.
pub async fn streams_are_accepted_in_order<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let mut sends = Vec::new();
    for _ in 0..5 {
        sends.push(client.open_uni().await.unwrap());
    }
    let ids: Vec<_> = sends.iter().map(SendStream::id).collect();
    // Mentioning a stream opens those before it (RFC 9000 section 2.1).
    for send in sends.iter_mut().rev() {
        send.write_all(b"x").await.unwrap();
    }
    for (index, &id) in ids.iter().enumerate() {
        let recv = server.accept_uni().await.unwrap();
        assert_eq!(recv.id(), id);
        assert_eq!(id.index(), index as u64);
        assert_eq!((id.initiator(), id.dir()), (Side::Client, Dir::Uni));
    }
    let (send, recv) = server.open_bi().await.unwrap();
    assert_eq!(send.id(), recv.id());
    assert_eq!(
        (send.id().initiator(), send.id().dir()),
        (Side::Server, Dir::Bi)
    );
    ends.finish().await;
}

/// A hundred streams each way make it through windows smaller than any of them, three at a time.
pub async fn many_streams_within_tiny_windows<R: Executor>(rt: R) {
    const STREAMS: u64 = 50;
    const LEN: usize = 6_000;
    let Pair {
        client,
        server,
        ends,
    } = Setup::new()
        .transport(|transport| {
            transport
                .stream_receive_window(code(1000))
                .receive_window(code(2500))
                .send_window(1500)
                .max_concurrent_uni_streams(code(3))
                .max_concurrent_bidi_streams(code(3));
        })
        .connect(&rt)
        .await;

    // The first eight bytes say which stream it is, as streams are opened in any order.
    fn content(seed: u64) -> Vec<u8> {
        let mut content = seed.to_le_bytes().to_vec();
        content.extend(pattern(seed, LEN));
        content
    }
    async fn send(connection: &Connection, seed: u64) {
        let stream = connection.open_uni().await.unwrap();
        send_all(stream, &content(seed)).await;
    }
    async fn ask(connection: &Connection, seed: u64) {
        let (send, recv) = connection.open_bi().await.unwrap();
        let question = content(seed);
        let ((), answer) = futures::join!(send_all(send, &question), read_all(recv));
        assert!(answer == question, "stream {seed} came back different");
    }
    async fn receive(connection: &Connection) -> u64 {
        let mut stream = connection.accept_uni().await.unwrap();
        let mut seed = [0; 8];
        stream.read_exact(&mut seed).await.unwrap();
        let seed = u64::from_le_bytes(seed);
        assert!(
            read_all(stream).await == content(seed)[8..],
            "stream {seed} arrived different"
        );
        seed
    }
    async fn transfers(connection: &Connection) {
        let sending = join_all((0..STREAMS).map(|seed| send(connection, seed)));
        let receiving = join_all((0..STREAMS).map(|_| receive(connection)));
        let (_, mut seeds) = futures::join!(sending, receiving);
        seeds.sort_unstable();
        assert!(seeds.into_iter().eq(0..STREAMS), "not each stream once");
    }
    // As many as the peer may open, or one of its streams would wait in vain.
    for connection in [&client, &server] {
        for _ in 0..3 {
            drop(task(&rt, echo(connection.clone())));
        }
    }
    for asking in [&client, &server] {
        // Not both at once: each would stop reading until the other takes its answers, which is a
        // deadlock by the book.
        futures::join!(
            transfers(&client),
            transfers(&server),
            join_all((0..STREAMS).map(|seed| ask(asking, seed)))
        );
    }
    ends.finish().await;
}

/// Opening waits at the peer's limit, until a stream has ended or the limit is raised.
pub async fn the_stream_limit_holds_back_opening<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = Setup::new()
        .server_transport(|transport| {
            transport
                .max_concurrent_uni_streams(code(1))
                .max_concurrent_bidi_streams(code(0));
        })
        .connect(&rt)
        .await;
    let first = client.open_uni().await.unwrap();
    check_pending(client.open_uni()).await;
    send_all(first, b"first").await;
    check_pending(client.open_uni()).await;
    assert_eq!(read_all(server.accept_uni().await.unwrap()).await, b"first");
    let second = client.open_uni().await.unwrap();

    check_pending(client.open_uni()).await;
    server.set_max_concurrent_uni_streams(code(2));
    let third = client.open_uni().await.unwrap();

    check_pending(client.open_bi()).await;
    server.set_max_concurrent_bi_streams(code(1));
    let (bi, _) = client.open_bi().await.unwrap();
    drop((second, third, bi));
    ends.finish().await;
}

/// Several who wait for the limit are all let through, whoever asked first.
pub async fn all_who_wait_to_open_are_woken<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = Setup::new()
        .server_transport(|transport| {
            transport.max_concurrent_uni_streams(code(1));
        })
        .connect(&rt)
        .await;
    let opening = (0..20).map(|_| async {
        let stream = client.open_uni().await.unwrap();
        send_all(stream, b"x").await;
    });
    let accepting = async {
        for _ in 0..20 {
            assert_eq!(read_all(server.accept_uni().await.unwrap()).await, b"x");
        }
    };
    futures::join!(join_all(opening), accepting);
    ends.finish().await;
}

/// A client may finish its half and still read the answer.
pub async fn half_close<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let (send, mut recv) = client.open_bi().await.unwrap();
    send_all(send, b"question").await;
    let (mut answer, question) = server.accept_bi().await.unwrap();
    assert_eq!(read_all(question).await, b"question");
    // The half that was read to its end is gone; the other one is in full use.
    for part in [&b"an"[..], b"sw", b"er"] {
        answer.write_all(part).await.unwrap();
        let mut read = [0; 2];
        recv.read_exact(&mut read).await.unwrap();
        assert_eq!(read, part);
    }
    answer.finish().unwrap();
    assert_eq!(recv.read(&mut [0; 1]).await, Ok(None));
    ends.finish().await;
}

/// A stream without data arrives as one that is at its end.
pub async fn an_empty_stream_arrives<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    check_transfer(&pair.client, &pair.server, b"").await;
    let (mut send, _recv) = pair.client.open_bi().await.unwrap();
    send.finish().unwrap();
    let (_send, mut recv) = pair.server.accept_bi().await.unwrap();
    assert_eq!(recv.read_chunk(usize::MAX, true).await, Ok(None));
    assert_eq!(recv.read(&mut [0; 8]).await, Ok(None), "the end stays");
    pair.ends.finish().await;
}

/// After its end, a stream takes nothing more, and says so.
pub async fn a_finished_stream_takes_nothing_more<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let mut send = pair.client.open_uni().await.unwrap();
    send.write_all(b"all").await.unwrap();
    send.finish().unwrap();
    assert!(send.finish().is_err());
    assert_eq!(send.write(b"more").await, Err(WriteError::ClosedStream));
    let recv = pair.server.accept_uni().await.unwrap();
    assert_eq!(read_all(recv).await, b"all");
    // The peer has acknowledged it all.
    assert_eq!(send.stopped().await, Ok(None));
    assert!(send.reset(code(1)).is_err(), "there is nothing to reset");
    assert!(send.priority().is_err());
    pair.ends.finish().await;
}

/// A stream with one byte written at each end, which the other end has read.
async fn open_stream(pair: &Pair) -> ((SendStream, RecvStream), (SendStream, RecvStream)) {
    let mut ours = pair.client.open_bi().await.unwrap();
    ours.0.write_all(b"x").await.unwrap();
    let mut theirs = pair.server.accept_bi().await.unwrap();
    theirs.0.write_all(b"y").await.unwrap();
    theirs.1.read_exact(&mut [0; 1]).await.unwrap();
    ours.1.read_exact(&mut [0; 1]).await.unwrap();
    (ours, theirs)
}

/// The code of a reset reaches who reads, and stays.
pub async fn a_reset_reaches_the_reader<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let ((mut send, _recv), (_send, mut recv)) = open_stream(&pair).await;
    let reading = async { recv.read_chunk(usize::MAX, true).await };
    let resetting = async { send.reset(code(42)) };
    let (read, reset) = futures::join!(reading, resetting);
    assert_eq!(reset, Ok(()));
    assert_eq!(read, Err(ReadError::Reset(code(42))));
    assert_eq!(
        recv.read(&mut [0; 1]).await,
        Err(ReadError::Reset(code(42)))
    );
    assert_eq!(
        recv.read_to_end(10).await,
        Err(ReadToEndError::Read(ReadError::Reset(code(42))))
    );
    assert_eq!(send.write(b"z").await, Err(WriteError::ClosedStream));
    check_alive(&pair.client, &pair.server).await;
    pair.ends.finish().await;
}

/// The code with which the peer stops a stream reaches who writes, even while blocked.
pub async fn a_stop_reaches_the_writer<R: Executor>(rt: R) {
    let pair = Setup::new()
        .transport(|transport| {
            transport.stream_receive_window(code(1000));
        })
        .connect(&rt)
        .await;
    let ((mut send, _recv), (_send, mut recv)) = open_stream(&pair).await;
    let stopped = send.stopped();
    let writing = async {
        // More than the peer takes: this blocks until the stop arrives.
        send.write_all(&vec![0; 1 << 24]).await
    };
    let stopping = async {
        recv.read_exact(&mut [0; 500]).await.unwrap();
        recv.stop(code(43)).unwrap();
        assert!(recv.stop(code(44)).is_err(), "stopped before");
        assert_eq!(
            recv.read(&mut [0; 1]).await,
            Err(ReadError::ClosedStream),
            "a stream that was stopped must not look like one that was read to its end"
        );
    };
    let (written, (), stopped) = futures::join!(writing, stopping, stopped);
    assert_eq!(written, Err(WriteError::Stopped(code(43))));
    assert_eq!(stopped, Ok(Some(code(43))));
    assert_eq!(send.stopped().await, Ok(Some(code(43))));
    assert_eq!(send.write(b"z").await, Err(WriteError::Stopped(code(43))));
    assert_eq!(send.finish(), Ok(()), "no error, as the peer wants no more");
    drop(send);
    check_alive(&pair.client, &pair.server).await;
    pair.ends.finish().await;
}

/// Counts wake-ups.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whoever waits on a stream that is shared learns that it was reset, finished or stopped here.
pub async fn ending_a_shared_stream_wakes_who_waits<R: Executor>(rt: R) {
    let pair = Setup::new()
        .transport(|transport| {
            transport.stream_receive_window(code(1000));
        })
        .connect(&rt)
        .await;
    let end: [fn(&mut SendStream); 2] = [
        |send| send.reset(code(46)).unwrap(),
        |send| send.finish().unwrap(),
    ];
    for end in end {
        let ((mut send, mut recv), theirs) = open_stream(&pair).await;
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let cx = &mut Context::from_waker(&waker);
        let data = [0; 1000];
        while Pin::new(&mut send).poll_write(cx, &data).is_ready() {}
        assert!(recv.poll_read(cx, &mut [0; 1]).is_pending());
        assert_eq!(bell.0.load(Ordering::SeqCst), 0);
        end(&mut send);
        assert_eq!(bell.0.load(Ordering::SeqCst), 1, "the writer was not woken");
        assert_eq!(
            Pin::new(&mut send).poll_write(cx, &data),
            Poll::Ready(Err(WriteError::ClosedStream))
        );
        recv.stop(code(47)).unwrap();
        assert_eq!(bell.0.load(Ordering::SeqCst), 2, "the reader was not woken");
        assert_eq!(
            recv.poll_read(cx, &mut [0; 1]),
            Poll::Ready(Err(ReadError::ClosedStream))
        );
        drop(theirs);
    }
    check_alive(&pair.client, &pair.server).await;
    pair.ends.finish().await;
}

/// `stopped` tells when everything has arrived, and does not need the stream for it.
pub async fn stopped_waits_for_delivery<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let ((mut send, _recv), (_send, mut recv)) = open_stream(&pair).await;
    let stopped = send.stopped();
    check_pending(send.stopped()).await;
    send.finish().unwrap();
    drop(send);
    assert_eq!(stopped.await, Ok(None));
    assert_eq!(recv.read(&mut [0; 1]).await, Ok(None));
    pair.ends.finish().await;
}

/// `received_reset` tells of a reset without reading, and of its absence.
pub async fn received_reset_tells<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let ((mut send, _recv), (_send, mut recv)) = open_stream(&pair).await;
    check_pending(recv.received_reset()).await;
    send.reset(code(45)).unwrap();
    assert_eq!(recv.received_reset().await, Ok(Some(code(45))));
    assert_eq!(recv.received_reset().await, Ok(Some(code(45))));

    let ((mut send, _recv), (_send, mut recv)) = open_stream(&pair).await;
    send.write_all(b"rest").await.unwrap();
    send.finish().unwrap();
    // Waiting takes nothing away.
    check_pending(recv.received_reset()).await;
    assert_eq!(recv.read_to_end(10).await, Ok(b"rest".to_vec()));
    assert_eq!(recv.received_reset().await, Ok(None));
    pair.ends.finish().await;
}

/// A sender that is dropped before it was finished shows as a reset, not as the end.
pub async fn dropping_an_unfinished_sender_resets<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let ((send, _recv), (_send, recv)) = open_stream(&pair).await;
    let mut recv = recv;
    drop(send);
    assert_eq!(
        recv.read_chunk(usize::MAX, true).await,
        Err(ReadError::Reset(code(0)))
    );
    pair.ends.finish().await;
}

/// A sender that is dropped after it was finished delivers everything.
pub async fn dropping_a_finished_sender_delivers<R: Executor>(rt: R) {
    let Pair {
        client,
        server,
        ends,
    } = pair(&rt).await;
    let data = pattern(7, 300_000);
    let mut send = client.open_uni().await.unwrap();
    let sending = async {
        send.write_all(&data).await.unwrap();
        send.finish().unwrap();
        drop(send);
    };
    let receiving = async { read_all(server.accept_uni().await.unwrap()).await };
    let ((), received) = futures::join!(sending, receiving);
    assert!(received == data);
    ends.finish().await;
}

/// A receiver that is dropped tells the peer to stop.
pub async fn dropping_a_receiver_stops<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let ((send, _recv), (_send, recv)) = open_stream(&pair).await;
    drop(recv);
    assert_eq!(send.stopped().await, Ok(Some(code(0))));
    // A stream that nobody accepts is not dropped: the peer may still do so.
    let mut unaccepted = pair.client.open_uni().await.unwrap();
    unaccepted.write_all(b"x").await.unwrap();
    check_transfer(&pair.server, &pair.client, b"still here").await;
    check_pending(unaccepted.stopped()).await;
    pair.ends.finish().await;
}

/// Data of a stream with a higher priority goes first.
pub async fn higher_priorities_go_first<R: Executor>(rt: R) {
    const LEN: usize = 1 << 20;
    let pair = pair(&rt).await;
    let mut least = LEN;
    // The low one has a head start, and on another thread that may be enough to overtake. Without
    // priorities the two would take turns, and end together every time.
    for _ in 0..20 {
        let mut low = pair.client.open_uni().await.unwrap();
        let mut high = pair.client.open_uni().await.unwrap();
        assert_eq!(low.priority(), Ok(0));
        low.set_priority(-1).unwrap();
        high.set_priority(5).unwrap();
        assert_eq!(high.priority(), Ok(5));
        let sending = async {
            for (stream, seed) in [(&mut low, 1), (&mut high, 2)] {
                stream.write_all(&pattern(seed, LEN)).await.unwrap();
                stream.finish().unwrap();
            }
        };
        let mut low_read = 0;
        let receiving = async {
            let mut low = pair.server.accept_uni().await.unwrap();
            let high = pair.server.accept_uni().await.unwrap();
            let reading_low = async {
                while let Some(chunk) = low.read_chunk(usize::MAX, true).await.unwrap() {
                    low_read += chunk.bytes.len();
                }
            };
            let (high, low) = (Box::pin(read_all(high)), Box::pin(reading_low));
            if let Either::Left((high, _)) = select(high, low).await {
                assert!(high == pattern(2, LEN));
            }
        };
        futures::join!(sending, receiving);
        least = least.min(low_read);
        if least < LEN / 2 {
            break;
        }
    }
    assert!(
        least < LEN / 2,
        "{least} bytes of low priority before the high one was done"
    );
    pair.ends.finish().await;
}
