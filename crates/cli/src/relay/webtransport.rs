//! The relay's other door: WebTransport (draft-ietf-webtrans-http3), whose datagrams do not wait for lost
//! ones as those in a WebSocket do.
//!
//! A session looks like a WebSocket to the rest of the relay: datagrams are its binary messages, text goes
//! on a unidirectional stream of its own, and its last words are those of the capsule that closes it. Of
//! HTTP/3 there is no more here than a session takes; a connection has one.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_tungstenite::tungstenite::{Error, Message};
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, PollNext};
use futures::{Sink, Stream, StreamExt};
use polyquic::crypto::rustls::QuicServerConfig;
use polyquic::{
    Connection, ConnectionError, Endpoint, Incoming, ReadError, RecvStream, SendStream,
    ServerConfig, TransportConfig, VarInt, timeout,
};
use web_transport_proto::{
    Capsule, ConnectError, ConnectRequest, ConnectResponse, Frame, Settings, StreamUni,
    VarInt as Number, http::StatusCode,
};

use crate::exec::Native;
use crate::failure::{Failure, printable};
use crate::relay::Relay;
use crate::relay::args::LimitArgs;
use crate::relay::client;
use crate::relay::limits::Entered;
use crate::relay::pump::Wire;

/// The protocol of TLS.
pub(crate) const ALPN: &[u8] = b"h3";

/// How long the handshake may take, and then the request.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// How long a client gets to answer the capsule that closes its session. A browser on a busy machine takes
/// its time, and a connection that is closed before is to it one that was lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long a client gets then to tell its application, unless it closes the connection before.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Most that a client may write after its request: a capsule or two. All of it is read and ignored.
const MAX_CAPSULE_BYTES: usize = 16 << 10;

/// A request has a target and a few headers.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// What the last words may have (section 6 of the draft).
const MAX_REASON_BYTES: usize = 1024;

/// Every IPv6 path carries it, and a datagram of 1200 bytes fits in, which QUIC needs.
const PACKET_BYTES: u16 = 1232;

/// Clients open three streams besides the request, and send little on them.
const STREAMS: u32 = 8;
const STREAM_BYTES: u32 = 32 << 10;

/// Datagrams that wait for the relay, in bytes.
const RECEIVE_BYTES: usize = 256 << 10;

/// RFC 9114 section 8.1.
const H3_NO_ERROR: u32 = 0x100;
const H3_REQUEST_REJECTED: u32 = 0x10b;

/// Listens on `address`.
pub(crate) fn bind<R: Native>(
    rt: &R,
    tls: Arc<QuicServerConfig>,
    limits: &LimitArgs,
    address: SocketAddr,
) -> Result<Endpoint, Failure> {
    let mut transport = TransportConfig::default();
    // Who is only silent is the relay's affair; this is about clients that are no more.
    let idle = limits
        .idle
        .clamp(Duration::from_secs(1), Duration::from_secs(30));
    transport
        .max_idle_timeout(Some(idle.try_into().expect("half a minute")))
        .keep_alive_interval(Some(idle / 3))
        .initial_mtu(PACKET_BYTES)
        .max_concurrent_bidi_streams(STREAMS.into())
        .max_concurrent_uni_streams(STREAMS.into())
        .stream_receive_window(STREAM_BYTES.into())
        .datagram_receive_buffer_size(Some(RECEIVE_BYTES))
        .datagram_send_buffer_size(limits.max_queue);
    let mut config = ServerConfig::with_crypto(tls);
    config.transport_config(Arc::new(transport));
    Endpoint::server(rt, config, address)
        .map_err(|e| Failure::io(format!("cannot listen on {address} by UDP"), &e))
}

/// Accept connections until the endpoint is closed, or its socket fails.
pub(crate) async fn accept<R: Native>(rt: &R, relay: &Arc<Relay>, endpoint: &Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        // Clients are counted by address, and anybody can write any into a packet.
        if incoming.may_retry() && !incoming.remote_address_validated() {
            let _ = incoming.retry();
            continue;
        }
        match relay.connections.enter(incoming.remote_address().ip()) {
            Ok(entered) => polyquic::spawn(rt, serve(rt.clone(), relay.clone(), incoming, entered)),
            Err(_) => {
                relay.with_totals(|totals| totals.refused += 1);
                incoming.refuse();
            }
        }
    }
}

/// Look after one connection until it is closed.
async fn serve<R: Native>(rt: R, relay: Arc<Relay>, incoming: Incoming, _connection: Entered) {
    let peer = incoming.remote_address();
    let connection = match timeout(&rt, OPEN_LIMIT, incoming.into_future()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::info!(%peer, "handshake failed: {error}"),
        Err(_) => return,
    };
    match timeout(&rt, OPEN_LIMIT, Session::open(connection.clone())).await {
        Ok(Ok((session, asked))) => {
            client::client(&rt, &relay, session, peer, asked.target, asked.origin).await;
        }
        Ok(Err(why)) => {
            tracing::info!(%peer, "no session: {}", printable(why.as_bytes()));
            connection.close(H3_REQUEST_REJECTED.into(), b"no session");
        }
        Err(_) => connection.close(H3_REQUEST_REJECTED.into(), b"no request"),
    }
}

