//! `polyquic relay`: what passes, what does not, and how it ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_tungstenite::tungstenite::{Bytes, Message};
use polyquic::rustls;

use crate::harness::{EXECUTORS, Fixture, LIMIT, Server, number, run};
use crate::tunnel::{Client, echo, echo_of, local_port, relay, request, silent};

#[test]
fn files_arrive_whole_through_the_relay_on_every_executor() {
    for &executor in EXECUTORS {
        let f = Fixture::new();
        let content = f.file("large", 5_000_000);
        let server = f.serve(&["--executor", executor]);
        let target = server.address.to_string();
        let mut relay = relay(&["--allow", &target, "--executor", executor]);
        let port = local_port(relay.address, &target);
        let url = format!("https://localhost:{}/large", port.port());
        let (out, ca) = (f.arg("out"), f.arg("ca.pem"));
        run(&["get", "-o", &out, "--ca", &ca, &url, "--executor", executor]).ok();
        let copy = std::fs::read(f.path("out/large")).unwrap();
        assert!(copy == content, "{executor}: the copy differs");
        relay.process.signal("TERM");
        let line = relay.process.line();
        assert!(number(&line, " bytes; dropped") > 5_000_000, "{line}");
        assert_eq!(number(&line, "unsendable"), 0, "{line}");
    }
}

#[test]
fn the_first_message_says_where_datagrams_go_and_each_is_one_message() {
    let target = echo();
    let relay = relay(&["--allow", &target]);
    let mut client = Client::connect(relay.address, &target);
    assert_eq!(client.hello()["target"], target.as_str());
    for length in [1, 20, 1200, 1200, 1200, 700, 1452, 9000] {
        client.send(&vec![length as u8; length]);
    }
    for length in [1, 20, 1200, 1200, 1200, 700, 1452, 9000] {
        assert_eq!(client.receive(), vec![length as u8; length]);
    }
}

#[test]
fn targets_of_ipv6_are_reached_by_address_and_network() {
    let Ok(udp) = UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: no IPv6 here");
        return;
    };
    let target = echo_of(udp);
    let network = target.replace("[::1]", "[::1]/128");
    // As encodeURIComponent has it.
    let encoded = target
        .replace('[', "%5B")
        .replace(']', "%5D")
        .replace(':', "%3A");
    for rule in [&target, &network] {
        let relay = relay(&["--allow", rule]);
        let mut client = Client::connect(relay.address, &encoded);
        assert_eq!(client.hello()["target"], target.as_str());
        client.send(b"six");
        assert_eq!(client.receive(), b"six");
        let other = Client::connect(relay.address, "%5B::2%5D:443").goodbye();
        assert_eq!(other.0, 4403);
    }
}

#[test]
fn what_is_said_right_before_the_goodbye_arrives() {
    let (target, address) = silent();
    let relay = relay(&["--allow", &address]);
    for _ in 0..20 {
        let mut client = Client::connect(relay.address, &address);
        client.hello();
        let last = Bytes::from_static(b"last words");
        client.socket.write(Message::Binary(last)).unwrap();
        // Flushes both at once.
        client.socket.close(None).unwrap();
        let mut buffer = [0; 20];
        assert_eq!(target.recv(&mut buffer).unwrap(), 10);
    }
}

#[test]
fn targets_without_a_rule_are_refused() {
    let target = echo();
    let port = target.rsplit(':').next().unwrap();
    let (named, aliased) = (format!("localhost:{port}"), format!("127.1:{port}"));
    let relay = relay(&["--allow", &named, "--allow", &aliased]);
    let refused = |target: &str| Client::connect(relay.address, target).goodbye();
    for target in ["127.0.0.1:9", "example.org:443", "10.0.0.1:1", &target] {
        let (code, name, message) = refused(target);
        assert_eq!((code, name.as_str()), (4403, "not-allowed"), "{message}");
    }
    // The name is allowed, but not to lead here.
    let (code, _, message) = refused(&aliased);
    assert_eq!(code, 4403);
    assert!(message.contains("addresses"), "{message}");
    // As localhost is.
    let mut client = Client::connect(relay.address, &named);
    assert_eq!(client.hello()["target"], target.as_str());
}

