//! The share of tokens that a router drops if it chooses experts at random.
//!
//! Slots are counted as the models do: the tokens of a group take the slots of their experts in order, and a
//! token whose expert has none left is dropped.

use data::order::Rng;
use serde_json::{Value, json};

/// The sizes of a top-1 router.
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    /// Tokens of a group.
    pub tokens: usize,
    /// The number of experts.
    pub experts: usize,
    /// The capacity factor.
    pub factor: f64,
    /// The least capacity of an expert.
    pub least: usize,
    /// Groups of experts, if dispatch has two steps: the tokens of as many senders first take the slots of a
    /// group of experts, then those of an expert in it. 1 for dispatch in one step.
    pub expert_groups: usize,
}

/// The number of tokens that are drawn, at least.
const DRAWN: usize = 2_000_000;

impl Routing {
    /// Returns the dropped share of tokens under experts that are equally likely, and under experts whose
    /// probability is inverse to their rank (Zipf's law with exponent 1).
    pub fn dropped(&self) -> Value {
        let ranks = || (1..=self.experts).map(|rank| rank as f64);
        json!({
            "uniform": self.share(&ranks().map(|_| 1.0).collect::<Vec<_>>()),
            "zipf": self.share(&ranks().map(|rank| 1.0 / rank).collect::<Vec<_>>()),
        })
    }

    fn slots(&self, tokens: usize, among: usize) -> usize {
        // The cast truncates, as the models do by default.
        ((tokens as f64 * self.factor / among as f64) as usize).max(self.least).min(tokens)
    }

    /// Returns the dropped share under experts of these relative probabilities.
    fn share(&self, weights: &[f64]) -> f64 {
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let upper: Vec<f64> = weights
            .iter()
            .map(|weight| {
                sum += weight / total;
                sum
            })
            .collect();
        let mut random = Rng::keyed(&[1]);
        let mut expert = || {
            // Uniform in [0, 1).
            let at = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
            upper.partition_point(|bound| *bound <= at).min(self.experts - 1)
        };
        let senders = self.expert_groups;
        let (of_group, of_expert) = match senders {
            1 => (self.tokens, self.slots(self.tokens, self.experts)),
            groups => (self.slots(self.tokens, groups), self.slots(self.tokens, self.experts / groups)),
        };
        let (mut drawn, mut dropped) = (0, 0);
        while drawn < DRAWN {
            let mut taken = vec![0; self.experts];
            for _ in 0..senders {
                let mut sent = vec![0; senders];
                for _ in 0..self.tokens {
                    let expert = expert();
                    let group = expert / (self.experts / senders);
                    drawn += 1;
                    if sent[group] == of_group {
                        dropped += 1;
                        continue;
                    }
                    sent[group] += 1;
                    if taken[expert] == of_expert {
                        dropped += 1;
                    } else {
                        taken[expert] += 1;
                    }
                }
            }
        }
        f64::from(dropped) / drawn as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(routing: Routing, weights: &[f64], share: f64) {
        let found = routing.share(weights);
        assert!((found - share).abs() < 0.003, "{found} for {share}");
    }

    const ONE: Routing = Routing { tokens: 2, experts: 2, factor: 1.0, least: 1, expert_groups: 1 };

    #[test]
    fn shares_are_those_of_the_binomial_distribution() {
        // Two tokens and two experts of one slot: both choose the same expert half of the time.
        check(ONE, &[1.0, 1.0], 0.25);
        check(ONE, &[1.0, 0.0], 0.5);
        check(Routing { least: 2, ..ONE }, &[1.0, 0.0], 0.0);
        // Three tokens of 3 experts: 6 / 27 lose none, 18 / 27 lose one, 3 / 27 lose two of three.
        check(Routing { tokens: 3, experts: 3, ..ONE }, &[1.0; 3], (18.0 + 2.0 * 3.0) / 27.0 / 3.0);
    }

    #[test]
    fn two_steps_pool_the_slots_of_several_senders() {
        // Two groups of one expert, two senders of two tokens: a group has one slot for each sender, and an
        // expert has the slots for both.
        let two = Routing { expert_groups: 2, least: 1, ..ONE };
        check(two, &[1.0, 1.0], 0.25);
        check(two, &[1.0, 0.0], 0.5);
    }
}
