//! Servers with several sockets on an address.

use crate::harness::{EXECUTORS, Fixture, program};

#[test]
fn every_executor_serves_from_several_shards() {
    for &executor in EXECUTORS {
        let f = Fixture::new();
        let files: Vec<_> = (0..6)
            .map(|number| f.file(&format!("{number}"), 300_000 + number))
            .collect();
        let server = f.serve(&["--executor", executor, "--shards", "3"]);
        // Clients of their own, so that several shards have something to do.
        for number in 0..files.len() {
            f.get(&server, &[&format!("/{number}")], &[]).ok();
        }
        for (number, expected) in files.iter().enumerate() {
            let copy = std::fs::read(f.path(&format!("out/{number}"))).unwrap();
            assert!(copy == *expected, "{executor}: file {number} differs");
        }
        server.process.signal("TERM");
        let done = server.process.finish().ok();
        let counters = done
            .stderr
            .lines()
            .find(|line| line.contains("arrived at their shard"))
            .unwrap_or_else(|| panic!("{executor}: {}", done.stderr));
        let steered = counters.split_whitespace().find_map(|it| it.parse().ok());
        let steered: u64 = steered.expect("the first number");
        assert!(steered > 20, "{executor}: {counters}");
        assert!(counters.contains(", 0 dropped"), "{executor}: {counters}");
        assert!(
            counters.contains("; 0 shards lost"),
            "{executor}: {counters}"
        );
    }
}

#[test]
fn a_port_is_not_shared_with_another_server() {
    let f = Fixture::new();
    let server = f.serve(&["--shards", "2"]);
    let taken = server.address.to_string();
    for shards in ["1", "2"] {
        let public = f.arg("www");
        let arguments = ["serve", &public, "--listen", &taken, "--shards", shards];
        crate::harness::run(&arguments).expect(4, &["cannot listen on", &taken, "already in use"]);
    }
    let too_many = program(&["serve", &f.arg("www"), "--shards", "0"])
        .output()
        .unwrap();
    assert_eq!(too_many.status.code(), Some(2));
}
