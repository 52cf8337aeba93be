//! demo, ping and perf: that they measure something, and end in time.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{EXECUTORS, Finished, Fixture, Server, program, run};

fn json(done: &Finished) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", done.stdout))
}

fn perf_server(f: &Fixture, executor: &str) -> Server {
    let ca = f.arg("perf-ca.pem");
    let listen = "127.0.0.1:0";
    Server::start(program(&[
        "perf",
        "server",
        "--listen",
        listen,
        "--ca-out",
        &ca,
        "--executor",
        executor,
    ]))
}

#[test]
fn demo_transfers_between_every_pair() {
    let f = Fixture::new();
    f.file("some file", 1_000_000);
    let done = run(&["demo", &f.arg("www/some file")]).ok();
    let rows: Vec<Vec<_>> = done
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|row: &Vec<_>| row.last() == Some(&"ok"))
        .collect();
    let pairs: Vec<_> = rows.iter().map(|row| (row[0], row[1])).collect();
    let expected: Vec<_> = EXECUTORS
        .iter()
        .flat_map(|s| EXECUTORS.iter().map(move |c| (*s, *c)))
        .collect();
    assert_eq!(pairs, expected);
    let count = expected.len();
    let all = format!("{count} of {count} transfers arrived intact");
    assert!(done.stdout.contains(&all), "{}", done.stdout);
}

#[test]
fn a_demo_that_takes_too_long_fails() {
    let f = Fixture::new();
    f.sparse_file("large", 1 << 30);
    let args = [
        "demo",
        &f.arg("www/large"),
        "--executor",
        "smol",
        "--time-limit",
        "0.05",
    ];
    let done = run(&args).expect(1, &["1 of 1 transfers failed"]);
    assert!(
        done.stdout.contains("FAILED: the client took too long"),
        "{}",
        done.stdout
    );
}

#[test]
fn ping_measures_file_servers_and_perf_servers() {
    let f = Fixture::new();
    f.file("x", 1 << 20);
    let server = f.serve(&[]);
    let perf = perf_server(&f, "smol");
    for &executor in EXECUTORS {
        for (url, ca, protocol) in [
            (server.url("/x"), "ca.pem", "hq-interop"),
            (server.url("/missing"), "ca.pem", "hq-interop"),
            (perf.url("/"), "perf-ca.pem", "polyquic-perf"),
        ] {
            let ca = f.arg(ca);
            let brief = ["ping", &url, "-c", "5", "-i", "0.001", "--json"];
            let args = [&brief[..], &["--ca", &ca, "--executor", executor]].concat();
            let report = json(&run(&args).ok());
            assert_eq!(report["protocol"], protocol);
            assert_eq!(report["samples_ms"].as_array().unwrap().len(), 5);
            let trips = &report["round_trips"];
            assert_eq!(trips["count"], 5);
            assert!(trips["min_ms"].as_f64() <= trips["p50_ms"].as_f64());
            assert!(trips["p99_ms"].as_f64() <= trips["max_ms"].as_f64());
            assert!(report["handshake_ms"].as_f64() > Some(0.0));
        }
    }
}

#[test]
fn ping_is_readable_without_json() {
    let f = Fixture::new();
    let server = f.serve(&[]);
    let done = run(&[
        "ping",
        &server.url("/"),
        "-c",
        "3",
        "-i",
        "0",
        "--ca",
        &f.arg("ca.pem"),
    ])
    .ok();
    for word in [
        "connected to localhost",
        "1: ",
        "3: ",
        "3 round trips: min",
        "p90",
    ] {
        assert!(
            done.stdout.contains(word),
            "{word:?} is not in {}",
            done.stdout
        );
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_reason_to_panic() {
    let f = Fixture::new();
    let server = f.serve(&[]);
    let ca = f.arg("ca.pem");
    let url = server.url("/");
    let args = ["ping", &url, "-c", "20", "-i", "0.001", "--ca", &ca];
    let mut child = program(&args)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(String::from_utf8_lossy(&done.stderr), "");
}

#[test]
fn perf_measures_everything_on_every_executor() {
    for &executor in EXECUTORS {
        let f = Fixture::new();
        let server = perf_server(&f, executor);
        let (url, ca) = (server.url("/"), f.arg("perf-ca.pem"));
        let measure = |test: &str, more: &[&str]| {
            let base = [
                "perf",
                "client",
                &url,
                "--ca",
                &ca,
                "--json",
                "--duration",
                "0.3",
                "--executor",
                executor,
                "--test",
                test,
            ];
            let done = run(&[&base[..], more].concat()).ok();
            assert!(
                done.took < Duration::from_secs(20),
                "{test} on {executor}: {:?}",
                done.took
            );
            let report = json(&done);
            assert_eq!(report["test"], test);
            assert_eq!(report["executor"], executor);
            report
        };
        for test in ["download", "upload"] {
            let report = measure(test, &["--streams", "3", "--connections", "2"]);
            assert!(report["bytes"].as_u64() > Some(100_000), "{report}");
            assert!(report["bits_per_second"].as_f64() > Some(1e5), "{report}");
            assert_eq!(
                (&report["streams"], &report["connections"]),
                (&3.into(), &2.into())
            );
        }
        for (test, more) in [
            ("requests", &["--streams", "8"][..]),
            ("datagrams", &["--streams", "4", "--request-size", "100"]),
            ("handshakes", &["--connections", "4"]),
            ("connections", &["--connections", "50"]),
        ] {
            let report = measure(test, more);
            assert!(report["count"].as_u64() >= Some(4), "{report}");
            assert!(report["latency"]["p50_ms"].as_f64() > Some(0.0), "{report}");
        }
    }
}

#[test]
fn perf_says_what_is_wrong() {
    let f = Fixture::new();
    let files = f.serve(&[]);
    let (url, ca) = (files.url("/"), f.arg("ca.pem"));
    run(&["perf", "client", &url, "--ca", &ca]).expect(3, &["cannot connect"]);
    let server = perf_server(&f, "smol");
    let (url, ca) = (server.url("/"), f.arg("perf-ca.pem"));
    run(&[
        "perf",
        "client",
        &url,
        "--ca",
        &ca,
        "--test",
        "datagrams",
        "--request-size",
        "60000",
    ])
    .expect(2, &["--request-size"]);
}
