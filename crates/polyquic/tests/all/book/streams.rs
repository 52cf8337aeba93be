use std::sync::Arc;

use bytes::Bytes;
use futures::AsyncReadExt;
use polyquic::{Connection, Executor, ServerConfig, TransportConfig, WriteError};

use super::{Pair, on_every_executor, pair};
use crate::app::Result;

async fn upload(connection: &Connection, file: &[u8]) -> Result<()> {
    let mut send = connection.open_uni().await?;
    send.write_all(file).await?;
    send.finish()?;
    Ok(())
}

async fn receive_upload(connection: &Connection) -> Result<Vec<u8>> {
    let mut recv = connection.accept_uni().await?;
    // At most a megabyte: what a peer sends should have a limit.
    Ok(recv.read_to_end(1 << 20).await?)
}

async fn uploading<R: Executor>(rt: R) -> Result<()> {
    let Pair { client, server, .. } = pair(rt).await?;
    let file = vec![7; 300_000];
    let sending = upload(&client, &file);
    let receiving = receive_upload(&server);
    let ((), received) = futures::future::try_join(sending, receiving).await?;
    assert_eq!(received, file);
    Ok(())
}

const NOT_NEEDED: u32 = 1;
const BROKEN: u32 = 2;

async fn giving_up<R: Executor>(rt: R) -> Result<()> {
    let Pair { client, server, .. } = pair(rt).await?;
    let (mut send, mut recv) = client.open_bi().await?;
    send.write_all(b"GET /").await?;
    let (mut server_send, mut server_recv) = server.accept_bi().await?;

    // This side of the stream will not be completed; what was written may be lost.
    send.reset(BROKEN.into())?;
    // The other side is not wanted any more.
    recv.stop(NOT_NEEDED.into())?;

    // At the peer:
    match server_recv.read_to_end(1000).await {
        Err(error) => println!("the request was given up: {error}"),
        Ok(request) => println!("{} bytes of request", request.len()),
    }
    if let Some(code) = server_send.stopped().await? {
        assert_eq!(code, NOT_NEEDED.into());
    }

    assert_eq!(
        server_recv.received_reset().await?.unwrap_or(BROKEN.into()),
        BROKEN.into()
    );
    let refused = server_send.write_all(b"too late").await;
    assert!(matches!(refused, Err(WriteError::Stopped(code)) if code == NOT_NEEDED.into()));
    Ok(())
}

async fn send_whole(connection: &Connection, data: Bytes) -> Result<()> {
    let mut send = connection.open_uni().await?;
    send.set_priority(10)?;
    send.write_chunk(data).await?;
    send.finish()?;
    Ok(())
}

async fn count(connection: &Connection) -> Result<usize> {
    let mut recv = connection.accept_uni().await?;
    let mut length = 0;
    while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
        length += chunk.bytes.len();
    }
    Ok(length)
}

async fn chunks<R: Executor>(rt: R) -> Result<()> {
    let Pair { client, server, .. } = pair(rt).await?;
    let sending = send_whole(&client, vec![1; 100_000].into());
    let ((), length) = futures::future::try_join(sending, count(&server)).await?;
    assert_eq!(length, 100_000);
    Ok(())
}

async fn adapted_streams<R: Executor>(rt: R) -> Result<()> {
    let Pair { client, server, .. } = pair(rt).await?;
    upload(&client, b"one line\nand another").await?;

    // With the traits of the `futures` crate in scope:
    let mut recv = server.accept_uni().await?;
    let mut text = String::new();
    AsyncReadExt::read_to_string(&mut recv, &mut text).await?;

    assert_eq!(text.lines().count(), 2);
    Ok(())
}

async fn positions<R: Executor>(rt: R) -> Result<()> {
    let Pair { client, server, .. } = pair(rt).await?;

    // Of this moment only: if it is lost, a newer one will follow.
    client.send_datagram(Bytes::from_static(b"x=1 y=2"))?;
    // Waits for room instead of dropping older ones.
    let room = client.max_datagram_size().unwrap_or(0);
    client.send_datagram_wait(vec![0; room].into()).await?;

    let position = server.read_datagram().await?;
    assert_eq!(position, "x=1 y=2");
    Ok(())
}

fn limits(config: &mut ServerConfig) {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(20u32.into())
        .stream_receive_window(100_000u32.into())
        .datagram_receive_buffer_size(None);
    config.transport_config(Arc::new(transport));
}

on_every_executor!(uploading, giving_up, chunks, adapted_streams, positions);

#[test]
fn limits_can_be_set() -> Result<()> {
    limits(&mut crate::app::configs()?.0);
    Ok(())
}
