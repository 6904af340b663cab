//! Errors that the user can correct: what is wrong, where, why, and what to do.

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
