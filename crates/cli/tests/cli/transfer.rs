//! Files that arrive.

use std::net::UdpSocket;

use crate::harness::{EXECUTORS, Fixture, program, run};

#[test]
fn files_arrive_intact_on_every_executor() {
    for executor in EXECUTORS {
        let f = Fixture::new();
        let contents: Vec<_> = [
            ("empty", 0),
            ("one", 1),
            ("large", 5 << 20),
            ("a b", 70_000),
        ]
        .map(|(name, length)| (name, f.file(name, length)))
        .into();
        let server = f.serve(&["--executor", executor]);
        let paths = ["/empty", "/one", "/large", "/a%20b"];
        let done = f.get(&server, &paths, &["--executor", executor]).ok();
        // Standard error is not a terminal: no progress, nothing at all.
        assert_eq!(done.stderr, "");
        assert!(done.stdout.contains("handshake"), "{done:?}");
        assert_eq!(
            f.names("out"),
            ["a b", "empty", "large", "one"],
            "{executor}"
        );
        for (name, content) in contents {
            let copy = std::fs::read(f.path("out").join(name)).unwrap();
            assert!(copy == content, "{name} on {executor}");
        }
    }
}

#[test]
fn many_files_share_one_connection() {
    let f = Fixture::new();
    let names: Vec<_> = (0..120).map(|n| format!("file{n:03}")).collect();
    let contents: Vec<_> = names.iter().map(|name| f.file(name, 3000)).collect();
    let server = f.serve(&["--qlog-dir", &f.arg("qlog")]);
    let paths: Vec<_> = names.iter().map(|name| format!("/{name}")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    f.get(&server, &paths, &["--parallel", "7", "--quiet"]).ok();
    for (name, content) in names.iter().zip(contents) {
        assert!(
            std::fs::read(f.path("out").join(name)).unwrap() == content,
            "{name}"
        );
    }
    assert_eq!(f.names("qlog").len(), 1, "one file per connection");
}

#[test]
fn an_existing_file_is_replaced() {
    let f = Fixture::new();
    let content = f.file("x", 100);
    std::fs::write(f.path("out").join("x"), "old and longer than nothing").unwrap();
    let server = f.serve(&[]);
    f.get(&server, &["/x"], &[]).ok();
    assert_eq!(std::fs::read(f.path("out").join("x")).unwrap(), content);
}

#[test]
fn a_directory_is_answered_with_its_index() {
    let f = Fixture::new();
    let content = f.file("index.html", 100);
    let server = f.serve(&[]);
    f.get(&server, &["/"], &[]).ok();
    assert_eq!(
        std::fs::read(f.path("out").join("index.html")).unwrap(),
        content
    );
}

#[test]
fn retry_and_every_congestion_controller_work() {
    for cc in ["cubic", "newreno", "bbr"] {
        let f = Fixture::new();
        let content = f.file("x", 300_000);
        let server = f.serve(&["--retry", "--cc", cc]);
        f.get(&server, &["/x"], &["--cc", cc]).ok();
        assert!(
            std::fs::read(f.path("out").join("x")).unwrap() == content,
            "{cc}"
        );
    }
}

#[test]
fn both_families_are_served_by_one_socket() {
    if UdpSocket::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let f = Fixture::new();
    f.file("x", 1000);
    let server = f.serve_on("[::]:0", &[]);
    let ca = f.arg("ca.pem");
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let url = format!("https://{host}:{}/x", server.address.port());
        run(&["get", &url, "-o", &f.arg("out"), "--ca", &ca]).ok();
        std::fs::remove_file(f.path("out").join("x")).unwrap();
    }
}

#[test]
fn several_addresses_can_be_listened_on() {
    let f = Fixture::new();
    f.file("x", 1000);
    let mut server = f.serve_on("127.0.0.1:0", &["--listen", "127.0.0.1:0"]);
    let second = server.process.line();
    let second = second
        .split(' ')
        .nth(2)
        .unwrap()
        .rsplit(':')
        .next()
        .unwrap();
    assert_ne!(second, server.address.port().to_string());
    let url = format!("https://localhost:{second}/x");
    run(&["get", &url, "-o", &f.arg("out"), "--ca", &f.arg("ca.pem")]).ok();
    f.get(&server, &["/x"], &[]).ok();
}

