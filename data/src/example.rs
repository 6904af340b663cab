//! Examples: inputs and targets made of text.
//!
//! The objectives are T5's (`t5.data.preprocessors`): span corruption ([`spans`](super::spans)); a prefix, whose length
//! is uniform between 1 and all but one token, and its continuation; text alone. Inputs and targets end with the end
//! token.

use super::{
    order::Rng,
    spans::{self, Lengths, SpanCorruption},
    task::{Objective, Task},
    tokenizer::{EOS, Tokenizer},
};
use crate::{Error, Result};

/// Makes the examples of one task.
#[derive(Clone, Debug)]
pub(super) struct ExampleBuilder {
    objective: Objective,
    corruption: SpanCorruption,
    /// The tokens that mark removed spans, in order.
    sentinels: Vec<i32>,
    longest: Lengths,
}

impl ExampleBuilder {
    /// Prepares the examples of `task`.
    ///
    /// # Errors
    /// If the task's lengths hold no example, or its vocabulary has too few tokens.
    pub(super) fn new(task: &Task, corruption: SpanCorruption, tokenizer: &Tokenizer) -> Result<Self> {
        let objective = task.objective;
        let longest = longest(task, &corruption)?;
        let spans = match objective {
            Objective::SpanCorruption => corruption.noise(longest.raw).spans,
            Objective::PrefixLm | Objective::Lm => 0,
        };
        let least = least(objective);
        if longest.raw < least || task.input_length == 0 {
            return Err(Error::input(
                format!(
                    "inputs of {} and targets of {} tokens hold no example of {}",
                    task.input_length,
                    task.target_length,
                    objective.name()
                ),
                format!(
                    "an example takes at least {least} tokens of text and the end tokens: increase the lengths"
                ),
            ));
        }
        let sentinels = tokenizer.sentinels(task.vocab, spans)?;
        Ok(Self { objective, corruption, sentinels, longest })
    }

    /// The lengths of the longest example.
    pub(super) fn longest(&self) -> &Lengths {
        &self.longest
    }

    /// The least number of tokens of text in an example.
    pub(super) fn least(&self) -> usize {
        least(self.objective)
    }

    /// The lengths of an example of `raw` tokens of text; upper bounds where they vary.
    pub(super) fn lengths(&self, raw: usize) -> Lengths {
        match self.objective {
            Objective::SpanCorruption => {
                let noise = self.corruption.noise(raw);
                let (text, spans) = (raw - noise.tokens, noise.spans);
                Lengths { raw, input: text + spans + 1, target: noise.tokens + spans + 1 }
            }
            Objective::PrefixLm => Lengths { raw, input: raw, target: raw },
            Objective::Lm => Lengths { raw, input: 1, target: raw + 1 },
        }
    }

    /// Returns the input and the target for `raw`, whose length is between [`ExampleBuilder::least`] and that of the
    /// longest example.
    pub(super) fn example(&self, raw: &[i32], rng: &mut Rng) -> (Vec<i32>, Vec<i32>) {
        let (mut input, mut target) = match self.objective {
            Objective::SpanCorruption => {
                let mask = self.corruption.mask(raw.len(), rng);
                // There are as many sentinels as the longest example has spans.
                let sentinel = |span: usize| self.sentinels[span];
                let input = spans::replace(raw, mask.iter().copied(), sentinel);
                (input, spans::replace(raw, mask.iter().map(|m| !m), sentinel))
            }
            Objective::PrefixLm => {
                let (prefix, rest) = raw.split_at(1 + rng.below(raw.len() as u64 - 1) as usize);
                (prefix.to_vec(), rest.to_vec())
            }
            Objective::Lm => (Vec::new(), raw.to_vec()),
        };
        input.push(EOS);
        target.push(EOS);
        (input, target)
    }
}

