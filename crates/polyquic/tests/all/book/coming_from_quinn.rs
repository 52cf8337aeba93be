#![cfg(feature = "tokio")]

use std::error::Error;
use std::net::SocketAddr;

use polyquic::tokio::TokioRuntime;
use polyquic::{ClientConfig, Endpoint, ServerConfig};

async fn exchange(
    server_config: ServerConfig,
    client_config: ClientConfig,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let rt = TokioRuntime::current();
    let localhost: SocketAddr = "127.0.0.1:0".parse()?;
    let server = Endpoint::server(&rt, server_config, localhost)?;
    let mut client = Endpoint::client(&rt, localhost)?;
    client.set_default_client_config(client_config);
    let addr = server.local_addr()?;
    tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let mut send = connection.open_uni().await.unwrap();
        send.write_all(b"hello").await.unwrap();
        send.finish().unwrap();
        connection.closed().await;
    });

    let connection = client.connect(addr, "localhost")?.await?;
    let mut recv = connection.accept_uni().await?;
    let hello = recv.read_to_end(100).await?;
    connection.close(0u32.into(), b"done");
    client.wait_idle().await;
    Ok(hello)
}

#[tokio::test]
async fn a_program_of_quinns() {
    let (server_config, client_config) = crate::app::configs().unwrap();
    let hello = exchange(server_config, client_config).await.unwrap();
    assert_eq!(hello, b"hello");
}
