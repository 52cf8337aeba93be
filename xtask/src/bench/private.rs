//! What must not get into a file that others see: where things are on this machine.

use std::env;

use crate::command;

/// The text with the directories of this machine replaced by what they are.
pub(super) fn redacted(text: &str) -> String {
    let root = command::root().ok();
    let root = root.as_ref().map(|root| root.to_string_lossy());
    let variable = |name: &str| env::var(name).ok();
    replaced(
        text,
        &[
            (root.as_deref(), "."),
            (variable("CARGO_HOME").as_deref(), "$CARGO_HOME"),
            (variable("HOME").as_deref(), "~"),
            (variable("HOSTNAME").as_deref(), "$HOSTNAME"),
        ],
    )
}

fn replaced(text: &str, places: &[(Option<&str>, &str)]) -> String {
    let mut text = text.to_owned();
    for (place, name) in places {
        // The root directory is nobody's secret, and in every path.
        if let Some(place) = place.filter(|place| place.len() > 1) {
            text = text.replace(place, name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_replaced() {
        let places = [
            (Some("/h/me/w"), "."),
            (Some("/h/me"), "~"),
            (Some("/"), "x"),
            (None, "y"),
        ];
        assert_eq!(
            replaced("in /h/me/w/a and /h/me/b/c", &places),
            "in ./a and ~/b/c"
        );
        let root = command::root().unwrap();
        let text = format!("no {}/target", root.display());
        assert_eq!(redacted(&text), "no ./target");
    }
}
