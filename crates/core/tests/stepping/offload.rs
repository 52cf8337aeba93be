//! Handshakes whose TLS is done elsewhere, and takes its time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polyquic_core::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use polyquic_core::rustls::crypto::SupportedKxGroup;
use polyquic_core::rustls::pki_types::PrivateKeyDer;
use polyquic_core::rustls::server::{ClientHello, ResolvesServerCert};
use polyquic_core::rustls::sign::CertifiedKey;
use polyquic_core::rustls::{self, NamedGroup, RootCertStore};
use polyquic_core::{
    ClientConfig, ConnectionError, Dir, IdleTimeout, ServerConfig, TransportErrorCode, VarInt,
    crypto_provider,
};

use crate::fixtures::{for_seeds, identity, noise};
use crate::link::Network;
use crate::pair::{Pair, Setup, assert_received, is_finished, lost, send};
use crate::peer::{Admission, Sent};

/// Least, little, more than a round trip, and more than a client waits before it tries again.
const DELAYS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(5),
    Duration::from_millis(300),
    Duration::from_secs(3),
];

const LATENCY: Duration = Duration::from_millis(10);

fn offloading(seed: u64) -> Setup {
    Setup {
        server: Box::new(|config| {
            config.offload_handshakes(true);
        }),
        ..Setup::new(seed)
    }
}

/// With another TLS on the server than what `with_single_cert` makes.
fn with_tls(seed: u64, tls: fn() -> rustls::ServerConfig) -> Pair {
    Setup {
        server: Box::new(move |config| {
            config.crypto = Arc::new(QuicServerConfig::try_from(tls()).unwrap());
            config.offload_handshakes(true);
        }),
        ..Setup::new(seed)
    }
    .build()
}

/// A client whose key exchange is one of these, the first of which it offers at once.
fn client_with(groups: &[&'static dyn SupportedKxGroup]) -> ClientConfig {
    let mut provider = rustls::crypto::CryptoProvider::clone(&crypto_provider());
    provider.kx_groups = groups.to_vec();
    let mut roots = RootCertStore::empty();
    roots.add(identity().0).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.enable_early_data = true;
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

fn group(name: NamedGroup) -> &'static dyn SupportedKxGroup {
    let provider = crypto_provider();
    let mut groups = provider.kx_groups.iter();
    *groups.find(|group| group.name() == name).unwrap()
}

/// A client whose hello fits into one datagram.
fn small_client() -> ClientConfig {
    client_with(&[group(NamedGroup::X25519)])
}

fn code_seen_by_client(pair: &Pair) -> Option<TransportErrorCode> {
    match lost(pair.client_app()) {
        Some(ConnectionError::ConnectionClosed(close)) => Some(close.error_code),
        _ => None,
    }
}

#[test]
fn the_handshake_takes_as_much_longer_as_tls_does() {
    for delay in DELAYS {
        for small in [false, true] {
            let mut pair = offloading(1).build();
            if small {
                pair.client_config = small_client();
            }
            pair.server.tls_takes = delay;
            let (client, server) = pair.handshake();
            assert_eq!(
                pair.client.conns[client].app.connected,
                Some(pair.now - LATENCY),
            );
            assert_eq!(pair.elapsed(), 3 * LATENCY + delay, "small: {small}");
            assert_eq!(pair.server.conns[server].app.data_ready, 1);
            pair.transfer(&noise(1, 50_000).into(), &noise(2, 50_000).into());
            pair.close(0, "");
            pair.run_until_drained();
        }
    }
}

/// Counters leave out what only the machine was given.
#[test]
fn statistics_are_those_of_a_handshake_in_place() {
    let count = |setup: Setup| {
        let mut pair = setup.build();
        pair.handshake();
        let stats = pair.server.conns[0].machine.stats();
        (stats.udp_rx.datagrams, stats.udp_rx.bytes)
    };
    assert_eq!(count(offloading(1)), count(Setup::new(1)));
}

#[test]
fn bad_networks_are_survived() {
    for_seeds(60, |seed| {
        let mut pair = offloading(seed).build();
        pair.server.tls_takes = DELAYS[seed as usize % 3];
        let rough = Network {
            loss: 0.1,
            duplicate: 0.3,
            corrupt: 0.05,
            jitter: Duration::from_millis(15),
            ..Network::default()
        };
        pair.up.network = rough.clone();
        pair.down.network = rough;
        pair.handshake();
        pair.transfer(&noise(seed, 20_000).into(), &noise(seed, 20_000).into());
    });
}

/// Each datagram of the handshake is lost once, one in each run.
#[test]
fn any_datagram_may_be_lost() {
    for nth in 0..4 {
        for up in [true, false] {
            let mut pair = offloading(nth).build();
            pair.server.tls_takes = Duration::from_millis(5);
            let link = if up { &mut pair.up } else { &mut pair.down };
            link.lose_nth = Some(nth);
            pair.handshake();
            pair.transfer(&noise(1, 5_000).into(), &noise(2, 5_000).into());
        }
    }
}

/// The network delivers the client's first packet twice: the second one must not take the place of
/// the packet that has the handshake go on.
#[test]
fn duplicates_cost_no_time() {
    let mut pair = offloading(1).build();
    pair.up.network.duplicate = 1.0;
    pair.server.tls_takes = Duration::from_millis(5);
    pair.handshake();
    assert_eq!(pair.elapsed(), 3 * LATENCY + Duration::from_millis(5));
}

#[test]
fn retry_works() {
    let mut pair = offloading(1).build();
    pair.server.admission = Admission::Retry;
    pair.server.tls_takes = Duration::from_millis(5);
    pair.handshake();
    assert_eq!(pair.elapsed(), 5 * LATENCY + Duration::from_millis(5));
    pair.transfer(&noise(1, 50_000).into(), &noise(2, 50_000).into());
}

/// The server wants another key exchange than the client offered.
#[test]
fn a_repeated_hello_works() {
    let mut pair = with_tls(1, || {
        let mut provider = rustls::crypto::CryptoProvider::clone(&crypto_provider());
        provider.kx_groups = vec![group(NamedGroup::secp256r1)];
        server_tls(provider)
    });
    pair.client_config = client_with(&[group(NamedGroup::X25519), group(NamedGroup::secp256r1)]);
    pair.server.tls_takes = Duration::from_millis(5);
    pair.handshake();
    assert_eq!(pair.elapsed(), 5 * LATENCY + Duration::from_millis(5));
    pair.transfer(&noise(1, 5_000).into(), &noise(2, 5_000).into());
}

fn server_tls(provider: rustls::crypto::CryptoProvider) -> rustls::ServerConfig {
    let (cert, key) = identity();
    rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], PrivateKeyDer::from(key))
        .unwrap()
}

