//! New certificates while the server goes on.

use crate::harness::{EXECUTORS, Fixture, Server};

/// Takes long enough to be caught in the middle.
const LARGE: u64 = 256 << 20;

/// Put certificate and key `name` where the server looks for them.
fn put(f: &Fixture, name: &str) {
    for kind in ["crt", "key"] {
        let (from, to) = (format!("{name}.{kind}"), format!("live.{kind}"));
        std::fs::copy(f.path(&from), f.path(&to)).unwrap();
    }
}

/// The certificate that the server presents to a new client.
#[track_caller]
fn check_presents(f: &Fixture, server: &Server, name: &str, other: &str) {
    let trusting = |name: &str| f.arg(&format!("{name}.crt"));
    // Not to be mistaken for an old session: these clients keep none.
    f.get(server, &["/small"], &["--ca", &trusting(name)]).ok();
    std::fs::remove_file(f.path("out/small")).unwrap();
    f.get(server, &["/small"], &["--ca", &trusting(other)])
        .expect(3, &["cannot connect"]);
}

#[test]
fn sighup_takes_the_new_certificate_for_new_connections() {
    for executor in EXECUTORS {
        let f = Fixture::new();
        f.file("small", 10);
        f.sparse_file("large", LARGE);
        f.certificate("old", "localhost");
        f.certificate("new", "localhost");
        put(&f, "old");
        let (cert, key) = (f.arg("live.crt"), f.arg("live.key"));
        let files = ["--cert", &cert, "--key", &key, "--executor", executor];
        let mut server = f.serve(&files);
        check_presents(&f, &server, "old", "new");

        let client = f.start_get(&server, &["/large"], &["--ca", &f.arg("old.crt")]);
        f.wait_for_partial();
        client.signal("STOP");
        assert!(!f.names("out").contains(&"large".to_owned()), "it is over");

        // A broken file changes nothing, and is named.
        std::fs::write(f.path("live.crt"), "junk").unwrap();
        server.process.signal("HUP");
        let line = server.process.error_line();
        for word in ["SIGHUP", "old certificate", "live.crt", "no certificate"] {
            assert!(
                line.contains(word),
                "{executor}: {word:?} is not in {line:?}"
            );
        }
        check_presents(&f, &server, "old", "new");

        put(&f, "new");
        server.process.signal("HUP");
        let line = server.process.line();
        assert!(line.contains("new certificate"), "{executor}: {line:?}");
        check_presents(&f, &server, "new", "old");

        client.signal("CONT");
        client.finish().ok();
        let length = f.path("out/large").metadata().unwrap().len();
        assert_eq!(length, LARGE, "{executor}");
        server.process.signal("TERM");
        server.process.finish().ok();
    }
}
