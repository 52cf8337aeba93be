//! The relay's WebTransport, from a client that knows what goes over the wire.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use polyquic::crypto::rustls::QuicClientConfig;
use polyquic::rustls::{self, RootCertStore, pki_types::CertificateDer};
use polyquic::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use web_transport_proto::http::{HeaderValue, header::ORIGIN};
use web_transport_proto::{
    Capsule, ConnectRequest, ConnectResponse, Frame, Settings, StreamUni, VarInt,
};

use crate::harness::{Server, program, run};
use crate::tunnel::{echo, silent};

/// RFC 9114 section 8.1: the relay wants nothing to do with the request.
pub(crate) const H3_REQUEST_REJECTED: u64 = 0x10b;

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
    pub(crate) async fn connect(rt: &polyquic::smol::SmolRuntime, door: &Door) -> Self {
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
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(config)));
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
fn datagrams_of_quic_size_go_both_ways_and_are_counted() {
    let target = echo();
    let mut relay = relay(&["--allow", &target]);
    let door = relay.door.clone();
    polyquic::smol::run(1, |rt| async move {
        let client = Client::connect(&rt, &door).await;
        let (_send, _recv) = client.ask(&format!("/udp?target={target}"), None).await;
        assert_eq!(client.message().await["target"], target.as_str());
        for datagram in [&[7; 1200][..], &[8; 20][..]] {
            client.send(datagram);
            assert_eq!(client.receive().await, datagram);
        }
        // One of a session that does not exist is nobody's.
        client
            .connection
            .send_datagram(vec![1, 9, 9].into())
            .unwrap();
        client.send(b"after");
        assert_eq!(client.receive().await, &b"after"[..]);
        client.leave().await;
    })
    .unwrap();
    let line = relay.server.process.line();
    assert!(
        line.contains("up 3 datagrams, 1225 bytes; down 3 datagrams, 1225 bytes"),
        "{line}"
    );
    assert!(line.ends_with("the client closed"), "{line}");
}

#[test]
fn what_is_not_allowed_is_said_by_the_session() {
    let (_udp, target) = silent();
    let relay = relay(&["--allow", "127.0.0.1:9", "--origin", "https://here.example"]);
    let door = relay.door.clone();
    polyquic::smol::run(1, |rt| async move {
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
    })
    .unwrap();
}

#[test]
fn what_is_no_request_for_a_session_is_rejected() {
    let relay = relay(&["--allow", "127.0.0.1:9"]);
    let door = relay.door.clone();
    polyquic::smol::run(1, |rt| async move {
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
    })
    .unwrap();
}

#[test]
fn a_client_counts_like_one_with_a_websocket() {
    let target = echo();
    let relay = relay(&[
        "--allow",
        &target,
        "--max-clients",
        "1",
        "--max-bytes",
        "3000",
    ]);
    let door = relay.door.clone();
    polyquic::smol::run(1, |rt| async move {
        let path = format!("/udp?target={target}");
        let first = Client::connect(&rt, &door).await;
        let (mut send, recv) = first.ask(&path, None).await;
        first.message().await;
        let second = Client::connect(&rt, &door).await;
        let (_send, refused) = second.ask(&path, None).await;
        assert_eq!(words(refused).await.1["error"], "too-many-clients");
        for _ in 0..2 {
            first.send(&[0; 1000]);
        }
        let (code, said) = words(recv).await;
        assert_eq!((code, said["error"].as_str()), (4429, Some("used-up")));
        send.finish().unwrap();
        first.connection.closed().await;
    })
    .unwrap();
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
