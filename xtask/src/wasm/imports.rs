//! What a WebAssembly module imports.

use anyhow::{Context, Result, ensure};

/// The number of the section with the imports.
const IMPORTS: u8 = 2;

/// Which modules `wasm` imports from, in order and as often as it does.
pub(super) fn modules(wasm: &[u8]) -> Result<Vec<String>> {
    let body = wasm.strip_prefix(b"\0asm\x01\0\0\0");
    let mut reader = Reader(body.context("not a WebAssembly module")?);
    while !reader.0.is_empty() {
        let id = reader.byte()?;
        let section = reader.bytes()?;
        if id == IMPORTS {
            return imports(Reader(section));
        }
    }
    Ok(Vec::new())
}

fn imports(mut section: Reader<'_>) -> Result<Vec<String>> {
    let mut modules = Vec::new();
    for _ in 0..section.number()? {
        modules.push(String::from_utf8(section.bytes()?.to_vec())?);
        section.bytes()?;
        match section.byte()? {
            // A function, by its type.
            0 => drop(section.number()?),
            // A table: type, limits.
            1 => {
                section.byte()?;
                section.limits()?;
            }
            2 => section.limits()?,
            // A global: type, whether it changes.
            3 => {
                section.byte()?;
                section.byte()?;
            }
            // A tag: attribute, type.
            4 => {
                section.byte()?;
                section.number()?;
            }
            kind => ensure!(false, "an import of the unknown kind {kind}"),
        }
    }
    Ok(modules)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.0.split_first().context("the module is cut off")?;
        self.0 = rest;
        Ok(*first)
    }

    /// Seven bits at a time, the lowest first.
    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        anyhow::bail!("a number without an end")
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.number()?.try_into()?;
        let (bytes, rest) = self
            .0
            .split_at_checked(length)
            .context("the module is cut off")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn limits(&mut self) -> Result<()> {
        let has_maximum = self.byte()? & 1 == 1;
        self.number()?;
        if has_maximum {
            self.number()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_of_all_kinds_are_listed() {
        let mut wasm = b"\0asm\x01\0\0\0".to_vec();
        // A custom section before it.
        wasm.extend([0, 3, 1, b'x', 9]);
        let mut section = vec![4];
        section.extend(b"\x03env\x01f\x00\x80\x01");
        section.extend(b"\x03env\x01m\x02\x01\x01\x02");
        section.extend(b"\x01a\x01t\x01\x70\x00\x05");
        section.extend(b"\x01b\x01g\x03\x7f\x01");
        wasm.extend([2, section.len() as u8]);
        wasm.extend(section);
        assert_eq!(modules(&wasm).unwrap(), ["env", "env", "a", "b"]);
        assert!(modules(&wasm[..wasm.len() - 3]).is_err());
    }

    #[test]
    fn a_module_may_import_nothing() {
        assert!(modules(b"\0asm\x01\0\0\0").unwrap().is_empty());
        assert!(modules(b"ELF").is_err());
    }
}
