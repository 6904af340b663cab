//! Unigram entropy: the loss of a model that has learned only the frequency of tokens.

use std::collections::BTreeMap;

/// Occurrences of tokens.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts(BTreeMap<i32, u64>);

impl Counts {
    /// Adds occurrences.
    pub fn add(&mut self, tokens: impl IntoIterator<Item = i32>) {
        for token in tokens.into_iter() {
            *self.0.entry(token).or_default() += 1;
        }
    }

    /// Adds the occurrences of another count.
    pub fn merge(&mut self, other: &Self) {
        for (token, count) in &other.0 {
            *self.0.entry(*token).or_default() += count;
        }
    }

    /// The number of distinct tokens.
    pub fn distinct(&self) -> usize {
        self.0.len()
    }

    /// The number of occurrences.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The entropy in nats per token.
    pub fn entropy(&self) -> f64 {
        let total = self.total() as f64;
        self.0.values().map(|n| *n as f64 / total).fold(0.0, |sum, share| sum - share * share.ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: impl IntoIterator<Item = i32>, expected: f64) {
        let mut counts = Counts::default();
        counts.add(tokens);
        let entropy = counts.entropy();
        assert!((entropy - expected).abs() < 1e-12, "{entropy}");
    }

    #[test]
    fn known_distributions() {
        check([], 0.0);
        check([5, 5], 0.0);
        check(3..11, 8f64.ln());
        check([3, 3, 4], 2.0 / 3.0 * 1.5f64.ln() + 3f64.ln() / 3.0);
    }
}
