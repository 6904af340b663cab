//! Counts of tokens by a property and by expert, and how much the property says about the expert.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// A value of a property needs this many tokens at an expert to be shown for it.
const LEAST: u64 = 5;

/// Numbers of tokens by value of a property and by expert.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    cells: FxHashMap<(u32, u32), u64>,
}

/// A value of a property that an expert gets more often than others do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Lift {
    /// The value: a piece, a word, a range of positions, a text.
    pub what: String,
    /// Its tokens that chose the expert.
    pub tokens: u64,
    /// These as a share of all its tokens.
    pub share: f64,
    /// The share divided by the expert's share of all tokens.
    pub lift: f64,
}

/// Relation between a property and the choice of an expert.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Relation {
    /// Mutual information of the property and the expert as a share of the entropy of experts, without what
    /// is expected of independent ones: from 0 (independent) to 1 (the property determines the expert).
    pub information: f64,
    /// For each expert, the divergence of the property's distribution at the expert from that of all tokens,
    /// as a share of the largest possible one, without what is expected of independent ones. 0 for experts
    /// without tokens.
    pub scores: Vec<f64>,
}

impl Counts {
    /// Adds a token.
    pub fn add(&mut self, value: u32, expert: u32) {
        *self.cells.entry((value, expert)).or_default() += 1;
    }

    /// Returns the number of pairs of a value and an expert that occur.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Returns the number of tokens with a value at an expert.
    pub fn of(&self, value: u32, expert: u32) -> u64 {
        self.cells.get(&(value, expert)).copied().unwrap_or(0)
    }

    /// Returns the numbers of tokens of each value, and of each of `experts` experts.
    pub fn sums(&self, experts: usize) -> (FxHashMap<u32, u64>, Vec<u64>) {
        let (mut by_value, mut by_expert) = (FxHashMap::default(), vec![0; experts]);
        for ((value, expert), count) in &self.cells {
            *by_value.entry(*value).or_default() += count;
            by_expert[*expert as usize] += count;
        }
        (by_value, by_expert)
    }

    /// Returns the relation between the property and the expert. The entropy of a sample is too small on
    /// average, by (values that occur − 1) / (2 · tokens) (Miller 1955); divergences and information are
    /// corrected by it, and what is then below 0 counts as 0.
    pub fn relation(&self, experts: usize) -> Relation {
        let (by_value, by_expert) = self.sums(experts);
        let all = by_expert.iter().sum::<u64>() as f64;
        if all == 0.0 {
            return Relation { information: 0.0, scores: vec![0.0; experts] };
        }
        let (mut divergence, mut occur) = (vec![0.0; experts], vec![0.0; experts]);
        for ((value, expert), count) in &self.cells {
            let (count, of_expert) = (*count as f64, by_expert[*expert as usize] as f64);
            occur[*expert as usize] += 1.0;
            divergence[*expert as usize] +=
                count / of_expert * (count * all / (of_expert * by_value[value] as f64)).ln();
        }
        let (mut information, mut entropy) = (0.0, 0.0);
        let mut scores = vec![0.0; experts];
        for (expert, count) in by_expert.iter().enumerate().filter(|(_, count)| **count > 0) {
            let share = *count as f64 / all;
            let own = (occur[expert] - 1.0) / (2.0 * *count as f64);
            let chance = own - (by_value.len() as f64 - 1.0) / (2.0 * all);
            information += share * (divergence[expert] - chance);
            entropy -= share * share.ln();
            if share < 1.0 {
                scores[expert] = ((divergence[expert] - chance) / -share.ln()).clamp(0.0, 1.0);
            }
        }
        let information = if entropy > 0.0 { (information / entropy).clamp(0.0, 1.0) } else { 0.0 };
        Relation { information, scores }
    }

    /// Returns for each expert the `most` values with the highest lift; of equal lifts, those with more
    /// tokens come first. `name` names a value.
    pub fn lifts(&self, experts: usize, most: usize, name: impl Fn(u32) -> String) -> Vec<Vec<Lift>> {
        let (by_value, by_expert) = self.sums(experts);
        let all = by_expert.iter().sum::<u64>() as f64;
        let mut of: Vec<Vec<(f64, u64, u32)>> = vec![Vec::new(); experts];
        for ((value, expert), count) in self.cells.iter().filter(|cell| *cell.1 >= LEAST) {
            let share = *count as f64 / by_value[value] as f64;
            let lift = share * all / by_expert[*expert as usize] as f64;
            if lift > 1.0 {
                of[*expert as usize].push((lift, *count, *value));
            }
        }
        let named = |mut all: Vec<(f64, u64, u32)>| {
            all.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
            let lift = |(lift, tokens, value): (f64, u64, u32)| {
                let share = tokens as f64 / by_value[&value] as f64;
                Lift { what: name(value), tokens, share, lift }
            };
            all.into_iter().take(most).map(lift).collect()
        };
        of.into_iter().map(named).collect()
    }

