//! What the compiler says to those who spawn what their executor does not take.

use std::path::Path;
use std::process::Command;

/// A task that holds an `Rc` over an `.await`, on the executor of a feature.
const TASK: &str = r#"
use std::future::poll_fn;
use std::{pin::pin, rc::Rc, time::Instant};

#[cfg(feature = "glommio")]
use polyquic_glommio::GlommioRuntime as Rt;
use polyquic_runtime::{Runtime, Spawn, Timer};
#[cfg(feature = "smol")]
use polyquic_smol::SmolRuntime as Rt;

pub fn count(rt: &Rt) {
    let inner = rt.clone();
    rt.spawn(async move {
        let shared = Rc::new(1);
        let mut timer = pin!(inner.timer());
        timer.as_mut().reset(Instant::now());
        poll_fn(|cx| timer.as_mut().poll_expired(cx)).await;
        drop(shared);
    });
}
"#;

/// A generic application that does not ask for what it does.
const GENERIC: &str = r#"
use polyquic_runtime::{Runtime, Spawn};

fn start<R: Spawn<F>, F>(rt: &R, future: F) {
    rt.spawn(future);
}

pub fn application<R: Runtime>(rt: &R) {
    start(rt, async {});
}
"#;

/// Whether `source` compiles with the adapter of that feature, and what the compiler says.
fn check(name: &str, feature: &str, source: &str) -> (bool, String) {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let place = tempfile::tempdir().unwrap();
    let manifest = format!(
        r#"
        [package]
        name = "{name}"
        edition = "2024"
        [workspace]
        [features]
        glommio = ["dep:polyquic-glommio"]
        smol = ["dep:polyquic-smol"]
        none = []
        [dependencies]
        polyquic-runtime.path = '{crates}/runtime'
        polyquic-glommio = {{ path = '{crates}/glommio', optional = true }}
        polyquic-smol = {{ path = '{crates}/smol', optional = true }}
        "#,
        crates = crates.display()
    );
    std::fs::create_dir(place.path().join("src")).unwrap();
    std::fs::write(place.path().join("Cargo.toml"), manifest).unwrap();
    std::fs::write(place.path().join("src/lib.rs"), source).unwrap();
    // The versions that are there already.
    let lock = crates.parent().unwrap().join("Cargo.lock");
    std::fs::copy(lock, place.path().join("Cargo.lock")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["check", "--offline", "--features", feature])
        .current_dir(place.path())
        // Kept, so that only the first run compiles dependencies.
        .env(
            "CARGO_TARGET_DIR",
            concat!(env!("CARGO_TARGET_TMPDIR"), "/compiler"),
        )
        .env("CARGO_TERM_COLOR", "never")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTFLAGS")
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), message)
}

#[test]
fn a_task_that_cannot_move_is_shown_on_executors_that_move_tasks() {
    let (compiles, message) = check("task-on-smol", "smol", TASK);
    assert!(!compiles);
    for part in [
        "future cannot be sent between threads safely",
        "has type `Rc<i32>` which is not `Send`",
        "await occurs here, with `shared` maybe used later",
        "the trait `Spawn<F>` is implemented for `SmolRuntime`",
    ] {
        assert!(message.contains(part), "{part:?} is missing:\n{message}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_same_task_is_welcome_on_glommio() {
    let (compiles, message) = check("task-on-glommio", "glommio", TASK);
    assert!(compiles, "{message}");
}

#[test]
fn a_missing_bound_is_explained() {
    let (compiles, message) = check("generic", "none", GENERIC);
    assert!(!compiles);
    for part in [
        "`R` cannot spawn `",
        "this executor does not accept that future",
        "look for an `Rc`, a `RefCell` or a lock guard that is held across an `.await`",
        "thread-per-core executors accept any `'static` future",
    ] {
        assert!(message.contains(part), "{part:?} is missing:\n{message}");
    }
}
