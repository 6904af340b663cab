//! Errors as people read them: what, where, why, and what to do.

use super::diagnostics::Mistakes;
use std::fmt;

/// Something went wrong that the user can change.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong, where and why.
    what: String,
    /// What to do.
    help: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  help: {}", self.what, self.help)
    }
}

impl std::error::Error for Failure {}

/// An error with what to do about it.
pub fn failure(what: impl Into<String>, help: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { what: what.into(), help: help.into() })
}

/// Says an error on standard error.
pub fn say(error: &anyhow::Error) {
    if let Some(mistakes) = error.downcast_ref::<Mistakes>() {
        mistakes.say();
        return;
    }
    // Causes come after what they are the cause of, so that the help of the innermost stands last.
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    let mut said = String::new();
    for (i, cause) in chain.iter().enumerate() {
        // Errors often repeat their source in their own words.
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
