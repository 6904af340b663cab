//! The experts of one size, applied to the tokens in their expert slots.

use super::expert_dropout::ExpertDropout;
use crate::{Activation, Context, Weight, Weights};
use mesh::{
    Dim, Name,
    dsl::{Init, Tensor},
};

/// Experts of one size.
#[derive(Clone, Debug)]
pub(super) struct Experts {
    pub(super) wi: Weight,
    /// `None` means that the activation has no gate.
    pub(super) gate: Option<Weight>,
    pub(super) wo: Weight,
    pub(super) activation: Activation,
    pub(super) d_model: Dim,
    pub(super) d_ff: Dim,
    /// Number of experts.
    pub(super) count: usize,
}

impl Experts {
    /// Declares `count` experts with the paper's initialization of this `scale`. (Their dim is not part of
    /// fan-in.)
    pub(super) fn new(
        w: &Weights<'_>,
        [d_model, d_ff]: [&Dim; 2],
        activation: Activation,
        count: usize,
        scale: f64,
    ) -> Self {
        let experts = Dim::new("experts", count);
        let stored = [&experts, d_model, d_ff];
        let inner =
            |name| w.matrix(name, &stored, &[d_model], &[d_ff], Init::truncated_normal(scale, &[d_model]));
        let (gate, wi) =
            if activation.gated() { (Some(inner("wi_0")), inner("wi_1")) } else { (None, inner("wi")) };
        let wo = w.matrix("wo", &stored, &[d_ff], &[d_model], Init::truncated_normal(scale, &[d_ff]));
        Self { wi, gate, wo, activation, d_model: d_model.clone(), d_ff: d_ff.clone(), count }
    }

    /// Returns the inner matrices: `wi`, and the gate of gated experts.
    pub(super) fn inner(&self) -> impl Iterator<Item = &Weight> {
        std::iter::once(&self.wi).chain(&self.gate)
    }

    /// Applies the experts to `x` of `[positions.., d_model]`; `product` is the product of a tensor and a
    /// matrix, with the given dims.
    pub(super) fn apply<'g>(
        &self,
        cx: &Context<'g>,
        dropout: &ExpertDropout<'g>,
        x: Tensor<'g>,
        positions: &[Name],
        product: impl Fn(Tensor<'g>, &Weight, Vec<Name>) -> Tensor<'g>,
    ) -> Tensor<'g> {
        let out = |dim: &Dim| positions.iter().cloned().chain([dim.name.clone()]).collect::<Vec<_>>();
        let inner = |weight: &Weight| product(x, weight, out(&self.d_ff));
        let hidden = match &self.gate {
            // Dropout comes before relu, as in the dense layer.
            None => self.activation.apply(dropout.apply(cx, inner(&self.wi))),
            Some(gate) => dropout.apply(cx, self.activation.apply(inner(gate)) * inner(&self.wi)),
        };
        product(hidden, &self.wo, out(&self.d_model))
    }
}
