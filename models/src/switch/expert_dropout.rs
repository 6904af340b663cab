//! Dropout of the hidden activations of experts.

use super::exchange::EXCHANGED_DIM;
use crate::Context;
use mesh::{Dim, dsl::Tensor};
use std::cell::OnceCell;

/// Dropout inside experts. Where expert slots share a mask, it is drawn once, so that an exchange in several
/// parts drops the same elements as an exchange in one.
pub(super) struct ExpertDropout<'g> {
    rate: f64,
    shared: OnceCell<Option<Tensor<'g>>>,
}

impl<'g> ExpertDropout<'g> {
    pub(super) fn new(rate: f64) -> Self {
        Self { rate, shared: OnceCell::new() }
    }

    /// Returns `x` with dropout at this rate in training, `x` itself otherwise.
    pub(super) fn apply(&self, cx: &Context<'g>, x: Tensor<'g>) -> Tensor<'g> {
        // The mask lacks the dims that share it; they are looked up by name, so the size does not matter.
        let draw = || cx.mask_at(self.rate, x, &[&Dim::new(EXCHANGED_DIM, 1)]);
        let mask = if cx.dropout_broadcast { *self.shared.get_or_init(draw) } else { draw() };
        mask.map_or(x, |mask| x * mask)
    }
}
