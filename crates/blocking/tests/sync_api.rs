//! The synchronous API over real sockets: what somebody who knows `std::net` relies on.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use polyquic_blocking::{
    Connection, Endpoint, RecvStream, SendStream, connection_error, stream_error_code,
};
use polyquic_core::rustls::RootCertStore;
use polyquic_core::rustls::pki_types::PrivatePkcs8KeyDer;
use polyquic_core::{ClientConfig, ConnectionError, ServerConfig, TransportConfig};
use sha2::{Digest, Sha256};

/// Long enough for anything that is going to happen, on a machine that is busy with other tests.
const LONG: Duration = Duration::from_secs(20);

/// Short enough to wait for in vain.
const SHORT: Duration = Duration::from_millis(50);

/// A server, a client that trusts it, and a connection between them.
struct Pair {
    server: Endpoint,
    client: Endpoint,
    addr: SocketAddr,
    /// A test that hangs aborts.
    _watched: Sender<()>,
}

impl Pair {
    fn new() -> Self {
        Self::with_transport(TransportConfig::default())
    }

    /// `transport` is the server's.
    fn with_transport(transport: TransportConfig) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut config =
            ServerConfig::with_single_cert(vec![made.cert.into()], key.into()).unwrap();
        config.transport_config(Arc::new(transport));
        let server = Endpoint::server(config, "127.0.0.1:0").unwrap();
        let addr = server.local_addr().unwrap();
        let mut client = Endpoint::client("127.0.0.1:0").unwrap();
        client.set_default_client_config(
            ClientConfig::with_root_certificates(Arc::new(roots)).unwrap(),
        );
        Self {
            server,
            client,
            addr,
            _watched: watchdog(),
        }
    }

    /// The client's side and the server's side of a new connection.
    fn connect(&self) -> (Connection, Connection) {
        thread::scope(|scope| {
            let accepted = scope.spawn(|| self.server.accept().unwrap().accept().unwrap());
            let connection = self.client.connect(self.addr, "localhost").unwrap();
            (connection, accepted.join().unwrap())
        })
    }

    /// Serve echo on a thread per connection, and a thread per stream, until the endpoint closes.
    fn serve_echo(&self) {
        let server = self.server.clone();
        thread::spawn(move || {
            for connection in server.incoming() {
                thread::spawn(move || {
                    for stream in connection.incoming_bi() {
                        thread::spawn(move || echo(stream));
                    }
                });
            }
        });
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.client.close(0u32.into(), b"test done");
        self.server.close(0u32.into(), b"test done");
    }
}

/// Abort the process unless the result is dropped in time.
fn watchdog() -> Sender<()> {
    let (watched, dropped) = mpsc::channel();
    let test = thread::current().name().unwrap_or_default().to_owned();
    thread::spawn(move || {
        if dropped.recv_timeout(3 * LONG) == Err(RecvTimeoutError::Timeout) {
            eprintln!("{test} hangs");
            std::process::abort();
        }
    });
    watched
}

fn echo((mut send, mut recv): (SendStream, RecvStream)) {
    if io::copy(&mut recv, &mut send).is_ok() {
        let _ = send.finish();
    }
}

/// Both ends of a stream from client to server.
fn uni_stream(client: &Connection, server: &Connection) -> (SendStream, RecvStream) {
    let mut send = client.open_uni().unwrap();
    // The peer learns of a stream by its first byte.
    send.write_all(b"!").unwrap();
    let mut recv = server.accept_uni_timeout(LONG).unwrap();
    recv.read_exact(&mut [0]).unwrap();
    (send, recv)
}

/// Bytes that do not repeat within a test.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

fn assert_kind<T: std::fmt::Debug>(result: io::Result<T>, kind: ErrorKind) -> io::Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error
}

#[test]
fn handles_are_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Endpoint>();
    check::<Connection>();
    check::<SendStream>();
    check::<RecvStream>();
    check::<polyquic_blocking::Incoming>();
    check::<polyquic_blocking::Connecting>();
}