#[test]
fn names_that_lead_nowhere_and_targets_that_are_none_are_told_apart() {
    let relay = relay(&["--allow", "no-such-host.invalid:*"]);
    for (target, name) in [
        ("no-such-host.invalid:443", "cannot-resolve"),
        ("nonsense", "bad-target"),
        ("localhost:0", "bad-target"),
        ("", "bad-target"),
    ] {
        let (code, said, _) = Client::connect(relay.address, target).goodbye();
        assert_eq!((code, said.as_str()), (4404, name), "{target}");
    }
    // What no rule names is not looked up, lest clients learn what names there are.
    let other = Client::connect(relay.address, "other-host.invalid:443").goodbye();
    assert_eq!(other.0, 4403);
}

#[test]
fn pages_of_other_sites_are_refused() {
    let target = echo();
    let relay = relay(&["--allow", &target, "--origin", "https://good.example"]);
    let from = |origin| Client::from_origin(relay.address, &target, origin);
    let (code, name, message) = from(Some("https://bad.example")).goodbye();
    assert_eq!((code, name.as_str()), (4403, "origin-not-allowed"));
    assert!(message.contains("https://bad.example"), "{message}");
    assert_eq!(from(Some("null")).goodbye().0, 4403);
    from(Some("https://good.example")).hello();
    // No browser, so no page that could be up to something.
    from(None).hello();
}

#[test]
fn there_are_only_so_many_clients() {
    let target = echo();
    for (option, name) in [
        ("--max-clients", "too-many-clients"),
        (
            "--max-clients-per-address",
            "too-many-clients-of-this-address",
        ),
    ] {
        let relay = relay(&["--allow", &target, option, "1"]);
        let mut first = Client::connect(relay.address, &target);
        first.hello();
        let (code, said, _) = Client::connect(relay.address, &target).goodbye();
        assert_eq!((code, said.as_str()), (4429, name));
        // The first is not disturbed.
        first.send(b"still here");
        assert_eq!(first.receive(), b"still here");
        drop(first);
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut next = Client::connect(relay.address, &target);
            let message = next.socket.read().unwrap().into_text().unwrap();
            if !message.contains("error") {
                break;
            }
            assert!(Instant::now() < deadline, "the place is not given back");
        }
    }
}

#[test]
fn what_is_over_the_rate_is_dropped_and_counted() {
    let (_target, address) = silent();
    for (option, rate) in [("--datagram-rate", "1"), ("--rate", "1k")] {
        let mut relay = relay(&["--allow", &address, option, rate]);
        let mut client = Client::connect(relay.address, &address);
        client.hello();
        for _ in 0..200 {
            client.send(&[7; 1000]);
        }
        client.socket.close(None).unwrap();
        let line = relay.process.line();
        let (passed, dropped) = (number(&line, "datagrams, "), number(&line, "over the rate"));
        assert_eq!(passed + dropped, 200, "{line}");
        assert!(passed > 0 && dropped > 0, "{line}");
        assert!(line.ends_with("the client closed"), "{line}");
    }
}

#[test]
fn a_client_that_used_up_its_bytes_is_cut_off() {
    let target = echo();
    let relay = relay(&["--allow", &target, "--max-bytes", "3000"]);
    let mut client = Client::connect(relay.address, &target);
    client.hello();
    client.send(&[1; 1000]);
    assert_eq!(client.receive().len(), 1000);
    client.send(&[1; 1000]);
    let (code, name, _) = client.goodbye();
    assert_eq!((code, name.as_str()), (4429, "used-up"));
}

#[test]
fn no_byte_is_carried_beyond_the_limit_and_what_is_dropped_counts() {
    let (target, address) = silent();
    // A rate that lets one of these pass, so that the others are dropped.
    for more in [&[][..], &["--datagram-rate", "1"]] {
        let mut args = vec!["--allow", &address, "--max-bytes", "10500"];
        args.extend(more);
        let mut relay = relay(&args);
        let mut client = Client::connect(relay.address, &address);
        client.hello();
        // Ten fit, and half of one more. All are there before the relay looks at the first.
        for _ in 0..100 {
            let datagram = Bytes::from_static(&[1; 1000]);
            client.socket.write(Message::Binary(datagram)).unwrap();
        }
        client.socket.flush().unwrap();
        let (code, name, _) = client.goodbye();
        assert_eq!((code, name.as_str()), (4429, "used-up"));
        let line = relay.process.line();
        let (passed, dropped) = (number(&line, "datagrams, "), number(&line, "over the rate"));
        assert_eq!(passed + dropped, 10, "{line}");
        assert_eq!(dropped > 0, !more.is_empty(), "{line}");
    }
    drop(target);
}

