//! Streams implement tokio's I/O traits, besides those of futures.

use std::io::ErrorKind;

use polyquic_testkit::fixtures::pair;
use polyquic_testkit::harness;
use polyquic_testkit::tools::{code, pattern};
use polyquic_tokio::{Flavor, TokioRuntime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};

#[test]
fn streams_are_tokio_io() {
    harness::run("io_traits::streams_are_tokio_io", || {
        polyquic_tokio::run(Flavor::CurrentThread, app)
    });
}

async fn app(rt: TokioRuntime) {
    let pair = pair(&rt).await;
    let data = pattern(1, 150_000);
    let (mut send, mut recv) = pair.client.open_bi().await.unwrap();
    let sending = async {
        copy(&mut &data[..], &mut send).await.unwrap();
        send.flush().await.unwrap();
        send.shutdown().await.unwrap();
    };
    let echoing = async {
        let (mut send, mut recv) = pair.server.accept_bi().await.unwrap();
        copy(&mut recv, &mut send).await.unwrap();
        send.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let receiving = async {
        // The stream's own method of this name has a limit; this is tokio's.
        AsyncReadExt::read_to_end(&mut recv, &mut received)
            .await
            .unwrap();
    };
    tokio::join!(sending, echoing, receiving);
    assert!(received == data);

    let (mut send, _recv) = pair.client.open_bi().await.unwrap();
    AsyncWriteExt::write_all(&mut send, b"x").await.unwrap();
    let (_send, mut recv) = pair.server.accept_bi().await.unwrap();
    send.reset(code(9)).unwrap();
    assert_eq!(recv.received_reset().await, Ok(Some(code(9))));
    let error = AsyncReadExt::read(&mut recv, &mut [0; 1])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    pair.ends.finish().await;
}