#[test]
fn sessions_are_resumed_across_processes_and_carry_0rtt() {
    let f = Fixture::new();
    let content = f.file("x", 200_000);
    f.certificate("server", "localhost");
    let (cert, key) = (f.arg("server.crt"), f.arg("server.key"));
    let own = ["--cert", &cert, "--key", &key];
    let server = f.serve(&own);
    let cache = f.arg("sessions");
    let client = ["--ca", &cert, "--session-cache", &cache];
    let with_0rtt = [&client[..], &["--0rtt"]].concat();
    let check = |said: &str, words: &[&str]| {
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        }
        assert!(std::fs::read(f.path("out").join("x")).unwrap() == content);
        std::fs::remove_file(f.path("out").join("x")).unwrap();
    };

    check(
        &f.get(&server, &["/x"], &with_0rtt).ok().stdout,
        &["new session", "handshake"],
    );
    check(
        &f.get(&server, &["/x"], &client).ok().stdout,
        &["session resumed", "handshake"],
    );
    check(
        &f.get(&server, &["/x"], &with_0rtt).ok().stdout,
        &["session resumed", "0-RTT accepted"],
    );

    // Another server at the same place knows nothing of these sessions.
    let address = server.address.to_string();
    drop(server);
    let server = f.serve_on(&address, &own);
    check(
        &f.get(&server, &["/x"], &with_0rtt).ok().stdout,
        &["new session", "0-RTT rejected"],
    );
    check(
        &f.get(&server, &["/x"], &with_0rtt).ok().stdout,
        &["session resumed", "0-RTT accepted"],
    );

    // A session made under verification is not used without.
    let insecure = ["--insecure", "--session-cache", &cache, "--0rtt"];
    check(
        &f.get(&server, &["/x"], &insecure).ok().stdout,
        &["new session"],
    );
}

#[test]
fn insecure_works_and_is_loud() {
    let f = Fixture::new();
    f.file("x", 1000);
    let server = f.serve(&[]);
    f.get(&server, &["/x"], &["--insecure"])
        .expect(0, &["WARNING", "not verified"]);
}

#[test]
fn qlog_and_key_log_are_written() {
    let f = Fixture::new();
    f.file("x", 1000);
    let server = f.serve(&["--qlog-dir", &f.arg("qlog")]);
    let mut command = program(&[
        "get",
        &server.url("/x"),
        "-o",
        &f.arg("out"),
        "--ca",
        &f.arg("ca.pem"),
        "--qlog-dir",
        &f.arg("client-qlog"),
    ]);
    let keys = f.path("keys");
    command.env("SSLKEYLOGFILE", &keys);
    crate::harness::Running::start(command).finish().ok();
    server.process.signal("TERM");
    server.process.finish().ok();
    let keys = std::fs::read_to_string(keys).unwrap();
    assert!(keys.contains("CLIENT_TRAFFIC_SECRET_0 "), "{keys}");
    for dir in ["qlog", "client-qlog"] {
        let names = f.names(dir);
        assert_eq!(names.len(), 1, "{names:?}");
        let log = std::fs::read_to_string(f.path(dir).join(&names[0])).unwrap();
        // JSON text sequences (RFC 7464): a record separator before each.
        let records: Vec<_> = log.split('\x1e').filter(|r| !r.trim().is_empty()).collect();
        assert!(records.len() > 5, "{dir}: {} records", records.len());
        for record in records {
            serde_json::from_str::<serde_json::Value>(record).unwrap();
        }
    }
}

#[test]
fn junk_does_not_disturb_a_transfer() {
    let f = Fixture::new();
    f.sparse_file("x", 64 << 20);
    let server = f.serve(&[]);
    // Warm: the first transfer allocates what stays.
    f.get(&server, &["/x"], &[]).ok();
    let before = server.resident_kib();
    let get = f.start_get(&server, &["/x"], &[]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut datagram = [0; 1500];
    for _ in 0..100_000 {
        for chunk in datagram.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        let length = 1 + state as usize % 1499;
        // Half look like Initial packets of version 1, with a length that may be a lie.
        if state & 1 << 40 == 0 {
            datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        let _ = socket.send_to(&datagram[..length], server.address);
    }
    get.finish().ok();
    f.get(&server, &["/x"], &[]).ok();
    if let (Some(before), Some(after)) = (before, server.resident_kib()) {
        assert!(
            after < before + 32 * 1024,
            "{before} KiB before, {after} KiB after"
        );
    }
}
