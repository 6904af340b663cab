//! Values of evaluations that the caller computes.

use crate::{Result, Session};
use std::{collections::BTreeMap, fmt};

/// Computes more values of an evaluation, such as metrics of generated texts.
pub trait Evaluator: fmt::Debug {
    /// Returns values by name, for the parameters of the session that trains, after step `step`.
    ///
    /// # Errors
    /// The values cannot be computed.
    fn evaluate(&self, trained: &Session, step: u64) -> Result<BTreeMap<String, f64>>;
}
