//! What the program says, and how it exits, when something is wrong.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Fixture, run};

#[test]
fn usage_errors_exit_with_2() {
    for (line, words) in [
        ("get ftp://localhost/x", &["unsupported scheme ftp"][..]),
        ("get http://localhost/x", &["use https://"]),
        ("get localhost/x", &["not a URL"]),
        (
            "get https://localhost/x https://other/x",
            &["both be saved as x"],
        ),
        ("get https://localhost/a%2fb", &["no usable file name"]),
        ("get https://localhost/x --0rtt", &["--session-cache"]),
        ("serve", &["DIR"]),
        ("serve . --cert only", &["--key"]),
        ("serve . --listen nonsense", &["--listen"]),
        ("serve . --name \u{fffd}", &["development certificate"]),
        ("ping https://localhost --count 0", &["--count"]),
        ("frobnicate", &["frobnicate"]),
    ] {
        let args: Vec<_> = line.split(' ').collect();
        run(&args).expect(2, words);
    }
}

#[test]
fn help_tells_what_one_needs_to_know() {
    for (command, words) in [
        (
            &["--help"][..],
            &["demo", "serve", "get", "ping", "perf", "Exit codes"][..],
        ),
        (
            &["serve", "--help"],
            &["hq-interop", "--retry", "--ca-out", "drain", "Exit codes"],
        ),
        (
            &["get", "--help"],
            &["--0rtt", "--session-cache", "--insecure", "Exit codes"],
        ),
        (
            &["perf", "client", "--help"],
            &["handshakes", "--json", "--duration"],
        ),
        (&["demo", "--help"], &["SHA-256", "--executor"]),
    ] {
        let help = run(command).ok();
        for word in words {
            assert!(
                help.stdout.contains(word),
                "{command:?} does not mention {word}"
            );
        }
    }
}

#[test]
fn a_port_in_use_is_named() {
    let f = Fixture::new();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    for &executor in crate::harness::EXECUTORS {
        run(&[
            "serve",
            &f.arg("www"),
            "--listen",
            &listen,
            "--executor",
            executor,
        ])
        .expect(4, &[&listen, "already in use"]);
    }
    run(&["serve", &f.arg("www"), "--listen", "192.0.2.1:0"])
        .expect(4, &["192.0.2.1", "does not have that address"]);
}

#[test]
fn the_certificate_or_key_at_fault_is_named() {
    let f = Fixture::new();
    f.certificate("one", "localhost");
    f.certificate("two", "localhost");
    std::fs::write(f.path("junk"), "junk").unwrap();
    let serve = |cert: &str, key: &str| {
        run(&[
            "serve",
            &f.arg("www"),
            "--listen",
            "127.0.0.1:0",
            "--cert",
            &f.arg(cert),
            "--key",
            &f.arg(key),
        ])
    };
    serve("one.crt", "two.key").expect(4, &["two.key", "does not belong to", "one.crt"]);
    serve("missing", "one.key").expect(4, &["certificate", "missing", "no such file"]);
    serve("one.crt", "missing").expect(4, &["key", "missing", "no such file"]);
    serve("junk", "one.key").expect(4, &["certificate", "junk", "PEM"]);
    serve("one.crt", "junk").expect(4, &["key", "junk", "PEM"]);
}

#[test]
fn what_cannot_be_served_is_named() {
    let f = Fixture::new();
    f.file("x", 1);
    run(&["serve", &f.arg("missing")]).expect(4, &["missing", "no such file"]);
    let file = f.arg("www/x");
    run(&["serve", &file]).expect(4, &[&file, "not a directory"]);
    let nowhere = f.arg("missing/ca.pem");
    run(&["serve", &f.arg("www"), "--ca-out", &nowhere]).expect(4, &[&nowhere, "no such file"]);
}

#[test]
fn an_unknown_host_is_named() {
    let f = Fixture::new();
    let url = "https://no-such-host.invalid/x";
    run(&[
        "get",
        url,
        "-o",
        &f.arg("out"),
        "--insecure",
        "--connect-timeout",
        "5",
    ])
    .expect(3, &["cannot resolve", "no-such-host.invalid"]);
    assert!(f.names("out").is_empty());
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let f = Fixture::new();
    // Open, and silent.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/x", silent.local_addr().unwrap());
    let args = [
        "get",
        &url,
        "-o",
        &f.arg("out"),
        "--insecure",
        "--connect-timeout",
        "0.5",
    ];
    let done = run(&args).expect(3, &["no answer", &url[8..url.len() - 2]]);
    assert!(done.took < Duration::from_secs(10), "{done:?}");
    run(&["ping", &url, "--insecure", "--connect-timeout", "0.5"]).expect(3, &["no answer"]);
}

