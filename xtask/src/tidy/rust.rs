//! Just enough of Rust's grammar to tell code from comments, strings and tests.

use std::ops::Range;

/// The text with comments and the contents of literals replaced by spaces; every character keeps
/// its place.
pub(super) fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut blank = |range: Range<usize>| {
        for byte in &mut code[range] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let end = if rest.starts_with(b"//") {
            at + rest
                .iter()
                .position(|byte| *byte == b'\n')
                .unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + block_comment(rest)
        } else if let Some(length) = raw_string(bytes, at) {
            at + length
        } else if rest[0] == b'"' {
            at + quoted(rest, b'"')
        } else if let Some(length) = character(rest) {
            at + length
        } else {
            at += 1;
            continue;
        };
        blank(at..end);
        at = end;
    }
    // Blanking whole literals cannot cut a character in two.
    String::from_utf8(code).unwrap_or_default()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at.min(rest.len())
}

/// The length of a raw string that starts here.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let continues = at > 0 && is_word(bytes[at - 1]) && !matches!(bytes[at - 1], b'b' | b'c');
    if bytes[at] != b'r' || continues {
        return None;
    }
    let hashes = bytes[at + 1..]
        .iter()
        .take_while(|byte| **byte == b'#')
        .count();
    let start = at + 1 + hashes;
    if bytes.get(start) != Some(&b'"') {
        return None;
    }
    let closing = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = &bytes[start + 1..];
    let length = body
        .windows(closing.len())
        .position(|window| window == closing);
    Some(length.map_or(bytes.len(), |length| start + 1 + length + closing.len()) - at)
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The length of a character literal; a lifetime is not one.
fn character(rest: &[u8]) -> Option<usize> {
    if rest[0] != b'\'' {
        return None;
    }
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted(rest, b'\''));
    }
    let text = std::str::from_utf8(&rest[1..]).ok()?;
    let length = text.chars().next()?.len_utf8();
    (rest.get(1 + length) == Some(&b'\'')).then_some(length + 2)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Blanks the items in `code` whose `#[cfg(..)]` satisfies `wanted`, and returns the names of the
/// modules among them whose text is in another file. `text` and `code` are the two forms of one
/// file, since what is asked of a condition is often in a string.
pub(super) fn without_items(
    text: &str,
    code: &mut String,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(start) = code[from..].find("#[cfg(").map(|found| from + found) {
        let Some(condition_end) = matching(code, start + 1).map(|end| end + 1) else {
            break;
        };
        from = condition_end;
        if !wanted(&text[start..condition_end]) {
            continue;
        }
        let end = item_end(code, condition_end);
        let item = &code[condition_end..end];
        if let (Some(name), true) = (module_name(item), item.trim_end().ends_with(';')) {
            modules.push(name);
        }
        let blank: String = code[start..end]
            .chars()
            .map(|c| if c == '\n' { c } else { ' ' })
            .collect();
        // Characters of more than one byte are left only in identifiers, which nobody uses here.
        if blank.len() == end - start {
            code.replace_range(start..end, &blank);
        }
        from = end;
    }
    modules
}

/// Whether a condition holds in tests only.
pub(super) fn is_test(condition: &str) -> bool {
    words(condition).any(|word| word == "test")
        && !condition.contains("not(")
        && !condition.contains("any(")
}

/// Whether a condition asks for this feature.
pub(super) fn asks_for_feature(condition: &str, feature: &str) -> bool {
    condition.contains(&format!("\"{feature}\""))
        && !condition.contains("not(")
        && !condition.contains("any(")
}

/// The identifiers and keywords of a text.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric() && character != '_')
        .filter(|word| !word.is_empty())
}

fn module_name(item: &str) -> Option<String> {
    let mut words = words(item).skip_while(|word| *word != "mod");
    words.next()?;
    words.next().map(str::to_owned)
}

/// Where the bracket that opens at `open` closes.
fn matching(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// The end of the item, statement or field that starts at `start`.
fn item_end(code: &str, start: usize) -> usize {
    let bytes = code.as_bytes();
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            b';' | b',' => return at + 1,
            // What encloses the item ends without a separator before it.
            b')' | b']' | b'}' => return at,
            b'{' => return matching(code, at).map_or(bytes.len(), |end| end + 1),
            b'(' | b'[' => at = matching(code, at).unwrap_or(bytes.len()),
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The line, from 1, of a position in the text.
pub(super) fn line_at(text: &str, position: usize) -> usize {
    text[..position].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank() {
        let text = r##"
            let a = "Instant::now"; // Instant::now
            /* Instant::now /* nested */ Instant::now */ let b = r#"x " Instant::now"#;
            let c = '"'; let d: &'static str = b"\" Instant::now"; let e = '\'';
            Instant::later();
        "##;
        let code = code_only(text);
        assert_eq!(code.len(), text.len());
        assert!(!code.contains("Instant::now"), "{code}");
        assert!(code.contains("Instant::later"));
        assert!(code.contains("'static"));
        assert_eq!(line_at(text, code.find("later").unwrap()), 5);
    }

    #[test]
    fn items_under_a_condition_are_left_out() {
        let text = r#"
            fn kept() {}
            #[cfg(test)]
            mod tests { fn left_out() { "}" } }
            #[cfg(feature = "tokio")]
            impl<T: Into<[u8; 2]>> tokio::io::AsyncRead for Out where T: Copy { fn left_out2() {} }
            #[cfg(feature = "tokio")]
            mod elsewhere;
            #[cfg(not(feature = "tokio"))]
            fn also_kept() {}
        "#;
        let mut code = code_only(text);
        assert_eq!(
            without_items(text, &mut code, &is_test),
            Vec::<String>::new()
        );
        let gated = |condition: &str| asks_for_feature(condition, "tokio");
        assert_eq!(without_items(text, &mut code, &gated), ["elsewhere"]);
        assert!(
            !code.contains("left_out") && !code.contains("AsyncRead"),
            "{code}"
        );
        assert!(code.contains("fn kept") && code.contains("also_kept"));
        assert_eq!(code.len(), text.len());
    }
}
