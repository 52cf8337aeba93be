//! Rules about Rust sources.

use super::{
    Problem,
    rust::{asks_for_feature, code_only, is_test, line_at, without_items, words},
};

/// Packages that talk to the operating system, and may need `unsafe` for it.
const MAY_USE_UNSAFE: &[&str] = &[
    "polyquic-udp",
    "polyquic-smol",
    "polyquic-tokio",
    "polyquic-blocking",
    "polyquic-glommio",
    // Its tests count bytes on the heap; the library itself forbids it.
    "polyquic-hostile",
    // The same of its program.
    "polyquic-swarm",
];

/// What a machine without I/O has no use for, and what to do instead.
const IMPURE: &[(&str, &str)] = &[
    ("Instant::now", "time comes in as an argument"),
    ("SystemTime::now", "time comes in as an argument"),
    (".elapsed()", "time comes in as an argument"),
    (
        "std::thread",
        "whoever drives the machine decides about threads",
    ),
    (
        "thread::spawn",
        "whoever drives the machine decides about threads",
    ),
    (
        "thread::sleep",
        "whoever drives the machine decides about threads",
    ),
    (
        "UdpSocket",
        "bytes go in and out, sockets belong to adapters",
    ),
    (
        "async fn",
        "a machine is polled, waiting belongs to the endpoint",
    ),
    (
        ".await",
        "a machine is polled, waiting belongs to the endpoint",
    ),
    ("Waker", "wake-ups belong to the endpoint"),
];

const EXECUTORS: &[&str] = &["tokio", "smol", "glommio"];

/// Over this many lines a file usually holds two ideas.
const LONG_FILE_LINES: usize = 800;

/// The core does nothing but compute, and neither it nor the endpoint knows an executor.
/// `files` are all of one package.
pub(super) fn purity(package: &str, files: &[(&str, &str)]) -> Vec<Problem> {
    let core = package == "polyquic-core";
    if !core && package != "polyquic-endpoint" {
        return Vec::new();
    }
    let mut problems = Vec::new();
    let mut sources = Vec::new();
    let mut only_with_tokio = Vec::new();
    for (file, text) in files.iter().filter(|(file, _)| in_library(file)) {
        let mut code = code_only(text);
        without_items(text, &mut code, &is_test);
        let gated = |condition: &str| asks_for_feature(condition, "tokio-io");
        let mut without_tokio = code.clone();
        only_with_tokio.extend(without_items(text, &mut without_tokio, &gated));
        sources.push((*file, code, without_tokio));
    }
    for (file, code, without_tokio) in &sources {
        if core {
            for (word, instead) in IMPURE {
                for (position, _) in code.match_indices(word) {
                    let message = format!(
                        "`{}` in {package}: {instead}",
                        word.trim_matches(['.', '(', ')'])
                    );
                    problems.push(Problem::new(file, line_at(code, position), message));
                }
            }
        }
        // The traits of tokio's that streams implement for those who ask are a format, not an
        // executor.
        let module = file
            .trim_end_matches(".rs")
            .trim_end_matches("/mod")
            .rsplit('/')
            .next();
        let gated =
            !core && module.is_some_and(|module| only_with_tokio.iter().any(|it| it == module));
        for (number, line) in without_tokio.lines().enumerate().filter(|_| !gated) {
            for word in words(line) {
                let word_lower = word.to_lowercase();
                if EXECUTORS
                    .iter()
                    .any(|executor| word_lower.contains(executor))
                {
                    let message = format!("`{word}` names an executor, which {package} must not");
                    problems.push(Problem::new(file, number + 1, message));
                }
            }
        }
    }
    problems
}

/// Whether a file is part of what users of the package build.
fn in_library(file: &str) -> bool {
    let parts: Vec<_> = file.split('/').collect();
    let test = |part: &str| matches!(part, "tests" | "tests.rs" | "benches" | "examples");
    parts.contains(&"src") && !parts.iter().any(|part| test(part))
}

/// Each root file rules out `unsafe`, unless its package has business with the system.
pub(super) fn forbids_unsafe(package: &str, file: &str, text: &str) -> Vec<Problem> {
    let forbids = code_only(text)
        .lines()
        .any(|line| line.trim() == "#![forbid(unsafe_code)]");
    if forbids || MAY_USE_UNSAFE.contains(&package) {
        return Vec::new();
    }
    vec![Problem::new(file, 0, "must have `#![forbid(unsafe_code)]`")]
}

