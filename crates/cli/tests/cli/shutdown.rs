//! Signals, and peers that vanish.
//!
//! To have a transfer in a known state, the client is stopped (SIGSTOP) as soon as the first bytes
//! are in its file.

use std::time::{Duration, Instant};

use crate::harness::{EXECUTORS, Fixture, Running, Server};

/// Takes long enough to be caught in the middle.
const LARGE: u64 = 512 << 20;

/// A client that is stopped in the middle of a transfer.
fn stopped_in_the_middle(f: &Fixture, server: &Server, more: &[&str]) -> Running {
    let client = f.start_get(server, &["/large"], more);
    f.wait_for_partial();
    client.signal("STOP");
    assert!(
        !f.names("out").contains(&"large".to_owned()),
        "it was over before it was stopped"
    );
    client
}

#[test]
fn sigterm_finishes_open_transfers_and_takes_no_new_ones() {
    for &executor in EXECUTORS {
        let f = Fixture::new();
        f.sparse_file("large", LARGE);
        f.file("small", 10);
        let mut server = f.serve(&["--executor", executor]);
        let client = stopped_in_the_middle(&f, &server, &[]);
        server.process.signal("TERM");
        let refused = f.get(&server, &["/small"], &[]);
        let refused = refused.expect(3, &["cannot connect", "refused"]);
        // Told at once, not after a timeout.
        assert!(refused.took < Duration::from_secs(5), "{refused:?}");
        assert!(
            server.process.is_running(),
            "{executor}: a transfer is open"
        );
        client.signal("CONT");
        client.finish().ok();
        let done = server
            .process
            .finish()
            .expect(0, &["finishing 1 open transfer"]);
        assert_eq!(done.code, Some(0), "{executor}");
        let length = f.path("out/large").metadata().unwrap().len();
        assert_eq!(length, LARGE, "{executor}");
        std::fs::remove_file(f.path("out/large")).unwrap();
    }
}

#[test]
fn an_idle_server_ends_at_once() {
    for (&executor, signal) in EXECUTORS.iter().zip(["TERM", "INT"].into_iter().cycle()) {
        let f = Fixture::new();
        f.file("x", 10);
        let server = f.serve(&["--executor", executor]);
        f.get(&server, &["/x"], &[]).ok();
        let start = Instant::now();
        server.process.signal(signal);
        server.process.finish().ok();
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{executor} {:?}",
            start.elapsed()
        );
    }
}

#[test]
fn a_second_signal_closes_at_once() {
    let f = Fixture::new();
    f.sparse_file("large", LARGE);
    let server = f.serve(&[]);
    let client = stopped_in_the_middle(&f, &server, &[]);
    server.process.signal("TERM");
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    server.process.signal("INT");
    let done = server.process.finish();
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    done.expect(1, &["second signal", "1 open transfer was cut off"]);
    // The client is told, or times out; it leaves nothing either way.
    client.signal("CONT");
    client.finish().expect(1, &["/large"]);
    assert!(f.names("out").is_empty());
}

#[test]
fn the_drain_timeout_is_kept() {
    let f = Fixture::new();
    f.sparse_file("large", LARGE);
    let server = f.serve(&["--drain-timeout", "0.3"]);
    let client = stopped_in_the_middle(&f, &server, &[]);
    let start = Instant::now();
    server.process.signal("TERM");
    server
        .process
        .finish()
        .expect(1, &["drain timeout", "cut off"]);
    let took = start.elapsed();
    assert!(
        (Duration::from_millis(300)..Duration::from_secs(10)).contains(&took),
        "{took:?}"
    );
    drop(client);
}

#[test]
fn a_server_that_vanishes_is_noticed_within_the_idle_timeout() {
    for &executor in EXECUTORS {
        let f = Fixture::new();
        f.sparse_file("large", LARGE);
        let server = f.serve(&[]);
        let client = f.start_get(
            &server,
            &["/large"],
            &["--idle-timeout", "1", "--executor", executor],
        );
        f.wait_for_partial();
        let start = Instant::now();
        server.process.signal("KILL");
        client
            .finish()
            .expect(1, &["/large", "timed out", "idle timeout"]);
        // RFC 9000 section 10.1: at least three probe timeouts, which are short here.
        let took = start.elapsed();
        assert!(took < Duration::from_secs(8), "{executor}: {took:?}");
        assert!(f.names("out").is_empty(), "{executor}");
    }
}

#[test]
fn an_interrupted_download_leaves_nothing() {
    for (executor, signal, code) in [
        ("smol", "INT", 130),
        ("smol-multi", "TERM", 143),
        ("tokio", "INT", 130),
        ("blocking", "INT", 130),
        #[cfg(target_os = "linux")]
        ("glommio", "TERM", 143),
    ] {
        let f = Fixture::new();
        f.sparse_file("large", LARGE);
        let server = f.serve(&[]);
        let client = f.start_get(&server, &["/large"], &["--executor", executor]);
        f.wait_for_partial();
        client.signal(signal);
        client.finish().expect(code, &["ended by SIG"]);
        assert!(f.names("out").is_empty(), "{executor}");
    }
}
