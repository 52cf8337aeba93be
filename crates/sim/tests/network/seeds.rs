//! What is said and kept when something fails.

use std::path::{Path, PathBuf};
use std::process::Command;

use polyquic_sim::{Sim, each_seed};

const CHILD: &str = "POLYQUIC_SIM_TEST_CHILD";

/// What runs in a process of its own: the test of this name, which knows by the variable that it is
/// there.
pub(crate) fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env_remove("POLYQUIC_SIM_SEED")
        .env_remove("POLYQUIC_SIM_CAPTURE");
    command
}

pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// A folder that is there until the test is over.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("polyquic-sim-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Names and contents of its files.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, std::fs::read(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind is in the way of nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_failure_names_its_seed_wherever_it_is() {
    if is_child() {
        each_seed(0..5, |sim| {
            let seed = sim.run(async { sim.seed() });
            // The usual place: what ran is looked at afterwards.
            assert_ne!(seed, 3, "as planned");
        });
        return;
    }
    let output = child("seeds::a_failure_names_its_seed_wherever_it_is")
        .output()
        .unwrap();
    assert!(!output.status.success(), "it did not fail");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        text.matches("simulation failed: seed 3,").count(),
        1,
        "{text}"
    );
    assert!(text.contains("replay with POLYQUIC_SIM_SEED=3"), "{text}");
    assert!(text.contains(", commit "), "{text}");
}

#[test]
fn a_failure_in_a_run_is_told_once() {
    if is_child() {
        each_seed(0..5, |sim| {
            sim.run(async { assert_ne!(sim.seed(), 3, "as planned") });
        });
        return;
    }
    let output = child("seeds::a_failure_in_a_run_is_told_once")
        .output()
        .unwrap();
    assert!(!output.status.success(), "it did not fail");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        text.matches("simulation failed: seed 3,").count(),
        1,
        "{text}"
    );
    assert_eq!(text.matches("simulation failed").count(), 1, "{text}");
}

#[test]
fn captures_do_not_overwrite_each_other() {
    if is_child() {
        // All with the same seed: two after each other, and one in another test.
        for count in 1..3 {
            let sim = Sim::new(5);
            for _ in 0..count {
                sim.host("host");
            }
            // The capture of a simulation that goes on is one.
            sim.run(sim.sleep(super::millis(1)));
            sim.run(sim.sleep(super::millis(1)));
        }
        let other = || {
            let sim = Sim::new(5);
            sim.run(sim.sleep(super::millis(1)));
        };
        let thread = std::thread::Builder::new().name("another::test".into());
        thread.spawn(other).unwrap().join().unwrap();
        return;
    }
    let folder = Folder::new("captures");
    let output = child("seeds::captures_do_not_overwrite_each_other")
        .env("POLYQUIC_SIM_CAPTURE", folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let files = folder.files();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    let ours = "seeds.captures_do_not_overwrite_each_other-seed-5";
    assert_eq!(
        names,
        [
            "another.test-seed-5.pcapng",
            &format!("{ours}-2.pcapng"),
            &format!("{ours}.pcapng"),
        ]
    );
    // Two hosts take more to describe than one.
    assert!(files[1].1.len() > files[2].1.len());
}