/// What the client asked for.
struct Asked {
    target: Option<String>,
    origin: Option<String>,
}

/// A session, and its connection, which has no other.
pub(crate) struct Session {
    connection: Connection,
    /// Which session it is of precedes each datagram (RFC 9297 section 2.1).
    prefix: Bytes,
    /// And this each stream: its type and the session.
    stream_prefix: Bytes,
    incoming: BoxStream<'static, Result<Message, Error>>,
    /// The request's, as long as the session is open.
    request: Option<SendStream>,
    /// Open as long as the connection (RFC 9114 section 6.2.1).
    _control: SendStream,
    /// What waits for room. That the connection is lost is told by `incoming`.
    sending: Option<BoxFuture<'static, ()>>,
    /// A ping is answered here: whether the client lives is QUIC's affair.
    pinged: bool,
    /// The last text.
    said: String,
}

impl Session {
    /// Shake hands as HTTP/3 does, and wait for a request.
    async fn open(connection: Connection) -> Result<(Self, Asked), String> {
        let lost = |error: ConnectionError| error.to_string();
        let mut control = connection.open_uni().await.map_err(lost)?;
        let mut settings = Settings::default();
        settings.enable_webtransport(1);
        let mut bytes = BytesMut::new();
        settings.encode(&mut bytes);
        control.write_all(&bytes).await.map_err(|e| e.to_string())?;

        let (mut send, mut recv) = connection.accept_bi().await.map_err(lost)?;
        let request = match read_request(&mut recv).await {
            Ok(request) if request.url.path() == "/udp" => request,
            Ok(request) => {
                respond(&mut send, StatusCode::NOT_FOUND).await?;
                let _ = send.finish();
                let _ = send.stopped().await;
                return Err(format!("no such path: {}", request.url.path()));
            }
            Err(why) => {
                respond(&mut send, StatusCode::BAD_REQUEST).await?;
                let _ = send.finish();
                let _ = send.stopped().await;
                return Err(why);
            }
        };
        respond(&mut send, StatusCode::OK).await?;
        let asked = Asked {
            target: request
                .url
                .query_pairs()
                .find(|(name, _)| name == "target")
                .map(|(_, value)| value.into_owned()),
            origin: request
                .headers
                .get("origin")
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        };

        let index = send.id().index();
        let mut prefix = BytesMut::new();
        number(index).encode(&mut prefix);
        let mut stream_prefix = BytesMut::new();
        StreamUni::WEBTRANSPORT.encode(&mut stream_prefix);
        number(index * 4).encode(&mut stream_prefix);
        let datagrams = stream::unfold(connection.clone(), move |connection| async move {
            let message = next_datagram(&connection, index).await;
            Some((message, connection))
        });
        let goodbye = stream::once(goodbye(recv));
        let session = Self {
            connection,
            prefix: prefix.freeze(),
            stream_prefix: stream_prefix.freeze(),
            // What came before the goodbye is carried before it is heard.
            incoming: stream::select_with_strategy(datagrams, goodbye, |(): &mut ()| {
                PollNext::Left
            })
            .boxed(),
            request: Some(send),
            _control: control,
            sending: None,
            pinged: false,
            said: String::new(),
        };
        Ok((session, asked))
    }
}

fn number(value: u64) -> Number {
    // A stream's number is one already.
    Number::from_u64(value).unwrap_or(Number::from_u32(0))
}

