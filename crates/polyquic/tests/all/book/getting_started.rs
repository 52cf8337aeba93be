use polyquic::{Connection, Endpoint, Executor, spawn};

use crate::app::{Result, configs};

async fn app<R: Executor>(rt: R) -> Result<String> {
    let (server_config, client_config) = configs()?;

    let server = Endpoint::server(&rt, server_config, "127.0.0.1:0".parse()?)?;
    let addr = server.local_addr()?;
    spawn(&rt, async move {
        // One client at a time, to keep it short.
        while let Some(incoming) = server.accept().await {
            let Ok(connection) = incoming.await else {
                continue;
            };
            if let Err(error) = greet(&connection).await {
                println!("{}: {error}", connection.remote_address());
            }
        }
    });

    let mut client = Endpoint::client(&rt, "127.0.0.1:0".parse()?)?;
    client.set_default_client_config(client_config);
    let connection = client.connect(addr, "localhost")?.await?;
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"world").await?;
    send.finish()?;
    let answer = recv.read_to_end(1000).await?;

    client.close(0u32.into(), b"done");
    client.wait_idle().await;
    Ok(String::from_utf8(answer)?)
}

async fn greet(connection: &Connection) -> Result<()> {
    loop {
        // Fails when the connection is closed, which is how this loop ends.
        let (mut send, mut recv) = connection.accept_bi().await?;
        let name = recv.read_to_end(100).await?;
        send.write_all(b"hello, ").await?;
        send.write_all(&name).await?;
        send.finish()?;
    }
}

#[cfg(all(feature = "smol", feature = "tokio", feature = "blocking"))]
#[test]
fn one_line_per_executor() -> Result<()> {
    use polyquic::tokio::Flavor;

    let answers = [
        polyquic::smol::run(1, app)?, // one thread
        polyquic::smol::run(4, app)?, // four threads that steal work from each other
        polyquic::tokio::run(Flavor::CurrentThread, app)?,
        polyquic::tokio::run(Flavor::MultiThread(4), app)?,
        polyquic::blocking::run(app)?, // a thread per task
    ];
    for answer in answers {
        assert_eq!(answer?, "hello, world");
    }
    Ok(())
}

#[test]
fn on_any_executor() -> Result<()> {
    assert_eq!(crate::adapter::run(app)?, "hello, world");
    Ok(())
}
