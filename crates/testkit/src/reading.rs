//! The ways to read from a stream and to write to one.

use bytes::Bytes;
use futures::io::{AsyncReadExt, AsyncWriteExt};
use polyquic_endpoint::{
    Executor, ReadError, ReadExactError, ReadToEndError, RecvStream, SendStream, WriteError,
};

use crate::fixtures::{Pair, pair};
use crate::tools::{code, pattern, read_all};

/// A unidirectional stream from the client to the server, opened by writing `data`.
async fn stream(pair: &Pair, data: &[u8]) -> (SendStream, RecvStream) {
    let mut send = pair.client.open_uni().await.unwrap();
    send.write_all(data).await.unwrap();
    (send, pair.server.accept_uni().await.unwrap())
}

/// Chunks handed over without copying arrive as they are, whatever their sizes.
pub async fn chunks_are_written_and_read_whole<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let (mut send, mut recv) = stream(&pair, b"x").await;
    let data = Bytes::from(pattern(3, 200_000));
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut rest = data.clone();
    while !rest.is_empty() {
        let len = (chunks.len() * chunks.len() + 1).min(rest.len());
        chunks.push(rest.split_to(len));
    }
    let half = chunks.len() / 2;
    let mut second_half = chunks.split_off(half);
    let sending = async {
        let mut chunks = &mut chunks[..];
        while !chunks.is_empty() {
            let written = send.write_chunks(chunks).await.unwrap();
            assert!(written.bytes > 0);
            assert!(chunks[..written.chunks].iter().all(Bytes::is_empty));
            chunks = &mut chunks[written.chunks..];
        }
        send.write_all_chunks(&mut second_half).await.unwrap();
        assert!(second_half.iter().all(Bytes::is_empty));
        send.write_chunk(Bytes::from_static(b"the end"))
            .await
            .unwrap();
        send.finish().unwrap();
    };
    let receiving = async {
        recv.read_exact(&mut [0; 1]).await.unwrap();
        let mut received = Vec::new();
        let mut bufs = vec![Bytes::new(); 4];
        while let Some(count) = recv.read_chunks(&mut bufs).await.unwrap() {
            assert!(count > 0);
            for chunk in &bufs[..count] {
                assert!(!chunk.is_empty());
                received.extend_from_slice(chunk);
            }
        }
        received
    };
    let ((), received) = futures::join!(sending, receiving);
    assert!(received[..data.len()] == data[..]);
    assert_eq!(&received[data.len()..], b"the end");
    pair.ends.finish().await;
}

/// A chunk is never longer than asked for, and says where it belongs.
pub async fn chunks_respect_their_limit<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let data = pattern(4, 50_000);
    let (mut send, mut recv) = stream(&pair, &data).await;
    send.finish().unwrap();
    let mut offset = 0;
    while let Some(chunk) = recv.read_chunk(777, true).await.unwrap() {
        assert!(chunk.bytes.len() <= 777);
        assert_eq!(chunk.offset, offset as u64);
        assert!(chunk.bytes == data[offset..][..chunk.bytes.len()]);
        offset += chunk.bytes.len();
    }
    assert_eq!(offset, data.len());
    pair.ends.finish().await;
}

/// Unordered reads yield every byte once; ordered reads are refused afterwards.
pub async fn unordered_reads_miss_nothing<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let data = pattern(5, 500_000);
    let (mut send, mut recv) = stream(&pair, &data[..10]).await;
    let sending = async {
        send.write_all(&data[10..]).await.unwrap();
        send.finish().unwrap();
    };
    let receiving = async {
        let mut received = vec![None; data.len()];
        let mut total = 0;
        while let Some(chunk) = recv.read_chunk(usize::MAX, false).await.unwrap() {
            for (byte, slot) in chunk
                .bytes
                .iter()
                .zip(&mut received[chunk.offset as usize..])
            {
                assert_eq!(slot.replace(*byte), None, "a byte came twice");
            }
            if total == 0 {
                assert_eq!(
                    recv.read_chunk(1, true).await,
                    Err(ReadError::IllegalOrderedRead)
                );
            }
            total += chunk.bytes.len();
        }
        assert_eq!(total, data.len());
        received.into_iter().map(Option::unwrap).collect::<Vec<_>>()
    };
    let ((), received) = futures::join!(sending, receiving);
    assert!(received == data);
    pair.ends.finish().await;
}

