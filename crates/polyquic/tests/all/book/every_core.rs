//! Chapter 9.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::{FuturesUnordered, iter, unfold};
use polyquic::{
    Connection, Endpoint, Executor, ServerConfig, Task, TransportConfig, spawn_on_shards,
};

use crate::app::{Result, configs};

fn localhost() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

async fn serve<R: Executor>(
    rt: R,
    server_config: ServerConfig,
    addr: SocketAddr,
) -> Result<Endpoint> {
    let endpoint = Endpoint::builder()
        .server_config(server_config)
        .shards(2)
        .bind(&rt, addr)?;
    spawn_on_shards(&rt, &endpoint, |_rt, shard| -> Task {
        Box::pin(async move {
            while let Some(incoming) = shard.accept().await {
                // Spawn a task for each in earnest, with `_rt`.
                if let Ok(connection) = incoming.await {
                    connection.closed().await;
                }
            }
        })
    })?;
    Ok(endpoint)
}

/// The code of the chapter, and what it says about it.
async fn every_core<R: Executor>(rt: R) -> Result<()> {
    let (server_config, client_config) = configs()?;
    let endpoint = serve(rt.clone(), server_config, localhost()).await?;
    assert_eq!(endpoint.shards(), 2);
    let client = Endpoint::builder().shards(1).bind(&rt, localhost())?;
    let addr = endpoint.local_addr()?;
    let connecting = client.connect_with(client_config, addr, "localhost")?;
    let connection = connecting.await?;
    let stats = endpoint.stats();
    println!(
        "{} steered, {} handed over, {} dropped",
        stats.datagrams_steered, stats.datagrams_handed_over, stats.hand_overs_dropped
    );
    assert!(stats.datagrams_steered > 0);
    drop(connection);
    client.wait_idle().await;
    endpoint.close(0u32.into(), b"");
    Ok(())
}

#[cfg(feature = "tokio")]
#[test]
fn on_tokio() {
    let flavor = polyquic::tokio::Flavor::MultiThread(2);
    polyquic::tokio::run(flavor, every_core).unwrap().unwrap();
}

#[cfg(feature = "smol")]
#[test]
fn on_smol() {
    polyquic::smol::run(2, every_core).unwrap().unwrap();
}

#[cfg(all(feature = "glommio", target_os = "linux"))]
#[test]
fn on_glommio() {
    polyquic::glommio::run(2, every_core).unwrap().unwrap();
}

#[cfg(feature = "blocking")]
#[test]
fn on_threads() {
    polyquic::blocking::run(every_core).unwrap().unwrap();
}

/// The runtime says how many shards there are, the application need not know.
#[cfg(all(feature = "smol", feature = "tokio", feature = "blocking"))]
#[test]
fn runtimes_have_shards() -> Result<()> {
    use polyquic::tokio::Flavor;

    async fn app<R: Executor>(rt: R) -> Result<usize> {
        Ok(Endpoint::client(&rt, localhost())?.shards())
    }

    let shards = [
        polyquic::smol::run(4, |rt| app(rt.with_shards(4)))??,
        polyquic::tokio::run(Flavor::MultiThread(4), |rt| app(rt.with_shards(4)))??,
        polyquic::blocking::run(|rt| app(rt.with_shards(4)))??,
    ];
    assert_eq!(shards, [4; 3]);
    Ok(())
}

/// Connections that an endpoint holds at once.
const MANY: usize = 10_000;
/// Handshakes at a time.
const AT_ONCE: usize = 100;

/// Ten thousand connections on one address, all open at once and all alive. Run with `--nocapture`
/// to see what they cost.
#[cfg(feature = "smol")]
#[test]
fn ten_thousand_connections() {
    polyquic::smol::run(2, |rt| ten_thousand(rt.with_shards(2)))
        .unwrap()
        .unwrap();
}

async fn ten_thousand<R: Executor>(rt: R) -> Result<()> {
    let (mut server_config, mut client_config) = configs()?;
    let mut transport = TransportConfig::default();
    // Ten thousand handshakes take a while on a busy machine.
    transport.max_idle_timeout(Some(Duration::from_secs(120).try_into()?));
    let transport = std::sync::Arc::new(transport);
    server_config.transport_config(transport.clone());
    client_config.transport_config(transport);
    let server = Endpoint::server(&rt, server_config, localhost())?;
    let addr = server.local_addr()?;
    spawn_on_shards(&rt, &server, |_, shard| -> Task {
        let attempts = unfold(shard, async |shard| Some((shard.accept().await?, shard)));
        Box::pin(attempts.for_each_concurrent(None, async |incoming| {
            if let Ok(connection) = incoming.await {
                echo(connection).await;
            }
        }))
    })?;
    let mut client = Endpoint::client(&rt, localhost())?;
    client.set_default_client_config(client_config);

    let (start, before) = (Instant::now(), resident_bytes());
    let connections: Vec<Connection> = iter(0..MANY)
        .map(async |_| client.connect(addr, "localhost").unwrap().await.unwrap())
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let (took, memory) = (start.elapsed(), resident_bytes().saturating_sub(before));
    assert_eq!(client.open_connections(), MANY);
    // Each of them answers, and so is known on both sides.
    let mut answers: FuturesUnordered<_> = connections.iter().map(ask).collect();
    while let Some(answer) = answers.next().await {
        assert_eq!(answer?, b"alive?");
    }
    drop(answers);
    assert_eq!(server.open_connections(), MANY);
    let stats = server.stats();
    println!(
        "{MANY} connections in {took:.1?}, {:.1} KiB for both ends of each; {stats:?}",
        memory as f64 / 1024.0 / MANY as f64
    );
    assert_eq!(stats.hand_overs_dropped, 0);
    for index in 0..server.shards() {
        let open = server.shard(index).unwrap().open_connections();
        // The ids are random: far more than ten standard deviations.
        assert!(open > MANY / 3, "shard {index} has {open}");
    }
    server.close(0u32.into(), b"");
    client.close(0u32.into(), b"");
    client.wait_idle().await;
    server.wait_idle().await;
    assert_eq!(server.open_connections(), 0);
    Ok(())
}

async fn echo(connection: Connection) {
    while let Ok((mut send, mut recv)) = connection.accept_bi().await {
        let Ok(request) = recv.read_to_end(100).await else {
            break;
        };
        let _ = send.write_all(&request).await.map(|()| send.finish());
    }
}

async fn ask(connection: &Connection) -> Result<Vec<u8>> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(b"alive?").await?;
    send.finish()?;
    Ok(recv.read_to_end(100).await?)
}

/// What this process has in memory; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|it| it.parse().ok());
    pages.unwrap_or(0u64) * 4096
}
