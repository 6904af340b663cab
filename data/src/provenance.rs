//! The origin of tokens, for messages.

use super::files::Skipped;
use std::path::PathBuf;

/// The origin of tokens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Provenance {
    /// The number of files with text.
    pub files: usize,
    /// Bytes of text, uncompressed.
    pub bytes: u64,
    /// Files in directories that were skipped.
    pub skipped: Vec<Skipped>,
    /// The directory of prepared tokens. `None` means the tokens were made in memory.
    pub prepared: Option<PathBuf>,
}
