//! Connections through what the network does: the promises of the conformance suite's group `udp`,
//! and what cannot be tried on real sockets.

use std::sync::Arc;
use std::time::Duration;

use polyquic_core::rustls::RootCertStore;
use polyquic_core::{
    ClientConfig, ConnectionError, EndpointConfig, ServerConfig, TransportConfig, VarInt,
};
use polyquic_endpoint::{Connection, Endpoint};
use polyquic_sim::{Host, Internet, Link, NatConfig, Queue, Sim, TooLarge, identity};
use polyquic_testkit::tools::{check_alive, check_transfer, pattern};

use super::millis;

pub(crate) fn configs(transport: impl Fn(&mut TransportConfig)) -> (ServerConfig, ClientConfig) {
    let made = || {
        let mut config = TransportConfig::default();
        transport(&mut config);
        Arc::new(config)
    };
    let (certificate, key) = identity();
    let mut server = ServerConfig::with_single_cert(vec![certificate.clone()], key).unwrap();
    server.transport_config(made());
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
    client.transport_config(made());
    (server, client)
}

/// A client and a server, connected.
pub(crate) struct Ends {
    pub(crate) client: Connection,
    pub(crate) server: Connection,
    pub(crate) endpoints: [Endpoint; 2],
}

pub(crate) async fn connect(
    client: &Host,
    server: &Host,
    transport: impl Fn(&mut TransportConfig),
) -> Ends {
    let (server_config, client_config) = configs(transport);
    let listening = Endpoint::server(server, server_config, server.addr(443)).unwrap();
    let mut connecting = Endpoint::client(client, "0.0.0.0:0".parse().unwrap()).unwrap();
    connecting.set_default_client_config(client_config);
    let (ours, theirs) = futures::join!(
        connecting.connect(server.addr(443), "localhost").unwrap(),
        async { listening.accept().await.unwrap().await }
    );
    Ends {
        client: ours.unwrap(),
        server: theirs.unwrap(),
        endpoints: [connecting, listening],
    }
}

#[test]
fn a_transfer_gets_what_the_link_has() {
    let sim = Sim::new(1);
    let server = sim.host_with("server", Link::dsl());
    let client = sim.host("client");
    sim.run(async {
        let ends = connect(&client, &server, |_| {}).await;
        let start = sim.elapsed();
        check_transfer(&ends.server, &ends.client, &pattern(1, 10_000_000)).await;
        let rate = 80.0 / (sim.elapsed() - start).as_secs_f64();
        assert!((40.0..50.0).contains(&rate), "{rate} of 50 Mbit/s");
    });
}

#[test]
fn an_hour_of_idle_connections_takes_little() {
    const CONNECTIONS: u64 = 100;
    let sim = Sim::new(1);
    let (client, server) = (sim.host("client"), sim.host("server"));
    let (server_config, mut client_config) = configs(|_| {});
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(20)));
    client_config.transport_config(Arc::new(transport));
    sim.run(async {
        let listening = Endpoint::server(&server, server_config, server.addr(443)).unwrap();
        let mut connecting = Endpoint::client(&client, client.addr(0)).unwrap();
        connecting.set_default_client_config(client_config);
        let mut ends = Vec::new();
        for _ in 0..CONNECTIONS {
            let ours = connecting.connect(server.addr(443), "localhost").unwrap();
            let accepting = async { listening.accept().await.unwrap().await };
            let (ours, theirs) = futures::join!(ours, accepting);
            ends.push((ours.unwrap(), theirs.unwrap()));
        }
        let (packets, polls) = (sim.packets(), sim.polls());
        sim.sleep(Duration::from_secs(3600)).await;
        // A ping and its acknowledgement every 20 s, at most; MTU is asked for anew every 10 min.
        let expected = CONNECTIONS * (3600 / 20 * 2 + 100);
        let (packets, polls) = (sim.packets() - packets, sim.polls() - polls);
        assert!(packets < expected, "{packets} packets");
        // Nobody runs but for a packet or a deadline.
        assert!(polls < packets * 4, "{polls} polls for {packets} packets");
        for (ours, theirs) in &ends {
            check_alive(ours, theirs).await;
        }
    });
}

#[test]
fn a_nat_rebinding_is_survived() {
    let sim = Sim::new(2);
    let nat = sim.nat("nat", NatConfig::default(), Link::new().delay(millis(5)));
    let client = sim.host_below("client", &nat, Link::new());
    let server = sim.host("server");
    sim.run(async {
        let ends = connect(&client, &server, |_| {}).await;
        let before = ends.server.remote_address();
        nat.rebind();
        check_transfer(&ends.client, &ends.server, &pattern(1, 200_000)).await;
        check_transfer(&ends.server, &ends.client, &pattern(2, 200_000)).await;
        assert_ne!(ends.server.remote_address(), before);
    });
}

#[test]
fn a_phone_leaves_its_wifi() {
    let sim = Sim::new(2);
    let phone = sim.host_with("phone", Link::wifi());
    let mobile = phone.add_interface(Internet, Link::lte());
    let server = sim.host("server");
    sim.run(async {
        let ends = connect(&phone, &server, |_| {}).await;
        check_alive(&ends.client, &ends.server).await;
        phone.access().cut();
        phone.prefer(&mobile);
        check_transfer(&ends.client, &ends.server, &pattern(1, 500_000)).await;
        assert_eq!(ends.server.remote_address().ip(), mobile.ip());
    });
}

