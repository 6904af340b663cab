//! Several texts at once: how much of each, and which one a row of a batch is from.
//!
//! Rates are given, or follow from how many examples there are: mT5's p ∝ n^(1/T), with n no larger than a cap. Rows
//! of all steps are counted through, and cut into blocks of [`BLOCK`]. In every block each text has exactly its share of
//! the rows, at places that a permutation of the block chooses. So the text of a row, and the number of the row
//! among those of its text, are functions of the seed and the row's number; nothing has to be remembered.

use super::order::Permutation;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// Rows of a block. Rates are rounded to whole rows of it.
pub const BLOCK: u64 = 1 << 16;
/// What permutations are for: a part of their keys.
const MIX: u64 = 3;

/// Several texts by name, as a file describes them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mixture {
    /// T: 1 takes texts by their size; the higher, the more even. Default: 1.
    pub temperature: Option<f64>,
    /// More examples than this do not count.
    pub cap: Option<u64>,
    /// The texts.
    pub sources: BTreeMap<String, Ingredient>,
}

/// One text of a mixture.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingredient {
    /// Files, folders and patterns; or one folder that `meshc data prepare` has written.
    pub files: Vec<PathBuf>,
    /// How often it is taken, as compared with the others. All have one, or none.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The field of JSON lines or the column of Parquet, if it is another one than that of the others.
    #[serde(default)]
    pub text_field: Option<String>,
}

/// What rates follow from, where they are not given.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Temperature {
    /// T of n^(1/T).
    pub temperature: f64,
    /// The most that n is.
    pub cap: u64,
}

impl Default for Temperature {
    /// Every example as likely as any other.
    fn default() -> Self {
        Self { temperature: 1.0, cap: u64::MAX }
    }
}

/// One text: its name, the rate if it is given, and how many examples it has.
pub type Amount<'a> = (&'a str, Option<f64>, u64);

/// The share of each text, all together 1.
pub fn shares(of: &[Amount<'_>], Temperature { temperature, cap }: Temperature) -> Result<Vec<f64>> {
    let given = of.iter().filter(|(_, rate, _)| rate.is_some()).count();
    if given > 0 && given < of.len() {
        let names: Vec<&str> =
            of.iter().filter(|(_, rate, _)| rate.is_none()).map(|(name, ..)| *name).collect();
        return Err(Error::input(
            format!("some texts of the mixture have a rate, but not `{}`", names.join("`, `")),
            "give all of them a rate, or none: then rates follow from how many examples each has",
        ));
    }
    if !(temperature > 0.0 && temperature.is_finite()) || cap == 0 {
        return Err(Error::input(
            format!("a mixture by temperature {temperature} and cap {cap}"),
            "a temperature is a number above 0 (1: by size; mT5 has 1/0.3), a cap at least 1 example",
        ));
    }
    let size = |examples: u64| (examples.min(cap) as f64).powf(1.0 / temperature);
    let rates: Vec<f64> = of.iter().map(|(_, rate, n)| rate.unwrap_or_else(|| size(*n))).collect();
    if let Some(((name, ..), rate)) = of.iter().zip(&rates).find(|(_, r)| !(**r > 0.0 && r.is_finite())) {
        return Err(Error::input(
            format!("text `{name}` of the mixture has the rate {rate}"),
            "a rate is a number above 0; leave out what is not to be taken",
        ));
    }
    let all: f64 = rates.iter().sum();
    Ok(rates.into_iter().map(|rate| rate / all).collect())
}

/// How many rows of a block each share has: at least one, together all, by largest remainders.
fn rows_of_block(shares: &[f64]) -> Vec<u64> {
    let exact: Vec<f64> = shares.iter().map(|share| share * BLOCK as f64).collect();
    let mut rows: Vec<u64> = exact.iter().map(|rows| (rows.floor() as u64).max(1)).collect();
    // What rounding has left over, or what the smallest have too much.
    while rows.iter().sum::<u64>() != BLOCK {
        let wants = |i: &usize| exact[*i] - rows[*i] as f64;
        let more = (0..rows.len()).max_by(by(&wants));
        let less = (0..rows.len()).filter(|i| rows[*i] > 1).min_by(by(&wants));
        match (rows.iter().sum::<u64>() < BLOCK, more, less) {
            (true, Some(most), _) => rows[most] += 1,
            (false, _, Some(least)) => rows[least] -= 1,
            _ => break,
        }
    }
    rows
}

fn by<'a>(of: &'a impl Fn(&usize) -> f64) -> impl Fn(&usize, &usize) -> std::cmp::Ordering + 'a {
    |a, b| of(a).total_cmp(&of(b))
}

/// Which text each row is from.
#[derive(Debug)]
pub(super) struct Schedule {
    rows: Vec<u64>,
    /// The block that was needed last: it takes a moment to make, and the next step needs it again.
    last: Mutex<Option<(u64, u64, Arc<Block>)>>,
}

/// For each row of a block, its text and its number among the rows of that text.
type Block = Vec<(u16, u16)>;

/// More texts than this are refused.
pub(super) const MOST: usize = 1 << 12;

impl Schedule {
    /// By the shares of at most [`MOST`] texts.
    pub(super) fn new(shares: &[f64]) -> Self {
        Self { rows: rows_of_block(shares), last: Mutex::new(None) }
    }

    /// The share of each text, as it is after rounding.
    pub(super) fn shares(&self) -> impl Iterator<Item = f64> {
        self.rows.iter().map(|rows| *rows as f64 / BLOCK as f64)
    }

