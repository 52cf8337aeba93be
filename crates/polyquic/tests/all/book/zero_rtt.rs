use polyquic::{Connection, Endpoint, Executor};

use super::{Pair, on_every_executor, pair};
use crate::app::Result;

/// Connect, and send `request` with the very first packets if that is possible.
async fn early_request(
    client: &Endpoint,
    server: std::net::SocketAddr,
    request: &[u8],
) -> Result<Vec<u8>> {
    match client.connect(server, "localhost")?.into_0rtt() {
        Ok((connection, accepted)) => {
            let early = ask(&connection, request).await;
            if accepted.await {
                return early;
            }
            // The server did not take it: streams of before are void, the connection is not.
            ask(&connection, request).await
        }
        // No session of this server to resume.
        Err(connecting) => ask(&connecting.await?, request).await,
    }
}

async fn ask(connection: &Connection, request: &[u8]) -> Result<Vec<u8>> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(request).await?;
    send.finish()?;
    Ok(recv.read_to_end(1000).await?)
}

/// Answer every request with what it was, and whether it may have been replayed.
async fn serve(endpoint: &Endpoint) -> Result<()> {
    while let Some(incoming) = endpoint.accept().await {
        // Do not wait for the handshake: 0-RTT requests come before it is complete.
        let Ok((connection, _)) = incoming.accept()?.into_0rtt() else {
            unreachable!("always possible on a server");
        };
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let may_be_replayed = recv.is_0rtt();
            let mut answer = recv.read_to_end(1000).await?;
            if may_be_replayed {
                answer.extend(b" (early)");
            }
            send.write_all(&answer).await?;
            send.finish()?;
        }
    }
    Ok(())
}

async fn sessions_are_resumed<R: Executor>(rt: R) -> Result<()> {
    let Pair {
        client,
        server,
        client_endpoint,
        server_endpoint,
    } = pair(rt).await?;
    let addr = server_endpoint.local_addr()?;
    // The ticket of the session comes with the first answer, after the handshake.
    let mut send = server.open_uni().await?;
    send.write_all(b"hello").await?;
    send.finish()?;
    client.accept_uni().await?.read_to_end(10).await?;
    client.close(0u32.into(), b"");
    drop(server);

    let asking = async {
        let first = early_request(&client_endpoint, addr, b"first").await;
        server_endpoint.close(0u32.into(), b"");
        first
    };
    let (first, ()) = futures::future::try_join(asking, serve(&server_endpoint)).await?;
    assert_eq!(first, b"first (early)");
    Ok(())
}

on_every_executor!(sessions_are_resumed);
