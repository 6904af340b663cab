//! Packing of several examples into one row.
//!
//! Every document is divided into pieces of at most the length of an example. Pieces are assigned to rows
//! once, in the order of the text: each to the first of the open rows that has room (first fit). A row is
//! therefore a function of the text alone and can be made at any time; the noise of its examples still
//! differs between epochs.

use super::spans::Lengths;
use std::{collections::VecDeque, ops::Range};

/// The number of open rows. More open rows fill rows better, and make the search longer.
const OPEN: usize = 64;

/// The tokens of one example.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    /// The position of the first token.
    pub start: u64,
    /// The number of tokens.
    pub len: u32,
}

impl Piece {
    pub(super) fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

/// The assignment of examples to rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Assignment {
    /// The indices of examples, row by row.
    order: Vec<u32>,
    /// The end of each row in `order`.
    ends: Vec<usize>,
}

/// Pieces and their assignment to rows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Packed {
    pieces: Vec<Piece>,
    rows: Assignment,
}

/// Divides `tokens` tokens into pieces of at most `most` tokens. `ends` are the positions of end tokens,
/// which separate documents; pieces shorter than `least` are dropped.
pub(super) fn pieces(tokens: usize, ends: &[usize], least: usize, most: usize) -> Vec<Piece> {
    let mut all = Vec::new();
    let mut start = 0;
    for end in ends.iter().copied().chain([tokens]) {
        let mut at = start;
        while at < end {
            let len = most.min(end - at);
            if len >= least {
                // Fits: a piece is no longer than a row.
                all.push(Piece { start: at as u64, len: len as u32 });
            }
            at += len;
        }
        // Skips the end token.
        start = end + 1;
    }
    all
}

impl Assignment {
    /// Assigns examples with these numbers of input and target tokens to rows with `room` for such. Every
    /// example fits into an empty row.
    pub(super) fn new(examples: impl Iterator<Item = (usize, usize)>, room: (usize, usize)) -> Self {
        let mut rows: Vec<Vec<u32>> = Vec::new();
        let mut open: VecDeque<(usize, usize, usize)> = VecDeque::new();
        for (number, (input, target)) in (0u32..).zip(examples) {
            let fits = |(_, i, t): &&mut (usize, usize, usize)| *i >= input && *t >= target;
            if let Some((row, inputs, targets)) = open.iter_mut().find(fits) {
                rows[*row].push(number);
                (*inputs, *targets) = (*inputs - input, *targets - target);
                continue;
            }
            if open.len() == OPEN {
                open.pop_front();
            }
            open.push_back((rows.len(), room.0.saturating_sub(input), room.1.saturating_sub(target)));
            rows.push(vec![number]);
        }
        let ends = rows.iter().scan(0, |end, row| {
            *end += row.len();
            Some(*end)
        });
        Self { ends: ends.collect(), order: rows.concat() }
    }

    /// The number of rows.
    pub(super) fn rows(&self) -> usize {
        self.ends.len()
    }

    /// The indices of the examples of a row.
    pub(super) fn row(&self, row: usize) -> &[u32] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.order[start..self.ends[row]]
    }
}

impl Packed {
    /// Packs pieces into rows with `room` for input and target tokens. `lengths` returns the lengths of an
    /// example of that many tokens of text. Every piece fits into an empty row.
    pub(super) fn new(pieces: Vec<Piece>, room: (usize, usize), lengths: impl Fn(usize) -> Lengths) -> Self {
        let of = |piece: &Piece| {
            let Lengths { input, target, .. } = lengths(piece.len as usize);
            (input, target)
        };
        Self { rows: Assignment::new(pieces.iter().map(of), room), pieces }
    }

    /// The number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows.rows()
    }

    /// The number of examples.
    pub(super) fn examples(&self) -> usize {
        self.pieces.len()
    }

    /// The pieces of a row, each with its index.
    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = (u32, Piece)> {
        self.rows.row(row).iter().map(|number| (*number, self.pieces[*number as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_cut_and_short_ends_left_out() {
        let of = |tokens, ends: &[usize]| -> Vec<(u64, u32)> {
            pieces(tokens, ends, 2, 4).into_iter().map(|p| (p.start, p.len)).collect()
        };
        // Documents of 9, 0 and 1 tokens with end tokens, and 3 tokens without one.
        assert_eq!(of(16, &[9, 10, 12]), [(0, 4), (4, 4), (13, 3)]);
        assert_eq!(of(4, &[]), [(0, 4)]);
        assert_eq!(of(5, &[4]), [(0, 4)]);
        assert_eq!(of(0, &[]), []);
    }

    #[test]
    fn every_piece_is_in_one_row_that_has_room() {
        let lengths = |raw| Lengths { raw, input: raw + 1, target: raw / 3 + 2 };
        let all: Vec<Piece> =
            (0..5000u64).map(|i| Piece { start: i * 40, len: 2 + (i * i * 7 % 30) as u32 }).collect();
        let packed = Packed::new(all.clone(), (64, 32), lengths);
        let mut seen = vec![0; all.len()];
        let mut used = 0;
        for row in 0..packed.rows() {
            let (mut input, mut target) = (0, 0);
            for (number, piece) in packed.row(row) {
                assert_eq!(piece, all[number as usize]);
                seen[number as usize] += 1;
                let of = lengths(piece.len as usize);
                (input, target) = (input + of.input, target + of.target);
            }
            assert!(input > 0 && input <= 64 && target <= 32, "row {row}: {input}, {target}");
            used += input;
        }
        assert!(seen.iter().all(|n| *n == 1));
        assert_eq!(packed.examples(), 5000);
        // Rows are well filled.
        assert!(used as f64 > 0.9 * (packed.rows() * 64) as f64, "{used} of {} rows", packed.rows());
        assert_eq!(packed, Packed::new(all, (64, 32), lengths));
        assert_eq!(Packed::new(Vec::new(), (64, 32), lengths).rows(), 0);
    }
}
