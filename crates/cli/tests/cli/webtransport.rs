//! The relay's WebTransport, from a client that knows what goes over the wire.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::Either;
use polyquic::crypto::rustls::QuicClientConfig;
use polyquic::rustls::{self, RootCertStore, pki_types::CertificateDer};
use polyquic::smol::SmolRuntime;
use polyquic::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig,
    timeout,
};
use web_transport_proto::http::{HeaderValue, header::ORIGIN};
use web_transport_proto::{
    Capsule, ConnectRequest, ConnectResponse, Frame, Settings, StreamUni, VarInt,
};

use crate::harness::{EXECUTORS, LIMIT, Server, number, program, run};
use crate::tunnel::{echo, silent};

/// RFC 9114 section 8.1: the relay wants nothing to do with the request.
pub(crate) const H3_REQUEST_REJECTED: u64 = 0x10b;

/// What the loopback interface carries: two headers and a datagram of 1200 bytes in any case.
const CLIENT_PACKET_BYTES: u16 = 1452;

/// When to try once more what may have been lost.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Runs a client, with a limit on all of it.
#[track_caller]
fn with_client<F: Future<Output = ()> + Send + 'static>(
    client: impl FnOnce(SmolRuntime) -> F + Send + 'static,
) {
    polyquic::smol::run(1, |rt| async move {
        let done = timeout(&rt, LIMIT, client(rt.clone())).await;
        done.expect("nothing here takes that long");
    })
    .unwrap();
}

/// A relay with WebTransport.
pub(crate) struct Relay {
    pub(crate) server: Server,
    pub(crate) door: Door,
    _directory: tempfile::TempDir,
}

/// What a client needs to know of it.
#[derive(Clone)]
pub(crate) struct Door {
    address: SocketAddr,
    certificate: CertificateDer<'static>,
}

pub(crate) fn relay(more: &[&str]) -> Relay {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let [cert, key] = ["relay.pem", "relay.key"].map(|name| directory.path().join(name));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let [cert, key] = [&cert, &key].map(|path| path.to_str().unwrap());
    let mut args = vec![
        "relay",
        "--listen",
        "127.0.0.1:0",
        "--cert",
        cert,
        "--key",
        key,
    ];
    args.extend(["--webtransport", "127.0.0.1:0"]);
    args.extend(more);
    let mut server = Server::start(program(&args));
    let line = server.process.line();
    let address = line.strip_prefix("listening on ").unwrap();
    let (address, rest) = address.split_once(' ').unwrap();
    assert!(rest.contains("WebTransport"), "{line}");
    Relay {
        server,
        door: Door {
            address: address.parse().unwrap(),
            certificate: made.cert.der().clone(),
        },
        _directory: directory,
    }
}

/// A connection to the relay, on which HTTP/3 has begun.
pub(crate) struct Client {
    endpoint: Endpoint,
    pub(crate) connection: Connection,
    /// Open as long as the connection.
    _control: SendStream,
}

impl Client {
    pub(crate) async fn connect(rt: &SmolRuntime, door: &Door) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(door.certificate.clone()).unwrap();
        let mut tls = rustls::ClientConfig::builder_with_provider(polyquic::crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let config = QuicClientConfig::try_from(tls).unwrap();
        let mut endpoint = Endpoint::client(rt, "127.0.0.1:0".parse().unwrap()).unwrap();
        let mut config = ClientConfig::new(Arc::new(config));
        let mut transport = TransportConfig::default();
        transport.initial_mtu(CLIENT_PACKET_BYTES);
        config.transport_config(Arc::new(transport));
        endpoint.set_default_client_config(config);
        let connecting = endpoint.connect(door.address, "localhost").unwrap();
        let connection = connecting.await.unwrap();
        let mut settings = Settings::default();
        settings.enable_webtransport(1);
        let mut bytes = BytesMut::new();
        settings.encode(&mut bytes);
        let mut control = connection.open_uni().await.unwrap();
        control.write_all(&bytes).await.unwrap();
        let mut theirs = connection.accept_uni().await.unwrap();
        let mut answer = vec![0; 200];
        let count = theirs.read(&mut answer).await.unwrap().unwrap();
        let settings = Settings::decode(&mut &answer[..count]).unwrap();
        assert!(settings.supports_webtransport() > 0);
        // As a client does, which has to see whatever else comes on it.
        std::mem::forget(theirs);
        Self {
            endpoint,
            connection,
            _control: control,
        }
    }

