//! What inputs and targets are made of text.
//!
//! The three ways are T5's (`t5.data.preprocessors`): spans that are missing ([`spans`](super::spans)); a prefix,
//! of a length that is even between 1 and all but one token, and what follows it; text by itself. All inputs and
//! targets end with the end token.

use super::{
    order::Rng,
    spans::{self, Lengths, SpanCorruption},
    task::{Objective, Task},
    tokenizer::{EOS, Tokenizer},
};
use crate::{Error, Result};

/// Makes examples for one task.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    objective: Objective,
    corruption: SpanCorruption,
    /// Mark spans, the first one first.
    sentinels: Vec<i32>,
    most: Lengths,
}

impl Maker {
    /// Says why `task` has no room for examples, or no tokens for them.
    pub(super) fn new(task: &Task, corruption: SpanCorruption, tokenizer: &Tokenizer) -> Result<Self> {
        let objective = task.objective;
        let (most, spans) = match objective {
            Objective::SpanCorruption => {
                let most = corruption.lengths(task.input_length)?;
                if most.target > task.target_length {
                    return Err(Error::input(
                        format!(
                            "targets of {} tokens are too short for inputs of {}: {} tokens of text miss {} with their \
                             sentinels and the end",
                            task.target_length, task.input_length, most.raw, most.target
                        ),
                        format!("give the model a `target_length` of at least {}", most.target),
                    ));
                }
                (most, corruption.noise(most.raw).spans)
            }
            Objective::PrefixLm => {
                // However long the prefix is, both parts fit.
                let raw = task.input_length.min(task.target_length);
                (Lengths { raw, input: raw, target: raw }, 0)
            }
            Objective::Lm => {
                let raw = task.target_length.saturating_sub(1);
                (Lengths { raw, input: 1, target: raw + 1 }, 0)
            }
        };
        let least = least(objective);
        if most.raw < least || task.input_length == 0 {
            return Err(Error::input(
                format!(
                    "inputs of {} and targets of {} tokens hold no example of {}",
                    task.input_length,
                    task.target_length,
                    objective.name()
                ),
                format!(
                    "an example takes at least {least} tokens of text and the ends: give the model longer ones"
                ),
            ));
        }
        let sentinels = tokenizer.sentinels(task.vocab, spans)?;
        Ok(Self { objective, corruption, sentinels, most })
    }

    /// Lengths of the longest example.
    pub(super) fn most(&self) -> &Lengths {
        &self.most
    }

    /// How much text an example takes at least.
    pub(super) fn least(&self) -> usize {
        least(self.objective)
    }

    /// Lengths that the input and the target of `raw` tokens of text have, or have at most.
    pub(super) fn lengths(&self, raw: usize) -> Lengths {
        match self.objective {
            Objective::SpanCorruption => {
                let noise = self.corruption.noise(raw);
                let (kept, spans) = (raw - noise.tokens, noise.spans);
                Lengths { raw, input: kept + spans + 1, target: noise.tokens + spans + 1 }
            }
            Objective::PrefixLm => Lengths { raw, input: raw, target: raw },
            Objective::Lm => Lengths { raw, input: 1, target: raw + 1 },
        }
    }

    /// The input and the target of some text, at least the least and at most the most.
    pub(super) fn example(&self, raw: &[i32], rng: &mut Rng) -> (Vec<i32>, Vec<i32>) {
        let (mut input, mut target) = match self.objective {
            Objective::SpanCorruption => {
                let mask = self.corruption.mask(raw.len(), rng);
                // There are as many as the longest example has spans.
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

fn least(objective: Objective) -> usize {
    match objective {
        Objective::SpanCorruption | Objective::PrefixLm => 2,
        Objective::Lm => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maker(objective: Objective, input_length: usize, target_length: usize) -> Result<Maker> {
        let task = Task { batch: 1, input_length, target_length, vocab: 300, objective, packing: false };
        Maker::new(&task, SpanCorruption::default(), &Tokenizer::Bytes)
    }

    #[test]
    fn a_prefix_and_what_follows_make_the_text() {
        let maker = maker(Objective::PrefixLm, 8, 10).unwrap();
        assert_eq!(maker.most().raw, 8);
        for raw in 2..=8 {
            let text: Vec<i32> = (10..10 + raw as i32).collect();
            let mut seen = vec![0; raw];
            for key in 0..700 {
                let (input, target) = maker.example(&text, &mut Rng::keyed(&[key]));
                assert_eq!((input.last(), target.last()), (Some(&EOS), Some(&EOS)));
                assert_eq!([&input[..input.len() - 1], &target[..target.len() - 1]].concat(), text);
                let most = maker.lengths(raw);
                assert!(input.len() <= most.input && target.len() <= most.target);
                seen[input.len() - 1] += 1;
            }
            // Every prefix but none and all, each as likely as any other.
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
        let maker = maker(Objective::Lm, 1, 5).unwrap();
        assert_eq!(*maker.most(), Lengths { raw: 4, input: 1, target: 5 });
        assert_eq!(maker.example(&[7, 8, 9], &mut Rng::keyed(&[])), (vec![EOS], vec![7, 8, 9, EOS]));
    }

    #[test]
    fn examples_of_any_length_are_as_long_as_said() {
        for objective in Objective::ALL {
            let maker = maker(objective, 64, 64).unwrap();
            for raw in maker.least()..=maker.most().raw {
                let (input, target) = maker.example(&vec![9; raw], &mut Rng::keyed(&[raw as u64]));
                let Lengths { input: most, target: most_target, .. } = maker.lengths(raw);
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
            let error = maker(objective, input, target).unwrap_err().to_string();
            assert!(error.contains(objective.name()) && error.contains("help:"), "{error}");
        }
        let error = maker(Objective::SpanCorruption, 32, 4).unwrap_err().to_string();
        assert!(error.contains("target_length") && error.contains("at least 8"), "{error}");
    }
}
