//! An echo server and a client that asks it something. Which executor they are on, they do not
//! know.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::join;
use polyquic::rustls::RootCertStore;
use polyquic::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use polyquic::{ClientConfig, Connection, Endpoint, Executor, ServerConfig, spawn};

pub(crate) type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The whole application, on any executor.
pub(crate) async fn app<R: Executor>(rt: R) -> Result<String> {
    let (server_config, client_config) = configs()?;
    let server = Endpoint::server(&rt, server_config, (Ipv4Addr::LOCALHOST, 0).into())?;
    let mut client = Endpoint::client(&rt, (Ipv4Addr::LOCALHOST, 0).into())?;
    client.set_default_client_config(client_config);

    let asking = async {
        let answer = ask(&client, &server).await;
        // Ends the loop of `serve`.
        server.close(0u32.into(), b"done");
        answer
    };
    let ((), answer) = join(serve(&rt, &server), asking).await;
    client.wait_idle().await;
    answer
}

/// Give each connection a task of its own, until the endpoint is closed.
async fn serve<R: Executor>(rt: &R, endpoint: &Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        spawn(rt, async move {
            match incoming.await {
                // Ends with an error in any case: in the best one, the client closed the connection.
                Ok(connection) => drop(echo(connection).await),
                Err(error) => eprintln!("a handshake failed: {error}"),
            }
        });
    }
}

/// Send everything back, stream by stream.
async fn echo(connection: Connection) -> Result<()> {
    loop {
        let (mut send, mut recv) = connection.accept_bi().await?;
        while let Some(chunk) = recv.read_chunk(usize::MAX, true).await? {
            send.write_chunk(chunk.bytes).await?;
        }
        // A stream that is dropped without this, because of an error above, is reset.
        send.finish()?;
    }
}

async fn ask(client: &Endpoint, server: &Endpoint) -> Result<String> {
    let connection = client.connect(server.local_addr()?, "localhost")?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"hello, whoever runs this").await?;
    send.finish()?;
    let answer = recv.read_to_end(1024).await?;
    connection.close(0u32.into(), b"done");
    Ok(String::from_utf8(answer)?)
}

/// A certificate made on the spot, which the client is told to trust.
pub(crate) fn configs() -> Result<(ServerConfig, ClientConfig)> {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".into()])?;
    let cert = CertificateDer::from(cert);
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let server = ServerConfig::with_single_cert(vec![cert.clone()], key.into())?;
    let mut roots = RootCertStore::empty();
    roots.add(cert)?;
    let client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    Ok((server, client))
}
