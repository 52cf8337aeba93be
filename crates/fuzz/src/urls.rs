//! What the program makes of URLs and of the paths in requests.

use std::io::Read;
use std::path::PathBuf;

use polyquic_cli::fuzzing::{
    Served, parse_request, parse_seconds, parse_url, percent_decode, request,
};

/// Every file in the served directory holds this; nothing else does.
const INSIDE: &[u8] = b"inside";

thread_local! {
    /// Of the thread, at whose end its directory is removed; a static is never dropped.
    static SERVED: (Served, tempfile::TempDir) = serve_some();
}

/// A directory to serve, with a secret beside it and links that lead out.
fn serve_some() -> (Served, tempfile::TempDir) {
    let base = tempfile::tempdir().expect("there is room for a few files");
    let make = || -> std::io::Result<PathBuf> {
        let root = base.path().join("r");
        std::fs::create_dir_all(root.join("d/e"))?;
        std::fs::create_dir(base.path().join("r2"))?;
        for secret in ["s", "r2/s", "index.html"] {
            std::fs::write(base.path().join(secret), "secret")?;
        }
        for file in ["a", "d/a", "d/index.html", "d/e/%41", "..a", "a b"] {
            std::fs::write(root.join(file), INSIDE)?;
        }
        #[cfg(unix)]
        for (link, to) in [
            ("d/up", ".."),
            ("out", "../s"),
            ("over", "../r2"),
            ("in", "d/a"),
            ("l", "l"),
        ] {
            std::os::unix::fs::symlink(to, root.join(link))?;
        }
        Ok(root)
    };
    let root = make().expect("a directory of our own");
    (Served::new(&root).expect("it is there"), base)
}

/// No path leaves the served directory, no URL is saved outside the current one, and what is printed
/// is read back as the same.
pub fn urls(data: &[u8]) {
    if let Some(path) = parse_request(data) {
        assert!(path.starts_with('/') && !path.contains(char::is_control));
        assert_eq!(
            parse_request(&request(path)),
            Some(path),
            "requests are read as written"
        );
        serve(path);
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    serve(text);
    serve(&format!("/{text}"));
    if let Ok(duration) = parse_seconds(text) {
        assert!(!duration.is_zero() && duration.as_secs() <= 7 * 24 * 3600);
    }
    if let Some(decoded) = percent_decode(text) {
        assert!(decoded.len() <= text.len());
        assert!(text.contains('%') || decoded == text.as_bytes());
    }
    for text in [text, &format!("https://h/{text}"), &format!("hq://{text}")] {
        let Ok((host, port, path, printed, file)) = parse_url(text) else {
            continue;
        };
        assert!(
            !host.is_empty() && port != 0 && path.starts_with('/'),
            "{text:?}"
        );
        assert!(
            !path.contains(|it: char| it.is_control() || it.is_whitespace()),
            "{text:?}"
        );
        let again = parse_url(&printed).unwrap_or_else(|error| panic!("{printed:?}: {error}"));
        assert_eq!(again, (host, port, path.clone(), printed, file.clone()));
        // As a client asks for it, a server understands it.
        assert_eq!(parse_request(&request(&path)), Some(&*path), "{text:?}");
        if let Some(file) = file {
            let mut parts = std::path::Path::new(&file).components();
            let plain =
                matches!(parts.next(), Some(std::path::Component::Normal(name)) if name == &*file);
            assert!(plain && parts.next().is_none(), "{file:?} is no plain name");
        }
    }
}

fn serve(path: &str) {
    if let Some(mut file) = SERVED.with(|(served, _)| served.open(path)) {
        let mut contents = Vec::new();
        file.read_to_end(&mut contents).expect("a regular file");
        assert_eq!(contents, INSIDE, "{path:?} leads out");
    }
}
