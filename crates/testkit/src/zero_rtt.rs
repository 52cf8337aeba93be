//! Resumption, data before the handshake is complete, and what becomes of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use polyquic_core::crypto_provider;
use polyquic_core::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use polyquic_core::rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue, WebPkiServerVerifier,
};
use polyquic_core::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use polyquic_core::rustls::{
    self, DigitallySignedStruct, Error, NamedGroup, RootCertStore, SignatureScheme,
};
use polyquic_endpoint::{
    Connection, Endpoint, Executor, ReadError, ResetError, StoppedError, WriteError,
    ZeroRttAccepted,
};

use crate::fixtures::{
    Certificates, Ends, SERVER_NAME, Setup, client_config, client_tls, server_config, server_tls,
};
use crate::tools::{check_alive, pattern, read_all, send_all, yield_now};

/// Two endpoints that have met before: the client holds a ticket of the server's.
async fn acquainted<R: Executor>(rt: R) -> Ends {
    let mut tls = client_tls(None);
    let tickets = Tickets::of(&mut tls);
    let ends = Setup::new()
        .with(|setup| setup.client = client_config(tls))
        .start(&rt);
    meet(&ends, &tickets).await;
    ends
}

async fn meet(ends: &Ends, tickets: &Tickets) {
    let before = tickets.came.load(Ordering::Relaxed);
    let (client, server) = ends.connect().await;
    check_alive(&client, &server).await;
    // As a rule the ticket came before this, or with it; where packets are lost, later.
    while tickets.came.load(Ordering::Relaxed) == before {
        check_alive(&client, &server).await;
    }
}

/// Keeps a client's sessions, as usual, and counts the tickets that came.
#[derive(Debug)]
struct Tickets {
    inner: ClientSessionMemoryCache,
    came: AtomicUsize,
}

impl Tickets {
    fn of(tls: &mut rustls::ClientConfig) -> Arc<Self> {
        let tickets = Arc::new(Self {
            inner: ClientSessionMemoryCache::new(32),
            came: AtomicUsize::new(0),
        });
        tls.resumption = Resumption::store(tickets.clone());
        tickets
    }
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.inner.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.inner.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.inner.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.inner.tls12_session(name)
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.inner.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.inner.insert_tls13_ticket(name, value);
        self.came.fetch_add(1, Ordering::Relaxed);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.inner.take_tls13_ticket(name)
    }
}

/// Connect with 0-RTT.
fn connect_0rtt(ends: &Ends) -> (Connection, ZeroRttAccepted) {
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    connecting.into_0rtt().expect("the client has a ticket")
}

/// Who has not met the server has no 0-RTT, and gets the attempt back.
pub async fn strangers_have_no_0rtt<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    let connecting = connecting.into_0rtt().expect_err("there is no ticket");
    let accepting = async { ends.server.accept().await.unwrap().await };
    let (client, server) = futures::join!(connecting, accepting);
    check_alive(&client.unwrap(), &server.unwrap()).await;
    ends.finish().await;
}