#[test]
fn messages_that_are_no_datagrams_end_the_connection() {
    let target = echo();
    let relay = relay(&["--allow", &target]);
    let mut client = Client::connect(relay.address, &target);
    let most = client.hello()["maxDatagramSize"].as_u64().unwrap() as usize;
    client.send(&vec![0; most + 1]);
    let (code, name, _) = client.goodbye();
    assert_eq!((code, name.as_str()), (1009, "message-too-big"));

    // Far more than it will ever read: the goodbye must arrive nevertheless.
    let mut client = Client::connect(relay.address, &target);
    client.hello();
    client.send(&vec![0; 2_000_000]);
    assert_eq!(client.goodbye().0, 1009);

    let mut client = Client::connect(relay.address, &target);
    client.hello();
    client.socket.send(Message::text("hello")).unwrap();
    let (code, name, _) = client.goodbye();
    assert_eq!((code, name.as_str()), (1003, "not-binary"));
}

#[test]
fn a_client_without_datagrams_is_closed_as_idle() {
    for &executor in EXECUTORS {
        let target = echo();
        let relay = relay(&["--allow", &target, "--idle", "0.3", "--executor", executor]);
        let mut client = Client::connect(relay.address, &target);
        client.hello();
        // It answers pings all the while, in `goodbye`.
        let (code, name, message) = client.goodbye();
        assert_eq!(
            (code, name.as_str()),
            (4408, "idle"),
            "{executor}: {message}"
        );
    }
}

#[test]
fn pings_are_answered_and_sent() {
    let target = echo();
    // Pings come three times within that. On a machine that stands still for longer, the client is idle.
    let both_seen = |idle: &str| {
        let relay = relay(&["--allow", &target, "--idle", idle]);
        let mut client = Client::connect(relay.address, &target);
        client.hello();
        let payload = Bytes::from_static(b"are you there?");
        client.socket.send(Message::Ping(payload.clone())).unwrap();
        let (mut answered, mut asked) = (false, false);
        while !(answered && asked) {
            match client.socket.read().unwrap() {
                Message::Pong(echo) if echo == payload => answered = true,
                Message::Ping(_) => asked = true,
                Message::Text(text) if text.contains("\"idle\"") => return false,
                other => panic!("{other:?}"),
            }
        }
        true
    };
    assert!(["3", "15", "60"].into_iter().any(both_seen));
}

#[test]
fn a_client_that_shows_no_sign_of_life_is_given_up_though_its_target_sends_on() {
    let (target, address) = silent();
    let mut relay = relay(&["--allow", &address, "--idle", "2"]);
    let mut client = Client::connect(relay.address, &address);
    client.hello();
    client.send(b"start");
    let (_, back) = target.recv_from(&mut [0; 10]).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let stop = done.clone();
    let sending = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let _ = target.send_to(b"on and on", back);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    // The client reads nothing, so that it answers no ping either.
    let line = relay.process.line();
    done.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    assert!(line.contains("no sign of life"), "{line}");
}

#[test]
fn sigterm_tells_every_client_and_ends_with_the_figures() {
    for &executor in EXECUTORS {
        let target = echo();
        let relay = relay(&["--allow", &target, "--executor", executor]);
        let mut clients: Vec<_> = (0..3)
            .map(|_| Client::connect(relay.address, &target))
            .collect();
        for client in &mut clients {
            client.hello();
            client.send(b"something");
            assert_eq!(client.receive(), b"something");
        }
        relay.process.signal("TERM");
        for client in clients {
            let (code, name, _) = client.goodbye();
            assert_eq!((code, name.as_str()), (1001, "shutting-down"), "{executor}");
        }
        let done = relay.process.finish().ok();
        let last = done.stdout.lines().last().unwrap();
        assert!(
            last.starts_with("SIGTERM: relayed for 3 clients: "),
            "{last}"
        );
        assert_eq!(number(last, "datagrams, 27 bytes; down"), 3, "{last}");
    }
}

