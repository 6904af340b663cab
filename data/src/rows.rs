//! The rows of a batch that a process needs.

use std::ops::Range;

/// A set of rows. The devices of a process hold parts of the batch that need not be neighbours, and the same
/// row may be on devices of several processes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rows(Option<Vec<Range<usize>>>);

impl Rows {
    /// All rows.
    pub fn all() -> Self {
        Self(None)
    }

    /// The rows in any of these ranges.
    pub fn of(ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut ranges: Vec<Range<usize>> = ranges.into_iter().collect();
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        ranges.dedup();
        Self(Some(ranges))
    }

    /// True if the set has this row.
    pub fn contains(&self, row: usize) -> bool {
        self.0.as_ref().is_none_or(|ranges| ranges.iter().any(|range| range.contains(&row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_rows() {
        let rows = Rows::of([6..8, 0..2, 6..8, 1..3]);
        let has: Vec<usize> = (0..10).filter(|row| rows.contains(*row)).collect();
        assert_eq!(has, [0, 1, 2, 6, 7]);
        assert!(Rows::all().contains(usize::MAX) && !Rows::of([]).contains(0));
    }
}