async fn read_request(recv: &mut RecvStream) -> Result<ConnectRequest, String> {
    let mut bytes = BytesMut::new();
    let mut buffer = vec![0; 4096];
    loop {
        match ConnectRequest::decode(&mut &bytes[..]) {
            Err(ConnectError::UnexpectedEnd) if bytes.len() < MAX_REQUEST_BYTES => {}
            result => return result.map_err(|error| error.to_string()),
        }
        match recv.read(&mut buffer).await {
            Ok(Some(count)) => bytes.extend_from_slice(&buffer[..count]),
            Ok(None) => return Err("half a request".into()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

async fn respond(send: &mut SendStream, status: StatusCode) -> Result<(), String> {
    let mut bytes = BytesMut::new();
    ConnectResponse::new(status)
        .encode(&mut bytes)
        .map_err(|e| e.to_string())?;
    send.write_all(&bytes).await.map_err(|e| e.to_string())
}

/// The next datagram of session `index`, or how the connection ended.
async fn next_datagram(connection: &Connection, index: u64) -> Result<Message, Error> {
    loop {
        let mut datagram = match connection.read_datagram().await {
            Ok(datagram) => datagram,
            Err(error) => return end_of(error),
        };
        if Number::decode(&mut datagram).is_ok_and(|it| it.into_inner() == index) {
            return Ok(Message::Binary(datagram));
        }
    }
}

/// The end of the request's stream, which is that of the session. A capsule that closes it comes before.
async fn goodbye(mut recv: RecvStream) -> Result<Message, Error> {
    let mut buffer = [0; 256];
    let mut left = MAX_CAPSULE_BYTES;
    loop {
        match recv.read(&mut buffer).await {
            Ok(Some(count)) if count <= left => left -= count,
            Ok(Some(_)) => {
                let why = "it writes on and on after its request";
                return Err(Error::Io(std::io::Error::other(why)));
            }
            Err(ReadError::ConnectionLost(error)) => return end_of(error),
            // A reset is a way to end it, too.
            Ok(None) | Err(_) => return Ok(Message::Close(None)),
        }
    }
}

/// What the end of the connection means for the session.
fn end_of(error: ConnectionError) -> Result<Message, Error> {
    match error {
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed => {
            Ok(Message::Close(None))
        }
        error => Err(Error::Io(std::io::Error::other(error))),
    }
}

impl Stream for Session {
    type Item = Result<Message, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.pinged) {
            return Poll::Ready(Some(Ok(Message::Pong(Bytes::new()))));
        }
        self.incoming.poll_next_unpin(cx)
    }
}

impl Sink<Message> for Session {
    type Error = Error;

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(sending) = &mut self.sending {
            ready!(sending.as_mut().poll(cx));
            self.sending = None;
        }
        Poll::Ready(Ok(()))
    }

    fn start_send(mut self: Pin<&mut Self>, message: Message) -> Result<(), Error> {
        let connection = self.connection.clone();
        match message {
            Message::Binary(datagram) => {
                // Copied, as QUIC takes a datagram in one piece.
                let mut bytes = BytesMut::with_capacity(self.prefix.len() + datagram.len());
                bytes.extend_from_slice(&self.prefix);
                bytes.extend_from_slice(&datagram);
                let bytes = bytes.freeze();
                // The path may carry less than when it was asked. Then this is lost, as on any path.
                if connection.datagram_send_buffer_space() >= bytes.len() {
                    let _ = connection.send_datagram(bytes);
                } else {
                    self.sending = Some(Box::pin(async move {
                        let _ = connection.send_datagram_wait(bytes).await;
                    }));
                }
            }
            Message::Text(text) => {
                self.said = text.as_str().to_owned();
                let bytes = [&self.stream_prefix[..], text.as_bytes()].concat();
                self.sending = Some(Box::pin(async move {
                    if let Ok(mut stream) = connection.open_uni().await
                        && stream.write_all(&bytes).await.is_ok()
                    {
                        let _ = stream.finish();
                    }
                }));
            }
            Message::Close(frame) => {
                if let (Some(mut request), Some(frame)) = (self.request.take(), frame) {
                    let mut reason = std::mem::take(&mut self.said);
                    while reason.len() > MAX_REASON_BYTES {
                        reason.pop();
                    }
                    let capsule = Capsule::CloseWebTransportSession {
                        code: u16::from(frame.code).into(),
                        reason,
                    };
                    let mut body = BytesMut::new();
                    capsule.encode(&mut body);
                    let mut bytes = BytesMut::new();
                    Frame::DATA.encode(&mut bytes);
                    number(body.len() as u64).encode(&mut bytes);
                    bytes.extend_from_slice(&body);
                    self.sending = Some(Box::pin(async move {
                        if request.write_all(&bytes).await.is_ok() && request.finish().is_ok() {
                            let _ = request.stopped().await;
                        }
                    }));
                }
            }
            Message::Ping(_) => self.pinged = true,
            Message::Pong(_) | Message::Frame(_) => {}
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_ready(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_ready(cx)
    }
}

impl Wire for Session {
    fn max_datagram_bytes(&self) -> usize {
        let most = self.connection.max_datagram_size().unwrap_or(0);
        most.saturating_sub(self.prefix.len())
    }

    async fn finish<R: Native>(&mut self, rt: &R) {
        if self.request.is_none() {
            // It ends its half of the stream when it has read the capsule. A connection that is closed
            // before is a connection lost.
            let answered = async {
                while let Some(Ok(message)) = self.incoming.next().await {
                    if matches!(message, Message::Close(_)) {
                        break;
                    }
                }
            };
            let _ = timeout(rt, ANSWER_LIMIT, answered).await;
            // Chromium ends its half first and hands on what it was told a moment later, or not at all if the
            // connection was closed before. When it has done so does not show: it keeps the connection.
            let _ = timeout(rt, CLOSE_LIMIT, self.connection.closed()).await;
        }
        self.connection.close(VarInt::from_u32(H3_NO_ERROR), b"");
    }
}
