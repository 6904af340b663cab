//! Comparison of results with expected values, and tolerances.

use anyhow::{Result, bail};
use runtime::HostTensor;
use serde::Serialize;
use std::{collections::BTreeMap, fmt};

/// The difference between a tensor and its expected value.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest absolute difference, divided by the largest expected element.
    pub rel_to_max: f64,
    /// L2 norm of the difference, divided by the L2 norm of the expected tensor.
    pub rel_l2: f64,
    /// The limit and its measure. `None` means that the tensor is not checked.
    #[serde(skip)]
    pub limit: Option<(Measure, f64)>,
}

/// A measure of difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// `max_abs`.
    Absolute,
    /// `rel_to_max`.
    Relative,
    /// `rel_l2`.
    Norm,
}

/// A scalar result.
#[derive(Clone, Debug, Serialize)]
pub struct Loss {
    /// The result.
    pub got: f64,
    /// The expected value. `None` means that there is none.
    pub want: Option<f64>,
    /// The largest absolute difference. `None` means that it is not checked.
    #[serde(skip)]
    pub limit: Option<f64>,
}

/// The differences of all tensors and scalars.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Comparison {
    /// Devices, mesh, layout and batch of the run, for messages.
    pub placed: String,
    /// Tensors by name.
    pub tensors: BTreeMap<String, Difference>,
    /// Losses by name.
    pub losses: BTreeMap<String, Loss>,
    /// Norms of gradients, by loss and parameter.
    pub norms: BTreeMap<String, Loss>,
    /// Expected tensors that were not computed.
    pub skipped: Vec<String>,
    /// Expected scalars that were not computed.
    pub skipped_losses: Vec<String>,
}

impl Difference {
    /// True if the difference is within its limit.
    pub fn good(&self) -> bool {
        match self.limit {
            Some((Measure::Absolute, limit)) => self.max_abs <= limit,
            Some((Measure::Relative, limit)) => self.rel_to_max <= limit,
            Some((Measure::Norm, limit)) => self.rel_l2 <= limit,
            None => true,
        }
    }
}

impl Loss {
    /// Returns a result with a limit; results of 16-bit models have none.
    pub fn new(got: f64, want: Option<f64>, limit: f64, narrow: bool) -> Self {
        Self { got, want, limit: (!narrow).then_some(limit) }
    }

    /// True if the difference is within its limit.
    pub fn good(&self) -> bool {
        match (self.want, self.limit) {
            (Some(want), Some(limit)) => (self.got - want).abs() <= limit,
            (Some(_) | None, Some(_) | None) => true,
        }
    }
}

impl Comparison {
    /// Returns the names of results beyond their limits.
    pub fn failures(&self) -> Vec<String> {
        let tensors = self.tensors.iter().filter(|(_, d)| !d.good()).map(|(n, _)| n.clone());
        let losses = self.losses.iter().filter(|(_, l)| !l.good()).map(|(n, _)| n.clone());
        let norms = self.norms.iter().filter(|(_, l)| !l.good()).map(|(n, _)| format!("norm of {n}"));
        tensors.chain(losses).chain(norms).collect()
    }
}

/// True if errors can be relative to this norm.
pub fn is_number(norm: f64) -> bool {
    norm > 0.0 && norm.is_finite()
}

/// Returns the L2 norm of `a - b`.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

/// Compares the tensor `name` with `want`. `narrow` is true if it was computed in 16 bits.
pub fn compare(name: &str, got: &[f64], want: &HostTensor, narrow: bool) -> Result<Difference> {
    let sizes = &want.dims;
    let want = want.to_f64()?;
    if got.len() != want.len() {
        bail!("`{name}` is expected with sizes {sizes:?}, {} elements, and has {}", want.len(), got.len());
    }
    let pairs = || got.iter().zip(&want);
    // A NaN counts as an infinite difference.
    let gap = |a: f64, b: f64| if (a - b).is_nan() { f64::MAX } else { (a - b).abs().min(f64::MAX) };
    let max_abs = pairs().map(|(a, b)| gap(*a, *b)).fold(0.0, f64::max);
    let largest = want.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    let (norm, off) = (distance(&want, &vec![0.0; want.len()]), distance(got, &want));
    let share = |a: f64, b: f64| match (a, b) {
        (0.0, _) => 0.0,
        (_, 0.0) => f64::MAX,
        (a, b) => (a / b).min(f64::MAX),
    };
    let off = if max_abs == f64::MAX || off.is_nan() { f64::MAX } else { off };
    let limit = limit(name, narrow);
    Ok(Difference { max_abs, rel_to_max: share(max_abs, largest), rel_l2: share(off, norm), limit })
}

