//! Options of reading files, and the ways in which it ends early.

use super::problem::Problem;
use crate::Error;

/// Options of reading files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading<'a> {
    /// The field of JSON Lines, or column of Parquet, that holds the text.
    pub field: &'a str,
    /// The largest number of bytes that a compressed file may have when it is decompressed.
    pub max_decompressed: u64,
}

/// The default field of JSON Lines, and column of Parquet, that holds the text.
pub const TEXT_FIELD: &str = "text";

/// The default of [`Reading::max_decompressed`]: 4 GiB.
pub const MAX_DECOMPRESSED: u64 = 4 << 30;

impl Default for Reading<'_> {
    fn default() -> Self {
        Self { field: TEXT_FIELD, max_decompressed: MAX_DECOMPRESSED }
    }
}

/// The reason why reading ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The file cannot be used. What was taken from it must be dropped, unless the problem is damage.
    Problem(Problem),
    /// The file cannot be read, or its text cannot be taken.
    Error(Error),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}
