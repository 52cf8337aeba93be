//! When an executor cannot be had, the error says why and what to do.
#![cfg(target_os = "linux")]

use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const IN_CHILD: &str = "POLYQUIC_GLOMMIO_START_TEST";

/// The error of an attempt to start so many executors in a process with that limit set by `ulimit`.
fn error_with_limit(test: &str, limit: &str, cores: usize) -> Option<String> {
    if std::env::var_os(IN_CHILD).is_some() {
        let error = polyquic_glommio::run(cores, |_| async {}).unwrap_err();
        println!("error: {error}");
        return None;
    }
    let output = Command::new("sh")
        .args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(IN_CHILD, "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{stdout}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let error = stdout.lines().find_map(|line| line.split_once("error: "));
    Some(error.expect("the child reports its error").1.to_owned())
}

#[test]
fn no_memory_may_be_locked() {
    if let Some(error) = error_with_limit("no_memory_may_be_locked", "-l 64", 1) {
        assert!(error.contains("RLIMIT_MEMLOCK"), "{error}");
        assert!(
            error.contains("ulimit -l") && error.contains("LimitMEMLOCK="),
            "{error}"
        );
        assert!(error.contains("65536"), "the limit itself: {error}");
    }
}

#[test]
fn no_files_may_be_opened() {
    if let Some(error) = error_with_limit("no_files_may_be_opened", "-n 20", 8) {
        assert!(error.contains("ulimit -n"), "{error}");
    }
}

/// As the default seccomp profile of container runtimes has it.
fn with_io_uring_refused(errno: i32) -> String {
    let attempt = move || {
        let rules = [(425, vec![])].into_iter().collect();
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Allow,
            SeccompAction::Errno(errno as u32),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program: BpfProgram = filter.unwrap().try_into().unwrap();
        // For this thread, and those that it starts.
        seccompiler::apply_filter(&program).unwrap();
        let error = polyquic_glommio::run(2, |_| async {}).unwrap_err();
        error.to_string()
    };
    std::thread::spawn(attempt).join().unwrap()
}

#[test]
fn the_container_forbids_it() {
    let error = with_io_uring_refused(1);
    assert!(
        error.contains("seccomp") && error.contains("io_uring_setup"),
        "{error}"
    );
    assert!(error.contains("kernel.io_uring_disabled"), "{error}");
}

#[test]
fn the_kernel_has_none() {
    let error = with_io_uring_refused(38);
    assert!(error.contains("Linux 5.1"), "{error}");
}