#[test]
fn twenty_threads_against_a_thread_per_connection() {
    let pair = Pair::new();
    pair.serve_echo();
    let threads: Vec<_> = (0..20)
        .map(|number| {
            let (client, addr) = (pair.client.clone(), pair.addr);
            thread::spawn(move || {
                let connection = client.connect(addr, "localhost").unwrap();
                for round in 0..5 {
                    let data = noise(number * 100 + round, 30_000);
                    let (mut send, mut recv) = connection.open_bi().unwrap();
                    let expected = data.clone();
                    let writer = thread::spawn(move || {
                        send.write_all(&data).unwrap();
                        send.finish().unwrap();
                    });
                    assert_eq!(recv.read_to_limit(100_000).unwrap(), expected);
                    writer.join().unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(pair.server.stats().accepted_handshakes, 20);
}

/// `io::copy` knows nothing but `Read` and `Write`.
#[test]
fn io_copy_of_megabytes_both_ways() {
    const LEN: usize = 8 << 20;
    let pair = Pair::new();
    pair.serve_echo();
    let connection = pair.client.connect(pair.addr, "localhost").unwrap();
    let (mut send, mut recv) = connection.open_bi().unwrap();
    let data = noise(7, LEN);
    let expected = Sha256::digest(&data);
    let writer = thread::spawn(move || {
        assert_eq!(io::copy(&mut &data[..], &mut send).unwrap(), LEN as u64);
        send.finish().unwrap();
        send.stopped().unwrap()
    });
    let mut hash = Sha256::new();
    assert_eq!(io::copy(&mut recv, &mut hash).unwrap(), LEN as u64);
    assert_eq!(hash.finalize(), expected);
    assert_eq!(writer.join().unwrap(), None, "delivered, not stopped");
    assert_eq!(recv.read(&mut [0; 10]).unwrap(), 0, "the end stays the end");
}

#[test]
fn a_read_that_timed_out_lost_nothing() {
    let pair = Pair::new();
    let (client, server) = pair.connect();
    let (mut send, mut recv) = uni_stream(&client, &server);

    assert_kind(
        recv.set_read_timeout(Some(Duration::ZERO)),
        ErrorKind::InvalidInput,
    );
    recv.set_read_timeout(Some(SHORT)).unwrap();
    assert_eq!(recv.read_timeout(), Some(SHORT));
    let start = Instant::now();
    let error = assert_kind(recv.read(&mut [0; 10]), ErrorKind::WouldBlock);
    assert!(start.elapsed() >= SHORT);
    assert!(connection_error(&error).is_none(), "the connection is fine");
    assert_kind(recv.read_chunk(10, true), ErrorKind::WouldBlock);
    assert_kind(recv.received_reset(), ErrorKind::WouldBlock);

    send.write_all(b"late ").unwrap();
    recv.set_read_timeout(Some(LONG)).unwrap();
    let mut buf = [0; 5];
    recv.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"late ");

    // What was read before time ran out is kept for the next call.
    send.write_all(b"but ").unwrap();
    recv.set_read_timeout(Some(SHORT)).unwrap();
    assert_kind(recv.read_to_limit(100), ErrorKind::WouldBlock);
    send.write_all(b"complete").unwrap();
    assert_kind(recv.read_to_limit(5), ErrorKind::InvalidData);
    recv.set_read_timeout(None).unwrap();
    let mut first = [0; 2];
    recv.read_exact(&mut first).unwrap();
    let chunk = recv.read_chunk(1, true).unwrap().unwrap();
    assert_eq!((&first, &chunk.bytes[..]), (b"bu", &b"t"[..]));
    assert_eq!(chunk.offset, 1 + 5 + 2);
    send.finish().unwrap();
    assert_eq!(recv.read_to_limit(100).unwrap(), b" complete");
    assert_eq!(recv.read(&mut buf).unwrap(), 0);
}

#[test]
fn a_write_that_timed_out_keeps_the_rest() {
    let mut transport = TransportConfig::default();
    transport.stream_receive_window(10_000u32.into());
    let pair = Pair::with_transport(transport);
    let (client, server) = pair.connect();
    let (mut send, mut recv) = uni_stream(&client, &server);

    let data = Bytes::from(noise(3, 50_000));
    let mut rest = data.clone();
    send.set_write_timeout(Some(SHORT)).unwrap();
    assert_kind(send.write_chunk(&mut rest), ErrorKind::WouldBlock);
    let written = data.len() - rest.len();
    assert!((9_000..=10_001).contains(&written), "{written} bytes");
    assert_kind(send.write(b"no room"), ErrorKind::WouldBlock);
    assert_eq!(send.write(b"").unwrap(), 0, "nothing to wait for");

    send.set_write_timeout(None).unwrap();
    let writer = thread::spawn(move || {
        send.write_chunk(&mut rest).unwrap();
        assert!(rest.is_empty());
        send.flush().unwrap();
        send.finish().unwrap();
    });
    assert_eq!(recv.read_to_limit(100_000).unwrap(), data);
    writer.join().unwrap();
}

#[test]
fn waiting_for_the_peer_has_timeouts() {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(1u32.into());
    let pair = Pair::with_transport(transport);
    assert_kind(pair.server.accept_timeout(SHORT), ErrorKind::WouldBlock);
    let (client, server) = pair.connect();

    assert_kind(server.accept_bi_timeout(SHORT), ErrorKind::WouldBlock);
    assert_kind(server.accept_uni_timeout(SHORT), ErrorKind::WouldBlock);
    assert_kind(server.read_datagram_timeout(SHORT), ErrorKind::WouldBlock);
    assert_kind(server.closed_timeout(SHORT), ErrorKind::WouldBlock);
    assert_kind(pair.client.wait_idle_timeout(SHORT), ErrorKind::WouldBlock);
    let mut first = client.open_bi_timeout(LONG).unwrap();
    assert_kind(client.open_bi_timeout(SHORT), ErrorKind::WouldBlock);
    first.0.set_write_timeout(Some(SHORT)).unwrap();
    assert_kind(first.0.stopped(), ErrorKind::WouldBlock);
    assert!(client.close_reason().is_none(), "none of this did any harm");

    // Giving the first stream up makes room for the next one.
    drop(first);
    thread::scope(|scope| {
        scope.spawn(|| drop(server.accept_bi_timeout(LONG)));
        client.open_bi_timeout(LONG).unwrap();
    });
}

#[test]
fn finish_reset_and_stop() {
    let pair = Pair::new();
    let (client, server) = pair.connect();

    let (mut send, mut recv) = uni_stream(&client, &server);
    send.finish().unwrap();
    assert!(send.finish().is_err(), "finished twice");
    assert_kind(send.write(b"more"), ErrorKind::NotConnected);
    assert_eq!(recv.read(&mut [0; 4]).unwrap(), 0);
    assert_eq!(recv.received_reset().unwrap(), None);
    assert_eq!(send.stopped().unwrap(), None);

    let (mut send, mut recv) = uni_stream(&client, &server);
    send.reset(5u32.into()).unwrap();
    let error = assert_kind(recv.read(&mut [0; 4]), ErrorKind::ConnectionReset);
    assert_eq!(stream_error_code(&error), Some(5u32.into()));
    assert_eq!(recv.received_reset().unwrap(), Some(5u32.into()));

    let (mut send, mut recv) = uni_stream(&client, &server);
    recv.stop(6u32.into()).unwrap();
    assert_eq!(send.stopped().unwrap(), Some(6u32.into()));
    let error = assert_kind(send.write(b"more"), ErrorKind::ConnectionReset);
    assert_eq!(stream_error_code(&error), Some(6u32.into()));

    // An accident is no end of the data.
    let (send, mut recv) = uni_stream(&client, &server);
    drop(send);
    let error = assert_kind(recv.read_to_limit(100), ErrorKind::ConnectionReset);
    assert_eq!(stream_error_code(&error), Some(0u32.into()));
    let (send, recv) = uni_stream(&client, &server);
    drop(recv);
    assert_eq!(send.stopped().unwrap(), Some(0u32.into()));
}

#[test]
fn datagrams() {
    let pair = Pair::new();
    let (client, server) = pair.connect();
    client.send_datagram(&b"by reference"[..]).unwrap();
    assert_eq!(server.read_datagram_timeout(LONG).unwrap(), "by reference");
    server.send_datagram_wait(b"vec".to_vec()).unwrap();
    assert_eq!(client.read_datagram().unwrap(), "vec");
    server
        .send_datagram_timeout(Bytes::from_static(b"bytes"), LONG)
        .unwrap();
    assert_eq!(client.read_datagram().unwrap(), "bytes");
    let too_large = vec![0; client.max_datagram_size().unwrap() + 1];
    assert_kind(client.send_datagram(too_large), ErrorKind::InvalidInput);
}

#[test]
fn connecting_to_a_dead_port_gives_up_in_time() {
    let pair = Pair::new();
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = dead.local_addr().unwrap();
    let start = Instant::now();
    let error = assert_kind(
        pair.client.connect_timeout(addr, "localhost", SHORT),
        ErrorKind::TimedOut,
    );
    assert!(start.elapsed() >= SHORT);
    assert!(connection_error(&error).is_none());

    // To wait with interruptions instead.
    let mut connecting = pair.client.start_connect(pair.addr, "localhost").unwrap();
    assert_kind(connecting.wait_timeout(SHORT), ErrorKind::WouldBlock);
    pair.serve_echo();
    let connection = connecting.wait_timeout(LONG).unwrap();
    assert_kind(connecting.wait_timeout(LONG), ErrorKind::NotConnected);
    assert_eq!(connection.remote_address(), pair.addr);
    assert!(connecting.remote_address().is_none());
}

#[test]
fn bad_parameters_are_reported_at_once() {
    let mut pair = Pair::new();
    let v6: SocketAddr = "[::1]:1".parse().unwrap();
    assert_kind(
        pair.client.connect(v6, "localhost"),
        ErrorKind::InvalidInput,
    );
    assert_kind(
        pair.client.connect(pair.addr, "not a name"),
        ErrorKind::InvalidInput,
    );
    let none: &[SocketAddr] = &[];
    assert_kind(
        pair.client.connect(none, "localhost"),
        ErrorKind::InvalidInput,
    );
    let unconfigured = Endpoint::client("127.0.0.1:0").unwrap();
    assert_kind(
        unconfigured.connect(pair.addr, "localhost"),
        ErrorKind::InvalidInput,
    );
    assert_kind(Endpoint::client(pair.addr), ErrorKind::AddrInUse);

    // The first address cannot work with this socket; the second does.
    pair.serve_echo();
    pair.client
        .connect(&[v6, pair.addr][..], "localhost")
        .unwrap();
    pair.client = Endpoint::client("127.0.0.1:0").unwrap();
    pair.client.close(0u32.into(), b"");
    assert_kind(
        pair.client
            .connect_with(client_config(), pair.addr, "localhost"),
        ErrorKind::NotConnected,
    );
}

/// A configuration that trusts somebody else.
fn client_config() -> ClientConfig {
    let other = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(other.cert.der().clone()).unwrap();
    ClientConfig::with_root_certificates(Arc::new(roots)).unwrap()
}

#[test]
fn failed_handshakes_tell_why_and_disturb_nobody() {
    let pair = Pair::new();
    pair.serve_echo();
    for (config, name) in [(Some(client_config()), "localhost"), (None, "example.org")] {
        let error = match config {
            Some(config) => pair.client.connect_with(config, pair.addr, name),
            None => pair.client.connect(pair.addr, name),
        }
        .unwrap_err();
        let cause = connection_error(&error).unwrap();
        assert!(
            matches!(cause, ConnectionError::TransportError(_)),
            "{cause}"
        );
    }
    pair.client.connect(pair.addr, "localhost").unwrap();
}

/// A client that begins a handshake and falls silent takes no turn of `incoming()`.
#[test]
fn a_stalled_handshake_holds_up_nobody() {
    let pair = Pair::new();
    // Take a client's first datagram, and pass it on from another address: nobody will answer.
    let relay = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stalled = pair
        .client
        .start_connect(relay.local_addr().unwrap(), "localhost")
        .unwrap();
    let mut first = [0; 2000];
    for _ in 0..2 {
        // Large hellos, as with post-quantum key exchange, take two.
        let (len, _) = relay.recv_from(&mut first).unwrap();
        relay.send_to(&first[..len], pair.addr).unwrap();
    }
    thread::scope(|scope| {
        let accepted = scope.spawn(|| {
            let mut incoming = pair.server.incoming();
            (incoming.next().unwrap(), incoming.next().unwrap())
        });
        let connect = || pair.client.connect(pair.addr, "localhost").unwrap();
        let _connections = (connect(), connect());
        accepted.join().unwrap();
    });
    assert_eq!(pair.server.stats().accepted_handshakes, 3);
    drop(stalled);
}

#[test]
fn decisions_about_incoming_connections() {
    let pair = Pair::new();
    let (server, ignoring) = (pair.server.clone(), Arc::new(AtomicBool::new(false)));
    let ignore = ignoring.clone();
    let decisions = thread::spawn(move || {
        // A hello of two datagrams may show up twice, so nothing is counted here.
        let attempt = loop {
            let attempt = server.accept().unwrap();
            if attempt.remote_address_validated() {
                break attempt;
            }
            assert!(attempt.may_retry());
            attempt.retry().unwrap();
        };
        assert!(!attempt.may_retry());
        let attempt = attempt.retry().unwrap_err().into_incoming();
        let connection = attempt.accept_timeout(LONG).unwrap();
        while let Some(attempt) = server.accept() {
            if ignore.load(Ordering::Relaxed) {
                attempt.ignore();
            } else {
                attempt.refuse();
            }
        }
        drop(connection);
    });
    // Kept: a client that leaves at once may do so before the server has its last message.
    let _connection = pair.client.connect(pair.addr, "localhost").unwrap();
    let refused = pair.client.connect(pair.addr, "localhost");
    assert_kind(refused, ErrorKind::ConnectionAborted);
    ignoring.store(true, Ordering::Relaxed);
    let ignored = pair
        .client
        .connect_timeout(pair.addr, "localhost", 4 * SHORT);
    assert_kind(ignored, ErrorKind::TimedOut);
    pair.server.close(0u32.into(), b"");
    decisions.join().unwrap();
    let stats = pair.server.stats();
    assert!(stats.retried_handshakes > 0 && stats.refused_handshakes > 0);
    assert!(stats.ignored_handshakes > 0);
}

#[test]
fn a_close_reason_reaches_the_peer() {
    let pair = Pair::new();
    let (client, server) = pair.connect();
    let (_send, mut recv) = uni_stream(&client, &server);
    thread::scope(|scope| {
        let reader = scope.spawn(|| recv.read(&mut [0; 4]));
        let streams = scope.spawn(|| server.incoming_bi().count());
        let accepting = scope.spawn(|| server.accept_bi());
        client.close(42u32.into(), b"enough");
        assert_kind(client.open_uni(), ErrorKind::Other);
        assert_eq!(client.closed(), ConnectionError::LocallyClosed);
        match server.closed() {
            ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code, 42u32.into());
                assert_eq!(close.reason, "enough");
            }
            other => panic!("{other}"),
        }
        let error = assert_kind(reader.join().unwrap(), ErrorKind::ConnectionAborted);
        assert!(matches!(
            connection_error(&error),
            Some(ConnectionError::ApplicationClosed(_))
        ));
        let error = assert_kind(accepting.join().unwrap(), ErrorKind::ConnectionAborted);
        assert!(connection_error(&error).is_some());
        assert_eq!(streams.join().unwrap(), 0);
    });
    assert!(server.close_reason().is_some());
}

/// What was finished is delivered although the sender goes away at once.
#[test]
fn closing_delivers_what_was_finished() {
    let pair = Pair::new();
    let (client, server) = pair.connect();
    let (mut send, mut recv) = uni_stream(&client, &server);
    let data = noise(9, 300_000);
    let reader = thread::spawn(move || recv.read_to_limit(1 << 20).unwrap());
    send.write_all(&data).unwrap();
    send.finish().unwrap();
    drop(send);
    pair.client.close(0u32.into(), b"bye");
    pair.client.wait_idle_timeout(LONG).unwrap();
    assert_eq!(reader.join().unwrap(), data);
    assert_eq!(pair.client.open_connections(), 0);
}

#[test]
fn closing_the_endpoint_ends_its_loops() {
    let pair = Pair::new();
    let server = pair.server.clone();
    let threads = [
        thread::spawn({
            let server = server.clone();
            move || server.incoming().count()
        }),
        thread::spawn(move || std::iter::from_fn(|| server.accept()).count()),
    ];
    thread::sleep(SHORT);
    pair.server.close(0u32.into(), b"");
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 0);
    }
    assert!(pair.server.accept_timeout(LONG).unwrap().is_none());
}

