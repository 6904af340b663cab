//! Examples: inputs and targets made of text.
//!
//! The objectives are T5's (`t5.data.preprocessors`): span corruption ([`spans`](super::spans)); a prefix,
//! whose length is uniform between 1 and all but one token, and its continuation; text alone. Inputs and
//! targets end with the end token.

use super::{
    batch_spec::{self, BatchSpec},
    order::Rng,
    spans::{self, Lengths, SpanCorruption},
    tokenizer::Tokenizer,
};
use crate::{Error, Objective, Result};

/// Makes the examples of one program.
#[derive(Clone, Debug)]
pub(super) struct ExampleBuilder {
    objective: Objective,
    corruption: SpanCorruption,
    /// The tokens that mark removed spans, in order.
    sentinels: Vec<i32>,
    eos: i32,
    longest: Lengths,
}

impl ExampleBuilder {
    /// Prepares the examples of a program.
    ///
    /// # Errors
    /// If the program's lengths hold no example, its vocabulary has too few tokens, or text has its special
    /// tokens.
    pub(super) fn new(spec: &BatchSpec, corruption: SpanCorruption, tokenizer: &Tokenizer) -> Result<Self> {
        let objective = spec.objective;
        let longest = longest(spec, &corruption)?;
        let spans = match objective {
            Objective::SpanCorruption => corruption.noise(longest.raw).spans,
            Objective::PrefixLm | Objective::Lm | Objective::Unspecified => 0,
        };
        let least = least(objective);
        let no_inputs = spec.input_length == 0 && objective != Objective::Lm;
        if longest.raw < least || no_inputs {
            return Err(Error::input(
                format!(
                    "inputs of {} and targets of {} tokens hold no example of {}",
                    spec.input_length,
                    spec.target_length,
                    batch_spec::name(objective)
                ),
                format!(
                    "an example takes at least {least} tokens of text and the end tokens: increase the lengths"
                ),
            ));
        }
        let sentinels = sentinels(spec, tokenizer, spans)?;
        Ok(Self { objective, corruption, sentinels, eos: spec.eos(), longest })
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
            Objective::Lm | Objective::Unspecified => Lengths { raw, input: 1, target: raw + 1 },
        }
    }

    /// Returns the exact lengths of the input and the target of [`ExampleBuilder::example`] for `raw` tokens
    /// of text and the same random numbers.
    pub(super) fn sizes(&self, raw: usize, rng: &mut Rng) -> (usize, usize) {
        match self.objective {
            Objective::PrefixLm => {
                let prefix = prefix(raw, rng);
                (prefix + 1, raw - prefix + 1)
            }
            Objective::SpanCorruption | Objective::Lm | Objective::Unspecified => {
                let Lengths { input, target, .. } = self.lengths(raw);
                (input, target)
            }
        }
    }

    /// Returns the input and the target for `raw`, whose length is between [`ExampleBuilder::least`] and that
    /// of the longest example.
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
                let (prefix, rest) = raw.split_at(prefix(raw.len(), rng));
                (prefix.to_vec(), rest.to_vec())
            }
            Objective::Lm | Objective::Unspecified => (Vec::new(), raw.to_vec()),
        };
        input.push(self.eos);
        target.push(self.eos);
        (input, target)
    }
}

/// Returns the length of the prefix of `raw` tokens.
fn prefix(raw: usize, rng: &mut Rng) -> usize {
    1 + rng.below(raw as u64 - 1) as usize
}

/// The lengths of the longest example that fits the program.
fn longest(spec: &BatchSpec, corruption: &SpanCorruption) -> Result<Lengths> {
    match spec.objective {
        Objective::Unspecified => Err(Error::input(
            "the program states no training objective",
            "compile the model again with this version of meshc",
        )),
        Objective::SpanCorruption => {
            let longest = corruption.lengths(spec.input_length)?;
            if longest.target > spec.target_length {
                return Err(Error::input(
                    format!(
                        "targets of {} tokens are too short for inputs of {}: of {} tokens of text, the removed spans \
                         with their sentinels and the end token are {} tokens",
                        spec.target_length, spec.input_length, longest.raw, longest.target
                    ),
                    format!("give the model a `target_length` of at least {}", longest.target),
                ));
            }
            Ok(longest)
        }
        Objective::PrefixLm => {
            // Both parts fit for any length of the prefix.
            let raw = spec.input_length.min(spec.target_length);
            Ok(Lengths { raw, input: raw, target: raw })
        }
        Objective::Lm => {
            let raw = spec.target_length.saturating_sub(1);
            Ok(Lengths { raw, input: 1, target: raw + 1 })
        }
    }
}

/// The least number of tokens of text in an example.
fn least(objective: Objective) -> usize {
    match objective {
        Objective::SpanCorruption | Objective::PrefixLm => 2,
        Objective::Lm | Objective::Unspecified => 1,
    }
}

/// The tokens that mark the first `count` removed spans.
fn sentinels(spec: &BatchSpec, tokenizer: &Tokenizer, count: usize) -> Result<Vec<i32>> {
    let text = tokenizer.text_tokens();
    for (name, token) in [("pad", spec.pad()), ("eos", spec.eos())] {
        if text.contains(&token) {
            return Err(Error::input(
                format!(
                    "`{name}` of the program is {token}, a token that `{}` uses for text",
                    tokenizer.name()
                ),
                format!("use a token below {} or from {}", text.start, text.end),
            ));
        }
    }
    let Some(own) = spec.special_tokens.sentinels else { return tokenizer.sentinels(spec.vocab, count) };
    if (own.count as usize) < count {
        return Err(Error::input(
            format!("the program has {} sentinels, but its examples have up to {count} spans", own.count),
            format!("give its task at least {count} sentinels, or shorter inputs"),
        ));
    }
    Ok((0..count as i32).map(|span| own.first as i32 - span).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpecialTokens;

    const EOS: i32 = 1;
    const SPEC: BatchSpec = BatchSpec {
        batch: 1,
        input_length: 0,
        target_length: 0,
        vocab: 300,
        objective: Objective::Lm,
        packing: false,
        special_tokens: SpecialTokens { pad: 0, eos: EOS as u32, sentinels: None },
    };
    const OBJECTIVES: [Objective; 3] = [Objective::SpanCorruption, Objective::PrefixLm, Objective::Lm];

    fn builder(objective: Objective, input_length: usize, target_length: usize) -> Result<ExampleBuilder> {
        let spec = BatchSpec { objective, input_length, target_length, ..SPEC };
        ExampleBuilder::new(&spec, SpanCorruption::default(), &Tokenizer::Bytes)
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
        for objective in OBJECTIVES {
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
            [(Objective::PrefixLm, 8, 1), (Objective::Lm, 4, 1), (Objective::PrefixLm, 0, 9)]
        {
            let error = builder(objective, input, target).unwrap_err().to_string();
            assert!(error.contains(batch_spec::name(objective)) && error.contains("help:"), "{error}");
        }
        let error = builder(Objective::SpanCorruption, 32, 4).unwrap_err().to_string();
        assert!(error.contains("target_length") && error.contains("at least 8"), "{error}");
    }
}