/// 0-RTT that the server accepts: data arrives, whether it was sent before the handshake or after.
pub async fn accepted_0rtt_delivers<R: Executor>(rt: R) {
    let ends = acquainted(rt.clone()).await;
    let (client, accepted) = connect_0rtt(&ends);
    let data = pattern(1, 5_000);
    let send = client.open_uni().await.unwrap();
    let (mut ask, mut answer) = client.open_bi().await.unwrap();
    ask.write_all(b"early").await.unwrap();
    client.send_datagram(b"datagram"[..].into()).unwrap();
    send_all(send, &data).await;
    // The server uses the connection as early as it can, too.
    let incoming = ends.server.accept().await.unwrap();
    let (server, always) = incoming.accept().unwrap().into_0rtt().unwrap();
    let recv = server.accept_uni().await.unwrap();
    assert!(read_all(recv).await == data);
    assert_eq!(server.read_datagram().await.unwrap()[..], b"datagram"[..]);
    let (mut send, mut recv) = server.accept_bi().await.unwrap();
    let mut early = [0; 5];
    recv.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    send.write_all(b"answer").await.unwrap();
    send.finish().unwrap();
    assert_eq!(answer.read_to_end(100).await.unwrap(), b"answer");
    assert!(accepted.await, "the server accepts 0-RTT");
    assert!(always.await, "servers are always told so");
    // The same stream goes on after the handshake.
    ask.write_all(b"late").await.unwrap();
    ask.finish().unwrap();
    assert_eq!(recv.read_to_end(100).await.unwrap(), b"late");
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// The server of `ends` gives way to one that knows none of its tickets.
fn forget<R: Executor>(rt: &R, ends: &mut Ends) {
    let config = server_config(server_tls(&Certificates::get().server, false));
    let server = Endpoint::server(rt, config, ([127, 0, 0, 1], 0).into()).unwrap();
    ends.addr = server.local_addr().unwrap();
    ends.server = server;
}

/// 0-RTT that the server rejects: the streams are void, and say so; the connection is good.
pub async fn rejected_0rtt_is_told<R: Executor>(rt: R) {
    let mut ends = acquainted(rt.clone()).await;
    forget(&rt, &mut ends);
    let (client, accepted) = connect_0rtt(&ends);
    let mut uni = client.open_uni().await.unwrap();
    uni.write_all(b"in vain").await.unwrap();
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    send.write_all(b"in vain").await.unwrap();
    let mut never_used = client.open_uni().await.unwrap();
    let stopped = uni.stopped();
    let (accepted, server, read, stopped) = futures::join!(
        accepted,
        async { ends.server.accept().await.unwrap().await.unwrap() },
        // Waiting readers are woken.
        recv.read_to_end(10),
        stopped
    );
    assert!(!accepted, "the server cannot know the ticket");
    assert_eq!(read, Err(ReadError::ZeroRttRejected.into()));
    assert_eq!(stopped, Err(StoppedError::ZeroRttRejected));
    assert_eq!(
        recv.received_reset().await,
        Err(ResetError::ZeroRttRejected)
    );
    assert_eq!(send.write(b"x").await, Err(WriteError::ZeroRttRejected));
    assert_eq!(
        never_used.write(b"x").await,
        Err(WriteError::ZeroRttRejected)
    );
    // New streams may have the numbers of void ones, and must not be mistaken for them.
    let data = pattern(2, 10_000);
    let mut fresh = client.open_uni().await.unwrap();
    assert_eq!(fresh.id(), uni.id());
    assert!(uni.finish().is_err(), "that would finish another stream");
    assert!(uni.set_priority(1).is_err());
    drop((uni, never_used));
    fresh.write_all(&data).await.unwrap();
    drop((send, recv));
    fresh.finish().unwrap();
    assert!(read_all(server.accept_uni().await.unwrap()).await == data);
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// Void streams that somebody still holds do not keep finished ones from being delivered.
pub async fn void_streams_do_not_hinder_delivery<R: Executor>(rt: R) {
    let mut ends = acquainted(rt.clone()).await;
    forget(&rt, &mut ends);
    let (client, accepted) = connect_0rtt(&ends);
    let mut void = Vec::new();
    for _ in 0..3 {
        let mut stream = client.open_uni().await.unwrap();
        stream.write_all(b"in vain").await.unwrap();
        if void.len() == 1 {
            stream.finish().unwrap();
        }
        void.push(stream);
    }
    let (accepted, server) = futures::join!(accepted, async {
        ends.server.accept().await.unwrap().await.unwrap()
    });
    assert!(!accepted);
    let data = pattern(3, 500_000);
    let mut stream = client.open_uni().await.unwrap();
    stream.write_all(&data).await.unwrap();
    stream.finish().unwrap();
    ends.client.close(0u32.into(), b"");
    assert!(read_all(server.accept_uni().await.unwrap()).await == data);
    drop(void);
    ends.finish().await;
}

/// Void streams count no more: whoever waits to open one is woken.
pub async fn rejection_makes_room_for_streams<R: Executor>(rt: R) {
    let mut ends = acquainted(rt.clone()).await;
    forget(&rt, &mut ends);
    let (client, accepted) = connect_0rtt(&ends);
    let mut void = Vec::new();
    let waiting = loop {
        let mut open = Box::pin(client.open_uni());
        match futures::poll!(&mut open) {
            Poll::Ready(stream) => void.push(stream.unwrap()),
            Poll::Pending => break open,
        }
    };
    // On its own: the others' wake-ups do not have it look.
    let mut waiting = FuturesUnordered::from_iter([waiting]);
    let (accepted, server, opened) = futures::join!(
        accepted,
        async { ends.server.accept().await.unwrap().await.unwrap() },
        waiting.next()
    );
    let opened = opened.unwrap();
    assert!(!accepted);
    send_all(opened.unwrap(), b"room").await;
    assert_eq!(read_all(server.accept_uni().await.unwrap()).await, b"room");
    drop(void);
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// A void stream that is dropped late does not take along who waits for another with its number.
pub async fn void_streams_do_not_silence_their_successors<R: Executor>(rt: R) {
    let mut ends = acquainted(rt.clone()).await;
    forget(&rt, &mut ends);
    let (client, accepted) = connect_0rtt(&ends);
    let (mut void_send, mut void_recv) = client.open_bi().await.unwrap();
    void_send.write_all(b"in vain").await.unwrap();
    // It waited, and gave up.
    let mut byte = [0];
    assert!(futures::poll!(Box::pin(void_recv.read(&mut byte))).is_pending());
    let (accepted, server) = futures::join!(accepted, async {
        ends.server.accept().await.unwrap().await.unwrap()
    });
    assert!(!accepted);
    let (mut send, mut recv) = client.open_bi().await.unwrap();
    assert_eq!(send.id(), void_send.id());
    send.write_all(b"x").await.unwrap();
    let mut read = Box::pin(recv.read_to_end(10));
    assert!(futures::poll!(&mut read).is_pending());
    let answering = async {
        drop((void_send, void_recv));
        let (mut send, _recv) = server.accept_bi().await.unwrap();
        send.write_all(b"answer").await.unwrap();
        send.finish().unwrap();
        send.stopped().await.unwrap();
    };
    // On its own: the other's wake-ups do not have it look.
    let mut read = FuturesUnordered::from_iter([read]);
    let (read, ()) = futures::join!(read.next(), answering);
    assert_eq!(read.unwrap().unwrap(), b"answer");
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// A server may speak before the client has proved anything.
pub async fn servers_may_speak_first<R: Executor>(rt: R) {
    let ends = Setup::new().start(&rt);
    let connecting = ends.client.connect(ends.addr, SERVER_NAME).unwrap();
    let serving = async {
        let incoming = ends.server.accept().await.unwrap();
        let (server, always) = incoming.accept().unwrap().into_0rtt().unwrap();
        let stream = server.open_uni().await.unwrap();
        send_all(stream, b"welcome").await;
        assert!(always.await);
        server
    };
    let (client, server) = futures::join!(connecting, serving);
    let client = client.unwrap();
    assert_eq!(
        read_all(client.accept_uni().await.unwrap()).await,
        b"welcome"
    );
    check_alive(&client, &server).await;
    ends.finish().await;
}

/// A verifier that counts how often it is asked.
#[derive(Debug)]
struct Counting {
    inner: Arc<WebPkiServerVerifier>,
    asked: AtomicUsize,
}

impl ServerCertVerifier for Counting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A resumed session needs no certificate; a server that forgot it presents one again.
pub async fn resumption_spares_the_certificate<R: Executor>(rt: R) {
    let mut roots = RootCertStore::empty();
    roots.add(Certificates::get().authority.clone()).unwrap();
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto_provider())
        .build()
        .unwrap();
    let verifier = Arc::new(Counting {
        inner,
        asked: AtomicUsize::new(0),
    });
    let mut tls = client_tls(None);
    tls.dangerous().set_certificate_verifier(verifier.clone());
    let tickets = Tickets::of(&mut tls);
    let mut ends = Setup::new()
        .with(|setup| setup.client = client_config(tls))
        .start(&rt);
    meet(&ends, &tickets).await;
    assert_eq!(verifier.asked.load(Ordering::Relaxed), 1);
    meet(&ends, &tickets).await;
    assert_eq!(
        verifier.asked.load(Ordering::Relaxed),
        1,
        "the second connection did not resume the first one's session"
    );
    forget(&rt, &mut ends);
    meet(&ends, &tickets).await;
    assert_eq!(verifier.asked.load(Ordering::Relaxed), 2);
    yield_now().await;
    ends.finish().await;
}