#[test]
fn certificates_that_cannot_be_verified_are_refused() {
    let f = Fixture::new();
    f.file("x", 1);
    f.certificate("other", "localhost");
    let server = f.serve(&[]);
    f.get(&server, &["/x"], &["--ca", &f.arg("other.crt")])
        .expect(3, &["UnknownIssuer", "--ca"]);
    f.get(&server, &["/x"], &["--ca", &f.arg("missing")])
        .expect(4, &["missing", "no such file"]);
    drop(server);

    f.certificate("elsewhere", "elsewhere.example");
    let (cert, key) = (f.arg("elsewhere.crt"), f.arg("elsewhere.key"));
    let server = f.serve(&["--cert", &cert, "--key", &key]);
    f.get(&server, &["/x"], &["--ca", &cert])
        .expect(3, &["localhost"]);
    assert!(f.names("out").is_empty());
}

#[test]
fn another_protocol_is_refused_in_the_handshake() {
    let f = Fixture::new();
    let ca = f.arg("ca.pem");
    let args = ["perf", "server", "--listen", "127.0.0.1:0", "--ca-out", &ca];
    let server = crate::harness::Server::start(crate::harness::program(&args));
    f.get(&server, &["/x"], &[]).expect(3, &["cannot connect"]);
}

#[test]
fn a_missing_file_fails_alone() {
    let f = Fixture::new();
    f.file("x", 1000);
    let server = f.serve(&[]);
    f.get(&server, &["/missing"], &[])
        .expect(1, &["/missing", "no such file", "code 2"]);
    assert!(f.names("out").is_empty());
    f.get(&server, &["/missing", "/x"], &[])
        .expect(1, &["/missing", "1 of 2 downloads failed"]);
    assert_eq!(f.names("out"), ["x"]);
}

#[cfg(unix)]
#[test]
fn no_request_escapes_the_directory() {
    use std::os::unix::fs::symlink;
    let f = Fixture::new();
    std::fs::write(f.path("secret"), "secret").unwrap();
    std::fs::create_dir(f.path("www/sub")).unwrap();
    symlink("../secret", f.path("www/link")).unwrap();
    symlink(f.path("secret"), f.path("www/absolute-link")).unwrap();
    symlink("..", f.path("www/parent")).unwrap();
    let server = f.serve(&[]);
    let absolute = f.arg("secret");
    let encoded = absolute.replace('/', "%2f");
    for path in [
        "/../secret",
        "/sub/../../secret",
        "/%2e%2e/secret",
        "/%2E./secret",
        "/..%2f/secret",
        "/sub/..%2f../secret",
        "/..%5c/secret",
        "/..\\/secret",
        "/%00/../secret",
        "/..%00/secret",
        "/link",
        "/absolute-link",
        "/parent/secret",
        &absolute,
        &format!("/{absolute}"),
        &format!("/{encoded}/../secret"),
    ] {
        f.get(&server, &[path], &[]).expect(1, &["polyquic: "]);
        assert!(f.names("out").is_empty(), "{path}");
    }
}

/// A tiny file system, unmounted when dropped.
struct TinyDisk<'a>(&'a Path);

impl Drop for TinyDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_reported_and_nothing_is_left() {
    let f = Fixture::new();
    f.file("x", 4 << 20);
    let out = f.path("out");
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&out)
        .output();
    if !mount.as_ref().is_ok_and(|mount| mount.status.success()) {
        eprintln!("skipped: cannot mount a tiny tmpfs here ({mount:?})");
        return;
    }
    let disk = TinyDisk(&out);
    let server = f.serve(&[]);
    f.get(&server, &["/x"], &[])
        .expect(4, &["out/x", "no space left on device"]);
    assert!(f.names("out").is_empty());
    drop(disk);
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let f = Fixture::new();
    f.file("x", 10);
    let server = f.serve(&[]);
    // A directory of that name is in the way.
    std::fs::create_dir(f.path("out/x")).unwrap();
    f.get(&server, &["/x"], &[])
        .expect(4, &["out/x", "is a directory"]);
    assert_eq!(f.names("out"), ["x"]);
    std::fs::write(f.path("file"), "").unwrap();
    run(&[
        "get",
        &server.url("/x"),
        "-o",
        &f.arg("file/below"),
        "--insecure",
    ])
    .expect(4, &["file/below"]);
}

#[test]
fn a_file_that_is_no_session_cache_is_left_alone() {
    let f = Fixture::new();
    f.file("x", 10);
    std::fs::write(f.path("notes"), "my notes").unwrap();
    let server = f.serve(&[]);
    f.get(&server, &["/x"], &["--session-cache", &f.arg("notes")])
        .expect(4, &["notes", "not a session cache"]);
    assert_eq!(
        std::fs::read_to_string(f.path("notes")).unwrap(),
        "my notes"
    );
}

#[test]
fn demo_names_what_it_cannot_read() {
    run(&["demo", "/no/such/file"]).expect(4, &["/no/such/file", "no such file"]);
    run(&["demo", "/"]).expect(4, &["not a regular file"]);
}
