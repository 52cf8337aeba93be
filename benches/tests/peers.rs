//! Every workload of every subject for a moment, so that the instrument does not rust between
//! two uses. Nothing here looks at a figure.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;

/// Ended with the test, whatever its result.
struct Peer {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            // Left open: a peer ends with its standard input.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn message(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn all_workloads(program: &str) {
    let identity = tempfile::tempdir().unwrap();
    let identity = identity.path().to_str().unwrap();
    let listed = Command::new(program).arg("subjects").output().unwrap();
    let subjects = String::from_utf8(listed.stdout).unwrap();
    assert!(!subjects.is_empty());
    for subject in subjects.lines() {
        for (workload, _) in polyquic_bench::workload::Workload::ALL {
            let common = [
                "--subject",
                subject,
                "--workload",
                workload,
                "--identity",
                identity,
            ];
            let mut server = Peer::start(program, &[&["server"][..], &common].concat());
            let ready = server.message();
            assert_eq!(ready["event"], "ready", "{subject} {workload}: {ready}");
            let mut address = ready["address"].as_str().unwrap().to_owned();
            // What relays is ended after the client.
            let _relay = (*workload == "loss").then(|| {
                let arguments = [&["relay", "--connect", &address][..], &common].concat();
                let mut relay = Peer::start(program, &arguments);
                let ready = relay.message();
                assert_eq!(ready["event"], "ready", "{subject} {workload}: {ready}");
                ready["address"].as_str().unwrap().clone_into(&mut address);
                relay
            });
            let mut arguments = [&["client"][..], &common].concat();
            arguments.extend(["--connect", &address]);
            arguments.extend([
                "--seconds",
                "0.05",
                "--warmup",
                "0.02",
                "--connections",
                "20",
            ]);
            let mut client = Peer::start(program, &arguments);
            for expected in ["begin", "end", "done"] {
                let message = client.message();
                assert_eq!(
                    message["event"], expected,
                    "{subject} {workload}: {message}"
                );
                if expected == "end" {
                    client
                        .child
                        .stdin
                        .as_mut()
                        .unwrap()
                        .write_all(b"stop\n")
                        .unwrap();
                }
            }
        }
    }
}

#[cfg(feature = "quinn")]
#[test]
fn quinn_runs_every_workload() {
    all_workloads(env!("CARGO_BIN_EXE_bench-quinn"));
}

#[cfg(feature = "polyquic")]
#[test]
fn polyquic_runs_every_workload() {
    all_workloads(env!("CARGO_BIN_EXE_bench-polyquic"));
}
