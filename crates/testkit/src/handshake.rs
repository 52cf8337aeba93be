//! Who may connect to whom, and what they agree on.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::channel::oneshot;
use polyquic_core::crypto::rustls::HandshakeData;
use polyquic_core::rustls::pki_types::CertificateDer;
use polyquic_core::rustls::server::{ClientHello, ResolvesServerCert};
use polyquic_core::rustls::sign::CertifiedKey;
use polyquic_core::{
    Blame, ConnectError, ConnectionError, Side, TransportErrorCode, VarInt, blame,
};
use polyquic_endpoint::{Connection, Endpoint, Executor};

use crate::fixtures::{
    ALPN, Certificates, Ends, SERVER_NAME, Setup, client_config, client_tls, give_up_early, pair,
    server_config, server_tls, server_tls_with, transport,
};
use crate::tools::{check_alive, code};

/// TLS alerts (RFC 8446 section 6.2), as far as they are expected here.
mod alert {
    pub(super) const BAD_CERTIFICATE: u8 = 42;
    pub(super) const CERTIFICATE_EXPIRED: u8 = 45;
    pub(super) const UNKNOWN_CA: u8 = 48;
    pub(super) const ACCESS_DENIED: u8 = 49;
    pub(super) const CERTIFICATE_REQUIRED: u8 = 116;
    pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;
}

