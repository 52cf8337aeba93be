//! Each fault that is planted is found, by the invariant that is there for it.

#[path = "../src/heap.rs"]
mod heap;

use std::process::Command;

use polyquic_swarm::{Options, Plant, run_seed};

/// Whether an invariant finds it in one of the first seeds.
fn is_found(plant: Plant) {
    let options = Options {
        live_bytes: Some(heap::live_bytes),
        plant: Some(plant),
        ..Options::default()
    };
    let mut others = Vec::new();
    for seed in 0..400 {
        let violations = run_seed(seed, &options).violations;
        let found = violations.iter().any(|it| {
            let kind = it.split(':').next();
            kind == Some(plant.found_by())
        });
        if found {
            return;
        }
        others.extend(violations);
    }
    panic!("{plant:?} was not found, but: {others:#?}");
}

macro_rules! found {
    ($($name:ident: $plant:ident,)*) => {
        $(#[test]
        fn $name() {
            is_found(Plant::$plant);
        })*

        #[test]
        fn all_faults_are_planted() {
            let planted = [$(Plant::$plant),*];
            assert_eq!(planted, Plant::ALL);
        }
    };
}

found! {
    bytes_that_were_not_written_are_found: Byte,
    lost_wake_ups_are_found: WakeUp,
    tasks_that_stay_are_found: Task,
    windows_that_are_exceeded_are_found: Windows,
    streams_beyond_the_limit_are_found: Streams,
    datagrams_that_arrive_twice_are_found: Datagram,
    resets_with_a_wrong_code_are_found: Code,
    closes_with_a_wrong_code_are_found: Close,
    connections_that_outlive_their_path_are_found: Idle,
    storms_of_wake_ups_are_found: Storm,
    streams_that_were_acknowledged_and_not_read_are_found: Delivery,
    closes_that_cut_off_what_was_finished_are_found: Haste,
    datagrams_to_who_asked_for_nothing_are_found: Amplify,
    starved_streams_and_connections_are_found: Unfair,
    connections_that_keep_too_much_are_found: Memory,
    connections_that_leave_something_behind_are_found: Leak,
    panics_are_found: Panic,
}

/// What hangs in real time is told by its seed, and ends.
#[test]
fn hanging_seeds_are_told() {
    for arguments in [["--seeds", "3..4"], ["--seed", "3"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_polyquic-swarm"))
            .args(arguments)
            .args(["--plant", "hang", "--limit", "1"])
            .output()
            .expect("it was built");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{text}");
        assert!(text.contains("HANGS seed 3, commit "), "{text}");
    }
}

/// A failure is told with what it takes to play it again.
#[test]
fn failures_are_told_with_seed_and_commit() {
    let output = Command::new(env!("CARGO_BIN_EXE_polyquic-swarm"))
        .args(["--seeds", "3..4", "--plant", "task"])
        .output()
        .expect("it was built");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("FAILED seed 3, commit "), "{text}");
    assert!(text.contains("violated: leaks"), "{text}");
}

/// Captures hold the secrets of both sides, so that they can be decrypted.
#[test]
fn captures_hold_secrets() {
    let folder = std::env::temp_dir();
    let output = Command::new(env!("CARGO_BIN_EXE_polyquic-swarm"))
        .args(["--seed", "3", "--capture"])
        .arg(&folder)
        .output()
        .expect("it was built");
    assert!(output.status.success(), "{output:?}");
    let path = folder.join("seed-3.pcapng");
    let file = std::fs::read(&path).expect("it was written");
    std::fs::remove_file(&path).expect("it was there");
    for label in ["CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 "] {
        let found = file.windows(label.len()).any(|it| it == label.as_bytes());
        assert!(found, "no {label}");
    }
}
