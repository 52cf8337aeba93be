//! The other end of `polyquic relay`: clients that do what a browser would, and some that do not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;

use async_io::Async;
use async_tungstenite::tungstenite::client::IntoClientRequest;
use async_tungstenite::tungstenite::handshake::client::Request;
use async_tungstenite::tungstenite::{Bytes, Error, Message, WebSocket, client};
use futures::StreamExt;

use crate::harness::{LIMIT, Server, program};

/// `relay` on a free port of 127.0.0.1.
pub(crate) fn relay(more: &[&str]) -> Server {
    let mut args = vec!["relay", "--listen", "127.0.0.1:0"];
    args.extend(more);
    Server::start(program(&args))
}

/// The request that opens a tunnel to `target`.
pub(crate) fn request(relay: SocketAddr, target: &str, origin: Option<&str>) -> Request {
    let url = format!("ws://{relay}/udp?target={target}");
    let mut request = url.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert(
        "sec-websocket-protocol",
        "polyquic-relay.v1".parse().unwrap(),
    );
    if let Some(origin) = origin {
        headers.insert("origin", origin.parse().unwrap());
    }
    request
}

/// A client that does one thing at a time.
pub(crate) struct Client<S: Read + Write = TcpStream> {
    pub(crate) socket: WebSocket<S>,
}

impl Client {
    #[track_caller]
    pub(crate) fn connect(relay: SocketAddr, target: &str) -> Self {
        Self::from_origin(relay, target, None)
    }

    #[track_caller]
    pub(crate) fn from_origin(relay: SocketAddr, target: &str, origin: Option<&str>) -> Self {
        let tcp = TcpStream::connect(relay).unwrap();
        tcp.set_read_timeout(Some(LIMIT)).unwrap();
        Self::open(tcp, request(relay, target, origin))
    }

    /// One that has little room for what it does not read.
    #[track_caller]
    pub(crate) fn narrow(relay: SocketAddr, target: &str) -> Self {
        use socket2::{Domain, Socket, Type};
        let tcp = Socket::new(Domain::for_address(relay), Type::STREAM, None).unwrap();
        tcp.set_recv_buffer_size(16 << 10).unwrap();
        tcp.connect(&relay.into()).unwrap();
        tcp.set_read_timeout(Some(LIMIT)).unwrap();
        Self::open(tcp.into(), request(relay, target, None))
    }

    /// Vanish: the relay gets a reset, and no goodbye.
    pub(crate) fn reset(self) {
        let tcp = self.socket.get_ref();
        socket2::SockRef::from(tcp)
            .set_linger(Some(std::time::Duration::ZERO))
            .unwrap();
    }
}

impl<S: Read + Write> Client<S> {
    #[track_caller]
    pub(crate) fn open(stream: S, request: Request) -> Self {
        match client(request, stream) {
            Ok((socket, response)) => {
                assert_eq!(
                    response.headers()["sec-websocket-protocol"],
                    "polyquic-relay.v1"
                );
                Self { socket }
            }
            Err(error) => panic!("no WebSocket: {error}"),
        }
    }

    /// What the relay says first.
    #[track_caller]
    pub(crate) fn hello(&mut self) -> serde_json::Value {
        let text = self.socket.read().unwrap().into_text().unwrap();
        let hello: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(
            hello["maxDatagramSize"].as_u64().unwrap() >= 1200,
            "{hello}"
        );
        hello
    }

    #[track_caller]
    pub(crate) fn send(&mut self, datagram: &[u8]) {
        let message = Message::Binary(Bytes::copy_from_slice(datagram));
        self.socket.send(message).unwrap();
    }

    /// The next datagram.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        loop {
            match self.socket.read().unwrap() {
                Message::Binary(datagram) => return datagram.to_vec(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The relay says goodbye: close code, name of the error, explanation.
    #[track_caller]
    pub(crate) fn goodbye(mut self) -> (u16, String, String) {
        let mut error = serde_json::Value::Null;
        let code = loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => error = serde_json::from_str(&text).unwrap(),
                Message::Close(frame) => break frame.unwrap().code.into(),
                _ => {}
            }
        };
        // Then the connection ends: in order, or by a reset if this test is slow to answer.
        let end = self.socket.read().unwrap_err();
        assert!(
            matches!(end, Error::ConnectionClosed | Error::Io(_)),
            "{end}"
        );
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        (code, text("error"), text("message"))
    }
}

/// Make a local UDP port lead through the relay, for a program that knows nothing of it. Ends with
/// the process.
pub(crate) fn local_port(relay: SocketAddr, target: &str) -> SocketAddr {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = udp.local_addr().unwrap();
    let request = request(relay, target, None);
    std::thread::spawn(move || {
        futures::executor::block_on(async {
            let tcp = Async::<TcpStream>::connect(relay).await.unwrap();
            tcp.get_ref().set_nodelay(true).unwrap();
            let (socket, _) = async_tungstenite::client_async(request, tcp).await.unwrap();
            let (mut sender, mut receiver) = socket.split();
            receiver.next().await.unwrap().unwrap();
            let udp = Arc::new(Async::new(udp).unwrap());
            let mut buffer = vec![0; 65536];
            // Whoever writes to the port first owns it.
            let (length, program) = udp.recv_from(&mut buffer).await.unwrap();
            let first = Bytes::copy_from_slice(&buffer[..length]);
            sender.send(Message::Binary(first)).await.unwrap();
            let up = async {
                loop {
                    let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                    if from != program {
                        continue;
                    }
                    let datagram = Bytes::copy_from_slice(&buffer[..length]);
                    if sender.send(Message::Binary(datagram)).await.is_err() {
                        return;
                    }
                }
            };
            let down = async {
                while let Some(Ok(message)) = receiver.next().await {
                    if let Message::Binary(datagram) = message {
                        let _ = udp.send_to(&datagram, program).await;
                    }
                }
            };
            futures::future::select(std::pin::pin!(up), std::pin::pin!(down)).await;
        });
    });
    address
}

/// A target that does what the test says.
pub(crate) fn silent() -> (UdpSocket, String) {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    udp.set_read_timeout(Some(LIMIT)).unwrap();
    let address = udp.local_addr().unwrap().to_string();
    (udp, address)
}

/// A target that sends back what it gets. Ends with the process.
pub(crate) fn echo() -> String {
    echo_of(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
}

/// The same, on a socket of the test's.
pub(crate) fn echo_of(udp: UdpSocket) -> String {
    let address = udp.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], from);
        }
    });
    address
}