/// Returns the tolerance of a tensor by its kind. The tolerances are well above rounding errors, and below
/// the effect of any single mistake in the model.
fn limit(name: &str, narrow: bool) -> Option<(Measure, f64)> {
    let plain = name.strip_prefix("f32.").unwrap_or(name);
    let whole = plain.starts_with("generate.") || plain.ends_with(".argmax") || plain.ends_with(".kept");
    if whole {
        return Some((Measure::Absolute, 0.0));
    }
    let is_gradient = plain.starts_with("grad.") || plain.starts_with("bf16.grad.");
    match (is_gradient, narrow) {
        (true, false) => Some((Measure::Norm, 5e-4)),
        // The expected 16-bit gradient is itself inexact; only the comparison with the exact one is limited.
        (true, true) => plain.starts_with("bf16.").then_some((Measure::Norm, 0.3)),
        (false, false) => Some((Measure::Relative, 5e-5)),
        (false, true) => Some((Measure::Relative, 0.08)),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.placed)?;
        let mark = |good: bool| if good { "" } else { "  <- exceeds the tolerance" };
        let wide = self.tensors.keys().chain(self.losses.keys()).map(String::len).max().unwrap_or(0);
        // Not by a format's width, which has at most 16 bits: names may be longer.
        let padded = |name: &str| format!("{name}{}", " ".repeat(wide.saturating_sub(name.len())));
        writeln!(f, "{}  {:>9}  {:>10}  {:>9}", padded("tensor"), "max abs", "rel to max", "rel L2")?;
        for (name, d) in &self.tensors {
            let (abs, max, norm) = (d.max_abs, d.rel_to_max, d.rel_l2);
            let name = padded(name);
            writeln!(f, "{name}  {abs:9.1e}  {max:10.1e}  {norm:9.1e}{}", mark(d.good()))?;
        }
        writeln!(f, "{}  {:>14}  {:>14}", padded("loss"), "got", "want")?;
        for (name, loss) in &self.losses {
            let want = loss.want.map_or("-".to_owned(), |w| format!("{w:.7}"));
            writeln!(f, "{}  {:14.7}  {want:>14}{}", padded(name), loss.got, mark(loss.good()))?;
        }
        let off = |l: &Loss| l.want.map_or(0.0, |w| (l.got - w).abs() / w.abs().max(f64::MIN_POSITIVE));
        if let Some(most) = self.norms.values().map(off).reduce(f64::max) {
            writeln!(f, "norms of gradients: {}, largest relative difference {most:.1e}", self.norms.len())?;
            for (name, norm) in self.norms.iter().filter(|(_, n)| !n.good()) {
                writeln!(f, "  {name}: {}, expected {:?}{}", norm.got, norm.want, mark(false))?;
            }
        }
        let skipped: Vec<&str> =
            self.skipped.iter().chain(&self.skipped_losses).map(String::as_str).collect();
        if !skipped.is_empty() {
            writeln!(f, "not compared: {}", skipped.join(", "))?;
        }
        match self.failures().len() {
            0 => writeln!(
                f,
                "all of {} tensors and {} losses are within their tolerances",
                self.tensors.len(),
                self.losses.len()
            ),
            n => writeln!(f, "{n} exceed their tolerances"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_largest_and_to_the_norm() {
        let want = HostTensor::f32(&[4], &[3.0, -4.0, 0.0, 0.0]);
        let d = compare("logits", &[3.0, -4.0, 0.5, 0.0], &want, false).unwrap();
        assert_eq!((d.max_abs, d.rel_to_max, d.rel_l2), (0.5, 0.125, 0.1));
        assert!(!d.good());
        assert!(compare("logits", &[3.0, -4.0, 1e-4, 0.0], &want, false).unwrap().good());
        let d = compare("logits", &[3.0, -4.0, f64::NAN, 0.0], &want, true).unwrap();
        assert!(!d.good() && d.max_abs == f64::MAX, "{d:?}");
        assert!(compare("logits", &[3.0], &want, false).is_err());
    }

    #[test]
    fn a_gradient_that_is_zero_must_be_zero() {
        let want = HostTensor::f32(&[2], &[0.0, 0.0]);
        assert!(compare("grad.ce.x", &[0.0, 0.0], &want, false).unwrap().good());
        assert!(!compare("grad.ce.x", &[1e-12, 0.0], &want, false).unwrap().good());
    }

    #[test]
    fn whole_numbers_are_the_same_or_wrong() {
        let want = HostTensor::s32(&[2], &[1, 2]);
        for narrow in [false, true] {
            assert!(compare("router.encoder.1.argmax", &[1.0, 2.0], &want, narrow).unwrap().good());
            assert!(!compare("router.encoder.1.argmax", &[1.0, 3.0], &want, narrow).unwrap().good());
        }
    }
}