/// Connect, in vain; the client's error and the server's. Either may believe itself connected
/// until it hears from the other.
async fn fail(ends: &Ends) -> (ConnectionError, ConnectionError) {
    async fn error(result: Result<Connection, ConnectionError>) -> ConnectionError {
        match result {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    }
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    let accepting = async { ends.server.accept().await.unwrap().await };
    futures::join!(async { error(connecting.await).await }, async {
        error(accepting.await).await
    })
}

/// `found` found the other side wanting and raised `alert`; `told` heard of it.
#[track_caller]
fn check_alert(found: &ConnectionError, told: &ConnectionError, alert: u8) {
    let code = TransportErrorCode::crypto(alert);
    match found {
        ConnectionError::TransportError(error) => assert_eq!(error.code, code, "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(blame(found), Blame::Peer);
    match told {
        ConnectionError::ConnectionClosed(close) => assert_eq!(close.error_code, code, "{close}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(blame(told), Blame::PeerSaysUs);
}

/// A certificate of an authority that the client does not trust.
pub async fn an_untrusted_authority_is_refused<R: Executor>(rt: R) {
    let ends = Setup::with_identity(&Certificates::get().untrusted).start(&rt);
    let (client, server) = fail(&ends).await;
    check_alert(&client, &server, alert::UNKNOWN_CA);
    ends.finish().await;
}

/// A certificate for somebody else.
pub async fn a_certificate_for_another_name_is_refused<R: Executor>(rt: R) {
    let ends = Setup::with_identity(&Certificates::get().other_name).start(&rt);
    let (client, server) = fail(&ends).await;
    check_alert(&client, &server, alert::BAD_CERTIFICATE);
    ends.finish().await;
}

/// A certificate that is out of date.
pub async fn an_expired_certificate_is_refused<R: Executor>(rt: R) {
    let ends = Setup::with_identity(&Certificates::get().expired).start(&rt);
    let (client, server) = fail(&ends).await;
    check_alert(&client, &server, alert::CERTIFICATE_EXPIRED);
    ends.finish().await;
}

/// No protocol in common.
pub async fn an_alpn_mismatch_is_refused<R: Executor>(rt: R) {
    let mut tls = client_tls(None);
    tls.alpn_protocols = vec![b"something-else".into()];
    let ends = Setup::new()
        .with(|setup| setup.client = client_config(tls))
        .start(&rt);
    let (client, server) = fail(&ends).await;
    check_alert(&server, &client, alert::NO_APPLICATION_PROTOCOL);
    // The endpoint is none the worse for it.
    let mut ends = ends;
    ends.client
        .set_default_client_config(client_config(client_tls(None)));
    let (client, server) = ends.connect().await;
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// A client without the certificate that the server asks for.
pub async fn a_missing_client_certificate_is_refused<R: Executor>(rt: R) {
    let ends = Setup::new()
        .with(|setup| {
            setup.server = server_config(server_tls(&Certificates::get().server, true));
        })
        .start(&rt);
    let (client, server) = fail(&ends).await;
    check_alert(&server, &client, alert::CERTIFICATE_REQUIRED);
    ends.finish().await;
}

/// Each side can ask who the other one proved to be.
pub async fn both_sides_know_each_other<R: Executor>(rt: R) {
    fn identity(connection: &Connection) -> Option<Vec<CertificateDer<'static>>> {
        let identity = connection.peer_identity()?;
        Some(*identity.downcast().expect("rustls has certificates"))
    }
    let certificates = Certificates::get();
    let authenticated = Setup::new()
        .with(|setup| {
            setup.server = server_config(server_tls(&certificates.server, true));
            setup.client = client_config(client_tls(Some(&certificates.client)));
        })
        .connect(&rt)
        .await;
    assert_eq!(
        identity(&authenticated.server),
        Some(vec![certificates.client.certificate.clone()])
    );
    assert_eq!(
        identity(&authenticated.client),
        Some(vec![certificates.server.certificate.clone()])
    );
    authenticated.ends.finish().await;

    let anonymous = pair(&rt).await;
    assert_eq!(identity(&anonymous.server), None);
    anonymous.ends.finish().await;
}

fn told(data: Box<dyn std::any::Any>) -> (Option<Vec<u8>>, Option<String>) {
    let data: HandshakeData = *data.downcast().expect("that is what rustls tells");
    (data.protocol, data.server_name)
}

/// What was negotiated is known during the handshake and after it.
pub async fn negotiated_parameters_are_told<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let mut connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    assert_eq!(connecting.remote_address(), ends.addr);
    let mut accepting = ends.server.accept().await.unwrap().accept().unwrap();
    assert_eq!(
        accepting.remote_address(),
        ends.client.local_addr().unwrap()
    );
    let at_server = told(accepting.handshake_data().await.unwrap());
    let at_client = told(connecting.handshake_data().await.unwrap());
    assert_eq!(at_server, (Some(ALPN.into()), Some(SERVER_NAME.into())));
    assert_eq!(at_client.0.as_deref(), Some(ALPN));
    let (client, server) = futures::join!(connecting, accepting);
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(told(server.handshake_data().unwrap()), at_server);
    assert_eq!(
        told(client.handshake_data().unwrap()).0.as_deref(),
        Some(ALPN)
    );
    assert_eq!((client.side(), server.side()), (Side::Client, Side::Server));
    ends.finish().await;
}

/// Looks for certificates as it is told to, each time anew.
#[derive(Debug)]
struct Resolver {
    key: Arc<CertifiedKey>,
    /// Nothing left: the key at once.
    orders: Mutex<Receiver<Order>>,
}

#[derive(Debug)]
enum Order {
    /// Say that it has begun, and wait for the word to go on.
    Wait(oneshot::Sender<()>, Receiver<()>),
    FindNone,
    Panic,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let order = self
            .orders
            .lock()
            .expect("not held during a panic")
            .try_recv();
        match order.ok() {
            None => {}
            Some(Order::Wait(begun, go_on)) => {
                begun.send(()).expect("somebody is interested");
                // Nor is it an error if nobody will ever say so.
                let _ = go_on.recv();
            }
            Some(Order::FindNone) => return None,
            Some(Order::Panic) => panic!("this panic is part of a test"),
        }
        Some(self.key.clone())
    }
}

/// A server whose certificate look-ups are to be [ordered](Order), off the I/O path.
fn resolving() -> (Setup, Sender<Order>) {
    let (orders, receiver) = channel();
    let tls = server_tls_with(|key| {
        Arc::new(Resolver {
            key,
            orders: Mutex::new(receiver),
        })
    });
    let setup = Setup::new().with(|setup| {
        setup.server = server_config(tls);
        setup.server.offload_handshakes(true);
    });
    (setup, orders)
}

/// While the server looks for a certificate, its other connections go on; then the handshake does.
pub async fn slow_certificate_lookups_hold_up_nobody<R: Executor>(rt: R) {
    let (setup, orders) = resolving();
    let ends = setup.start(&rt);
    let (client, server) = ends.connect().await;

    let (begin, begun) = oneshot::channel();
    let (go_on, wait) = channel();
    orders.send(Order::Wait(begin, wait)).expect("it is there");
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    let mut accepting = ends.server.accept().await.unwrap().accept().unwrap();
    begun.await.expect("it was looked for");
    for _ in 0..50 {
        check_alive(&client, &server).await;
    }
    go_on.send(()).expect("it is waiting");
    let negotiated = told(accepting.handshake_data().await.unwrap());
    assert_eq!(negotiated, (Some(ALPN.into()), Some(SERVER_NAME.into())));
    let (slow_client, slow_server) = futures::join!(connecting, accepting);
    let (slow_client, slow_server) = (slow_client.unwrap(), slow_server.unwrap());
    assert_eq!(told(slow_server.handshake_data().unwrap()), negotiated);
    check_alive(&slow_client, &slow_server).await;
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// A server that finds no certificate says so, also from off the I/O path.
pub async fn a_missing_certificate_is_told<R: Executor>(rt: R) {
    let (setup, orders) = resolving();
    let ends = setup.start(&rt);
    orders.send(Order::FindNone).expect("it is there");
    let (client, server) = fail(&ends).await;
    check_alert(&server, &client, alert::ACCESS_DENIED);
    let (client, server) = ends.connect().await;
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// A look-up that panics off the I/O path costs one handshake.
pub async fn a_panicking_lookup_fails_one_handshake<R: Executor>(rt: R) {
    let (setup, orders) = resolving();
    let ends = setup.start(&rt);
    orders.send(Order::Panic).expect("it is there");
    let (client, server) = fail(&ends).await;
    for error in [client, server] {
        let code = match &error {
            ConnectionError::TransportError(error) => error.code,
            ConnectionError::ConnectionClosed(close) => close.error_code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code, TransportErrorCode::INTERNAL_ERROR, "{error}");
    }
    let (client, server) = ends.connect().await;
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// Who closes while the server looks for a certificate does not wait for it.
pub async fn closing_during_a_certificate_lookup<R: Executor>(rt: R) {
    for whole_endpoint in [false, true] {
        let (setup, orders) = resolving();
        let ends = setup.start(&rt);
        let (begin, begun) = oneshot::channel();
        let (go_on, wait) = channel();
        orders.send(Order::Wait(begin, wait)).expect("it is there");
        let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
        let accepting = ends.server.accept().await.unwrap().accept().unwrap();
        begun.await.expect("it was looked for");
        if whole_endpoint {
            ends.server.close(code(1), b"enough");
            let error = accepting.await.unwrap_err();
            assert_eq!(error, ConnectionError::LocallyClosed);
        } else {
            drop(accepting);
        }
        let error = connecting.await.unwrap_err();
        assert_eq!(
            refusal(&error),
            Some(TransportErrorCode::APPLICATION_ERROR),
            "{error}"
        );
        ends.server.wait_idle().await;
        drop(go_on);
        if !whole_endpoint {
            let (client, server) = ends.connect().await;
            check_alive(&client, &server).await;
        }
        ends.finish().await;
    }
}

/// Exported keying material is the same on both sides, and depends on label and context.
pub async fn exporters_agree<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    let export = |connection: &Connection, label: &[u8], context: &[u8]| {
        let mut secret = [0; 64];
        connection
            .export_keying_material(&mut secret, label, context)
            .expect("a reasonable length");
        secret
    };
    let secret = export(&pair.client, b"label", b"context");
    assert_eq!(secret, export(&pair.server, b"label", b"context"));
    assert_ne!(secret, export(&pair.server, b"other", b"context"));
    assert_ne!(secret, export(&pair.server, b"label", b"other"));
    assert_ne!(secret, [0; 64]);
    let mut absurd = vec![0; 1 << 20];
    let refused = pair
        .client
        .export_keying_material(&mut absurd, b"label", b"");
    assert!(refused.is_err());
    pair.ends.finish().await;
}

/// Bad parameters are reported at once, each as what it is.
pub async fn bad_parameters_are_named<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let connect = |addr, name| ends.client.connect(addr, name).err();
    assert_eq!(
        connect(ends.addr, "not a name"),
        Some(ConnectError::InvalidServerName("not a name".into()))
    );
    let port_0 = SocketAddr::new(ends.addr.ip(), 0);
    assert_eq!(
        connect(port_0, SERVER_NAME),
        Some(ConnectError::InvalidRemoteAddress(port_0))
    );
    let ipv6: SocketAddr = "[::1]:4433".parse().unwrap();
    assert_eq!(
        connect(ipv6, SERVER_NAME),
        Some(ConnectError::InvalidRemoteAddress(ipv6))
    );
    assert_eq!(
        ends.server.connect(ends.addr, SERVER_NAME).err(),
        Some(ConnectError::NoDefaultClientConfig)
    );
    assert_eq!(ends.client.open_connections(), 0);
    let taken = Endpoint::client(&rt, ends.addr).err();
    assert_eq!(
        taken.map(|error| error.kind()),
        Some(std::io::ErrorKind::AddrInUse)
    );
    ends.finish().await;
}

/// The code of a refusal, or nothing.
fn refusal(error: &ConnectionError) -> Option<TransportErrorCode> {
    match error {
        ConnectionError::ConnectionClosed(close) => Some(close.error_code),
        _ => None,
    }
}

/// A server can refuse, by dropping as well, and the client is told.
pub async fn a_refusal_is_told<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    for explicitly in [true, false] {
        let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
        let refusing = async {
            let incoming = ends.server.accept().await.unwrap();
            assert_eq!(incoming.remote_address(), ends.client.local_addr().unwrap());
            if explicitly {
                incoming.refuse();
            } else {
                drop(incoming);
            }
        };
        let (result, ()) = futures::join!(connecting, refusing);
        assert_eq!(
            refusal(&result.unwrap_err()),
            Some(TransportErrorCode::CONNECTION_REFUSED)
        );
    }
    assert_eq!(ends.server.stats().refused_handshakes, 2);
    ends.finish().await;
}

/// An endpoint that is no server any more keeps its connections, and answers nobody else.
pub async fn an_endpoint_can_stop_being_a_server<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let (client, server) = ends.connect().await;
    ends.server.set_server_config(None);
    let Setup {
        client: mut config, ..
    } = Setup::new();
    config.transport_config(transport(give_up_early));
    let attempt = ends
        .client
        .connect_with(config, ends.addr, SERVER_NAME)
        .unwrap();
    assert_eq!(attempt.await.err(), Some(ConnectionError::TimedOut));
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// An attempt that is ignored times out.
pub async fn an_ignored_attempt_times_out<R: Executor>(rt: R) {
    let ends = Setup::new().client_transport(give_up_early).start(&rt);
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    let ignoring = async {
        let incoming = ends.server.accept().await.unwrap();
        incoming.ignore();
    };
    let (result, ()) = futures::join!(connecting, ignoring);
    let error = result.unwrap_err();
    assert_eq!(error, ConnectionError::TimedOut);
    assert_eq!(blame(&error), Blame::Network);
    assert!(ends.server.stats().ignored_handshakes >= 1);
    ends.finish().await;
}

/// A connection can be accepted with a configuration of its own.
pub async fn accepting_with_another_configuration<R: Executor>(rt: R) {
    let ends = Setup::with_identity(&Certificates::get().untrusted).start(&rt);
    let ours = Arc::new(server_config(server_tls(
        &Certificates::get().server,
        false,
    )));
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    let accepting = async {
        let incoming = ends.server.accept().await.unwrap();
        incoming.accept_with(ours.clone()).unwrap().await
    };
    let (client, server) = futures::join!(connecting, accepting);
    check_alive(&client.unwrap(), &server.unwrap()).await;

    // The default one can be replaced.
    ends.server.set_server_config(Some((*ours).clone()));
    let (client, server) = ends.connect().await;
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// Retry on every attempt: a second one is refused to the application, not to the peer.
pub async fn every_client_can_be_made_to_retry<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    for round in 1..=3 {
        let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
        let accepting = async {
            let first = ends.server.accept().await.unwrap();
            assert!(first.may_retry());
            assert!(!first.remote_address_validated() || round > 1);
            first.retry().unwrap();
            let second = ends.server.accept().await.unwrap();
            assert!(second.remote_address_validated());
            assert!(!second.may_retry());
            let error = second.retry().unwrap_err();
            error.into_incoming().await
        };
        let (client, server) = futures::join!(connecting, accepting);
        check_alive(&client.unwrap(), &server.unwrap()).await;
        assert_eq!(ends.server.stats().retried_handshakes, round);
    }
    ends.finish().await;
}

/// A token from an earlier connection proves the client's address, and spares it the Retry.
pub async fn a_token_spares_the_retry<R: Executor>(rt: R) {
    let ends = Setup::new()
        .with(|setup| {
            let mut tokens = polyquic_core::ValidationTokenConfig::default();
            tokens
                .sent(2)
                .log(Arc::new(polyquic_core::BloomTokenLog::default()));
            setup.server.validation_token_config(tokens);
        })
        .start(&rt);
    let connect = || async {
        let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
        let accepting = async {
            let incoming = ends.server.accept().await.unwrap();
            let validated = incoming.remote_address_validated();
            (validated, incoming.await.unwrap())
        };
        let (client, (validated, server)) = futures::join!(connecting, accepting);
        let client = client.unwrap();
        // The tokens travel with this.
        while client.stats().frame_rx.new_token == 0 {
            check_alive(&client, &server).await;
        }
        validated
    };
    assert!(!connect().await, "nothing is known of a new client");
    assert!(connect().await, "the token was not used, or not accepted");
    ends.finish().await;
}

/// Counters and estimates have to do with what happened.
pub async fn statistics_are_plausible<R: Executor>(rt: R) {
    let pair = pair(&rt).await;
    check_alive(&pair.client, &pair.server).await;
    let stats = pair.client.stats();
    assert!(stats.udp_tx.datagrams >= 2 && stats.udp_rx.datagrams >= 2);
    assert!(stats.udp_tx.bytes >= 1200, "the Initial alone is as large");
    assert!(stats.frame_tx.stream >= 1 && stats.frame_rx.stream >= 1);
    assert!(stats.frame_tx.crypto >= 1);
    assert!(pair.server.stats().frame_tx.handshake_done >= 1);
    assert!(stats.path.cwnd > 0 && stats.path.current_mtu >= 1200);
    assert!(pair.client.rtt() > Duration::ZERO);
    assert!(pair.client.rtt() < Duration::from_secs(30));
    assert!(pair.client.min_rtt() <= Duration::from_secs(30));
    assert!(pair.client.congestion_state().window() > 0);
    assert_eq!(pair.client.remote_address(), pair.ends.addr);
    assert_eq!(
        pair.server.remote_address(),
        pair.ends.client.local_addr().unwrap()
    );
    assert_eq!(pair.client.stable_id(), pair.client.clone().stable_id());
    assert_ne!(pair.client.stable_id(), pair.server.stable_id());
    let (client, server) = (pair.ends.client.stats(), pair.ends.server.stats());
    assert_eq!(client.outgoing_handshakes, 1);
    assert_eq!(server.accepted_handshakes, 1);
    assert!(server.datagrams_received >= 2);
    assert_eq!(client.rebind_failures + server.rebind_failures, 0);
    assert_eq!(pair.ends.client.open_connections(), 1);
    pair.client.set_send_window(1 << 20);
    pair.client.set_receive_window(VarInt::from_u32(1 << 20));
    check_alive(&pair.client, &pair.server).await;
    pair.client.close(code(0), b"");
    pair.ends.finish().await;
}
