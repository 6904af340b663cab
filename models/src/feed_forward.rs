//! The dense feed-forward layer.

use crate::{Activation, Context, Weight, Weights};
use mesh::{
    DType, Dim,
    dsl::{Init, Program, State, Tensor, einsum},
};

/// `wo(relu(wi x))`, or `wo(gelu(wi_0 x) · wi_1 x)`.
#[derive(Clone, Debug)]
pub struct FeedForward {
    wi: Weight,
    gate: Option<Weight>,
    wo: Weight,
    d_model: Dim,
    d_ff: Dim,
}

impl FeedForward {
    /// With truncated normal initial values of scale 1.
    pub fn new(w: &Weights<'_>, d_model: &Dim, d_ff: &Dim, activation: Activation) -> Self {
        // Both in the same order: then no product of a step has to turn a tensor of size d_ff around.
        let stored = [d_model, d_ff];
        let inner =
            |name| w.matrix(name, &stored, &[d_model], &[d_ff], Init::truncated_normal(1.0, &[d_model]));
        let (gate, wi) = match activation {
            Activation::Relu => (None, inner("wi")),
            Activation::GatedGelu => (Some(inner("wi_0")), inner("wi_1")),
        };
        let wo = w.matrix("wo", &stored, &[d_ff], &[d_model], Init::truncated_normal(1.0, &[d_ff]));
        Self { wi, gate, wo, d_model: d_model.clone(), d_ff: d_ff.clone() }
    }

    /// For `x` of `[batch, length, d_model]`.
    pub fn forward<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, batch: &Dim, length: &Dim) -> Tensor<'g> {
        self.forward_by(cx, x, (batch, length), self.wo.read(cx))
    }

    /// [`FeedForward::forward`] with the outer matrix as it is given.
    fn forward_by<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        (batch, length): (&Dim, &Dim),
        outer: Tensor<'g>,
    ) -> Tensor<'g> {
        let inner = |weight: &Weight| einsum([x, weight.read(cx)], [batch, length, &self.d_ff]);
        let hidden = match &self.gate {
            // The factors of dropout are not negative, so that it may come before: then the backward pass
            // reads nothing but the result of both.
            None => cx.drop(inner(&self.wi), &[length]).relu(),
            Some(gate) => cx.drop(inner(gate).gelu() * inner(&self.wi), &[length]),
        };
        einsum([hidden, outer], [batch, length, &self.d_model])
    }

    /// Declares the outer matrix transposed around, called `name`: in that order a product with few rows reads it as it
    /// is, where a product with many would rather have all matrices in the order of parameters.
    pub fn transposed(&self, p: &Program, name: &str, dtype: DType) -> State {
        p.store(name, dtype, [&self.d_ff, &self.d_model], Init::Zeros)
    }

    /// Fills what [`FeedForward::transposed`] declared, for the current layer.
    pub fn set_transposed(&self, cx: &Context<'_>, transposed: &State) {
        transposed.assign(self.wo.read(cx));
    }

    /// [`FeedForward::forward`] with what [`FeedForward::transposed`] declared.
    pub fn forward_transposed<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: (&Dim, &Dim),
        transposed: &State,
    ) -> Tensor<'g> {
        self.forward_by(cx, x, positions, transposed.read(cx.g))
    }
}
