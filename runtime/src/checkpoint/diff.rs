//! Differences between two checkpoints, tensor by tensor.

use super::reader::Checkpoint;
use crate::Result;
use std::fmt;

/// The comparison of two checkpoints, `a` and `b`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Diff {
    /// Number of tensors with equal bytes.
    pub equal: u64,
    /// The other tensors by name.
    pub changed: Vec<(String, Difference)>,
}

/// The difference of a tensor.
#[derive(Clone, PartialEq, Debug)]
pub enum Difference {
    /// Only `a` has the tensor, of this type.
    OnlyInA(String),
    /// Only `b` has the tensor, of this type.
    OnlyInB(String),
    /// The element types or the dims differ.
    Types {
        /// The type in `a`.
        a: String,
        /// The type in `b`.
        b: String,
    },
    /// Elements differ.
    Elements {
        /// Number of elements that differ.
        differ: usize,
        /// Number of all elements.
        elements: usize,
        /// The largest absolute difference; NaN if one is not a number.
        max_abs: f64,
    },
}

/// Compares two checkpoints. One tensor of each is in memory at a time.
///
/// # Errors
/// A tensor cannot be read, or is damaged.
pub fn diff(a: &Checkpoint, b: &Checkpoint) -> Result<Diff> {
    let mut diff = Diff::default();
    for entry in a.tensors() {
        let name = &entry.name;
        let difference = match b.tensor(name) {
            None => Some(Difference::OnlyInA(entry.shape())),
            Some(other) if entry.shape() != other.shape() => {
                Some(Difference::Types { a: entry.shape(), b: other.shape() })
            }
            Some(_) => elements(a, b, name)?,
        };
        match difference {
            Some(difference) => diff.changed.push((name.clone(), difference)),
            None => diff.equal += 1,
        }
    }
    for entry in b.tensors().iter().filter(|e| a.tensor(&e.name).is_none()) {
        diff.changed.push((entry.name.clone(), Difference::OnlyInB(entry.shape())));
    }
    Ok(diff)
}

/// Compares the elements of a tensor. `None` if all bytes are equal.
fn elements(a: &Checkpoint, b: &Checkpoint, name: &str) -> Result<Option<Difference>> {
    let (x, y) = (a.read(name)?, b.read(name)?);
    if x.bytes == y.bytes {
        return Ok(None);
    }
    let (x, y) = (x.to_f64()?, y.to_f64()?);
    let differences = x.iter().zip(&y).map(|(x, y)| (x - y).abs());
    let max_abs = differences.fold(0.0, |m: f64, d| if d.is_nan() { f64::NAN } else { m.max(d) });
    let differ = x.iter().zip(&y).filter(|(x, y)| x.to_bits() != y.to_bits()).count();
    Ok(Some(Difference::Elements { differ, elements: x.len(), max_abs }))
}

impl fmt::Display for Diff {
    /// Writes one line per tensor that differs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, difference) in &self.changed {
            match difference {
                Difference::OnlyInA(shape) => writeln!(f, "- {name} {shape}")?,
                Difference::OnlyInB(shape) => writeln!(f, "+ {name} {shape}")?,
                Difference::Types { a, b } => writeln!(f, "~ {name} {a} -> {b}")?,
                Difference::Elements { differ, elements, max_abs } => {
                    writeln!(f, "* {name}: {differ} of {elements} elements differ, by at most {max_abs:.3e}")?
                }
            }
        }
        Ok(())
    }
}
