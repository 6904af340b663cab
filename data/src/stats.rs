//! Statistics of a text: its size, document lengths and token entropy.

use super::{
    assembly::{Assembly, Output},
    entropy::Counts,
    files::{self, Skipped},
    prepared::PreparedTokens,
    reading::Reading,
    text::Text,
    tokenizer::Tokenizer,
};
use crate::Result;
use rayon::prelude::*;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Statistics of a text.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Stats {
    /// The number of files with text.
    pub files: usize,
    /// The number of skipped files.
    pub skipped: usize,
    /// The number of documents. A text file is one document.
    pub documents: usize,
    /// Bytes of text, uncompressed.
    pub bytes: u64,
    /// The number of tokens, without end tokens.
    pub tokens: u64,
    /// Mean bytes of text per token.
    pub bytes_per_token: f64,
    /// The number of distinct tokens.
    pub distinct_tokens: usize,
    /// The unigram entropy in nats per token.
    pub unigram_entropy: f64,
    /// The distribution of tokens per document.
    pub document_tokens: Spread,
}

/// Percentiles of a distribution.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    /// The minimum.
    pub min: u64,
    /// The 10th percentile.
    pub p10: u64,
    /// The median.
    pub median: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The maximum.
    pub max: u64,
    /// The mean.
    pub mean: f64,
}

impl Stats {
    /// Computes the statistics of files tokenized by `tokenizer`. Also returns the skipped files.
    ///
    /// # Errors
    /// If a file cannot be read or tokenized.
    pub fn of_files(
        paths: &[PathBuf],
        reading: &Reading<'_>,
        tokenizer: &Tokenizer,
    ) -> Result<(Self, Vec<Skipped>)> {
        let mut counting = Counting::default();
        let mut assembly = Assembly::new(tokenizer, &mut counting);
        let skipped = files::read(paths, reading, &mut assembly)?;
        let (files, bytes) = assembly.finish()?;
        Ok((counting.stats(files, skipped.len(), bytes), skipped))
    }

    /// Computes the statistics of a text.
    ///
    /// # Errors
    /// If the text cannot be tokenized.
    pub fn of(text: &Text, tokenizer: &Tokenizer) -> Result<Self> {
        let mut counting = Counting::default();
        let mut assembly = Assembly::new(tokenizer, &mut counting);
        assembly.of_text(text)?;
        let (files, bytes) = assembly.finish()?;
        Ok(counting.stats(files, 0, bytes))
    }

    /// Computes the statistics of prepared tokens.
    ///
    /// # Errors
    /// If the tokens cannot be read.
    pub fn of_prepared(prepared: &PreparedTokens) -> Result<Self> {
        let about = prepared.provenance();
        let mut counting = Counting::default();
        for some in prepared.documents()?.chunks(4096) {
            let parts: Vec<(u64, Counts)> = some
                .par_iter()
                .map(|document| {
                    let mut counts = Counts::default();
                    counts.add(prepared.read(document.clone())?);
                    Ok((counts.total(), counts))
                })
                .collect::<Result<_>>()?;
            for (length, part) in parts {
                counting.lengths.push(length);
                counting.whole.merge(&part);
            }
        }
        Ok(counting.stats(about.files, 0, about.bytes))
    }
}

/// Tokens that are counted.
#[derive(Default)]
struct Counting {
    /// Tokens of complete files.
    whole: Counts,
    /// Tokens of the current file, and their number.
    file: Counts,
    counted: u64,
    /// The number of tokens, with end tokens, before the current file.
    before: u64,
    /// Tokens per document.
    lengths: Vec<u64>,
    /// The start of the current document.
    start: u64,
}

impl Output for Counting {
    fn len(&self) -> u64 {
        self.before + self.counted
    }

    fn mark(&mut self) -> Result<()> {
        self.whole.merge(&std::mem::take(&mut self.file));
        (self.before, self.counted) = (self.len(), 0);
        Ok(())
    }

    fn undo(&mut self) -> Result<()> {
        (self.file, self.counted) = (Counts::default(), 0);
        Ok(())
    }

    fn tokens(&mut self, tokens: &[i32]) -> Result<()> {
        self.file.add(tokens.iter().copied());
        self.counted += tokens.len() as u64;
        Ok(())
    }

    fn document(&mut self, end: u64, separated: bool) -> Result<()> {
        self.lengths.push(end - self.start);
        self.start = end + u64::from(separated);
        self.counted += u64::from(separated);
        Ok(())
    }

    fn file(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }
}

impl Counting {
    fn stats(mut self, files: usize, skipped: usize, bytes: u64) -> Stats {
        self.whole.merge(&self.file);
        let (counts, lengths) = (self.whole, self.lengths);
        let tokens = counts.total();
        Stats {
            files,
            skipped,
            documents: lengths.len(),
            bytes,
            tokens,
            bytes_per_token: bytes as f64 / tokens.max(1) as f64,
            distinct_tokens: counts.distinct(),
            unigram_entropy: counts.entropy(),
            document_tokens: Spread::of(lengths),
        }
    }
}

impl Spread {
    /// Computes the percentiles of `numbers`; all are 0 if there are none.
    pub fn of(mut numbers: Vec<u64>) -> Self {
        numbers.sort_unstable();
        let count = numbers.len();
        let share = |percent: usize| {
            numbers.get((count * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
        };
        Self {
            min: share(0),
            p10: share(10),
            median: share(50),
            p90: share(90),
            p99: share(99),
            max: share(100),
            mean: numbers.iter().sum::<u64>() as f64 / count.max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tokenizer::tests::words, *};

    #[test]
    fn numbers_of_a_small_text() {
        let mut text = Text::new("a bbccca a a");
        text.ends = vec![4, 7, 12];
        let stats = Stats::of(&text, &words(9, &[])).unwrap();
        assert_eq!((stats.files, stats.documents, stats.bytes, stats.tokens), (1, 3, 12, 6));
        assert_eq!((stats.distinct_tokens, stats.bytes_per_token), (3, 2.0));
        let spread = Spread { min: 1, p10: 1, median: 2, p90: 3, p99: 3, max: 3, mean: 2.0 };
        assert_eq!(stats.document_tokens, spread);
        // Four of six tokens are `a`.
        let entropy = 4.0 / 6.0 * 1.5f64.ln() + 2.0 / 6.0 * 6f64.ln();
        assert!((stats.unigram_entropy - entropy).abs() < 1e-12, "{stats:?}");
        let bytes = Stats::of(&text, &Tokenizer::Bytes).unwrap();
        assert_eq!((bytes.tokens, bytes.document_tokens.max, bytes.distinct_tokens), (12, 5, 4));
    }

    #[test]
    fn shares_are_of_the_sorted_numbers() {
        let spread = Spread::of((1..=1000).rev().collect());
        assert_eq!(
            (spread.min, spread.p10, spread.median, spread.p90, spread.p99, spread.max),
            (1, 100, 500, 900, 990, 1000)
        );
        assert_eq!(Spread::of(vec![]).max, 0);
        assert_eq!(
            Spread::of(vec![7]),
            Spread { min: 7, p10: 7, median: 7, p90: 7, p99: 7, max: 7, mean: 7.0 }
        );
    }
}
