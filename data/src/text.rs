//! A text in memory.

use std::ops::Range;

/// A text in memory, with separated documents. Files are read as a stream, without it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text {
    /// The bytes of the text, UTF-8.
    pub bytes: Vec<u8>,
    /// Positions in `bytes` where a document ends that is separated from the text after it, ascending.
    pub ends: Vec<usize>,
}

impl Text {
    /// Wraps a text without separated documents.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: bytes.into(), ends: Vec::new() }
    }

    /// The ranges of text between separators, in order; true if a separator follows.
    pub(super) fn parts(&self) -> impl Iterator<Item = (Range<usize>, bool)> {
        let mut start = 0;
        let last = (self.ends.last() != Some(&self.bytes.len())).then_some((self.bytes.len(), false));
        let ends = self.ends.iter().map(|end| (*end, true)).chain(last);
        ends.map(move |(end, separated)| (std::mem::replace(&mut start, end)..end, separated))
    }
}
