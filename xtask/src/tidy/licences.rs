//! Every package that is built in has a licence that the project accepts.
//!
//! The list is in `deny.toml`, where `cargo deny` reads it too; this check needs neither that
//! program nor a network.

use crate::metadata::Package;

use super::{Problem, manifests::section};

/// Checks each package's licence expression against the list in `[licenses] allow`.
pub(super) fn check(file: &str, configuration: &str, packages: &[Package]) -> Vec<Problem> {
    let allowed = allowed(configuration);
    if allowed.is_empty() {
        return vec![Problem::new(file, 0, "[licenses] has no list `allow`")];
    }
    let mut problems = Vec::new();
    for package in packages {
        let Some(expression) = package.license.as_deref() else {
            if !package.member {
                let message = format!("{} {} names no licence", package.name, package.version);
                problems.push(Problem::new(file, 0, message));
            }
            continue;
        };
        if satisfied(expression, &|licence| {
            allowed.iter().any(|it| it == licence)
        }) != Some(true)
        {
            let (name, version) = (&package.name, &package.version);
            let message =
                format!("{name} {version} is under {expression:?}, which the list does not allow");
            problems.push(Problem::new(file, 0, message));
        }
    }
    problems
}

fn allowed(configuration: &str) -> Vec<String> {
    let lines = section(configuration, "licenses");
    let list = lines.iter().skip_while(|line| !line.starts_with("allow"));
    let text: String = list
        .map(|line| line.split('#').next().unwrap_or_default())
        .take_while(|line| !line.starts_with(']'))
        .collect();
    let list = text.split(']').next().unwrap_or_default();
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// Whether an SPDX expression can be met by licences that are accepted; `None` if it is not one.
fn satisfied(expression: &str, accepts: &dyn Fn(&str) -> bool) -> Option<bool> {
    // Before SPDX expressions, a slash meant a choice.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let tokens: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = &*tokens;
    let result = either(&mut rest, accepts)?;
    rest.is_empty().then_some(result)
}

fn either(tokens: &mut &[&str], accepts: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut result = both(tokens, accepts)?;
    while let ["OR", rest @ ..] = *tokens {
        *tokens = rest;
        result |= both(tokens, accepts)?;
    }
    Some(result)
}

fn both(tokens: &mut &[&str], accepts: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut result = one(tokens, accepts)?;
    while let ["AND", rest @ ..] = *tokens {
        *tokens = rest;
        result &= one(tokens, accepts)?;
    }
    Some(result)
}

fn one(tokens: &mut &[&str], accepts: &dyn Fn(&str) -> bool) -> Option<bool> {
    match *tokens {
        ["(", rest @ ..] => {
            *tokens = rest;
            let result = either(tokens, accepts)?;
            let [")", rest @ ..] = *tokens else {
                return None;
            };
            *tokens = rest;
            Some(result)
        }
        // An exception only ever permits more than the licence alone.
        [licence, "WITH", _, rest @ ..] => {
            *tokens = rest;
            Some(accepts(licence))
        }
        [licence, rest @ ..] if !matches!(*licence, ")" | "AND" | "OR" | "WITH") => {
            *tokens = rest;
            Some(accepts(licence))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGURATION: &str = "[bans]\nallow = [\"GPL-3.0\"]\n[licenses]\nallow = [\n  # Why.\n  \"MIT\",\n  \"ISC\", # \"GPL-2.0\"\n]\n[x]\n";

    #[test]
    fn the_list_is_read() {
        assert_eq!(allowed(CONFIGURATION), ["MIT", "ISC"]);
        assert_eq!(
            allowed("[licenses]\nallow = [\"MIT\"]\nother = [\"GPL-3.0\"]\n"),
            ["MIT"]
        );
        assert_eq!(check("deny.toml", "", &[]).len(), 1);
    }

    #[test]
    fn expressions_are_understood() {
        let accepts = |licence: &str| matches!(licence, "MIT" | "ISC");
        for (expression, expected) in [
            ("MIT", Some(true)),
            ("GPL-3.0", Some(false)),
            ("GPL-3.0 OR MIT", Some(true)),
            ("GPL-3.0/MIT", Some(true)),
            ("MIT AND GPL-3.0", Some(false)),
            ("MIT AND ISC OR GPL-3.0", Some(true)),
            ("ISC AND (GPL-3.0 OR MIT)", Some(true)),
            ("(ISC OR MIT) AND GPL-3.0", Some(false)),
            ("MIT WITH LLVM-exception", Some(true)),
            ("MIT OR", None),
            ("(MIT", None),
            ("", None),
        ] {
            assert_eq!(satisfied(expression, &accepts), expected, "{expression}");
        }
    }

    #[test]
    fn a_licence_that_is_not_allowed_is_found() {
        let package = |license: Option<&str>| Package {
            name: "thing".into(),
            license: license.map(str::to_owned),
            ..Package::default()
        };
        assert_eq!(
            check("deny.toml", CONFIGURATION, &[package(Some("MIT"))]),
            []
        );
        assert_eq!(
            check("deny.toml", CONFIGURATION, &[package(Some("AGPL-3.0"))]).len(),
            1
        );
        assert_eq!(check("deny.toml", CONFIGURATION, &[package(None)]).len(), 1);
    }
}
