use std::future::IntoFuture;
use std::time::Duration;

use polyquic::{Endpoint, Executor, spawn, timeout};

use super::{Pair, pair};
use crate::app::{Result, app};

async fn greet_the_quick<R>(rt: R, endpoint: Endpoint)
where
    R: Executor<Timer: Send> + Send + Sync,
{
    while let Some(incoming) = endpoint.accept().await {
        let inner = rt.clone();
        spawn(&rt, async move {
            let handshake = incoming.into_future();
            if let Ok(Ok(connection)) = timeout(&inner, Duration::from_secs(5), handshake).await {
                println!("hello, {}", connection.remote_address());
            }
        });
    }
}

async fn greeting<R: Executor<Timer: Send> + Send + Sync>(rt: R) -> Result<()> {
    let Pair {
        client_endpoint,
        server_endpoint,
        ..
    } = pair(rt.clone()).await?;
    let addr = server_endpoint.local_addr()?;
    let serving = greet_the_quick(rt, server_endpoint.clone());
    let connecting = async {
        let result = client_endpoint.connect(addr, "localhost")?.await;
        server_endpoint.close(0u32.into(), b"");
        result?;
        Ok(())
    };
    futures::future::join(serving, connecting).await.1
}

#[cfg(feature = "smol")]
#[test]
fn tasks_use_the_executor_themselves() -> Result<()> {
    polyquic::smol::run(2, greeting)?
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn tasks_use_tokio_themselves() -> Result<()> {
    greeting(polyquic::tokio::TokioRuntime::current()).await
}

#[cfg(feature = "smol")]
#[test]
fn busy_threads() -> Result<()> {
    let busy = polyquic::smol::Builder::new()
        .threads(1)
        .busy_poll(Duration::from_micros(100));
    busy.run(app)??;
    Ok(())
}

#[cfg(feature = "smol")]
#[test]
fn inside_smol() -> Result<()> {
    use std::sync::Arc;

    use polyquic::smol::{Executor, SmolRuntime};

    // smol's global executor, the one of `smol::spawn`:
    smol::block_on(async {
        let rt = SmolRuntime::global();
        app(rt).await
    })?;

    // An executor of your own:
    let executor = Arc::new(Executor::new());
    let rt = SmolRuntime::on(&executor);
    smol::block_on(executor.run(app(rt)))?;
    Ok(())
}

#[cfg(feature = "tokio")]
#[tokio::test]
async fn inside_tokio() -> Result<()> {
    use polyquic::tokio::TokioRuntime;

    // Within #[tokio::main] or a task, in either flavour:
    let rt = TokioRuntime::current();
    app(rt).await?;
    Ok(())
}

#[cfg(all(feature = "glommio", target_os = "linux"))]
#[test]
fn inside_glommio() -> Result<()> {
    use polyquic::glommio::GlommioRuntime;

    let executor = glommio::LocalExecutorBuilder::default()
        .io_memory(64 << 10)
        .make()
        .map_err(std::io::Error::from)?;
    executor.run(async { app(GlommioRuntime::current()).await })?;
    Ok(())
}

#[cfg(feature = "blocking")]
#[test]
fn without_an_executor() -> Result<()> {
    use std::io::{Read, Write};
    use std::thread;

    use polyquic::blocking::Endpoint;

    let (server_config, client_config) = crate::app::configs()?;

    let server = Endpoint::server(server_config, "127.0.0.1:0")?;
    let addr = server.local_addr()?;
    thread::spawn(move || {
        for connection in server.incoming() {
            thread::spawn(move || {
                for (mut send, mut recv) in connection.incoming_bi() {
                    if std::io::copy(&mut recv, &mut send).is_ok() {
                        let _ = send.finish();
                    }
                }
            });
        }
    });

    let client = Endpoint::client("127.0.0.1:0")?;
    let connection = client.connect_with(client_config, addr, "localhost")?;
    let (mut send, mut recv) = connection.open_bi()?;
    send.write_all(b"hello")?;
    send.finish()?;
    let mut answer = String::new();
    recv.read_to_string(&mut answer)?;

    assert_eq!(answer, "hello");
    Ok(())
}
