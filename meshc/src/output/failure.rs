//! Errors for users: what is wrong, where, why, and what to do.

use super::diagnostics::Mistakes;
use std::fmt;

/// An error that the user can correct.
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

/// Prints an error to standard error.
pub fn say(error: &anyhow::Error) {
    if let Some(mistakes) = error.downcast_ref::<Mistakes>() {
        mistakes.say();
        return;
    }
    // A cause follows its consequence, so that the help of the innermost cause comes last.
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    let mut said = String::new();
    for (i, cause) in chain.iter().enumerate() {
        // Many errors already include the text of their source.
        if i > 0 && said.contains(cause.as_str()) {
            continue;
        }
        if i > 0 {
            said.push_str(": ");
        }
        said.push_str(cause);
    }
    eprintln!("error: {said}");
}
