//! Mistakes in the settings of models, collected by validation.

use mesh::Diagnostic;
use std::fmt::Display;

/// Mistakes found by validation.
#[derive(Debug, Default)]
pub struct Mistakes(pub(crate) Vec<Diagnostic>);

impl Mistakes {
    /// Returns the mistakes noted so far.
    pub fn found(self) -> Vec<Diagnostic> {
        self.0
    }
    /// Notes that `what` must be `rule`, and its value, unless `good`.
    pub fn require(&mut self, good: bool, what: &str, rule: &str, value: impl Display) {
        if !good {
            self.0.push(Diagnostic::new("", format!("`{what}` must be {rule}, got {value}")));
        }
    }
    /// Notes a mistake unless `value` is a number above 0.
    pub fn positive(&mut self, what: &str, value: f64) {
        self.require(value > 0.0 && value.is_finite(), what, "more than 0", value);
    }
    /// Notes a mistake unless `value` is a number from 0.
    pub fn not_negative(&mut self, what: &str, value: f64) {
        self.require(value >= 0.0 && value.is_finite(), what, "at least 0", value);
    }
    /// Notes `message`, with `legal` as help, unless `good`.
    pub fn unless(&mut self, good: bool, message: impl FnOnce() -> String, legal: &str) {
        if !good {
            self.0.push(Diagnostic::new("", message()).help(legal));
        }
    }
    /// Notes a mistake unless `value` is in `[0, 1)`.
    pub fn share(&mut self, what: &str, value: f64) {
        self.require((0.0..1.0).contains(&value), what, "in [0, 1)", value);
    }
    /// Returns the number of mistakes so far.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}