/// `read_to_end` accepts exactly its limit, and nothing beyond.
pub async fn read_to_end_has_a_limit<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let data = pattern(6, 20_000);
    let (mut send, mut recv) = stream(&pair, &data).await;
    send.finish().unwrap();
    assert!(recv.read_to_end(data.len()).await.unwrap() == data);

    let (mut send, mut recv) = stream(&pair, &data).await;
    send.finish().unwrap();
    assert_eq!(
        recv.read_to_end(data.len() - 1).await,
        Err(ReadToEndError::TooLong)
    );

    // What was read before does not count.
    let (mut send, mut recv) = stream(&pair, &data).await;
    send.finish().unwrap();
    recv.read_exact(&mut [0; 100]).await.unwrap();
    assert!(recv.read_to_end(data.len() - 100).await.unwrap() == data[100..]);
    pair.ends.finish().await;
}

/// `read_exact` says how far it got when the stream ends early.
pub async fn read_exact_reports_an_early_end<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let (mut send, mut recv) = stream(&pair, b"seven..").await;
    send.finish().unwrap();
    let mut buf = [0; 10];
    assert_eq!(
        recv.read_exact(&mut buf).await,
        Err(ReadExactError::FinishedEarly(7))
    );
    assert_eq!(&buf[..7], b"seven..");
    pair.ends.finish().await;
}

/// Empty buffers are neither an end nor a reason to wait.
pub async fn empty_buffers_do_not_wait<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let (mut send, mut recv) = stream(&pair, b"x").await;
    assert_eq!(recv.read(&mut []).await, Ok(Some(0)));
    assert_eq!(recv.read_chunks(&mut []).await, Ok(Some(0)));
    recv.read_exact(&mut []).await.unwrap();
    send.write_all(b"").await.unwrap();
    send.write_all_chunks(&mut []).await.unwrap();
    send.write_chunk(Bytes::new()).await.unwrap();
    send.write_all_chunks(&mut [Bytes::new(), Bytes::from_static(b"y"), Bytes::new()])
        .await
        .unwrap();
    send.finish().unwrap();
    assert_eq!(read_all(recv).await, b"xy");
    pair.ends.finish().await;
}

/// Streams implement the I/O traits of futures, errors included.
pub async fn streams_are_futures_io<R: Executor>(rt: R) {
    async fn copy(reader: impl futures::AsyncRead, writer: impl futures::AsyncWrite) -> u64 {
        let (reader, mut writer) = (std::pin::pin!(reader), std::pin::pin!(writer));
        let copied = futures::io::copy(reader, &mut writer).await.unwrap();
        AsyncWriteExt::flush(&mut writer).await.unwrap();
        AsyncWriteExt::close(&mut writer).await.unwrap();
        copied
    }
    let pair = pair(&rt).await;
    let data = pattern(8, 150_000);
    let (mut send, mut recv) = pair.client.open_bi().await.unwrap();
    let sending = copy(&data[..], &mut send);
    let echoing = async {
        let (send, recv) = pair.server.accept_bi().await.unwrap();
        copy(recv, send).await
    };
    let mut received = Vec::new();
    let receiving = AsyncReadExt::read_to_end(&mut recv, &mut received);
    let (sent, echoed, read) = futures::join!(sending, echoing, receiving);
    assert_eq!((sent, echoed), (data.len() as u64, data.len() as u64));
    assert_eq!(read.unwrap(), data.len());
    assert!(received == data);
    let error = AsyncWriteExt::write(&mut send, b"x").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);

    let (mut send, mut recv) = stream(&pair, b"x").await;
    send.reset(code(9)).unwrap();
    assert_eq!(recv.received_reset().await, Ok(Some(code(9))));
    let error = AsyncReadExt::read(&mut recv, &mut [0; 1])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    assert_eq!(inner, Some(&ReadError::Reset(code(9))));
    assert_eq!(send.write(b"x").await, Err(WriteError::ClosedStream));
    pair.ends.finish().await;
}
