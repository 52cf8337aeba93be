//! From a path in a request to an open file that is certainly inside the served directory.
//!
//! Three fences, each of which would do on its own for the attacks that it knows: the path is
//! taken apart and anything but plain names is refused; the result is resolved through all
//! symbolic links and must still lie below the root; and the file is then opened without
//! following any link (on Linux by `openat2`, which the kernel checks without a race).

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::hq::Refusal;
use crate::url::percent_decode;

/// What a request for a directory is answered with, when there is one.
const INDEX: &str = "index.html";

/// A directory whose files may be read, and nothing else.
#[derive(Debug)]
pub(crate) struct Sandbox {
    root: PathBuf,
    #[cfg(target_os = "linux")]
    handle: File,
}

impl Sandbox {
    /// Serve the files below `dir`.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        let root = dir.canonicalize()?;
        if !root.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        // Fails early when the directory may not be read.
        std::fs::read_dir(&root)?;
        Ok(Self {
            #[cfg(target_os = "linux")]
            handle: File::open(&root)?,
            root,
        })
    }

    /// The directory, resolved.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Open the file that `request_path` (as in `GET request_path`) names.
    ///
    /// Blocks. What lies outside, is no regular file or does not exist is all `NotFound`, so that
    /// nobody can probe for files elsewhere.
    pub(crate) fn open(&self, request_path: &str) -> Result<File, Refusal> {
        let relative = relative_path(request_path)?;
        let mut resolved = self.resolve(&relative)?;
        if resolved.is_dir() {
            resolved = self.resolve(&relative.join(INDEX))?;
        }
        let below = resolved
            .strip_prefix(&self.root)
            .map_err(|_| Refusal::NotFound)?;
        let file = self.open_below(below).map_err(|error| refusal(&error))?;
        match file.metadata() {
            Ok(metadata) if metadata.is_file() => Ok(file),
            Ok(_) => Err(Refusal::NotFound),
            Err(_) => Err(Refusal::Unreadable),
        }
    }

    /// The path behind all symbolic links, if that is below the root.
    fn resolve(&self, relative: &Path) -> Result<PathBuf, Refusal> {
        let resolved = self
            .root
            .join(relative)
            .canonicalize()
            .map_err(|error| refusal(&error))?;
        if resolved.starts_with(&self.root) {
            Ok(resolved)
        } else {
            Err(Refusal::NotFound)
        }
    }

    /// Open `below`, which is free of links at the time it was resolved, and insist that it still is.
    #[cfg(target_os = "linux")]
    fn open_below(&self, below: &Path) -> io::Result<File> {
        use rustix::fs::{Mode, OFlags, ResolveFlags};
        // NONBLOCK: opening a pipe must not wait for somebody to write into it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.handle, below, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(File::from(fd)),
            // Kernels before 5.6, and containers that filter the call.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => self.open_portable(below),
            Err(errno) => Err(errno.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn open_below(&self, below: &Path) -> io::Result<File> {
        self.open_portable(below)
    }

    /// Open, then check that the path still resolves to itself.
    ///
    /// Somebody who can write into the directory may win a race against this; who can do that can
    /// also copy files into it.
    fn open_portable(&self, below: &Path) -> io::Result<File> {
        let path = self.root.join(below);
        if !path.metadata()?.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = File::open(&path)?;
        if path.canonicalize()? == path {
            Ok(file)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

fn refusal(error: &io::Error) -> Refusal {
    match error.kind() {
        // A permission error would tell that the file exists; it is inside and the operator's to
        // see, so the client may know.
        io::ErrorKind::PermissionDenied => Refusal::Unreadable,
        _ => Refusal::NotFound,
    }
}

/// The path below the root that a request names: plain names only.
fn relative_path(request_path: &str) -> Result<PathBuf, Refusal> {
    let path = request_path.split('?').next().unwrap_or_default();
    let path = path.strip_prefix('/').ok_or(Refusal::BadRequest)?;
    let mut relative = PathBuf::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        // Decoded after splitting, so that %2f can never become a separator.
        let name = percent_decode(segment)
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or(Refusal::BadRequest)?;
        if name.contains(['/', '\\', '\0']) {
            return Err(Refusal::BadRequest);
        }
        // `Component` knows what is special on this platform (`..`, and `C:` on Windows).
        let mut components = Path::new(&name).components();
        match (components.next(), components.next()) {
            (Some(Component::Normal(plain)), None) if plain == name.as_str() => {
                relative.push(plain);
            }
            _ => return Err(Refusal::BadRequest),
        }
    }
    Ok(relative)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A served directory with a secret beside it.
    struct Fixture {
        base: tempfile::TempDir,
        sandbox: Sandbox,
    }

    fn fixture() -> Fixture {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        std::fs::create_dir_all(root.join("sub/deep")).unwrap();
        std::fs::write(base.path().join("secret"), "secret").unwrap();
        // A sibling whose name starts like the root's: a textual prefix check would let it pass.
        std::fs::create_dir(base.path().join("root-sibling")).unwrap();
        std::fs::write(base.path().join("root-sibling/secret"), "secret").unwrap();
        std::fs::write(root.join("hello.txt"), "hello").unwrap();
        std::fs::write(root.join("sub/with space"), "spaced").unwrap();
        std::fs::write(root.join("sub/index.html"), "index").unwrap();
        let sandbox = Sandbox::new(&root).unwrap();
        Fixture { base, sandbox }
    }

    fn read(fixture: &Fixture, path: &str) -> Result<String, Refusal> {
        let mut text = String::new();
        fixture
            .sandbox
            .open(path)?
            .read_to_string(&mut text)
            .unwrap();
        Ok(text)
    }

    #[test]
    fn files_inside_are_served() {
        let f = fixture();
        assert_eq!(read(&f, "/hello.txt").unwrap(), "hello");
        assert_eq!(read(&f, "//hello.txt").unwrap(), "hello");
        assert_eq!(read(&f, "/hello.txt?version=2").unwrap(), "hello");
        assert_eq!(read(&f, "/%68ello.txt").unwrap(), "hello");
        assert_eq!(read(&f, "/sub/with%20space").unwrap(), "spaced");
        assert_eq!(read(&f, "/sub/").unwrap(), "index");
        assert_eq!(read(&f, "/sub").unwrap(), "index");
    }

    #[test]
    fn dot_dot_in_every_spelling_is_refused() {
        let f = fixture();
        for path in [
            "/../secret",
            "/sub/../../secret",
            "/..",
            "/./hello.txt",
            "/%2e%2e/secret",
            "/.%2e/secret",
            "/sub/%2E%2E/%2e%2e/secret",
            "/..%2fsecret",
            "/%2e%2e%2fsecret",
        ] {
            assert_eq!(read(&f, path), Err(Refusal::BadRequest), "{path}");
        }
        // Encoded twice is a name like any other, and no such file exists.
        assert_eq!(read(&f, "/%252e%252e/secret"), Err(Refusal::NotFound));
    }

    #[test]
    fn absolute_paths_stay_inside() {
        let f = fixture();
        let secret = f.base.path().join("secret");
        let secret = secret.to_str().unwrap();
        assert_eq!(read(&f, secret), Err(Refusal::NotFound));
        assert_eq!(read(&f, &format!("/{secret}")), Err(Refusal::NotFound));
        let encoded = secret.replace('/', "%2f");
        assert_eq!(read(&f, &format!("/{encoded}")), Err(Refusal::BadRequest));
        assert_eq!(
            read(&f, "/../root-sibling/secret"),
            Err(Refusal::BadRequest)
        );
    }

    #[test]
    fn nul_and_backslash_are_refused() {
        let f = fixture();
        for path in [
            "/hello.txt%00",
            "/hello.txt%00.html",
            "/..\\secret",
            "/..%5csecret",
            "/sub\\..\\..\\secret",
            "/%zz",
            "/%",
            "/%ff%fe",
            "hello.txt",
            "",
        ] {
            assert_eq!(read(&f, path), Err(Refusal::BadRequest), "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_that_leave_are_not_followed_and_links_that_stay_are() {
        use std::os::unix::fs::symlink;
        let f = fixture();
        let root = f.sandbox.root().to_owned();
        symlink("../secret", root.join("relative-out")).unwrap();
        symlink(f.base.path().join("secret"), root.join("absolute-out")).unwrap();
        symlink("..", root.join("parent")).unwrap();
        symlink(f.base.path().join("root-sibling"), root.join("sibling")).unwrap();
        symlink("relative-out", root.join("twice-removed")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/dev/zero", root.join("device")).unwrap();
        for path in [
            "/relative-out",
            "/absolute-out",
            "/parent/secret",
            "/sibling/secret",
            "/twice-removed",
            "/loop",
            "/device",
        ] {
            assert_eq!(read(&f, path), Err(Refusal::NotFound), "{path}");
        }
        symlink("hello.txt", root.join("inside")).unwrap();
        symlink(root.join("sub"), root.join("absolute-inside")).unwrap();
        assert_eq!(read(&f, "/inside").unwrap(), "hello");
        assert_eq!(read(&f, "/absolute-inside/index.html").unwrap(), "index");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_link_that_appears_after_the_check_is_not_followed() {
        use std::os::unix::fs::symlink;
        let f = fixture();
        symlink("../secret", f.sandbox.root().join("late")).unwrap();
        assert!(f.sandbox.open_below(Path::new("late")).is_err());
        assert!(f.sandbox.open_below(Path::new("../secret")).is_err());
        assert!(f.sandbox.open_portable(Path::new("late")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_neither_blocks_nor_is_served() {
        let f = fixture();
        let pipe = f.sandbox.root().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: mkfifo is not available");
            return;
        }
        assert_eq!(read(&f, "/pipe"), Err(Refusal::NotFound));
    }

    #[test]
    fn directories_and_missing_files_are_not_found() {
        let f = fixture();
        for path in ["/", "/sub/deep", "/missing", "/hello.txt/x"] {
            assert_eq!(read(&f, path), Err(Refusal::NotFound), "{path}");
        }
        assert!(Sandbox::new(&f.sandbox.root().join("hello.txt")).is_err());
        assert!(Sandbox::new(&f.sandbox.root().join("missing")).is_err());
    }
}
