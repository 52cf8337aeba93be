//! One application, every executor: an echo server and a client, generic over [`Executor`].
//!
//! Run it with `cargo run --example echo --all-features -- tokio` (or `smol`, `smol-multi`,
//! `blocking`).

use std::error::Error;
use std::sync::Arc;

use polyquic::rustls::RootCertStore;
use polyquic::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use polyquic::{ClientConfig, Connection, Endpoint, Executor, ServerConfig, spawn};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The whole application. It does not know which executor it is on.
async fn app<R: Executor + Send + Sync>(rt: R) -> Result<String> {
    let (server_config, client_config) = configs()?;
    let server = Endpoint::server(&rt, server_config, "[::1]:0".parse()?)?;
    let addr = server.local_addr()?;
    spawn(&rt, {
        let rt = rt.clone();
        async move {
            while let Some(incoming) = server.accept().await {
                spawn(&rt, async move {
                    if let Ok(connection) = incoming.await {
                        let _ = echo(connection).await;
                    }
                });
            }
        }
    });

    let client = Endpoint::client(&rt, "[::]:0".parse()?)?;
    let connection = client
        .connect_with(client_config, addr, "localhost")?
        .await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"hello, whoever runs this").await?;
    send.finish()?;
    let answer = recv.read_to_end(1024).await?;
    connection.close(0u32.into(), b"done");
    client.wait_idle().await;
    Ok(String::from_utf8(answer)?)
}

/// Send everything back, stream by stream, until the peer closes the connection.
async fn echo(connection: Connection) -> Result<()> {
    loop {
        let (mut send, mut recv) = connection.accept_bi().await?;
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
            send.write_chunk(chunk.bytes).await?;
        }
        send.finish()?;
    }
}

/// A certificate made on the spot, which the client is told to trust.
fn configs() -> Result<(ServerConfig, ClientConfig)> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()])?;
    let cert = CertificateDer::from(cert);
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let server = ServerConfig::with_single_cert(vec![cert.clone()], key.into())?;
    let mut roots = RootCertStore::empty();
    roots.add(cert)?;
    Ok((
        server,
        ClientConfig::with_root_certificates(Arc::new(roots))?,
    ))
}

fn main() -> Result<()> {
    let executor = std::env::args().nth(1).unwrap_or_else(|| "smol".into());
    // Here, and only here, the executor is named.
    let answer = match executor.as_str() {
        #[cfg(feature = "smol")]
        "smol" => polyquic::smol::run(1, app)??,
        #[cfg(feature = "smol")]
        "smol-multi" => polyquic::smol::run(4, app)??,
        #[cfg(feature = "tokio")]
        "tokio" => polyquic::tokio::run(polyquic::tokio::Flavor::CurrentThread, app)??,
        #[cfg(feature = "tokio")]
        "tokio-multi" => polyquic::tokio::run(polyquic::tokio::Flavor::MultiThread(4), app)??,
        #[cfg(feature = "blocking")]
        "blocking" => polyquic::blocking::run(app)??,
        other => return Err(format!("no executor {other:?}: enable its feature").into()),
    };
    println!("{executor}: {answer}");
    Ok(())
}