fn resolved_by(resolver: impl ResolvesServerCert + 'static) -> rustls::ServerConfig {
    rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver))
}

#[derive(Debug)]
struct HasNone;

impl ResolvesServerCert for HasNone {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// The same alert, as soon, as when TLS is done in place.
#[test]
fn errors_of_tls_reach_the_client() {
    for small in [false, true] {
        let mut codes = Vec::new();
        for offload in [false, true] {
            let mut pair = Setup {
                server: Box::new(move |config| {
                    let tls = resolved_by(HasNone);
                    config.crypto = Arc::new(QuicServerConfig::try_from(tls).unwrap());
                    config.offload_handshakes(offload);
                }),
                ..Setup::new(1)
            }
            .build();
            if small {
                pair.client_config = small_client();
            }
            pair.connect();
            pair.run_until("the alert", |pair| lost(pair.client_app()).is_some());
            assert_eq!(pair.elapsed(), 2 * LATENCY);
            codes.push(code_seen_by_client(&pair).unwrap());
            if offload {
                let Some(ConnectionError::TransportError(error)) = lost(pair.server_app()) else {
                    panic!("{:?}", pair.server_app().lost);
                };
                assert_eq!(error.code, codes[0]);
            }
            pair.run_until_drained();
        }
        assert_eq!(codes, [TransportErrorCode::crypto(49); 2], "access_denied");
    }
}

#[derive(Debug)]
struct Panics;

impl ResolvesServerCert for Panics {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        panic!("part of the test")
    }
}

#[test]
fn a_panic_ends_one_handshake() {
    let mut pair = with_tls(1, || resolved_by(Panics));
    pair.connect();
    pair.run_until("the end", |pair| lost(pair.client_app()).is_some());
    assert_eq!(
        code_seen_by_client(&pair),
        Some(TransportErrorCode::INTERNAL_ERROR)
    );
    pair.run_until_drained();
}

#[test]
fn a_job_that_is_never_run_ends_its_handshake() {
    let mut pair = offloading(1).build();
    pair.server.drop_jobs = true;
    pair.connect();
    pair.run_until("the end", |pair| lost(pair.client_app()).is_some());
    assert_eq!(
        code_seen_by_client(&pair),
        Some(TransportErrorCode::INTERNAL_ERROR)
    );
    pair.run_until_drained();
}

