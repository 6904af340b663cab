//! The origin of a corpus, for messages.

use super::files::Skipped;
use std::path::PathBuf;

/// Where tokens come from, for people.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct About {
    /// Files with text.
    pub files: usize,
    /// Bytes of text, uncompressed.
    pub bytes: u64,
    /// What was found in folders and left out.
    pub skipped: Vec<Skipped>,
    /// The folder of prepared tokens, if that is what they are.
    pub prepared: Option<PathBuf>,
}
