//! The documentation shows code that is compiled and run.
//!
//! Rust in Markdown files is quoted from files that the tests compile. Quoting keeps the pages free
//! of the hidden lines that documentation tests would need, and the code formatted and linted.

use std::fs;
use std::path::{Path, PathBuf};

/// A page that needs more should be two.
const MAX_LINES_PER_CHAPTER: usize = 150;

/// A fenced block of code.
struct Block<'a> {
    /// Where its first line is in the file, from 1.
    line: usize,
    language: &'a str,
    lines: Vec<&'a str>,
}

fn blocks(markdown: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines().zip(1..);
    while let Some((line, number)) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let lines = lines.by_ref().map(|(line, _)| line);
            let lines = lines.take_while(|line| !line.trim_start().starts_with("```"));
            blocks.push(Block {
                line: number + 1,
                language,
                lines: lines.collect(),
            });
        }
    }
    blocks
}

/// What `line` is without the indentation that the first line of its block has.
fn dedent<'a>(line: &'a str, first: &str) -> &'a str {
    let indent = first.len() - first.trim_start().len();
    line.get(..indent)
        .filter(|start| start.trim().is_empty())
        .map_or(line.trim_end(), |_| line[indent..].trim_end())
}

/// Whether `code` stands in `source`, indented as a whole perhaps.
fn is_quoted_from(code: &[&str], source: &str) -> bool {
    let Some(first) = code.first() else {
        return true;
    };
    let lines: Vec<_> = source.lines().collect();
    lines.windows(code.len()).any(|window| {
        let (source_first, first) = (window[0], *first);
        window
            .iter()
            .zip(code)
            .all(|(source, code)| dedent(source, source_first) == dedent(code, first))
    })
}

/// The code that a reader would end up with: all of a Rust block, the new version of a difference.
fn shown<'a>(block: &Block<'a>) -> Option<Vec<&'a str>> {
    match block.language.split([',', ' ']).next() {
        Some("rust") => Some(block.lines.clone()),
        Some("diff") => {
            let kept = block.lines.iter().filter(|line| !line.starts_with('-'));
            Some(kept.map(|line| line.get(1..).unwrap_or_default()).collect())
        }
        _ => None,
    }
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn markdown_quotes_code_that_is_compiled() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package.join("../..");
    let mut sources = files(&package.join("examples"), "rs");
    sources.extend(files(&package.join("tests"), "rs"));
    // The conformance suite is instantiated there, as an adapter of one's own would.
    sources.extend(files(&root.join("crates/smol/tests"), "rs"));
    // Compiled, and run in Node, by `cargo xtask wasm --test`.
    sources.extend(files(&root.join("crates/wasm/examples"), "rs"));
    sources.extend(files(&root.join("crates/hostile/tests"), "rs"));
    let sources: Vec<_> = sources
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let mut pages = files(&root.join("docs"), "md");
    pages.push(root.join("README.md"));

    let (mut problems, mut quotations) = (Vec::new(), 0);
    for page in pages {
        let markdown = fs::read_to_string(&page).unwrap();
        for block in blocks(&markdown) {
            let Some(code) = shown(&block) else { continue };
            quotations += 1;
            if !sources.iter().any(|source| is_quoted_from(&code, source)) {
                problems.push(format!("{}:{}", page.display(), block.line));
            }
        }
        let chapter = page.parent().is_some_and(|it| it.ends_with("book"));
        if chapter && markdown.lines().count() > MAX_LINES_PER_CHAPTER {
            problems.push(format!("{} is too long", page.display()));
        }
    }
    assert!(
        problems.is_empty(),
        "code that no test compiles:\n{}",
        problems.join("\n")
    );
    assert!(quotations > 10, "there are only {quotations} quotations");
}

#[test]
fn quotations_are_recognised() {
    let source = "fn f() {\n    let a = 1;\n\n    if a > 0 {\n        g();\n    }\n}\n";
    let quoted = |code: &str| is_quoted_from(&code.lines().collect::<Vec<_>>(), source);
    assert!(quoted("let a = 1;\n\nif a > 0 {\n    g();"));
    assert!(quoted(source));
    assert!(!quoted("let a = 2;"));
    assert!(!quoted("let a = 1;\nif a > 0 {"), "a line is missing");
    assert!(!quoted("if a > 0 {\ng();"), "layout differs");

    let page = "text\n```diff\n-old\n+let a = 1;\n \n```\n```toml\na = 1\n```\n";
    let blocks = blocks(page);
    assert_eq!(blocks.iter().map(|it| it.line).collect::<Vec<_>>(), [3, 8]);
    assert_eq!(shown(&blocks[0]).unwrap(), ["let a = 1;", ""]);
    assert!(shown(&blocks[1]).is_none());
}
