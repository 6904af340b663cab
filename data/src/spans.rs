//! Span corruption as in T5 (Raffel et al. 2020, section 3.1.4): spans of the text are replaced by one
//! sentinel each, and the target is what is missing, each span after its sentinel.

use super::order::Rng;
use crate::{Error, Result};

/// How much is missing.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SpanCorruption {
    /// Share of tokens that are missing.
    pub density: f64,
    /// Their mean number in a row.
    pub mean_span: f64,
}

impl Default for SpanCorruption {
    /// T5's numbers.
    fn default() -> Self {
        Self { density: 0.15, mean_span: 3.0 }
    }
}

/// How much of a text of some length is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Noise {
    /// Tokens that are missing.
    pub tokens: usize,
    /// Spans they are in.
    pub spans: usize,
}

/// How long examples are, ends of sequence included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lengths {
    /// Tokens of text in an example.
    pub raw: usize,
    /// Tokens of the corrupted text.
    pub input: usize,
    /// Tokens of the target.
    pub target: usize,
}

impl SpanCorruption {
    /// The most text whose corrupted form has at most `input` tokens, by t5's `random_spans_helper`: its
    /// rounding, and its exception for a density of one half.
    pub fn helper(&self, input: usize) -> Lengths {
        let of = |raw: usize| {
            let noise = (raw as f64 * self.density).round_ties_even() as usize;
            let spans = (noise as f64 / self.mean_span).round_ties_even() as usize;
            Lengths { raw, input: raw.saturating_sub(noise) + spans + 1, target: noise + spans + 1 }
        };
        let mut best = of(input);
        while of(best.raw + 1).input <= input {
            best = of(best.raw + 1);
        }
        if self.density == 0.5 && best.target > input {
            (best.raw, best.target) = (best.raw - 1, best.target - 1);
        }
        best
    }

    /// The lengths that are used for inputs of `input` tokens. These are [`SpanCorruption::helper`]'s, but
    /// for inputs so short that the helper's rounding leaves no span while the sampler always makes one:
    /// then the text is shorter, so that nothing is ever cut off.
    pub fn lengths(&self, input: usize) -> Result<Lengths> {
        if !(self.density > 0.0 && self.density < 1.0 && self.mean_span >= 1.0 && self.mean_span.is_finite())
        {
            return Err(Error::input(
                format!("span corruption with density {} and mean span {}", self.density, self.mean_span),
                "the density is between 0 and 1, the mean span at least 1 token",
            ));
        }
        let fits = |raw: usize| {
            let noise = self.noise(raw);
            let actual = Lengths {
                raw,
                input: raw - noise.tokens + noise.spans + 1,
                target: noise.tokens + noise.spans + 1,
            };
            (actual.input <= input).then_some(actual)
        };
        (2..=self.helper(input).raw).rev().find_map(fits).ok_or_else(|| {
            Error::input(
                format!("inputs of {input} tokens hold no example of span corruption"),
                "give the model an `input_length` of at least 3: a token, a sentinel and the end",
            )
        })
    }

    /// How much of `length` tokens is missing: the sampler's counts, in 32-bit floats as in t5.
    pub fn noise(&self, length: usize) -> Noise {
        let length = length.max(2);
        let tokens = (length as f32 * self.density as f32).round_ties_even() as usize;
        let tokens = tokens.clamp(1, length - 1);
        let spans = (tokens as f32 / self.mean_span as f32).round_ties_even() as usize;
        // More spans than there are tokens between them cannot be told apart.
        Noise { tokens, spans: spans.clamp(1, tokens.min(length - tokens)) }
    }

    /// Which of `length` tokens are missing: as many parts of text as spans, each of a random length of at
    /// least one, in turn, beginning with text.
    pub fn mask(&self, length: usize, rng: &mut Rng) -> Vec<bool> {
        let whole = length.max(2);
        let noise = self.noise(whole);
        let missing = segments(noise.tokens, noise.spans, rng);
        let kept = segments(whole - noise.tokens, noise.spans, rng);
        let mut mask = Vec::with_capacity(whole);
        for (kept, missing) in kept.into_iter().zip(missing) {
            mask.extend(std::iter::repeat_n(false, kept));
            mask.extend(std::iter::repeat_n(true, missing));
        }
        mask.truncate(length);
        mask
    }
}

/// `tokens` with every run that `mask` marks replaced by a sentinel; the input of the model is this with
/// the mask, its target this with the mask inverted.
pub fn replace(
    tokens: &[i32],
    mask: impl IntoIterator<Item = bool>,
    sentinel: impl Fn(usize) -> i32,
) -> Vec<i32> {
    let mut out = Vec::with_capacity(tokens.len());
    let (mut runs, mut inside) = (0, false);
    for (token, marked) in tokens.iter().zip(mask) {
        if !marked {
            out.push(*token);
        } else if !inside {
            out.push(sentinel(runs));
            runs += 1;
        }
        inside = marked;
    }
    out
}

/// `items` split into `count` parts of at least one, every split as likely as any other.
fn segments(items: usize, count: usize, rng: &mut Rng) -> Vec<usize> {
    // A split is a choice of `count - 1` among the `items - 1` places between items.
    let (mut wanted, mut parts, mut current) = (count - 1, Vec::with_capacity(count), 1);
    for left in (1..items).rev() {
        if rng.below(left as u64) < wanted as u64 {
            parts.push(current);
            (wanted, current) = (wanted - 1, 0);
        }
        current += 1;
    }
    parts.push(current);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn lengths_of_the_papers_inputs() {
        let t5 = SpanCorruption::default();
        assert_eq!(t5.lengths(512).unwrap(), Lengths { raw: 568, input: 512, target: 114 });
        // The helper's 8 tokens would make 9 of input, since one span is made at least.
        assert_eq!((t5.helper(8).raw, t5.lengths(8).unwrap().raw), (8, 7));
        for input in 3..300 {
            let lengths = t5.lengths(input).unwrap();
            let mask = t5.mask(lengths.raw, &mut Rng::keyed(&[input as u64]));
            let tokens = vec![0; lengths.raw];
            let inputs = replace(&tokens, mask.iter().copied(), |_| 1);
            let targets = replace(&tokens, mask.iter().map(|m| !m), |_| 1);
            assert_eq!((inputs.len() + 1, targets.len() + 1), (lengths.input, lengths.target));
            assert!(lengths.input <= input);
        }
        for bad in [0, 1, 2] {
            assert!(t5.lengths(bad).unwrap_err().to_string().contains("input_length"));
        }
        for (density, mean_span) in [(0.0, 3.0), (1.0, 3.0), (f64::NAN, 3.0), (0.15, 0.5)] {
            assert!(SpanCorruption { density, mean_span }.lengths(64).is_err());
        }
    }

    #[test]
    fn every_split_is_as_likely_as_any_other() {
        let mut seen: BTreeMap<Vec<usize>, u32> = BTreeMap::new();
        for key in 0..6000 {
            *seen.entry(segments(5, 3, &mut Rng::keyed(&[key]))).or_default() += 1;
        }
        // 6 splits of 5 into 3 parts; 1000 of each expected, with a deviation of 29.
        assert_eq!(seen.len(), 6, "{seen:?}");
        for (split, count) in seen {
            assert_eq!((split.len(), split.iter().sum::<usize>(), split.iter().min()), (3, 5, Some(&1)));
            assert!((870..1130).contains(&count), "{split:?}: {count}");
        }
    }
}