#[test]
fn zero_rtt() {
    let pair = Pair::new();
    pair.serve_echo();
    let ask = |connection: &Connection| {
        let (mut send, mut recv) = connection.open_bi().unwrap();
        send.write_all(b"early").unwrap();
        send.finish().unwrap();
        assert_eq!(recv.read_to_limit(100).unwrap(), b"early");
    };
    let (connection, accepted) = pair.client.connect_0rtt(pair.addr, "localhost").unwrap();
    assert!(accepted.is_none(), "nothing is known of this server yet");
    // The session ticket comes with or before the answer.
    ask(&connection);
    drop(connection);
    let (connection, accepted) = pair.client.connect_0rtt(pair.addr, "localhost").unwrap();
    let accepted = accepted.expect("a session is known");
    ask(&connection);
    assert!(accepted.wait());
    assert!(connection.stats().frame_tx.stream > 0);
}

#[test]
fn a_connection_survives_a_change_of_address() {
    let pair = Pair::new();
    let (client, server) = pair.connect();
    let (mut send, mut recv) = uni_stream(&client, &server);
    let before = pair.client.local_addr().unwrap();
    let after = pair.client.rebind_addr("127.0.0.1:0").unwrap();
    assert_ne!(before, after);
    send.write_all(b"moved").unwrap();
    let mut buf = [0; 5];
    recv.read_exact(&mut buf).unwrap();
    assert_eq!(server.remote_address(), after);
    assert_kind(pair.client.rebind_addr(pair.addr), ErrorKind::AddrInUse);
}