#[test]
fn a_black_hole_is_found() {
    let sim = Sim::new(2);
    let server = sim.host_with("server", Link::new().delay(millis(5)));
    let client = sim.host("client");
    sim.run(async {
        let ends = connect(&client, &server, |_| {}).await;
        check_transfer(&ends.server, &ends.client, &pattern(1, 1_000_000)).await;
        assert!(ends.server.stats().path.current_mtu > 1400);
        let narrow = Link::new().delay(millis(5)).mtu(1280, TooLarge::Vanishes);
        server.access().set(narrow);
        check_transfer(&ends.server, &ends.client, &pattern(2, 1_000_000)).await;
        assert_eq!(ends.server.stats().path.current_mtu, 1200);
        assert!(ends.server.stats().path.black_holes_detected > 0);
    });
}

#[test]
fn a_partition_ends_by_the_idle_timeout() {
    let sim = Sim::new(2);
    let (client, server) = (sim.host("client"), sim.host("server"));
    sim.run(async {
        let ends = connect(&client, &server, |transport| {
            transport.max_idle_timeout(Some(Duration::from_secs(10).try_into().unwrap()));
        })
        .await;
        client.access().cut();
        let start = sim.elapsed();
        assert_eq!(ends.client.closed().await, ConnectionError::TimedOut);
        assert_eq!(ends.server.closed().await, ConnectionError::TimedOut);
        let took = sim.elapsed() - start;
        assert!(took < Duration::from_secs(11), "{took:?}");
    });
}

#[test]
fn a_server_that_crashed_resets_when_it_is_back() {
    let sim = Sim::new(2);
    let (client, server) = (sim.host("client"), sim.host("server"));
    let (server_config, client_config) = configs(|_| {});
    let start = || {
        // What a server keeps in a file.
        let mut config = EndpointConfig::default();
        config.seed([7; 32]);
        Endpoint::builder()
            .config(config)
            .server_config(server_config.clone())
            .bind(&server, server.addr(443))
            .unwrap()
    };
    sim.run(async {
        let first = start();
        let endpoint = Endpoint::client(&client, client.addr(0)).unwrap();
        let connecting = endpoint
            .connect_with(client_config, server.addr(443), "localhost")
            .unwrap();
        let accepting = async { first.accept().await.unwrap().await };
        let (ours, theirs) = futures::join!(connecting, accepting);
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        server.crash();
        assert!(matches!(
            theirs.closed().await,
            ConnectionError::TransportError(_)
        ));
        let _second = start();
        let mut stream = ours.open_uni().await.unwrap();
        stream.write_all(b"are you there?").await.unwrap();
        assert_eq!(ours.closed().await, ConnectionError::Reset);
    });
}

#[test]
fn a_suspended_client_goes_on() {
    let sim = Sim::new(2);
    let (client, server) = (sim.host("client"), sim.host("server"));
    sim.run(async {
        let ends = connect(&client, &server, |_| {}).await;
        client.pause();
        sim.sleep(Duration::from_secs(20)).await;
        client.resume();
        check_alive(&ends.client, &ends.server).await;
        // Longer than the idle timeout, it does not.
        client.pause();
        sim.sleep(Duration::from_secs(40)).await;
        client.resume();
        // What the server sent before it gave up may lie in the socket and keep the client's end
        // alive, until its answer finds nobody.
        let lost = ends.client.closed().await;
        assert!(
            matches!(lost, ConnectionError::TimedOut | ConnectionError::Reset),
            "{lost}"
        );
    });
}

#[test]
fn congestion_is_told_by_marks_alone() {
    let sim = Sim::new(2);
    let queue = Queue::codel(1_000_000, millis(5), millis(100)).with_ecn();
    let link = Link::new()
        .bandwidth(20_000_000)
        .delay(millis(10))
        .queue(queue);
    let server = sim.host_with("server", link);
    let client = sim.host("client");
    sim.run(async {
        let ends = connect(&client, &server, |_| {}).await;
        check_transfer(&ends.server, &ends.client, &pattern(1, 5_000_000)).await;
        let stats = ends.server.stats();
        assert!(stats.path.congestion_events > 0);
        assert_eq!(stats.path.lost_packets, 0);
        assert!(server.access().stats_up().marked > 0);
    });
}

/// What the window holds back must not hold back the close.
#[test]
fn a_close_gets_out_though_the_window_is_full() {
    let sim = Sim::new(2);
    let link = Link::new().bandwidth(1_000_000).delay(millis(100));
    let client = sim.host_with("client", link);
    let server = sim.host("server");
    sim.run(async {
        let ends = connect(&client, &server, |_| {}).await;
        let mut stream = ends.client.open_uni().await.unwrap();
        stream.write_all(&[0; 500_000]).await.unwrap();
        drop(stream);
        let mut more = ends.client.open_uni().await.unwrap();
        more.write_all(&[0; 500_000]).await.unwrap();
        ends.client.close(VarInt::from_u32(3), b"enough");
        let start = sim.elapsed();
        match ends.server.closed().await {
            ConnectionError::ApplicationClosed(close) => assert_eq!(close.error_code, 3u32.into()),
            other => panic!("{other}"),
        }
        assert!(sim.elapsed() - start < Duration::from_secs(3));
    });
}

#[test]
fn nothing_is_left_when_all_is_closed() {
    let sim = Sim::new(2);
    let (client, server) = (sim.host("client"), sim.host("server"));
    sim.run(async {
        let ends = connect(&client, &server, |_| {}).await;
        drop((ends.client, ends.server));
        let [ours, theirs] = ends.endpoints;
        ours.close(0u32.into(), b"");
        theirs.close(0u32.into(), b"");
        ours.wait_idle().await;
        theirs.wait_idle().await;
        drop((ours, theirs));
        sim.sleep(millis(1)).await;
    });
    assert_eq!(sim.tasks(), 0);
}
