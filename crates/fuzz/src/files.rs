//! Files that the program reads: certificates, keys, CAs, and its session cache.

use std::path::PathBuf;
use std::rc::Rc;

use polyquic_cli::fuzzing::{load_identity, load_roots, use_sessions};

use crate::cursor::Cursor;

struct Fixture {
    dir: tempfile::TempDir,
    cert_pem: String,
    key_pem: String,
}

impl Fixture {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

thread_local! {
    /// Of the thread, at whose end its directory is removed; a static is never dropped.
    static FIXTURE: Rc<Fixture> = Rc::new(Fixture::new());
}

impl Fixture {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("a certificate can be made");
        let fixture = Self {
            dir: tempfile::tempdir().expect("there is room for a few files"),
            cert_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem(),
        };
        std::fs::write(fixture.path("good.crt"), &fixture.cert_pem).expect("writable");
        std::fs::write(fixture.path("good.key"), &fixture.key_pem).expect("writable");
        fixture
    }
}

/// A file is either taken, or refused with a message that names it; a session cache is either used and
/// written back in the same form, or left as it is.
pub fn files(data: &[u8]) {
    let mut c = Cursor::new(data);
    let fixture = FIXTURE.with(Rc::clone);
    let (good_cert, good_key) = (fixture.path("good.crt"), fixture.path("good.key"));
    let file = fixture.path("fuzzed");
    let kind = c.byte() % 6;
    let genuine = if c.flag() {
        &fixture.cert_pem
    } else {
        &fixture.key_pem
    };
    let contents = match c.byte() % 4 {
        // A genuine file with something replaced.
        0 => {
            let mut contents = genuine.clone().into_bytes();
            let at = usize::from(c.u16()) % contents.len();
            let bytes = c.rest();
            let end = (at + bytes.len()).min(contents.len());
            contents.splice(at..end, bytes.iter().copied());
            contents
        }
        // Something before and after it.
        1 => [c.slice(), genuine.as_bytes(), c.rest()].concat(),
        _ => c.rest().to_vec(),
    };
    std::fs::write(&file, &contents).expect("writable");
    let name = file.display().to_string();
    let result = match kind {
        0 => load_identity(&file, &good_key).map(|count| assert!(count > 0)),
        1 => load_identity(&good_cert, &file).map(|count| assert_eq!(count, 1)),
        2 => load_identity(&file, &file).map(|count| assert!(count > 0)),
        3 => load_roots(&file).map(|count| assert!(count > 0)),
        _ => {
            let url = "https://localhost:4433/";
            let result = use_sessions(&file, &good_cert, url);
            let after = std::fs::read(&file).expect("it is still there");
            match &result {
                // Nothing of it is used twice, and it is still a session cache.
                Ok(()) => use_sessions(&file, &good_cert, url).expect("written by the program"),
                Err(_) => assert!(after == contents, "a file that is not ours was changed"),
            }
            result
        }
    };
    if let Err(message) = result {
        assert!(
            message.contains(&name),
            "{message:?} does not name the file"
        );
        assert!(!message.chars().any(|it| it.is_control()), "{message:?}");
    }
}