    /// Asks for a session at `path`.
    pub(crate) async fn ask(&self, path: &str, origin: Option<&str>) -> (SendStream, RecvStream) {
        let url = format!("https://localhost{path}");
        let mut request = ConnectRequest::new(url.parse::<url::Url>().unwrap());
        if let Some(origin) = origin {
            let origin = HeaderValue::from_str(origin).unwrap();
            request = request.with_header(ORIGIN, origin);
        }
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes).unwrap();
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        (send, recv)
    }

    /// The next message: each has a stream of its own.
    pub(crate) async fn message(&self) -> serde_json::Value {
        let mut stream = self.connection.accept_uni().await.unwrap();
        let bytes = stream.read_to_end(4096).await.unwrap();
        let mut bytes = Bytes::from(bytes);
        assert_eq!(
            StreamUni::decode(&mut bytes).unwrap(),
            StreamUni::WEBTRANSPORT
        );
        assert_eq!(
            VarInt::decode(&mut bytes).unwrap().into_inner(),
            0,
            "session"
        );
        serde_json::from_slice(&bytes).unwrap()
    }

    pub(crate) fn send(&self, datagram: &[u8]) {
        let datagram = [&[0], datagram].concat();
        self.connection.send_datagram(datagram.into()).unwrap();
    }

    /// Sends a datagram until an equal one comes back, for any may be lost, and the relay has to find out
    /// that larger packets pass before it sends one that is as large. How often it was sent.
    async fn echoed(&self, rt: &SmolRuntime, datagram: &[u8]) -> u64 {
        for sent in 1.. {
            self.send(datagram);
            let back = async { while self.receive().await != datagram {} };
            if timeout(rt, RETRY_INTERVAL, back).await.is_ok() {
                return sent;
            }
        }
        unreachable!("not as many as that")
    }

    pub(crate) async fn receive(&self) -> Bytes {
        let mut datagram = self.connection.read_datagram().await.unwrap();
        assert_eq!(
            VarInt::decode(&mut datagram).unwrap().into_inner(),
            0,
            "session"
        );
        datagram
    }

    pub(crate) async fn leave(self) {
        self.endpoint.close(0x100u32.into(), b"");
        self.endpoint.wait_idle().await;
    }
}