/// The lengths of the longest example that fits the task.
fn longest(task: &Task, corruption: &SpanCorruption) -> Result<Lengths> {
    match task.objective {
        Objective::SpanCorruption => {
            let longest = corruption.lengths(task.input_length)?;
            if longest.target > task.target_length {
                return Err(Error::input(
                    format!(
                        "targets of {} tokens are too short for inputs of {}: of {} tokens of text, the removed spans \
                         with their sentinels and the end token are {} tokens",
                        task.target_length, task.input_length, longest.raw, longest.target
                    ),
                    format!("give the model a `target_length` of at least {}", longest.target),
                ));
            }
            Ok(longest)
        }
        Objective::PrefixLm => {
            // Both parts fit for any length of the prefix.
            let raw = task.input_length.min(task.target_length);
            Ok(Lengths { raw, input: raw, target: raw })
        }
        Objective::Lm => {
            let raw = task.target_length.saturating_sub(1);
            Ok(Lengths { raw, input: 1, target: raw + 1 })
        }
    }
}

/// The least number of tokens of text in an example.
fn least(objective: Objective) -> usize {
    match objective {
        Objective::SpanCorruption | Objective::PrefixLm => 2,
        Objective::Lm => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder(objective: Objective, input_length: usize, target_length: usize) -> Result<ExampleBuilder> {
        let task = Task { batch: 1, input_length, target_length, vocab: 300, objective, packing: false };
        ExampleBuilder::new(&task, SpanCorruption::default(), &Tokenizer::Bytes)
    }

    #[test]
    fn a_prefix_and_what_follows_make_the_text() {
        let builder = builder(Objective::PrefixLm, 8, 10).unwrap();
        assert_eq!(builder.longest().raw, 8);
        for raw in 2..=8 {
            let text: Vec<i32> = (10..10 + raw as i32).collect();
            let mut seen = vec![0; raw];
            for key in 0..700 {
                let (input, target) = builder.example(&text, &mut Rng::keyed(&[key]));
                assert_eq!((input.last(), target.last()), (Some(&EOS), Some(&EOS)));
                assert_eq!([&input[..input.len() - 1], &target[..target.len() - 1]].concat(), text);
                let most = builder.lengths(raw);
                assert!(input.len() <= most.input && target.len() <= most.target);
                seen[input.len() - 1] += 1;
            }
            // Prefix lengths from 1 to all but one token are equally likely.
            let (none, some) = seen.split_first().unwrap();
            let expected = 700 / (raw - 1);
            assert!(
                *none == 0 && some.iter().all(|n| n * 10 > expected * 6 && n * 10 <= expected * 14),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn text_by_itself_has_an_end_before_it() {
        let builder = builder(Objective::Lm, 1, 5).unwrap();
        assert_eq!(*builder.longest(), Lengths { raw: 4, input: 1, target: 5 });
        assert_eq!(builder.example(&[7, 8, 9], &mut Rng::keyed(&[])), (vec![EOS], vec![7, 8, 9, EOS]));
    }

    #[test]
    fn examples_of_any_length_are_as_long_as_said() {
        for objective in Objective::ALL {
            let builder = builder(objective, 64, 64).unwrap();
            for raw in builder.least()..=builder.longest().raw {
                let (input, target) = builder.example(&vec![9; raw], &mut Rng::keyed(&[raw as u64]));
                let Lengths { input: most, target: most_target, .. } = builder.lengths(raw);
                assert!(input.len() <= most && target.len() <= most_target, "{objective:?} {raw}");
                if objective != Objective::PrefixLm {
                    assert_eq!((input.len(), target.len()), (most, most_target), "{objective:?} {raw}");
                }
                assert!(most <= 64 && most_target <= 64);
            }
        }
    }

    #[test]
    fn tasks_without_room_are_refused() {
        for (objective, input, target) in
            [(Objective::PrefixLm, 8, 1), (Objective::Lm, 4, 1), (Objective::Lm, 0, 9)]
        {
            let error = builder(objective, input, target).unwrap_err().to_string();
            assert!(error.contains(objective.name()) && error.contains("help:"), "{error}");
        }
        let error = builder(Objective::SpanCorruption, 32, 4).unwrap_err().to_string();
        assert!(error.contains("target_length") && error.contains("at least 8"), "{error}");
    }
}
