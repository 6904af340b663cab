//! The reason why a data file cannot be used.

/// The reason why a data file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Problem {
    /// A predicate that follows the name of the file, such as `is empty`.
    pub what: String,
    /// The remedy.
    pub help: String,
    /// True if the file is meant to be data and part of it may be lost. Such a file is an error even when it
    /// is found in a directory, where other unusable files are skipped.
    pub damage: bool,
}

/// A list of names for messages.
pub(super) fn quoted(names: &[&str]) -> String {
    if names.is_empty() { "none at all".into() } else { format!("`{}`", names.join("`, `")) }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

// A reader passes a problem through `io::Error`.
impl std::error::Error for Problem {}
