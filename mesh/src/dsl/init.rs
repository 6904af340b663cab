//! Initializers of state.

use crate::{Diagnostic, Dim, Type};
use std::borrow::Borrow;

/// The initial value of a state.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Init {
    /// All 0.
    Zeros,
    /// All 1.
    Ones,
    /// All equal to this number.
    Constant(f64),
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// Normal with mean 0 and this standard deviation, truncated at two standard deviations.
    TruncatedNormal(f64),
}

impl Init {
    /// The truncated normal of the Switch Transformer paper (section 2.4): standard deviation
    /// `sqrt(scale / fan_in)`, where `fan_in` are the dims that the product sums over.
    pub fn truncated_normal<D: Borrow<Dim>>(scale: f64, fan_in: &[D]) -> Self {
        let fan_in: usize = fan_in.iter().map(|d| d.borrow().size).product();
        Self::TruncatedNormal((scale / fan_in as f64).sqrt())
    }

    pub(super) fn legal(self, ty: &Type) -> Result<(), Diagnostic> {
        match self {
            Self::Zeros | Self::Ones | Self::Constant(_) => Ok(()),
            Self::Normal(deviation) | Self::TruncatedNormal(deviation) => {
                if !ty.dtype.is_float() {
                    return Err(Diagnostic::new("", format!("a random initial value of type {}", ty.dtype))
                        .help("use a constant: only floats have random initial values"));
                }
                if deviation.is_finite() && deviation >= 0.0 {
                    return Ok(());
                }
                Err(Diagnostic::new("", format!("a standard deviation must be at least 0, got {deviation}")))
            }
        }
    }
}