    /// For each of these rows, counted through all steps: its text, and its number among all rows of that text.
    pub(super) fn rows(&self, seed: u64, rows: Range<u64>) -> Vec<(usize, u64)> {
        if self.rows.len() < 2 {
            return rows.map(|row| (0, row)).collect();
        }
        let mut current = None;
        let place = |row: u64| {
            let number = row / BLOCK;
            let block = match &current {
                Some((of, block)) if *of == number => block,
                _ => &current.insert((number, self.block(seed, number))).1,
            };
            let (text, at) = block[(row % BLOCK) as usize];
            (usize::from(text), number * self.rows[usize::from(text)] + u64::from(at))
        };
        rows.map(place).collect()
    }

    fn block(&self, seed: u64, number: u64) -> Arc<Block> {
        // Nothing is done while it is locked that could panic.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, _, block)) = last.as_ref().filter(|(s, n, _)| (*s, *n) == (seed, number)) {
            return block.clone();
        }
        let owners: Vec<u16> = (0u16..)
            .zip(&self.rows)
            .flat_map(|(text, rows)| std::iter::repeat_n(text, *rows as usize))
            .collect();
        let order = Permutation::new(BLOCK, &[MIX, seed, number]);
        let mut seen = vec![0u16; self.rows.len()];
        let row = |row| {
            let text = owners[order.at(row) as usize];
            let at = &mut seen[usize::from(text)];
            // The last row of a text that has all of a block is 65,535.
            (text, std::mem::replace(at, at.wrapping_add(1)))
        };
        let block: Arc<Block> = Arc::new((0..BLOCK).map(row).collect());
        *last = Some((seed, number, block.clone()));
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_from_rates_or_sizes() {
        let of =
            |temperature: f64, cap: u64, all: &[Amount<'_>]| shares(all, Temperature { temperature, cap });
        let near =
            |a: Vec<f64>, b: &[f64]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?}");
        near(of(1.0, u64::MAX, &[("a", Some(3.0), 5), ("b", Some(1.0), 9)]).unwrap(), &[0.75, 0.25]);
        near(of(1.0, u64::MAX, &[("a", None, 300), ("b", None, 100)]).unwrap(), &[0.75, 0.25]);
        near(of(1.0, 100, &[("a", None, 300), ("b", None, 100)]).unwrap(), &[0.5, 0.5]);
        near(of(2.0, u64::MAX, &[("a", None, 900), ("b", None, 100)]).unwrap(), &[0.75, 0.25]);
        let fails = |of: Result<Vec<f64>>, part: &str| {
            let error = of.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fails(of(1.0, 9, &[("a", Some(1.0), 1), ("b", None, 1)]), "but not `b`");
        fails(of(0.0, 9, &[("a", None, 1)]), "temperature 0");
        fails(of(1.0, 0, &[("a", None, 1)]), "cap 0");
        fails(of(1.0, 9, &[("a", Some(-1.0), 1)]), "`a` of the mixture has the rate -1");
        fails(of(1.0, 9, &[("a", Some(f64::NAN), 1)]), "rate NaN");
    }

    #[test]
    fn every_text_has_its_share_of_every_block_and_at_least_a_row() {
        for shares in [vec![0.5, 0.3, 0.2], vec![1.0 / 3.0; 3], vec![1.0 - 3e-7, 1e-7, 1e-7, 1e-7], vec![1.0]]
        {
            let rows = rows_of_block(&shares);
            assert_eq!(rows.iter().sum::<u64>(), BLOCK);
            assert!(
                rows.iter().zip(&shares).all(|(r, s)| *r >= 1 && (*r as f64 - s * BLOCK as f64).abs() <= 3.0)
            );
        }
        let schedule = Schedule::new(&[0.5, 0.3, 0.2]);
        let all = schedule.rows(7, 0..2 * BLOCK);
        for text in 0..3 {
            // Its rows are counted through without a gap, in order, in all blocks.
            let own: Vec<u64> = all.iter().filter(|(t, _)| *t == text).map(|(_, n)| *n).collect();
            assert_eq!(own, (0..2 * schedule.rows[text]).collect::<Vec<_>>());
        }
        // Already a few rows have about the shares, anywhere.
        for start in [0, 1000, BLOCK - 300] {
            let some = schedule.rows(7, start..start + 600);
            let first = some.iter().filter(|(t, _)| *t == 0).count();
            assert!((240..360).contains(&first), "{first}");
        }
    }

    #[test]
    fn a_row_is_a_function_of_its_number_and_the_seed() {
        let of = |seed, rows: Range<u64>| Schedule::new(&[0.7, 0.3]).rows(seed, rows);
        let whole = of(1, BLOCK - 50..BLOCK + 50);
        let schedule = Schedule::new(&[0.7, 0.3]);
        // In any order, whatever was asked for before.
        for row in (0..100).rev() {
            let row = BLOCK - 50 + row;
            assert_eq!(schedule.rows(1, row..row + 1)[0], whole[(row + 50 - BLOCK) as usize]);
        }
        assert_ne!(whole, of(2, BLOCK - 50..BLOCK + 50));
        assert_eq!(Schedule::new(&[1.0]).rows(3, 5..7), [(0, 5), (0, 6)]);
    }

    #[test]
    fn a_file_describes_a_mixture() {
        let text = r#"{"temperature": 3.3, "sources": {"en": {"files": ["a"], "rate": 2}, "de": {"files": ["b"], "text_field": "body"}}}"#;
        let mixture: Mixture = serde_json::from_str(text).unwrap();
        assert_eq!((mixture.temperature, mixture.cap, mixture.sources.len()), (Some(3.3), None, 2));
        assert_eq!(mixture.sources["en"].rate, Some(2.0));
        let error = serde_json::from_str::<Mixture>(r#"{"source": {}}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `source`"), "{error}");
    }
}