#[test]
fn either_side_may_close_meanwhile() {
    for by_client in [true, false] {
        let mut pair = offloading(1).build();
        pair.server.tls_takes = Duration::from_secs(1);
        pair.connect();
        pair.run_for(Duration::from_millis(100));
        if by_client {
            pair.close(7, "bored");
        } else {
            let now = pair.now;
            let machine = &mut pair.server_conn().machine;
            machine.close(now, VarInt::from_u32(7), Bytes::new());
            pair.run_until("the close", |pair| lost(pair.client_app()).is_some());
            assert_eq!(pair.elapsed(), Duration::from_millis(110));
        }
        pair.run_until_drained();
        pair.run_until("the job", |pair| pair.server.jobs.is_empty());
        pair.run_for(Duration::from_secs(5));
        assert!(pair.server_app().connected.is_none());
    }
}

#[test]
fn a_connection_may_time_out_meanwhile() {
    let mut setup = offloading(1);
    let second = IdleTimeout::try_from(Duration::from_secs(1)).unwrap();
    setup.server_transport.max_idle_timeout(Some(second));
    let mut pair = setup.build();
    pair.server.tls_takes = Duration::from_secs(5);
    pair.connect();
    pair.run_until("the timeout", |pair| {
        (pair.server.conns.first()).is_some_and(|conn| conn.drained)
    });
    assert_eq!(lost(pair.server_app()), Some(&ConnectionError::TimedOut));
    pair.run_until("the job", |pair| pair.server.jobs.is_empty());
    assert_eq!(pair.server.core.open_connections(), 0);
}

/// Early data is there with the answer of TLS, although its keys were not there when it came.
#[test]
fn early_data_waits_for_tls() {
    for (small, bytes) in [(true, 100), (true, 2_000), (false, 100), (false, 5_000)] {
        let mut pair = offloading(1).build();
        if small {
            pair.client_config = small_client();
        }
        pair.handshake();
        pair.run_for(Duration::from_millis(500));
        pair.close(0, "");
        pair.run_until_drained();
        let start = pair.now;
        let delay = Duration::from_millis(50);
        pair.server.tls_takes = delay;
        let data = Bytes::from(noise(1, bytes));
        let client = pair.connect();
        let conn = pair.client.touch(client);
        assert!(conn.machine.has_0rtt());
        let stream = send(conn, Dir::Bi, &data);
        pair.run_until("the data", |pair| {
            (pair.server.conns.get(1)).is_some_and(|conn| is_finished(&conn.app, stream))
        });
        assert_eq!(pair.now - start, LATENCY + delay, "{bytes}, small: {small}");
        assert!(pair.server.conns[1].machine.is_handshaking());
        assert_received(&pair.server.conns[1].app, stream, &data);
        pair.run_until("the handshake", |pair| {
            pair.client.conns[client].app.connected.is_some()
        });
        assert!(pair.client.conns[client].machine.accepted_0rtt());
    }
}

/// What a server sends to an address that may be forged is not one byte more than if TLS was done
/// in place, though the machine was given a packet twice.
#[test]
fn addresses_are_not_flooded() {
    let sent = |offload: bool, small: bool| {
        let mut pair = Setup {
            server: Box::new(move |config| {
                let (cert, key) = identity();
                // Far more than may be sent.
                let chain = vec![cert; 100];
                *config = ServerConfig::with_single_cert(chain, key.into()).unwrap();
                config.offload_handshakes(offload);
            }),
            ..Setup::new(1)
        }
        .build();
        if small {
            pair.client_config = small_client();
        }
        pair.down.cut = true;
        let start = pair.now;
        pair.connect();
        pair.run_for(Duration::from_millis(1));
        pair.up.cut = true;
        pair.run_for(Duration::from_secs(60));
        let bytes = |sent: &[Sent]| sent.iter().map(|sent| sent.bytes).sum::<usize>();
        // What came before the cable was cut.
        let arrived: Vec<_> = (pair.client.sent.iter())
            .filter(|sent| sent.at == start)
            .copied()
            .collect();
        (bytes(&pair.server.sent), bytes(&arrived))
    };
    for small in [true, false] {
        let (inline, _) = sent(false, small);
        let (offloaded, received) = sent(true, small);
        assert_eq!(inline, offloaded, "small: {small}");
        assert!(offloaded >= 2 * received, "{offloaded} is no flood");
        assert!(offloaded < 3 * received + 1_200, "{offloaded}");
    }
}
