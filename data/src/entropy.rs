//! How many nats a token has if nothing is known but how frequent tokens are: what a model that learnt
//! nothing else would reach.

use super::tokenizer::PAD;
use std::collections::BTreeMap;

/// How often tokens occur, padding apart.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts(BTreeMap<i32, u64>);

impl Counts {
    /// Counts these too.
    pub fn add(&mut self, tokens: impl IntoIterator<Item = i32>) {
        for token in tokens.into_iter().filter(|t| *t != PAD) {
            *self.0.entry(token).or_default() += 1;
        }
    }

    /// Counts what others counted too.
    pub fn merge(&mut self, other: &Self) {
        for (token, count) in &other.0 {
            *self.0.entry(*token).or_default() += count;
        }
    }

    /// How many different ones there are.
    pub fn distinct(&self) -> usize {
        self.0.len()
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Nats per token.
    pub fn entropy(&self) -> f64 {
        let total = self.total() as f64;
        self.0.values().map(|n| *n as f64 / total).fold(0.0, |sum, share| sum - share * share.ln())
    }
}

/// Nats per token of these tokens, padding apart; 0 if there are none.
pub fn unigram_entropy(tokens: impl IntoIterator<Item = i32>) -> f64 {
    let mut counts = Counts::default();
    counts.add(tokens);
    counts.entropy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_distributions() {
        assert_eq!(unigram_entropy([]), 0.0);
        assert_eq!(unigram_entropy([0, 5, 0, 5]), 0.0);
        assert!((unigram_entropy(3..11) - 8f64.ln()).abs() < 1e-12);
        let skewed = [3, 3, 4, 0]; // two thirds, one third
        let expected = 2.0 / 3.0 * 1.5f64.ln() + 3f64.ln() / 3.0;
        assert!((unigram_entropy(skewed) - expected).abs() < 1e-12);
    }
}