/// What the relay has to say on the request's stream, until it ends it: a response, and a capsule.
async fn words(mut recv: RecvStream) -> (u32, serde_json::Value) {
    let mut bytes = Bytes::from(recv.read_to_end(16 << 10).await.unwrap());
    ConnectResponse::decode(&mut bytes).unwrap();
    let (frame, mut body) = Frame::read(&mut bytes).unwrap();
    assert_eq!(frame, Frame::DATA);
    match Capsule::decode(&mut body).unwrap() {
        Capsule::CloseWebTransportSession { code, reason } => {
            (code, serde_json::from_str(&reason).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn datagrams_of_quic_size_go_both_ways_and_are_counted_on_every_executor() {
    for &executor in EXECUTORS {
        let target = echo();
        let mut relay = relay(&["--allow", &target, "--executor", executor]);
        let door = relay.door.clone();
        let (tell, told) = std::sync::mpsc::channel();
        with_client(|rt| async move {
            let client = Client::connect(&rt, &door).await;
            let (_send, _recv) = client.ask(&format!("/udp?target={target}"), None).await;
            assert_eq!(client.message().await["target"], target.as_str());
            let mut sent = client.echoed(&rt, &[7; 1200]).await;
            sent += client.echoed(&rt, &[8; 20]).await;
            // One of a session that does not exist is nobody's.
            let stray = vec![1, 9, 9].into();
            client.connection.send_datagram(stray).unwrap();
            sent += client.echoed(&rt, b"after").await;
            tell.send(sent).unwrap();
            client.leave().await;
        });
        let sent: u64 = told.recv().unwrap();
        let line = relay.server.process.line();
        let (up, down) = (
            number(&line, "datagrams, "),
            number(line.split("down").nth(1).unwrap(), "datagrams, "),
        );
        assert!((3..=sent).contains(&up), "{executor}, {sent}: {line}");
        assert!((3..=up).contains(&down), "{executor}, {sent}: {line}");
        assert!(line.ends_with("the client closed"), "{executor}: {line}");
    }
}

/// Has `target`, once it knows who asks, do `first`, and then send over and over, until the guard is dropped.
fn on_and_on(
    target: UdpSocket,
    first: impl FnOnce(&UdpSocket, SocketAddr) + Send + 'static,
) -> impl Drop {
    struct Stop(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
            if let Some(sending) = self.1.take() {
                let ended = sending.join();
                assert!(ended.is_ok() || std::thread::panicking());
            }
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let sending = std::thread::spawn(move || {
        let (_, back) = target.recv_from(&mut [0; 10]).unwrap();
        first(&target, back);
        while !stopped.load(Ordering::Relaxed) {
            let _ = target.send_to(b"on and on", back);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    Stop(stop, Some(sending))
}

#[test]
fn what_is_too_large_for_the_client_is_not_counted_as_carried() {
    let (target, address) = silent();
    let mut relay = relay(&["--allow", &address]);
    let door = relay.door.clone();
    let sending = on_and_on(target, |target, back| {
        for _ in 0..5 {
            // More than any packet here.
            target.send_to(&[1; 9000], back).unwrap();
        }
    });
    with_client(|rt| async move {
        let client = Client::connect(&rt, &door).await;
        let (_send, _recv) = client.ask(&format!("/udp?target={address}"), None).await;
        client.message().await;
        loop {
            client.send(b"start");
            if let Ok(datagram) = timeout(&rt, RETRY_INTERVAL, client.receive()).await {
                assert_eq!(datagram, &b"on and on"[..]);
                break;
            }
        }
        client.leave().await;
    });
    let line = relay.server.process.line();
    drop(sending);
    assert_eq!(number(&line, "unsendable"), 5, "{line}");
    let (_, down) = line.split_once("down").unwrap();
    let (carried, bytes) = (number(down, "datagrams, "), number(down, "bytes; dropped"));
    assert_eq!(bytes, carried * 9, "{line}");
}

/// Carries datagrams between a client and `to` until it is told to lose them all.
fn wire(to: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = near.local_addr().unwrap();
    let cut = Arc::new(AtomicBool::new(false));
    far.connect(to).unwrap();
    let is_cut = cut.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        // The first to come is the client.
        let (_, client) = near.peek_from(&mut buffer).unwrap();
        near.connect(client).unwrap();
        let (near, far) = (Arc::new(near), Arc::new(far));
        let carry = |from: Arc<UdpSocket>, to: Arc<UdpSocket>, is_cut: Arc<AtomicBool>| {
            move || {
                let mut buffer = vec![0; 65536];
                while let Ok(length) = from.recv(&mut buffer) {
                    if !is_cut.load(Ordering::Relaxed) {
                        let _ = to.send(&buffer[..length]);
                    }
                }
            }
        };
        std::thread::spawn(carry(far.clone(), near.clone(), is_cut.clone()));
        carry(near, far, is_cut)();
    });
    (at, cut)
}

#[test]
fn a_client_that_vanishes_is_given_up_and_called_gone_on_every_executor() {
    for &executor in EXECUTORS {
        let (target, address) = silent();
        let args = ["--allow", &address, "--idle", "2", "--executor", executor];
        let mut relay = relay(&args);
        let (at, cut) = wire(relay.door.address);
        let door = Door {
            address: at,
            certificate: relay.door.certificate.clone(),
        };
        // So that it is not for want of datagrams.
        let sending = on_and_on(target, |_, _| {});
        with_client(|rt| async move {
            let client = Client::connect(&rt, &door).await;
            let (_send, _recv) = client.ask(&format!("/udp?target={address}"), None).await;
            client.message().await;
            while timeout(&rt, RETRY_INTERVAL, client.receive())
                .await
                .is_err()
            {
                client.send(b"start");
            }
            // Whatever it says after this, nobody hears it.
            cut.store(true, Ordering::Relaxed);
        });
        let line = relay.server.process.line();
        drop(sending);
        assert!(line.contains("the client is gone"), "{executor}: {line}");
    }
}

#[test]
fn a_client_without_datagrams_is_closed_as_idle() {
    let target = echo();
    let relay = relay(&["--allow", &target, "--idle", "1"]);
    let door = relay.door.clone();
    with_client(|rt| async move {
        let client = Client::connect(&rt, &door).await;
        let (mut send, recv) = client.ask(&format!("/udp?target={target}"), None).await;
        let (code, said) = words(recv).await;
        assert_eq!((code, said["error"].as_str()), (4408, Some("idle")));
        send.finish().unwrap();
        client.connection.closed().await;
    });
}

#[test]
fn what_is_over_the_rate_is_dropped_and_counted() {
    let target = echo();
    let mut relay = relay(&["--allow", &target, "--datagram-rate", "1"]);
    let door = relay.door.clone();
    with_client(|rt| async move {
        let client = Client::connect(&rt, &door).await;
        let (_send, _recv) = client.ask(&format!("/udp?target={target}"), None).await;
        client.message().await;
        for _ in 0..50 {
            client.send(&[0; 100]);
        }
        // When this has passed, which takes a second, the others have come.
        client.echoed(&rt, b"after").await;
        client.leave().await;
    });
    let line = relay.server.process.line();
    let (passed, dropped) = (number(&line, "datagrams, "), number(&line, "over the rate"));
    assert!(passed > 0 && dropped > 0, "{line}");
}

#[test]
fn what_comes_after_the_request_is_limited() {
    let target = echo();
    let mut relay = relay(&["--allow", &target]);
    let door = relay.door.clone();
    with_client(|rt| async move {
        let client = Client::connect(&rt, &door).await;
        let (mut send, _recv) = client.ask(&format!("/udp?target={target}"), None).await;
        client.message().await;
        // A capsule of a kind that nobody knows, without end.
        let chunk = [0x3f; 4096];
        while send.write_all(&chunk).await.is_ok() {}
        client.connection.closed().await;
    });
    let line = relay.server.process.line();
    assert!(line.contains("on and on"), "{line}");
}

#[test]
fn what_is_not_allowed_is_said_by_the_session() {
    let (_udp, target) = silent();
    let relay = relay(&["--allow", "127.0.0.1:9", "--origin", "https://here.example"]);
    let door = relay.door.clone();
    with_client(|rt| async move {
        let path = format!("/udp?target={target}");
        for (path, origin, code, error) in [
            (&*path, None, 4403, "not-allowed"),
            (
                &*path,
                Some("https://there.example"),
                4403,
                "origin-not-allowed",
            ),
            ("/udp?target=nowhere", None, 4404, "bad-target"),
            ("/udp", None, 4404, "bad-target"),
        ] {
            let client = Client::connect(&rt, &door).await;
            let (mut send, recv) = client.ask(path, origin).await;
            let (got, said) = words(recv).await;
            assert_eq!((got, said["error"].as_str()), (code, Some(error)), "{said}");
            send.finish().unwrap();
            let end = client.connection.closed().await;
            assert!(
                matches!(end, ConnectionError::ApplicationClosed(_)),
                "{end}"
            );
        }
    });
}

#[test]
fn what_is_no_request_for_a_session_is_rejected() {
    let relay = relay(&["--allow", "127.0.0.1:9"]);
    let door = relay.door.clone();
    with_client(|rt| async move {
        let rejected = |end: ConnectionError| match end {
            ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("{other}"),
        };
        let client = Client::connect(&rt, &door).await;
        let (_send, mut recv) = client.ask("/elsewhere?target=127.0.0.1:9", None).await;
        let answer = recv.read_to_end(1000).await.unwrap();
        assert!(
            ConnectResponse::decode(&mut &answer[..]).is_err(),
            "not a success"
        );
        assert_eq!(
            rejected(client.connection.closed().await),
            H3_REQUEST_REJECTED
        );
        // Headers without end, and some that are none.
        for garbage in [
            vec![1, 0x80, 1, 0, 0],
            vec![1, 5, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            let client = Client::connect(&rt, &door).await;
            let (mut send, _recv) = client.connection.open_bi().await.unwrap();
            send.write_all(&garbage).await.unwrap();
            // The relay may have closed the connection by now.
            let _ = send.finish();
            let end = client.connection.closed().await;
            assert_eq!(rejected(end), H3_REQUEST_REJECTED, "{garbage:?}");
        }
    });
}

#[test]
fn a_client_counts_like_one_with_a_websocket() {
    for (option, name) in [
        ("--max-clients", "too-many-clients"),
        (
            "--max-clients-per-address",
            "too-many-clients-of-this-address",
        ),
    ] {
        let target = echo();
        let relay = relay(&["--allow", &target, option, "1", "--max-bytes", "3000"]);
        let door = relay.door.clone();
        with_client(move |rt| async move {
            let path = format!("/udp?target={target}");
            let first = Client::connect(&rt, &door).await;
            let (mut send, recv) = first.ask(&path, None).await;
            first.message().await;
            let second = Client::connect(&rt, &door).await;
            let (_send, refused) = second.ask(&path, None).await;
            assert_eq!(words(refused).await.1["error"], name);
            let sending = async {
                while first.connection.close_reason().is_none() {
                    let _ = first.connection.send_datagram(vec![0; 1001].into());
                    polyquic::sleep(&rt, RETRY_INTERVAL).await;
                }
            };
            let cut_off = futures::future::select(Box::pin(sending), Box::pin(words(recv)));
            let (code, said) = match cut_off.await {
                Either::Left(((), _)) => panic!("the connection was closed first"),
                Either::Right((words, _)) => words,
            };
            assert_eq!((code, said["error"].as_str()), (4429, Some("used-up")));
            send.finish().unwrap();
            first.connection.closed().await;
        });
    }
}

#[test]
fn webtransport_needs_a_certificate() {
    let args = [
        "relay",
        "--allow",
        "127.0.0.1:9",
        "--webtransport",
        "127.0.0.1:0",
    ];
    run(&args).expect(2, &["--cert"]);
}