/// Each use of `unsafe` says why it is sound.
pub(super) fn unsafe_is_justified(file: &str, text: &str) -> Vec<Problem> {
    let code = code_only(text);
    let lines: Vec<_> = text.lines().collect();
    let mut problems = Vec::new();
    for (number, line) in code.lines().enumerate() {
        if !words(line).any(|word| word == "unsafe") {
            continue;
        }
        // On the same line, or in the comment that ends on the line before it.
        let comment = lines[..number]
            .iter()
            .rev()
            .map(|line| line.trim())
            .take_while(|line| line.starts_with("//") || line.starts_with("#["));
        let justified = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
        if !justified(lines[number]) && !comment.into_iter().any(justified) {
            problems.push(Problem::new(
                file,
                number + 1,
                "`unsafe` without a `SAFETY:` comment",
            ));
        }
    }
    problems
}

/// Files that are probably two.
pub(super) fn length(file: &str, text: &str) -> Vec<Problem> {
    match text.lines().count() {
        0..=LONG_FILE_LINES => Vec::new(),
        lines => vec![Problem::new(
            file,
            0,
            format!("{lines} lines: look for the second idea in it"),
        )],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(package: &str, text: &str) -> Vec<(usize, String)> {
        let problems = purity(package, &[("crates/x/src/lib.rs", text)]);
        problems
            .into_iter()
            .map(|problem| (problem.line, problem.message))
            .collect()
    }

    #[test]
    fn impurity_in_the_core_is_found() {
        for (word, _) in IMPURE {
            let text =
                format!("// {word}\nfn f() {{ {word} }}\n#[cfg(test)]\nmod tests {{ {word} }}\n");
            let problems = found("polyquic-core", &text);
            assert!(!problems.is_empty(), "{word}");
            assert!(problems.iter().all(|(line, _)| *line == 2), "{problems:?}");
            assert_eq!(found("polyquic-udp", &text), []);
        }
    }

    #[test]
    fn tests_of_the_core_may_know_the_time() {
        let text = "fn f() { Instant::now() }";
        assert_eq!(
            purity("polyquic-core", &[("crates/core/tests/all.rs", text)]),
            []
        );
        assert_eq!(
            purity("polyquic-core", &[("crates/core/src/tests/all.rs", text)]),
            []
        );
        assert_eq!(
            purity("polyquic-core", &[("crates/core/src/all.rs", text)]).len(),
            1
        );
    }

    #[test]
    fn an_executors_name_is_found() {
        for package in ["polyquic-core", "polyquic-endpoint"] {
            assert_eq!(found(package, "// tokio\nuse tokio::spawn;").len(), 1);
            assert_eq!(found(package, "struct SmolThing;").len(), 1);
            assert_eq!(found(package, "const A: &str = \"glommio\";"), []);
        }
        let gated = "#[cfg(feature = \"tokio-io\")]\nimpl tokio::io::AsyncRead for A {}\n";
        assert_eq!(found("polyquic-endpoint", gated), []);
        let ungated = "#[cfg(not(feature = \"tokio-io\"))]\nimpl tokio::io::AsyncRead for A {}\n";
        assert_eq!(found("polyquic-endpoint", ungated).len(), 1);
    }

    #[test]
    fn a_module_behind_the_feature_may_name_tokio() {
        let module = (
            "crates/endpoint/src/stream/io.rs",
            "use tokio::io::AsyncRead;",
        );
        let gated = (
            "crates/endpoint/src/stream/mod.rs",
            "#[cfg(feature = \"tokio-io\")]\nmod io;",
        );
        let open = ("crates/endpoint/src/stream/mod.rs", "mod io;");
        assert_eq!(purity("polyquic-endpoint", &[gated, module]), []);
        assert_eq!(purity("polyquic-endpoint", &[open, module]).len(), 1);
    }

    #[test]
    fn unsafe_code_is_found() {
        assert_eq!(
            forbids_unsafe("polyquic-core", "lib.rs", "#![forbid(unsafe_code)]\n"),
            []
        );
        assert_eq!(
            forbids_unsafe("polyquic-core", "lib.rs", "// #![forbid(unsafe_code)]\n").len(),
            1
        );
        assert_eq!(forbids_unsafe("polyquic-udp", "lib.rs", ""), []);

        assert_eq!(
            unsafe_is_justified("a.rs", "// SAFETY: it is.\nunsafe { a() }"),
            []
        );
        assert_eq!(
            unsafe_is_justified("a.rs", "// SAFETY: it\n// is.\n#[inline]\nunsafe { a() }"),
            []
        );
        assert_eq!(
            unsafe_is_justified("a.rs", "// unsafe\nlet a = \"unsafe\"; unsafe_code();"),
            []
        );
        let problems = unsafe_is_justified("a.rs", "// SAFETY: other.\nlet b = 1;\nunsafe { a() }");
        assert_eq!(
            problems
                .iter()
                .map(|problem| problem.line)
                .collect::<Vec<_>>(),
            [3]
        );
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(length("a.rs", &"\n".repeat(LONG_FILE_LINES)), []);
        assert_eq!(length("a.rs", &"\n".repeat(LONG_FILE_LINES + 1)).len(), 1);
    }
}
