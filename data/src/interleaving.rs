//! Interleaving of corpora: which corpus each row of a batch comes from.
//!
//! Rows are numbered through all steps and divided into blocks of [`BLOCK`]. In every block each corpus has
//! exactly its share of the rows, at positions that a permutation of the block chooses. The corpus of a row,
//! and the index of the row among those of its corpus, are therefore functions of the seed and the number of
//! the row.

use super::order::Permutation;
use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// Rows of a block. Shares are rounded to whole rows of a block.
pub(super) const BLOCK: u64 = 1 << 16;
/// The largest number of corpora in a mixture.
pub(super) const MAX_CORPORA: usize = 1 << 12;
/// The first element of the key of a block's permutation.
const MIX: u64 = 3;

/// The assignment of rows to corpora.
#[derive(Debug)]
pub(super) struct Interleaving {
    /// For each corpus, its rows per block.
    rows: Vec<u64>,
    /// The block that was used last, with its seed and number. Consecutive steps use the same block.
    last: Mutex<Option<(u64, u64, Arc<Block>)>>,
}

/// For each row of a block, its corpus and its index among the rows of that corpus in the block.
type Block = Vec<(u16, u16)>;

impl Interleaving {
    /// Interleaves at most [`MAX_CORPORA`] corpora with these shares, which sum to 1.
    pub(super) fn new(shares: &[f64]) -> Self {
        Self { rows: block_rows(shares), last: Mutex::new(None) }
    }

    /// The share of each corpus, after rounding.
    pub(super) fn shares(&self) -> impl Iterator<Item = f64> {
        self.rows.iter().map(|rows| *rows as f64 / BLOCK as f64)
    }

    /// For each of these rows, numbered through all steps, returns its corpus and its index among all rows of
    /// that corpus.
    pub(super) fn rows(&self, seed: u64, rows: Range<u64>) -> Vec<(usize, u64)> {
        if self.rows.len() < 2 {
            return rows.map(|row| (0, row)).collect();
        }
        let mut current = None;
        let locate = |row: u64| {
            let number = row / BLOCK;
            let block = match &current {
                Some((known, block)) if *known == number => block,
                Some(_) | None => &current.insert((number, self.block(seed, number))).1,
            };
            let (corpus, index) = block[(row % BLOCK) as usize];
            (usize::from(corpus), number * self.rows[usize::from(corpus)] + u64::from(index))
        };
        rows.map(locate).collect()
    }

    fn block(&self, seed: u64, number: u64) -> Arc<Block> {
        // No code that could panic runs under the lock.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, block)) = last.as_ref().filter(|(s, n, _)| (*s, *n) == (seed, number)) {
            return block.clone();
        }
        let owners: Vec<u16> = (0u16..)
            .zip(&self.rows)
            .flat_map(|(corpus, rows)| std::iter::repeat_n(corpus, *rows as usize))
            .collect();
        let order = Permutation::new(BLOCK, &[MIX, seed, number]);
        let mut seen = vec![0u16; self.rows.len()];
        let row = |row| {
            let corpus = owners[order.at(row) as usize];
            let index = &mut seen[usize::from(corpus)];
            // Wraps after index 65,535: the last row of a corpus that has the whole block.
            (corpus, std::mem::replace(index, index.wrapping_add(1)))
        };
        let block: Arc<Block> = Arc::new((0..BLOCK).map(row).collect());
        *last = Some((seed, number, block.clone()));
        block
    }
}

/// The rows per block of each share: at least one each, [`BLOCK`] in total, by largest remainders.
fn block_rows(shares: &[f64]) -> Vec<u64> {
    let exact: Vec<f64> = shares.iter().map(|share| share * BLOCK as f64).collect();
    let mut rows: Vec<u64> = exact.iter().map(|rows| (rows.floor() as u64).max(1)).collect();
    // Corrects the rounding: rounding down leaves rows over, and the minimum of one row may take too many.
    while rows.iter().sum::<u64>() != BLOCK {
        let missing = |i: &usize| exact[*i] - rows[*i] as f64;
        let more = (0..rows.len()).max_by(by(&missing));
        let less = (0..rows.len()).filter(|i| rows[*i] > 1).min_by(by(&missing));
        if rows.iter().sum::<u64>() < BLOCK {
            let Some(most) = more else { break };
            rows[most] += 1;
        } else {
            let Some(least) = less else { break };
            rows[least] -= 1;
        }
    }
    rows
}

fn by<'a>(value: &'a impl Fn(&usize) -> f64) -> impl Fn(&usize, &usize) -> std::cmp::Ordering + 'a {
    |a, b| value(a).total_cmp(&value(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_corpus_has_its_share_of_every_block_and_at_least_one_row() {
        for shares in [vec![0.5, 0.3, 0.2], vec![1.0 / 3.0; 3], vec![1.0 - 3e-7, 1e-7, 1e-7, 1e-7], vec![1.0]]
        {
            let rows = block_rows(&shares);
            assert_eq!(rows.iter().sum::<u64>(), BLOCK);
            assert!(
                rows.iter().zip(&shares).all(|(r, s)| *r >= 1 && (*r as f64 - s * BLOCK as f64).abs() <= 3.0)
            );
        }
        let interleaving = Interleaving::new(&[0.5, 0.3, 0.2]);
        let all = interleaving.rows(7, 0..2 * BLOCK);
        for corpus in 0..3 {
            // Its rows are numbered without gaps, in order, through all blocks.
            let own: Vec<u64> = all.iter().filter(|(t, _)| *t == corpus).map(|(_, n)| *n).collect();
            assert_eq!(own, (0..2 * interleaving.rows[corpus]).collect::<Vec<_>>());
        }
        // Any few hundred consecutive rows approximate the shares.
        for start in [0, 1000, BLOCK - 300] {
            let some = interleaving.rows(7, start..start + 600);
            let first = some.iter().filter(|(t, _)| *t == 0).count();
            assert!((240..360).contains(&first), "{first}");
        }
    }

    #[test]
    fn a_row_is_a_function_of_its_number_and_the_seed() {
        let of = |seed, rows: Range<u64>| Interleaving::new(&[0.7, 0.3]).rows(seed, rows);
        let whole = of(1, BLOCK - 50..BLOCK + 50);
        let interleaving = Interleaving::new(&[0.7, 0.3]);
        // Independent of the order of queries.
        for row in (0..100).rev() {
            let row = BLOCK - 50 + row;
            assert_eq!(interleaving.rows(1, row..row + 1)[0], whole[(row + 50 - BLOCK) as usize]);
        }
        assert_ne!(whole, of(2, BLOCK - 50..BLOCK + 50));
        assert_eq!(Interleaving::new(&[1.0]).rows(3, 5..7), [(0, 5), (0, 6)]);
    }
}
