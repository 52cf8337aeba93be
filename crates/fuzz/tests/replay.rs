//! Every input that was kept, once more.

use std::fs;
use std::path::{Path, PathBuf};

use polyquic_fuzz::{TARGETS, Target, seeds};

/// The inputs in one of the directories of a target, sorted.
fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(kind)
        .join(target);
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    files.sort();
    files
}

fn replay(name: &str, target: Target) {
    let (corpus, regressions) = (inputs("corpus", name), inputs("regressions", name));
    assert!(!corpus.is_empty(), "there is no corpus for {name}");
    for file in corpus.iter().chain(&regressions) {
        let data = fs::read(file).expect("readable");
        if std::panic::catch_unwind(|| target(&data)).is_err() {
            panic!("{name} fails with {}", file.display());
        }
    }
    target(&[]);
    println!(
        "{name}: {} inputs of the corpus, {} that once failed",
        corpus.len(),
        regressions.len()
    );
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name), polyquic_fuzz::$name);
        })*

        /// The tests above, in the order of [`TARGETS`].
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

replays! {
    client connection connection_ids endpoint files relay streams tokens transport_parameters urls
}

#[test]
fn every_target_is_replayed() {
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, TESTED);
}

#[test]
fn the_corpora_are_small_and_hold_the_seeds() {
    let mut bytes = 0;
    for (name, _) in TARGETS {
        let files = inputs("corpus", name);
        bytes += files
            .iter()
            .map(|file| fs::metadata(file).expect("readable").len())
            .sum::<u64>();
        assert!(!seeds(name).is_empty(), "no seeds for {name}");
    }
    assert!(bytes < 1_000_000, "{bytes} bytes");
}