#[test]
fn a_quiet_relay_says_where_it_listens_and_no_more() {
    let target = echo();
    let relay = relay(&["--allow", &target, "--quiet"]);
    let mut client = Client::connect(relay.address, &target);
    client.hello();
    relay.process.signal("INT");
    client.goodbye();
    assert_eq!(relay.process.finish().ok().stdout, "");
}

#[test]
fn a_slow_reader_loses_datagrams_and_fills_no_memory() {
    let (target, address) = silent();
    let echo = echo();
    let mut relay = relay(&["--allow", &address, "--allow", &echo]);
    let mut client = Client::narrow(relay.address, &address);
    client.hello();
    client.send(b"start");
    let (_, back) = target.recv_from(&mut [0; 10]).unwrap();
    let mut other = Client::connect(relay.address, &echo);
    other.hello();
    let before = relay.resident_kib();
    // Far more than what TCP's buffers on both sides hold. Another client is served each time, as the
    // kernel would else drop before the relay can.
    for round in 0..1000u32 {
        for _ in 0..32 {
            let _ = target.send_to(&[1; 1400], back);
        }
        other.send(&round.to_be_bytes());
        assert_eq!(other.receive(), round.to_be_bytes());
    }
    if let (Some(before), Some(after)) = (before, relay.resident_kib()) {
        assert!(after < before + 16_384, "{before} KiB, then {after} KiB");
    }
    // Reading again makes room again.
    let done = Arc::new(AtomicBool::new(false));
    let stop = done.clone();
    let sending = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let _ = target.send_to(b"marker", back);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let mut count = 0;
    while client.receive() != b"marker" {
        count += 1;
    }
    done.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    drop(client);
    let line = relay.process.line();
    assert!(count > 0 && number(&line, "at a full queue") > 0, "{line}");
}

#[test]
fn answers_to_pings_that_nobody_reads_fill_no_memory() {
    let (target, address) = silent();
    let relay = relay(&["--allow", &address]);
    let mut client = Client::narrow(relay.address, &address);
    client.hello();
    client.send(b"first");
    let mut buffer = [0; 20];
    assert_eq!(target.recv(&mut buffer).unwrap(), 5);
    let before = relay.resident_kib();
    let payload = Bytes::from_static(&[7; 125]);
    for _ in 0..200_000 {
        let ping = Message::Ping(payload.clone());
        client.socket.write(ping).unwrap();
    }
    client.send(b"after all of them");
    assert_eq!(target.recv(&mut buffer).unwrap(), 17);
    if let (Some(before), Some(after)) = (before, relay.resident_kib()) {
        assert!(after < before + 8192, "{before} KiB, then {after} KiB");
    }
}

/// Open sockets of a process, its listening one included.
#[cfg(target_os = "linux")]
fn sockets(server: &Server) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", server.process.id())).unwrap();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

#[cfg(target_os = "linux")]
#[test]
fn a_client_that_vanishes_leaves_no_socket() {
    for &executor in EXECUTORS {
        let target = echo();
        let mut relay = relay(&["--allow", &target, "--executor", executor]);
        let mut first = Client::connect(relay.address, &target);
        first.hello();
        let (one, mut clients) = (sockets(&relay), Vec::new());
        for _ in 0..5 {
            let mut client = Client::connect(relay.address, &target);
            client.hello();
            clients.push(client);
        }
        assert_eq!(
            sockets(&relay),
            one + 10,
            "{executor}: TCP and UDP for each"
        );
        clients.into_iter().for_each(Client::reset);
        for _ in 0..5 {
            let line = relay.process.line();
            assert!(line.contains("the client is gone"), "{executor}: {line}");
        }
        let deadline = Instant::now() + LIMIT;
        while sockets(&relay) != one {
            assert!(Instant::now() < deadline, "{executor}: sockets are left");
            std::thread::sleep(Duration::from_millis(2));
        }
        first.send(b"unharmed");
        assert_eq!(first.receive(), b"unharmed");
    }
}

