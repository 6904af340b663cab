//! Sampling rates of the corpora of a mixture.
//!
//! Rates are given, or they follow from the number of examples n of each corpus: n^(1/T) for a temperature T,
//! with n limited by a cap (mT5, Xue et al. 2021, section 3.1).

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// A mixture as a file describes it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixtureSpec {
    /// The temperature T. 1 samples in proportion to size; a higher T is more uniform. `None` means 1.
    pub temperature: Option<f64>,
    /// The largest number of examples that counts. `None` means no limit.
    pub cap: Option<u64>,
    /// The corpora by name.
    pub sources: BTreeMap<String, CorpusSpec>,
}

/// One corpus of a [`MixtureSpec`].
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusSpec {
    /// Files, directories and patterns, or one directory written by `meshc data prepare`.
    pub files: Vec<PathBuf>,
    /// The sampling rate relative to the other corpora. Either all corpora have one, or none.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The field of JSON Lines or the column of Parquet that holds the text. `None` means the default of the
    /// mixture.
    #[serde(default)]
    pub text_field: Option<String>,
}

/// Determines sampling rates that are not given.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Temperature {
    /// T in n^(1/T): a number above 0.
    pub temperature: f64,
    /// The upper limit of n, at least 1.
    pub cap: u64,
}

impl Default for Temperature {
    /// Every example is equally likely.
    fn default() -> Self {
        Self { temperature: 1.0, cap: u64::MAX }
    }
}

/// The values that determine the share of one corpus.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Weight<'a> {
    /// The name of the corpus, for messages.
    pub name: &'a str,
    /// The rate. `None` means it follows from the number of examples.
    pub rate: Option<f64>,
    /// The number of examples.
    pub examples: u64,
}

/// Returns the share of each corpus. Shares sum to 1.
///
/// # Errors
/// If only some corpora have rates, or a rate, the temperature or the cap is out of range.
pub fn shares(weights: &[Weight<'_>], Temperature { temperature, cap }: Temperature) -> Result<Vec<f64>> {
    let without: Vec<&str> = weights.iter().filter(|w| w.rate.is_none()).map(|w| w.name).collect();
    if !without.is_empty() && without.len() < weights.len() {
        return Err(Error::input(
            format!("some corpora of the mixture have a rate, but `{}` has none", without.join("`, `")),
            "give every corpus a rate, or none: rates then follow from the number of examples",
        ));
    }
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(Error::input(
            format!("the temperature of the mixture must be a number above 0, got {temperature}"),
            "1 samples in proportion to size; mT5 uses 1/0.3",
        ));
    }
    if cap == 0 {
        return Err(Error::input(
            "the cap of the mixture must be at least 1 example, got 0",
            "leave it out for no limit",
        ));
    }
    let size = |examples: u64| (examples.min(cap) as f64).powf(1.0 / temperature);
    let rates: Vec<f64> = weights.iter().map(|w| w.rate.unwrap_or_else(|| size(w.examples))).collect();
    if let Some((w, rate)) = weights.iter().zip(&rates).find(|(_, r)| !(**r > 0.0 && r.is_finite())) {
        return Err(Error::input(
            format!("the rate of corpus `{}` must be a number above 0, got {rate}", w.name),
            "leave out a corpus that is not to be used",
        ));
    }
    let sum: f64 = rates.iter().sum();
    Ok(rates.into_iter().map(|rate| rate / sum).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_from_rates_or_sizes() {
        let of = |temperature: f64, cap: u64, all: &[(&str, Option<f64>, u64)]| {
            let weight = |(name, rate, examples)| Weight { name, rate, examples };
            let weights: Vec<Weight<'_>> = all.iter().copied().map(weight).collect();
            shares(&weights, Temperature { temperature, cap })
        };
        let near =
            |a: Vec<f64>, b: &[f64]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?}");
        near(of(1.0, u64::MAX, &[("a", Some(3.0), 5), ("b", Some(1.0), 9)]).unwrap(), &[0.75, 0.25]);
        near(of(1.0, u64::MAX, &[("a", None, 300), ("b", None, 100)]).unwrap(), &[0.75, 0.25]);
        near(of(1.0, 100, &[("a", None, 300), ("b", None, 100)]).unwrap(), &[0.5, 0.5]);
        near(of(2.0, u64::MAX, &[("a", None, 900), ("b", None, 100)]).unwrap(), &[0.75, 0.25]);
        let fails = |of: Result<Vec<f64>>, part: &str| {
            let error = of.unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        fails(of(1.0, 9, &[("a", Some(1.0), 1), ("b", None, 1)]), "`b` has none");
        fails(of(0.0, 9, &[("a", None, 1)]), "must be a number above 0, got 0");
        fails(of(1.0, 0, &[("a", None, 1)]), "must be at least 1 example, got 0");
        fails(of(1.0, 9, &[("a", Some(-1.0), 1)]), "rate of corpus `a` must be a number above 0, got -1");
        fails(of(1.0, 9, &[("a", Some(f64::NAN), 1)]), "got NaN");
    }

    #[test]
    fn a_file_describes_a_mixture() {
        let text = r#"{"temperature": 3.3, "sources": {"en": {"files": ["a"], "rate": 2}, "de": {"files": ["b"], "text_field": "body"}}}"#;
        let mixture: MixtureSpec = serde_json::from_str(text).unwrap();
        assert_eq!((mixture.temperature, mixture.cap, mixture.sources.len()), (Some(3.3), None, 2));
        assert_eq!(mixture.sources["en"].rate, Some(2.0));
        let error = serde_json::from_str::<MixtureSpec>(r#"{"source": {}}"#).unwrap_err().to_string();
        assert!(error.contains("unknown field `source`"), "{error}");
    }
}
