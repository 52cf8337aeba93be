use std::time::Duration;

use futures::future::{Either, select};
use polyquic::{Blame, Connection, ConnectionError, Executor, ReadToEndError, blame, timeout};

use super::{Pair, on_every_executor, pair};
use crate::app::Result;

async fn say_goodbye<R: Executor>(rt: R) -> Result<()> {
    let Pair {
        client,
        server,
        client_endpoint,
        ..
    } = pair(rt).await?;

    let mut send = client.open_uni().await?;
    send.write_all(b"the last words").await?;
    send.finish()?;
    // Delivers what was finished, then closes all connections of this endpoint.
    client_endpoint.close(0u32.into(), b"goodbye");
    // Gives that the time it needs. A process that ends without this may cut it off.
    client_endpoint.wait_idle().await;

    let last = server.accept_uni().await?.read_to_end(100).await?;
    assert_eq!(last, b"the last words");
    assert!(matches!(
        server.closed().await,
        ConnectionError::ApplicationClosed(close) if close.reason == "goodbye"
    ));
    Ok(())
}

async fn deliver_first<R: Executor>(rt: R) -> Result<()> {
    let Pair { client, server, .. } = pair(rt).await?;

    let mut send = client.open_uni().await?;
    send.write_all(b"important").await?;
    send.finish()?;
    // Ready when the peer's QUIC stack has acknowledged all of it.
    match send.stopped().await? {
        None => client.close(0u32.into(), b"done"),
        Some(code) => println!("the peer did not want it: {code}"),
    }

    let received = server.accept_uni().await?.read_to_end(100).await?;
    assert_eq!(received, b"important");
    Ok(())
}

async fn accidents<R: Executor>(rt: R) -> Result<()> {
    let Pair { client, server, .. } = pair(rt).await?;

    let mut send = client.open_uni().await?;
    send.write_all(b"half of the da").await?;
    drop(send); // an early return, a panic, a cancelled task

    let mut recv = server.accept_uni().await?;
    assert!(matches!(
        recv.read_to_end(100).await,
        Err(ReadToEndError::Read(polyquic::ReadError::Reset(_)))
    ));
    Ok(())
}

async fn two_at_once<R: Executor>(rt: R) -> Result<()> {
    let Pair { client, server, .. } = pair(rt).await?;
    client.send_datagram("a datagram".into())?;
    let mut send = client.open_uni().await?;
    send.write_all(b"a stream").await?;
    send.finish()?;

    for _ in 0..2 {
        // Whichever is not ready is dropped. Nothing gets lost by that.
        match select(server.accept_uni(), server.read_datagram()).await {
            Either::Left((stream, _)) => println!("a stream: {}", stream?.id()),
            Either::Right((datagram, _)) => println!("a datagram: {} bytes", datagram?.len()),
        }
    }
    Ok(())
}

async fn time_limits<R: Executor>(rt: R) -> Result<()> {
    let Pair { server, client, .. } = pair(rt.clone()).await?;

    let answer = timeout(&rt, Duration::from_millis(20), server.accept_bi()).await;
    assert!(answer.is_err(), "nobody has opened a stream");

    assert!(client.close_reason().is_none());
    Ok(())
}

async fn why<R: Executor>(rt: R) -> Result<()> {
    let Pair { server, client, .. } = pair(rt).await?;
    client.close(42u32.into(), b"");
    assert!(!worth_another_try(&server).await);
    Ok(())
}

async fn worth_another_try(connection: &Connection) -> bool {
    let error = connection.closed().await;
    match blame(&error) {
        // Somebody wanted it so; `error` has the code and the reason.
        Blame::Application => false,
        // Silence, or a peer that has forgotten us.
        Blame::Network => true,
        // The peer broke the protocol, or cannot be authenticated.
        Blame::Peer => false,
        _ => false,
    }
}

on_every_executor!(
    say_goodbye,
    deliver_first,
    accidents,
    two_at_once,
    time_limits,
    why
);
