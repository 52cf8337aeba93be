//! From a TCP connection to a client, and from its end to a line in the log.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_io::Async;
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use futures::future::{Either, select};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, SinkExt};
use futures_rustls::TlsAcceptor;
use polyquic::timeout;

use crate::exec::Native;
use crate::failure::{io_reason, printable};
use crate::out::say;
use crate::relay::Relay;
use crate::relay::allow::Target;
use crate::relay::end::{Counters, End};
use crate::relay::http::{self, Asked, Bad, Io};
use crate::relay::limits::{Entered, Full, Leave};
use crate::relay::lookup::NotFound;
use crate::relay::pump::{Pump, Wire};
use crate::relay::udp::{MAX_DATAGRAM_BYTES, Udp};

/// How long a TLS handshake, a request, and finding the target may take, each.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// How long a file may take to be fetched.
const FILE_LIMIT: Duration = Duration::from_secs(120);

/// How long a client gets to hear why it is over. A browser on a busy machine takes its time.
const GOODBYE_LIMIT: Duration = Duration::from_secs(5);

/// How much of what it still sends is read meanwhile.
const GOODBYE_BYTES: usize = 4 << 20;

/// A TCP connection whose closing tells the other side that nothing more comes.
struct Tcp(Async<TcpStream>);

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.get_ref().shutdown(Shutdown::Write))
    }
}

/// Look after one TCP connection until it is closed.
pub(crate) async fn serve<R: Native>(
    rt: R,
    relay: Arc<Relay>,
    tcp: Async<TcpStream>,
    peer: SocketAddr,
    on_loopback: bool,
    _connection: Entered,
) {
    // Acknowledgements of QUIC are small and must not wait for company.
    let _ = tcp.get_ref().set_nodelay(true);
    let tcp = Tcp(tcp);
    let mut io: Box<dyn Io> = match relay.tls.clone() {
        None => Box::new(tcp),
        Some(config) => {
            let handshake = TlsAcceptor::from(config).accept(tcp);
            match timeout(&rt, OPEN_LIMIT, handshake).await {
                Ok(Ok(tls)) => Box::new(tls),
                Ok(Err(error)) => {
                    tracing::info!(%peer, "TLS handshake failed: {error}");
                    return;
                }
                Err(_) => return,
            }
        }
    };
    let asked = match timeout(&rt, OPEN_LIMIT, http::read_request(&mut io)).await {
        Ok(asked) => asked,
        Err(_) => Err(Bad::Status("408 Request Timeout", "no request".into())),
    };
    match asked {
        Ok(Asked::Socket {
            response,
            target,
            origin,
            rest,
        }) => {
            match timeout(&rt, OPEN_LIMIT, http::accept(&mut io, &response)).await {
                Ok(Ok(())) => {}
                _ => return,
            }
            let config = WebSocketConfig::default()
                .read_buffer_size(32 << 10)
                .write_buffer_size(32 << 10)
                // Datagrams take 128 KiB at most; the rest is for answers to pings.
                .max_write_buffer_size(192 << 10)
                .max_message_size(Some(MAX_DATAGRAM_BYTES))
                .max_frame_size(Some(MAX_DATAGRAM_BYTES));
            let socket =
                WebSocketStream::from_partially_read(io, rest, Role::Server, Some(config)).await;
            client(&rt, &relay, socket, peer, target, origin).await;
        }
        // The page of somebody else whose name leads here since a moment ago (DNS rebinding) would read
        // files that are for this machine only.
        Ok(Asked::File { hosts, .. })
            if on_loopback && relay.sandbox.is_some() && !relay.is_here(&hosts) =>
        {
            let text =
                "files are served here under the names of this machine only: localhost, 127.0.0.1";
            let refusal = http::refuse(&mut io, "421 Misdirected Request", text);
            let _ = timeout(&rt, GOODBYE_LIMIT, refusal).await;
            linger(&rt, &mut io).await;
        }
        Ok(Asked::File { path, .. }) => {
            let sent = http::send_file(&rt, &mut io, relay.sandbox.as_ref(), &path);
            match timeout(&rt, FILE_LIMIT, sent).await {
                Ok(Ok(())) => tracing::info!(%peer, "GET {path}"),
                Ok(Err(error)) => tracing::info!(%peer, "GET {path}: {error}"),
                Err(_) => tracing::info!(%peer, "GET {path}: not fetched in time"),
            }
            linger(&rt, &mut io).await;
        }
        Err(Bad::Status(status, text)) => {
            tracing::info!(%peer, "{status}: {text}");
            let _ = timeout(&rt, GOODBYE_LIMIT, http::refuse(&mut io, status, &text)).await;
            linger(&rt, &mut io).await;
        }
        Err(Bad::Lost) => {}
    }
}

/// Read what still comes. Closing a connection with something unread resets it, and what was sent
/// last may then never be seen.
async fn linger<R: Native>(rt: &R, io: &mut impl Io) {
    let _ = timeout(rt, GOODBYE_LIMIT, async {
        let mut left = GOODBYE_BYTES;
        let mut buffer = vec![0; 16 << 10];
        while let Ok(count @ 1..) = io.read(&mut buffer).await {
            left = left.saturating_sub(count);
            if left == 0 {
                break;
            }
        }
    })
    .await;
}

