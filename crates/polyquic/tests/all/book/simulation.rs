use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use polyquic::sim::{Host, Link, Sim, each_seed, identity};
use polyquic::{ClientConfig, Connection, Endpoint, ServerConfig};

use crate::app::Result;

fn configs() -> Result<(ServerConfig, ClientConfig)> {
    let (certificate, key) = identity();
    let server_config = ServerConfig::with_single_cert(vec![certificate.clone()], key)?;
    let mut roots = polyquic::rustls::RootCertStore::empty();
    roots.add(certificate)?;
    let client_config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    Ok((server_config, client_config))
}

/// Send a file, each line of it on a stream of its own.
async fn send_lines(connection: &Connection, lines: &[String]) -> Result<()> {
    for line in lines {
        let mut stream = connection.open_uni().await?;
        stream.write_all(line.as_bytes()).await?;
        stream.finish()?;
    }
    Ok(())
}

/// Put the file together again.
async fn receive_lines(connection: &Connection, count: usize) -> Result<Vec<String>> {
    let mut lines = FuturesUnordered::new();
    for _ in 0..count {
        let mut stream = connection.accept_uni().await?;
        lines.push(async move { stream.read_to_end(1_000_000).await });
    }
    let mut file = Vec::new();
    while let Some(line) = lines.next().await {
        file.push(String::from_utf8(line?)?);
    }
    Ok(file)
}

/// The same without the bug.
async fn receive_lines_in_order(connection: &Connection, count: usize) -> Result<Vec<String>> {
    let mut lines = FuturesOrdered::new();
    for _ in 0..count {
        let mut stream = connection.accept_uni().await?;
        lines.push_back(async move { stream.read_to_end(1_000_000).await });
    }
    let mut file = Vec::new();
    while let Some(line) = lines.next().await {
        file.push(String::from_utf8(line?)?);
    }
    Ok(file)
}

/// A client and a server that are connected by `link`.
async fn connect(sim: &Sim, link: Link) -> Result<(Connection, Connection, [Endpoint; 2])> {
    let server: Host = sim.host("server");
    let client: Host = sim.host_with("client", link);
    let (server_config, client_config) = configs()?;

    let listening = Endpoint::server(&server, server_config, server.addr(443))?;
    let connecting = Endpoint::client(&client, client.addr(0))?;
    let ours = connecting.connect_with(client_config, server.addr(443), "localhost")?;
    let accepting = async { listening.accept().await.expect("it is open").await };
    let (ours, theirs) = futures::join!(ours, accepting);
    Ok((ours?, theirs?, [connecting, listening]))
}

/// Whether a file of 90 lines arrives as it was sent.
async fn arrives_intact(sim: &Sim, link: Link, bug: bool) -> Result<bool> {
    let (client, server, _endpoints) = connect(sim, link).await?;
    let sent: Vec<String> = (0..90).map(|n| format!("line {n} ").repeat(12)).collect();
    let receiving = async {
        match bug {
            true => receive_lines(&server, sent.len()).await,
            false => receive_lines_in_order(&server, sent.len()).await,
        }
    };
    let (_, received) = futures::join!(send_lines(&client, &sent), receiving);
    Ok(received? == sent)
}

#[test]
fn a_good_network_hides_the_bug() -> Result<()> {
    let sim = Sim::new(1);
    assert!(sim.run(arrives_intact(&sim, Link::dsl(), true))?);
    Ok(())
}

#[test]
fn a_bad_one_finds_it() {
    let mut found = Vec::new();
    each_seed(0..20, |sim| {
        let link = Link::dsl().loss(0.02);
        if !sim.run(arrives_intact(sim, link, true)).unwrap() {
            found.push(sim.seed());
        }
    });
    assert!(!found.is_empty(), "no seed finds the bug");
    // The same again, with what went over the wire.
    let sim = Sim::new(found[0]);
    sim.capture();
    let link = Link::dsl().loss(0.02);
    assert!(!sim.run(arrives_intact(&sim, link, true)).unwrap());
    assert!(sim.pcapng().len() > 10_000);
}

#[test]
fn without_the_bug_every_seed_passes() {
    each_seed(0..100, |sim| {
        let link = Link::dsl().loss(0.02);
        assert!(sim.run(arrives_intact(sim, link, false)).unwrap());
    });
}

#[test]
fn a_day_passes_in_no_time() -> Result<()> {
    let sim = Sim::new(1);
    let phone = sim.host_with("phone", Link::lte());
    sim.run(async {
        phone.access().cut();
        sim.sleep(Duration::from_secs(24 * 3600)).await;
        phone.access().mend();
    });
    assert_eq!(sim.elapsed().as_secs(), 24 * 3600);
    Ok(())
}

#[cfg(feature = "qlog")]
#[test]
fn events_are_logged_in_virtual_time() -> Result<()> {
    use polyquic::TransportConfig;

    let sim = Sim::new(1);
    sim.capture();
    let (server, client) = (sim.host("server"), sim.host("client"));
    let (server_config, mut client_config) = configs()?;
    let mut transport = TransportConfig::default();
    transport.qlog_stream(sim.qlog("client"));
    client_config.transport_config(Arc::new(transport));
    let _listening = Endpoint::server(&server, server_config, server.addr(443))?;
    let connecting = Endpoint::client(&client, client.addr(0))?;
    let attempt = connecting.connect_with(client_config, server.addr(443), "localhost")?;
    // Nobody accepts it.
    assert!(sim.run(attempt).is_err());
    let logs = sim.qlogs();
    assert_eq!(logs[0].0, "client");
    assert!(String::from_utf8_lossy(&logs[0].1).contains("packet_sent"));
    Ok(())
}
