//! The reason why a data file cannot be used.

/// Why a file cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Problem {
    /// What is wrong, to be read after the file's name.
    pub what: String,
    /// What to do.
    pub help: String,
    /// The file was meant to be data, and a part of it may be lost: it is not to be passed over in a folder.
    pub damage: bool,
}

pub(super) fn quoted(names: &[&str]) -> String {
    if names.is_empty() { "none at all".into() } else { format!("`{}`", names.join("`, `")) }
}