    /// Returns the pairs with their numbers of tokens, the most frequent first.
    pub fn pairs(&self) -> Vec<(u32, u32, u64)> {
        let mut all: Vec<_> = self.cells.iter().map(|((a, b), count)| (*a, *b, *count)).collect();
        all.sort_by_key(|(a, b, count)| (std::cmp::Reverse(*count), *a, *b));
        all
    }

    /// Returns the mutual information of both sides divided by the geometric mean of their entropies, without
    /// what is expected of independent ones: from 0 to 1. `None` means that one of the two entropies is 0.
    pub fn normalized_information(&self) -> Option<f64> {
        let (mut left, mut right) = (FxHashMap::<u32, u64>::default(), FxHashMap::<u32, u64>::default());
        for ((a, b), count) in &self.cells {
            *left.entry(*a).or_default() += count;
            *right.entry(*b).or_default() += count;
        }
        let all = left.values().sum::<u64>() as f64;
        let entropy = |side: &FxHashMap<u32, u64>| -> f64 {
            let mut counts: Vec<u64> = side.values().copied().collect();
            // Sums of floats depend on the order, which a hash map does not have.
            counts.sort_unstable();
            counts.iter().map(|n| *n as f64 / all).map(|p| -p * p.ln()).sum()
        };
        let (a, b) = (entropy(&left), entropy(&right));
        if all == 0.0 || a <= 0.0 || b <= 0.0 {
            return None;
        }
        let of_pair = |(a, b, count): (u32, u32, u64)| {
            let count = count as f64;
            count / all * (count * all / (left[&a] as f64 * right[&b] as f64)).ln()
        };
        let information: f64 = self.pairs().into_iter().map(of_pair).sum();
        let occur = [self.cells.len(), left.len(), right.len()].map(|n| n as f64);
        let chance = (occur[0] - occur[1] - occur[2] + 1.0) / (2.0 * all);
        Some(((information - chance) / (a * b).sqrt()).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(cells: &[(u32, u32, u64)]) -> Counts {
        let mut all = Counts::default();
        cells.iter().for_each(|(value, expert, n)| (0..*n).for_each(|_| all.add(*value, *expert)));
        all
    }

    #[test]
    fn a_property_that_determines_the_expert_has_a_score_of_one() {
        let exact = counts(&[(0, 0, 5000), (1, 1, 2500), (2, 1, 2500)]);
        let Relation { information, scores } = exact.relation(3);
        assert!(information > 0.999 && scores[0] > 0.999 && scores[1] > 0.999, "{information} {scores:?}");
        assert_eq!(scores[2], 0.0, "an expert without tokens");
        let lifts = exact.lifts(3, 2, |value| value.to_string());
        let first = Lift { what: "0".into(), tokens: 5000, share: 1.0, lift: 2.0 };
        assert_eq!((&lifts[0], lifts[1].len(), lifts[2].len()), (&vec![first], 2, 0));
        let none = counts(&[(0, 0, 3000), (0, 1, 1000), (1, 0, 3000), (1, 1, 1000)]).relation(2);
        assert_eq!((none.information, none.scores), (0.0, vec![0.0, 0.0]));
    }

    #[test]
    fn information_is_that_of_the_definition() {
        // Shares 0.4, 0.1, 0.1, 0.4: entropies ln 2, information ln 2 - H(0.8) = 0.192745 nats.
        let cells = counts(&[(0, 0, 4000), (0, 1, 1000), (1, 0, 1000), (1, 1, 4000)]);
        let chance = 1.0 / 20_000.0;
        let expect = (0.192_745 - chance) / 2f64.ln();
        assert!((cells.normalized_information().unwrap() - expect).abs() < 1e-6);
        assert!((cells.relation(2).information - expect).abs() < 1e-6);
        assert_eq!(counts(&[(0, 0, 9), (1, 0, 9)]).normalized_information(), None, "one expert only");
        assert_eq!(cells.pairs()[0], (0, 0, 4000));
    }
}
