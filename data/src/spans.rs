//! Span corruption as in T5 (Raffel et al. 2020, section 3.1.4): each removed span of the text is replaced by
//! a sentinel, and the target lists the removed spans, each after its sentinel.

use super::order::Rng;
use crate::{Error, Result};

/// The amount of noise.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SpanCorruption {
    /// The share of removed tokens: in (0, 1).
    pub density: f64,
    /// The mean length of a removed span: at least 1.
    pub mean_span: f64,
}

impl Default for SpanCorruption {
    /// T5's values.
    fn default() -> Self {
        Self { density: 0.15, mean_span: 3.0 }
    }
}

/// The noise of a text of some length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Noise {
    /// The number of removed tokens.
    pub tokens: usize,
    /// The number of removed spans.
    pub spans: usize,
}

/// The lengths of an example, including end tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lengths {
    /// The number of tokens of text.
    pub raw: usize,
    /// The number of tokens of the input.
    pub input: usize,
    /// The number of tokens of the target.
    pub target: usize,
}

impl SpanCorruption {
    /// Returns the lengths for the longest text whose input has at most `input` tokens, by t5's
    /// `random_spans_helper`: with its rounding, and its exception for a density of one half.
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

    /// Returns the lengths for inputs of `input` tokens. They equal those of [`SpanCorruption::helper`]
    /// except for very short inputs, where the helper rounds to no span while the sampler always makes one:
    /// there the text is shorter, so that no example is truncated.
    ///
    /// # Errors
    /// If the noise is out of range, or `input` is below 3.
    pub fn lengths(&self, input: usize) -> Result<Lengths> {
        if !(self.density > 0.0 && self.density < 1.0 && self.mean_span >= 1.0 && self.mean_span.is_finite())
        {
            return Err(Error::input(
                format!(
                    "span corruption needs a density in (0, 1) and a mean span of at least 1, got {} and {}",
                    self.density, self.mean_span
                ),
                "T5 uses 0.15 and 3",
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

    /// Returns the noise of `length` tokens: the counts of t5's sampler, in 32-bit floats.
    pub fn noise(&self, length: usize) -> Noise {
        let length = length.max(2);
        let tokens = (length as f32 * self.density as f32).round_ties_even() as usize;
        let tokens = tokens.clamp(1, length - 1);
        let spans = (tokens as f32 / self.mean_span as f32).round_ties_even() as usize;
        // Adjacent spans need a token of text between them.
        Noise { tokens, spans: spans.clamp(1, tokens.min(length - tokens)) }
    }

    /// Returns a mask of `length` tokens that is true at removed tokens: segments of text and removed spans
    /// alternate, starting with text, each of a random length of at least one.
    pub fn mask(&self, length: usize, rng: &mut Rng) -> Vec<bool> {
        let whole = length.max(2);
        let noise = self.noise(whole);
        let removed = segments(noise.tokens, noise.spans, rng);
        let text = segments(whole - noise.tokens, noise.spans, rng);
        let mut mask = Vec::with_capacity(whole);
        for (text, removed) in text.into_iter().zip(removed) {
            mask.extend(std::iter::repeat_n(false, text));
            mask.extend(std::iter::repeat_n(true, removed));
        }
        mask.truncate(length);
        mask
    }
}

/// Returns `tokens` with every run of masked tokens replaced by one sentinel. The mask gives the input of an
/// example; the inverted mask gives its target.
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

/// Returns the sizes of a uniformly random division of `items` into `count` parts of at least one.
fn segments(items: usize, count: usize, rng: &mut Rng) -> Vec<usize> {
    // A division is a choice of `count - 1` of the `items - 1` boundaries between items.
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
        // The helper's 8 tokens would give 9 input tokens, because there is at least one span.
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
        // There are 6 divisions of 5 into 3 parts; each is expected 1000 times, with a standard deviation of
        // 29.
        assert_eq!(seen.len(), 6, "{seen:?}");
        for (split, count) in seen {
            assert_eq!((split.len(), split.iter().sum::<usize>(), split.iter().min()), (3, 5, Some(&1)));
            assert!((870..1130).contains(&count), "{split:?}: {count}");
        }
    }
}
