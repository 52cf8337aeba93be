//! Event logs of connections.

use polyquic_sim::{Host, Link, Sim};
use polyquic_testkit::tools::{check_transfer, pattern};

use super::quic::connect;
use super::seeds::{Folder, child, is_child};

/// A transfer with losses, logged at both ends: what is logged, and how long it took in milliseconds.
fn logged(capture: bool) -> (Vec<(String, Vec<u8>)>, f64) {
    let sim = Sim::new(3);
    if capture {
        sim.capture();
    }
    let server: Host = sim.host_with("server", Link::lte().loss(0.02));
    let client = sim.host("client");
    sim.run(async {
        // Both ends are given one; the names tell which is which.
        let ends = std::cell::Cell::new(0);
        let ends = connect(&client, &server, |transport| {
            transport.qlog_stream(sim.qlog(["server", "client"][ends.replace(1)]));
        })
        .await;
        check_transfer(&ends.server, &ends.client, &pattern(1, 200_000)).await;
    });
    (sim.qlogs(), sim.elapsed().as_secs_f64() * 1000.0)
}

/// The records of a JSON text sequence (RFC 7464), the first of which describes the log.
fn records(log: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(log).unwrap();
    let mut parts = text.split('\u{1e}');
    assert_eq!(
        parts.next(),
        Some(""),
        "each record begins with a separator"
    );
    parts
        .map(|record| {
            let record = record.strip_suffix('\n').expect("and ends with its line");
            assert!(record.starts_with('{') && record.ends_with('}'), "{record}");
            record
        })
        .collect()
}

/// The `time` of an event.
fn time(record: &str) -> f64 {
    let (_, rest) = record.split_once("\"time\":").expect("events have one");
    let end = rest.find([',', '}']).unwrap();
    rest[..end].parse().unwrap()
}

#[test]
fn times_are_virtual_and_the_same_in_every_run() {
    let (logs, took) = logged(true);
    let names: Vec<_> = logs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["server", "client"]);
    for (name, log) in &logs {
        let records = records(log);
        let times: Vec<_> = records[1..].iter().map(|it| time(it)).collect();
        assert!(times.len() > 100, "{name} has {} events", times.len());
        assert!(times.is_sorted(), "{name} goes back in time");
        // The last ones are of when the transfer was over. Times have 24 bits.
        let last = times[times.len() - 1];
        assert!(times[0] >= 0.0 && times[0] < 100.0, "{name}: {}", times[0]);
        assert!(
            last > took * 0.8 && last < took + 0.1,
            "{last} of {took} ms"
        );
    }
    assert!(logged(true).0 == logs, "another run has another log");
}

#[test]
fn nothing_is_logged_unless_asked_for() {
    assert!(logged(false).0.is_empty());
}

#[test]
fn logs_of_one_name_are_kept_apart() {
    let sim = Sim::new(1);
    sim.capture();
    let streams = [sim.qlog("client"), sim.qlog("client"), sim.qlog("server")];
    assert!(streams.iter().all(Option::is_some));
    let names: Vec<_> = sim.qlogs().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["client", "client-2", "server"]);
}

#[test]
fn logs_lie_beside_the_capture() {
    if is_child() {
        logged(false);
        return;
    }
    let folder = Folder::new("logs");
    let test = "logs::logs_lie_beside_the_capture";
    let output = child(test)
        .env("POLYQUIC_SIM_CAPTURE", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let files = folder.files();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    let test = "logs.logs_lie_beside_the_capture-seed-3";
    assert_eq!(
        names,
        [
            format!("{test}.client.sqlog"),
            format!("{test}.pcapng"),
            format!("{test}.server.sqlog"),
        ]
    );
    // In another process the same was logged.
    let (logs, _) = logged(true);
    assert!(files[0].1 == logs[1].1, "the client's log differs");
    assert!(files[2].1 == logs[0].1, "the server's log differs");
}