/// Look after one client.
pub(crate) async fn client<R: Native, W: Wire>(
    rt: &R,
    relay: &Relay,
    mut socket: W,
    peer: SocketAddr,
    target: Option<String>,
    origin: Option<String>,
) {
    let mut counters = Counters::default();
    // Until it has been told: the relay does not end before that.
    let mut entered = None;
    let start = rt.clock().now();
    let wanted = target.clone();
    let end = match enter(relay, peer, origin) {
        Ok(here) => {
            let leave = entered.insert(here).leave.clone();
            carry(
                rt,
                relay,
                &mut socket,
                peer.ip(),
                target,
                leave,
                &mut counters,
            )
            .await
        }
        Err(end) => end,
    };
    let took = rt.clock().now().saturating_duration_since(start);
    relay.note(&counters);
    if !relay.quiet {
        let wanted = printable(wanted.as_deref().unwrap_or("nowhere").as_bytes());
        say!(
            "{peer} -> {wanted}: {counters}; {:.1} s; {}",
            took.as_secs_f64(),
            printable(end.to_string().as_bytes())
        );
    }
    let goodbye = async {
        if let Some((code, name)) = end.code() {
            let reason = end.to_string();
            let text = serde_json::json!({ "error": name, "message": reason });
            socket.feed(Message::text(text.to_string())).await?;
            // The name, as a close frame has room for 123 bytes.
            let frame = CloseFrame {
                code: code.into(),
                reason: name.into(),
            };
            socket.feed(Message::Close(Some(frame))).await?;
        }
        // Also the answer to the client's own close.
        socket.flush().await
    };
    if let Ok(Ok(())) = timeout(rt, GOODBYE_LIMIT, goodbye).await {
        socket.finish(rt).await;
    }
}

impl<S: Io> Wire for WebSocketStream<S> {
    fn max_datagram_bytes(&self) -> usize {
        MAX_DATAGRAM_BYTES
    }

    async fn finish<R: Native>(&mut self, rt: &R) {
        if let Ok(Ok(())) = timeout(rt, GOODBYE_LIMIT, self.get_mut().close()).await {
            linger(rt, self.get_mut()).await;
        }
    }
}

/// Whether a client may use the relay at all.
fn enter(relay: &Relay, peer: SocketAddr, origin: Option<String>) -> Result<Entered, End> {
    if let Some(origin) = origin
        && !relay.origin_allowed(&origin)
    {
        return Err(End::Origin(printable(origin.as_bytes())));
    }
    let entered = relay.clients.enter(peer.ip()).map_err(|full| match full {
        Full::Clients => End::Clients,
        Full::Address => End::PerAddress,
        Full::Leaving => End::Leaving,
    })?;
    relay.note_client();
    Ok(entered)
}

/// Find the target, and carry datagrams until the end. The UDP socket is closed on return.
async fn carry<R: Native, W: Wire>(
    rt: &R,
    relay: &Relay,
    socket: &mut W,
    peer: IpAddr,
    target: Option<String>,
    leave: Arc<Leave>,
    counters: &mut Counters,
) -> End {
    let target = match target.as_deref().unwrap_or_default().parse::<Target>() {
        Ok(target) => target,
        Err(why) => return End::BadTarget(why),
    };
    let addresses = match find(rt, relay, peer, &target, &leave).await {
        Ok(addresses) => addresses,
        Err(end) => return end,
    };
    let mut opened = Err(End::NotAllowed(target.clone()));
    for address in addresses {
        match Udp::open(address) {
            Ok(udp) => {
                opened = Ok((udp, address));
                break;
            }
            // IPv6, say, where there is none.
            Err(error) => opened = Err(End::Local(io_reason(&error))),
        }
    }
    let (udp, address) = match opened {
        Ok(opened) => opened,
        Err(end) => return end,
    };
    let hello = serde_json::json!({
        "target": address.to_string(),
        "maxDatagramSize": MAX_DATAGRAM_BYTES,
    });
    let hello = socket.send(Message::text(hello.to_string()));
    match timeout(rt, OPEN_LIMIT, hello).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return End::Lost(error.to_string()),
        Err(_) => return End::Lost("it does not read".into()),
    }
    Pump::new(rt, socket, udp, leave, &relay.limits, counters)
        .run()
        .await
}

/// The addresses of `target` that datagrams may be sent to, the best first.
async fn find<R: Native>(
    rt: &R,
    relay: &Relay,
    peer: IpAddr,
    target: &Target,
    leave: &Leave,
) -> Result<Vec<SocketAddr>, End> {
    if !relay.allow.may_resolve(target) {
        return Err(End::NotAllowed(target.clone()));
    }
    if let Some(ip) = target.address() {
        // And it is allowed, as that was the question.
        return Ok(vec![SocketAddr::new(ip, target.port)]);
    }
    let looked_up = pin!(relay.lookups.find(rt, peer, &target.host, target.port));
    let found = match select(looked_up, pin!(leave.wait())).await {
        Either::Left((found, _)) => found,
        Either::Right(_) => return Err(End::Leaving),
    };
    let why = match found {
        Ok(found) => {
            let mut allowed = found.clone();
            allowed.retain(|address| relay.allow.permits(target, *address));
            // Both lead to this machine, but older servers listen on IPv4 only.
            allowed.sort_by_key(|address| address.ip().is_loopback() && address.is_ipv6());
            if !allowed.is_empty() {
                return Ok(allowed);
            }
            if !found.is_empty() && relay.allow.names(target) {
                return Err(End::AddressNotAllowed(target.clone()));
            }
            "it has no address".into()
        }
        Err(NotFound::Busy) => return Err(End::Lookups),
        Err(NotFound::Local(error)) => return Err(End::Local(io_reason(&error))),
        Err(NotFound::Failed(error)) => io_reason(&error)
            .trim_start_matches("failed to lookup address information: ")
            .to_owned(),
        Err(NotFound::TimedOut) => "no answer in time".into(),
    };
    // Only names in the rules: clients must not explore the names of a network that is not theirs.
    Err(if relay.allow.names(target) {
        End::Unresolved(target.clone(), why)
    } else {
        End::NotAllowed(target.clone())
    })
}
