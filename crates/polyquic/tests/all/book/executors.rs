use crate::app::{Result, app};

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
