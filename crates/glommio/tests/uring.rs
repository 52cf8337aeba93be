//! That waiting is done by io_uring and nothing else. Alone in its program, whose descriptors it
//! looks at.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;

use polyquic_testkit::fixtures::pair;
use polyquic_testkit::tools::check_alive;

/// What each descriptor of this process is.
fn descriptors() -> BTreeMap<u32, String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap();
    let entries = entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let number = entry.file_name().to_str()?.parse().ok()?;
        // The one of this very listing is gone by now.
        let target = fs::read_link(entry.path()).ok()?;
        Some((number, target.to_string_lossy().into_owned()))
    });
    entries.collect()
}

/// How many completions each ring has delivered.
fn completions() -> BTreeMap<u32, u64> {
    let rings = descriptors().into_iter().filter_map(|(number, target)| {
        if target != "anon_inode:[io_uring]" {
            return None;
        }
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let tail = info
            .lines()
            .find_map(|line| line.strip_prefix("CqTail:"))
            .expect("a ring says how far it is");
        Some((number, tail.trim().parse().unwrap()))
    });
    rings.collect()
}

#[test]
fn datagrams_move_by_io_uring() {
    polyquic_glommio::run(1, |rt| async move {
        let pair = pair(&rt).await;
        check_alive(&pair.client, &pair.server).await;
        let before = completions();
        // Three of glommio's, and the one that watches sockets.
        assert_eq!(before.len(), 4, "{:?}", descriptors());
        for _ in 0..100 {
            check_alive(&pair.client, &pair.server).await;
        }
        let after = completions();
        let advanced: Vec<_> = before
            .iter()
            .map(|(number, tail)| after[number] - tail)
            .collect();
        // A round trip is at least two datagrams; the ring of ours reports them, and one of
        // glommio's that ours did.
        let busy = advanced.iter().filter(|&&count| count >= 100).count();
        assert!(busy >= 2, "{advanced:?}");
        for (number, target) in descriptors() {
            assert!(
                !target.contains("eventpoll"),
                "descriptor {number} is an epoll"
            );
        }
    })
    .unwrap();
    // And nothing of it is left behind, but for the eventfd of an executor that glommio 0.9 never
    // closes.
    let left: Vec<_> = descriptors()
        .into_values()
        .filter(|target| target.starts_with("anon_inode:"))
        .collect();
    assert!(
        left.len() <= 1 && !left.contains(&"anon_inode:[io_uring]".into()),
        "{left:?}"
    );
}
