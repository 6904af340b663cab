//! Errors that the user can correct: what is wrong, where, why, and what to do.

use crate::diagnostics::Mistakes;
use page::visible::visible;
use serde_json::{Value, json};
use std::fmt;

/// An error and its remedy.
#[derive(Debug)]
pub struct Failure {
    /// The problem, its place and its cause.
    what: String,
    /// The remedy.
    help: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  help: {}", self.what, self.help)
    }
}

impl std::error::Error for Failure {}

/// Returns an error and its remedy.
pub fn failure(what: impl Into<String>, help: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { what: what.into(), help: help.into() })
}

/// Returns an error as text, with the colours of a terminal if `colour` is set. Control characters of names
/// are visible.
pub fn text(error: &anyhow::Error, colour: bool) -> String {
    match error.downcast_ref::<Mistakes>() {
        Some(mistakes) => mistakes.text(colour),
        None => visible(&format!("error: {}", chain(error))).into_owned(),
    }
}

/// Returns an error as `{"error": {"message", "help", "mistakes"}}`. `help` is null if there is no remedy,
/// and `mistakes` is the list of [`Mistakes::json`].
pub fn json(error: &anyhow::Error) -> Value {
    let (message, help, mistakes) = match error.downcast_ref::<Mistakes>() {
        Some(found) => {
            let message = format!("{} mistakes in {}", found.mistakes.len(), found.subject);
            (message, None, found.json())
        }
        None => {
            let said = chain(error);
            // The remedy is the last part of the text.
            match said.rsplit_once("\n  help: ") {
                Some((what, help)) => (what.to_owned(), Some(help.to_owned()), json!([])),
                None => (said, None, json!([])),
            }
        }
    };
    json!({ "error": { "message": message, "help": help, "mistakes": mistakes } })
}

/// Returns an error and its causes in one text. A cause follows its consequence, so that the help of the
/// innermost cause comes last.
fn chain(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for (i, cause) in error.chain().map(ToString::to_string).enumerate() {
        // Many errors already include the text of their source.
        if i > 0 && said.contains(cause.as_str()) {
            continue;
        }
        if i > 0 {
            said.push_str(": ");
        }
        said.push_str(&cause);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn errors_as_text_and_as_json() {
        let error = Err::<(), _>(failure("`a` is missing", "add it")).context("reading `b`").unwrap_err();
        assert_eq!(text(&error, false), "error: reading `b`: `a` is missing\n  help: add it");
        let wanted =
            json!({"error": {"message": "reading `b`: `a` is missing", "help": "add it", "mistakes": []}});
        assert_eq!(json(&error), wanted);
        assert_eq!(json(&anyhow::anyhow!("x"))["error"]["help"], Value::Null);
        let diagnostics = mesh::Diagnostic::new("op_o1", "wrong").help("do").into();
        let mistakes = anyhow::Error::new(Mistakes::new("m.rs", &diagnostics, &Default::default()));
        assert_eq!(json(&mistakes)["error"]["mistakes"][0]["label"], "op_o1");
        assert!(text(&mistakes, false).contains("error[op_o1]: wrong"));
    }
}
