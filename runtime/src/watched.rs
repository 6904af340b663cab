//! Prints and assertions of programs: outputs that the host reads by their names ([`proto::watched`]).

use crate::{Error, HostTensor, Result};
use proto::{
    manifest::{Dim, Tensor},
    watched::{ASSERT_FINITE, NAN_INF, PRINT},
};

/// The most elements of a print that are shown.
const SHOWN: usize = 16;
/// The most failed assertions that an error names.
const NAMED: usize = 5;

/// Returns the name of the value if an output is a print, as in `encoder/hidden` for `print/encoder/hidden`.
pub fn printed(output: &str) -> Option<&str> {
    output.strip_prefix(PRINT)
}

/// Returns true if an output is an assertion.
pub fn is_assertion(output: &str) -> bool {
    output.starts_with(ASSERT_FINITE)
}

/// Formats a print: all elements if they are few, else the first ones, the mean, the smallest and the
/// largest.
pub fn text(dims: &[usize], values: &[f64]) -> String {
    let number = |value: &f64| format!("{}", *value as f32);
    let list = |values: &[f64]| values.iter().map(number).collect::<Vec<_>>().join(", ");
    let sizes = dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    match values {
        [value] if dims.is_empty() => number(value),
        values if values.len() <= SHOWN => format!("[{}] ({sizes})", list(values)),
        values => {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            // `min` and `max` of numbers ignore NaN, which the mean shows.
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            format!(
                "[{}, …] ({sizes}), mean {}, from {} to {}",
                list(&values[..SHOWN / 2]),
                number(&mean),
                number(&least),
                number(&most)
            )
        }
    }
}

/// Failed assertions of one call, in the order of the program.
#[derive(Default)]
pub(crate) struct Failed(Vec<String>);

impl Failed {
    /// Adds the assertion `output` if it failed. `value` has the type `tensor`.
    pub(crate) fn examine(&mut self, output: &str, tensor: &Tensor, value: &HostTensor) -> Result<()> {
        let Some(name) = output.strip_prefix(ASSERT_FINITE) else { return Ok(()) };
        let counts = value.to_f64()?;
        let size = |dim: &Dim| (dim.size as usize).max(1);
        let Some(at) = tensor.dims.iter().position(|dim| dim.name == NAN_INF) else { return Ok(()) };
        let after: usize = tensor.dims[at + 1..].iter().map(size).product();
        // The numbers of NaN and infinite elements of each iteration.
        let pair = |i: usize| [0, 1].map(|kind| counts[(i / after * 2 + kind) * after + i % after]);
        let pairs: Vec<[f64; 2]> = (0..counts.len() / 2).map(pair).collect();
        let Some(first) = pairs.iter().position(|pair| *pair != [0.0, 0.0]) else { return Ok(()) };
        let (nan, infinite) = pairs.iter().fold((0.0, 0.0), |(a, b), [nan, inf]| (a + nan, b + inf));
        let mut rest = first;
        let mut places: Vec<String> = Vec::new();
        for dim in tensor.dims.iter().rev().filter(|dim| dim.name != NAN_INF) {
            places.push(format!("{} of `{}`", rest % size(dim), dim.name));
            rest /= size(dim);
        }
        places.reverse();
        let place = match places.as_slice() {
            [] => String::new(),
            places => format!(", first in iteration {}", places.join(", ")),
        };
        self.0.push(format!("`{name}` has {nan} NaN and {infinite} infinite elements{place}"));
        Ok(())
    }

    /// Returns the error that names the failed assertions.
    pub(crate) fn result(self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let more = match self.0.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let named: Vec<&str> = self.0.iter().take(NAMED).map(String::as_str).collect();
        Err(Error::Assertion { step: None, values: format!("{}{more}", named.join("; ")) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(dims: &[(&str, usize)], counts: &[i32], expected: Option<&str>) {
        let sizes: Vec<usize> = dims.iter().map(|(_, size)| *size).collect();
        let dims = dims.iter().map(|(name, size)| Dim {
            name: (*name).to_owned(),
            size: *size as u64,
            ..Dim::default()
        });
        let tensor = Tensor { dtype: "s32".to_owned(), dims: dims.collect() };
        let mut failed = Failed::default();
        failed.examine("print/x", &tensor, &HostTensor::s32(&sizes, counts)).unwrap();
        failed.examine("assert_finite/ffn/x", &tensor, &HostTensor::s32(&sizes, counts)).unwrap();
        assert_eq!(failed.result().err().map(|e| e.to_string()).as_deref(), expected);
    }

    #[test]
    fn an_assertion_names_the_value_the_counts_and_the_iteration() {
        const HELP: &str = concat!(
            "\n  help: the program asserts that they are finite: assert values before them to find the first ",
            "one, or use a lower learning rate or f32"
        );
        let expect = |text: &str| format!("assertion failed: {text}{HELP}");
        check(&[("nan_inf", 2)], &[0, 0], None);
        check(&[("nan_inf", 2)], &[3, 1], Some(&expect("`ffn/x` has 3 NaN and 1 infinite elements")));
        check(
            &[("parts", 2), ("layers", 3), ("nan_inf", 2)],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 4, 0],
            Some(&expect(
                "`ffn/x` has 4 NaN and 2 infinite elements, first in iteration 1 of `parts`, 1 of `layers`",
            )),
        );
        check(
            &[("nan_inf", 2), ("rows", 3)],
            &[0, 0, 1, 0, 2, 0],
            Some(&expect("`ffn/x` has 1 NaN and 2 infinite elements, first in iteration 1 of `rows`")),
        );
    }

    #[test]
    fn long_prints_are_shortened() {
        assert_eq!(text(&[], &[0.1f32.into()]), "0.1");
        assert_eq!(text(&[2], &[1.0, f64::NAN]), "[1, NaN] (2)");
        let many: Vec<f64> = (0..20).map(f64::from).collect();
        assert_eq!(text(&[4, 5], &many), "[0, 1, 2, 3, 4, 5, 6, 7, …] (4x5), mean 9.5, from 0 to 19");
    }
}