#[test]
fn a_certificate_makes_it_wss() {
    let f = Fixture::new();
    f.certificate("web", "localhost");
    let target = echo();
    let (cert, key) = (f.arg("web.crt"), f.arg("web.key"));
    let relay = relay(&["--allow", &target, "--cert", &cert, "--key", &key]);
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::pem::PemObject;
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_file(&cert).unwrap())
        .unwrap();
    let config = rustls::ClientConfig::builder_with_provider(polyquic::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = TcpStream::connect(relay.address).unwrap();
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    let tls = rustls::StreamOwned::new(session, tcp);
    let mut client = Client::open(tls, request(relay.address, &target, None));
    client.hello();
    client.send(&[3; 1200]);
    assert_eq!(client.receive(), [3; 1200]);
    relay.process.signal("TERM");
    assert_eq!(client.goodbye().0, 1001);
}

/// What the relay answers to a request, whole.
fn http(relay: &Server, request: &str) -> String {
    let mut tcp = TcpStream::connect(relay.address).unwrap();
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    tcp.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[test]
fn files_are_served_on_the_same_port_and_nothing_outside_of_them() {
    let f = Fixture::new();
    std::fs::write(f.path("www/index.html"), "<p>hello").unwrap();
    std::fs::write(f.path("www/x.wasm"), "module").unwrap();
    std::fs::write(f.path("secret"), "secret").unwrap();
    let www = f.arg("www");
    for &executor in EXECUTORS {
        let relay = relay(&[
            "--allow",
            "[::1]:1",
            "--files",
            &www,
            "--executor",
            executor,
        ]);
        let get_as = |host: &str, path: &str| {
            http(
                &relay,
                &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            )
        };
        let get = |path: &str| get_as("localhost:8080", path);
        let page = get("/");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
        assert!(
            page.contains("text/html") && page.ends_with("\r\n\r\n<p>hello"),
            "{page}"
        );
        let module = get("/x.wasm?version=1");
        assert!(
            module.contains("application/wasm") && module.ends_with("module"),
            "{module}"
        );
        for path in [
            "/../secret",
            "/%2e%2e/secret",
            "/..%2fsecret",
            "/missing",
            "//secret",
        ] {
            let answer = get(path);
            assert!(answer.starts_with("HTTP/1.1 40"), "{path}: {answer}");
            assert!(!answer.ends_with("secret"), "{path}: {answer}");
        }
        assert!(get("/udp").starts_with("HTTP/1.1 426"));
        // A page of somebody else, whose name leads here since it was loaded.
        let rebound = get_as("evil.example:8080", "/");
        assert!(rebound.starts_with("HTTP/1.1 421"), "{rebound}");
        assert!(!rebound.contains("hello"), "{rebound}");
        assert!(get_as("[::1]:8080", "/").ends_with("hello"));
        assert!(http(&relay, "POST / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    }
    // A server in front may pass on the name of the site, which has to be named.
    let site = "https://site.example";
    let behind = relay(&["--allow", "[::1]:1", "--files", &www, "--origin", site]);
    let answer = http(&behind, "GET / HTTP/1.1\r\nHost: site.example\r\n\r\n");
    assert!(answer.ends_with("hello"), "{answer}");
    let without = relay(&["--allow", "[::1]:1"]);
    let answer = http(&without, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
}

#[test]
fn what_cannot_be_started_is_named() {
    run(&["relay"]).expect(2, &["--allow HOST:PORT"]);
    run(&["relay", "--allow", "host"]).expect(2, &["HOST:PORT"]);
    run(&["relay", "--allow", "::1:1"]).expect(2, &["brackets"]);
    run(&["relay", "--allow", "a:1", "--rate", "5Mbit"]).expect(2, &["500k"]);
    run(&["relay", "--allow", "a:1", "--cert", "only"]).expect(2, &["--key"]);
    run(&["relay", "--allow", "a:1", "--files", "/no/such"]).expect(4, &["/no/such"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    run(&["relay", "--allow", "a:1", "--listen", &listen]).expect(4, &[&listen, "already in use"]);
    let help = run(&["relay", "--help"]).ok().stdout;
    for word in [
        "--allow",
        "polyquic-relay.v1",
        "Nothing is allowed by default",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word} is not in {help}");
    }
}

#[test]
fn a_client_that_does_not_hear_the_goodbye_does_not_keep_the_relay() {
    let target = echo();
    let relay = relay(&["--allow", &target]);
    let mut client = Client::connect(relay.address, &target);
    client.hello();
    relay.process.signal("TERM");
    // It neither reads nor closes.
    relay.process.finish().ok();
    drop(client);
}
