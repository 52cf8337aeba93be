//! How large what a browser loads is, and whether the documentation says so.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::command;

/// More than this, compressed, is more than a page should have to load.
const MAX_GZIP_BYTES: u64 = 600_000;

/// Where the size is told, in KB of gzip, and what precedes and follows it there.
const TOLD: &[(&str, &str, &str)] = &[
    ("README.md", "(", " KB with gzip)"),
    // raw, gzip, brotli
    ("docs/book/11-webassembly.md", " KB", " KB"),
];

/// The row of the book that has it.
const BOOK_ROW: &str = "together ";

/// How far what is told may be off, in percent.
const TOLERANCE_PERCENT: f64 = 3.0;

/// Raw, gzip, brotli, in bytes.
type Sizes = [u64; 3];

/// What a browser loads: the module, and all JavaScript that `browser.js` imports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loaded {
    module: Sizes,
    javascript: Sizes,
}

impl Loaded {
    /// Asks Node, which compresses; `None` where there is none.
    pub(super) fn of(package: &Path) -> Result<Option<Self>> {
        let mut node = Command::new("node");
        node.args(["--input-type=module", "--eval", MEASURE])
            .arg(package);
        let started = Command::new("node").arg("--version").output();
        if started.is_err() {
            return Ok(None);
        }
        let text = command::output(node).context("what a browser loads")?;
        let sizes = |value: &serde_json::Value| -> Option<Sizes> {
            Some([value[0].as_u64()?, value[1].as_u64()?, value[2].as_u64()?])
        };
        let said: serde_json::Value = serde_json::from_str(&text)?;
        let found = sizes(&said["module"]).zip(sizes(&said["javascript"]));
        let (module, javascript) = found.context("no sizes")?;
        Ok(Some(Self { module, javascript }))
    }

    fn together(&self) -> Sizes {
        std::array::from_fn(|i| self.module[i] + self.javascript[i])
    }

    pub(super) fn print(&self) {
        println!("{:12}{:>12}{:>12}{:>12}", "", "raw", "gzip", "brotli");
        for (name, sizes) in [
            ("WebAssembly", self.module),
            ("JavaScript", self.javascript),
            ("together", self.together()),
        ] {
            let row = sizes.map(|bytes| format!("{:>9.1} KB", bytes as f64 / 1000.0));
            println!("{name:12}{}", row.concat());
        }
    }

    /// An error if it is too large.
    pub(super) fn check_budget(&self) -> Result<()> {
        let [_, gzip, _] = self.together();
        ensure!(
            gzip <= MAX_GZIP_BYTES,
            "a browser would load {gzip} bytes of gzip, which is more than {MAX_GZIP_BYTES}"
        );
        Ok(())
    }

    /// An error if the documentation says something else.
    pub(super) fn check_told(&self, root: &Path) -> Result<()> {
        for (file, before, after) in TOLD {
            let text = fs::read_to_string(root.join(file))?;
            let told = told(&text, before, after)
                .with_context(|| format!("{file} does not say how large the package is"))?;
            self.check_close(file, told)?;
        }
        Ok(())
    }

    fn check_close(&self, file: &str, told: f64) -> Result<()> {
        let kilobytes = self.together()[1] as f64 / 1000.0;
        ensure!(
            (told / kilobytes - 1.0).abs() * 100.0 <= TOLERANCE_PERCENT,
            "{file} says {told} KB of gzip, but the package has {kilobytes:.1} KB: write that"
        );
        Ok(())
    }
}

/// The number between `before` and `after`, in the first line that has them.
fn told(text: &str, before: &str, after: &str) -> Option<f64> {
    let table = before == after;
    let mut lines = text
        .lines()
        .filter(|line| !table || line.starts_with(BOOK_ROW));
    lines.find_map(|line| {
        let (_, rest) = match table {
            true => line.split_once(before)?,
            false => line[..line.find(after)?]
                .rsplit_once(before)
                .map(|(_, number)| ("", number))?,
        };
        rest.split(after).next()?.trim().parse().ok()
    })
}

/// Follows what is imported from `browser.js` on, and says how large all that is.
const MEASURE: &str = r#"
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { brotliCompressSync, gzipSync } from 'node:zlib';
const kinds = { module: new Set(), javascript: new Set() };
const visit = (file) => {
  const kind = file.endsWith('.wasm') ? kinds.module : kinds.javascript;
  if (kind.has(file)) return;
  kind.add(file);
  if (kind === kinds.module) return;
  const text = readFileSync(file, 'utf8');
  for (const [, , name] of text.matchAll(/(?:\bfrom|\bimport\(?|\bnew URL\()\s*(['"])(\.[^'"]+)\1/g))
    visit(path.join(path.dirname(file), name));
};
visit(path.join(process.argv[1], 'browser.js'));
const sizes = (files) => {
  const all = [...files].map((file) => readFileSync(file));
  const sum = (size) => all.map(size).reduce((a, b) => a + b, 0);
  return [sum((it) => it.length), sum((it) => gzipSync(it, { level: 9 }).length),
    sum((it) => brotliCompressSync(it).length)];
};
for (const files of Object.values(kinds)) if (!files.size) throw new Error('nothing is imported');
console.log(JSON.stringify({ module: sizes(kinds.module), javascript: sizes(kinds.javascript) }));
"#;

#[cfg(test)]
mod tests {
    use super::*;

    const LOADED: Loaded = Loaded {
        module: [1_000_000, 430_000, 340_000],
        javascript: [60_000, 20_000, 15_000],
    };

    #[test]
    fn what_the_documentation_says_is_found_and_compared() {
        let sentence = "x (a) y\nbuilds [a package](b.md) (453 KB with gzip), and\n";
        assert_eq!(told(sentence, "(", " KB with gzip)"), Some(453.0));
        let table = "WebAssembly    1067.0 KB    435.3 KB    340.2 KB\n\
                     together       1132.0 KB    452.5 KB    354.9 KB\n";
        assert_eq!(told(table, " KB", " KB"), Some(452.5));
        assert_eq!(told("nothing", "(", " KB with gzip)"), None);
        assert!(LOADED.check_close("a", 453.0).is_ok());
        assert!(LOADED.check_close("a", 470.0).is_err());
        assert!(LOADED.check_close("a", 430.0).is_err());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        assert!(LOADED.check_budget().is_ok());
        let mut large = LOADED;
        large.javascript[1] = 200_000;
        assert!(large.check_budget().is_err());
    }

    /// Node is there wherever the package is built; elsewhere there is nothing to see.
    #[test]
    fn whatever_is_imported_counts_and_what_is_missing_is_an_error() {
        let directory = command::root().unwrap().join("target/tmp/wasm-size");
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write(
            "browser.js",
            "import { a } from './a.js';\nexport { b } from \"./deep/b.js\";\n\
             new URL('./m.wasm', import.meta.url);\n",
        );
        write("a.js", "import './deep/b.js';\n");
        write("deep/b.js", "import('../c.js');\n");
        write("c.js", "12345678\n");
        write("unused.js", "never\n");
        write("m.wasm", "1234");
        let Some(loaded) = Loaded::of(&directory).unwrap() else {
            return;
        };
        let javascript = ["browser.js", "a.js", "deep/b.js", "c.js"]
            .map(|name| fs::metadata(directory.join(name)).unwrap().len());
        assert_eq!(loaded.javascript[0], javascript.iter().sum::<u64>());
        assert_eq!(loaded.module[0], 4);
        fs::remove_file(directory.join("c.js")).unwrap();
        assert!(Loaded::of(&directory).is_err());
    }
}
