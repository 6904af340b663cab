//! The dense feed-forward layer.

use crate::{Activation, Context, Weight, Weights};
use mesh::{
    DType, Dim,
    dsl::{Init, Program, State, Tensor, einsum},
};

/// `wo(relu(wi x))`, or `wo(f(wi_0 x) · wi_1 x)` with `f` GELU or SiLU.
#[derive(Clone, Debug)]
pub struct FeedForward {
    wi: Weight,
    gate: Option<Weight>,
    wo: Weight,
    activation: Activation,
    d_model: Dim,
    d_ff: Dim,
}

impl FeedForward {
    /// Declares the matrices with truncated normal initialization of scale 1.
    pub fn new(w: &Weights<'_>, d_model: &Dim, d_ff: &Dim, activation: Activation) -> Self {
        // Both matrices store d_model first: then no product of a training step transposes a tensor of size
        // d_ff.
        let stored = [d_model, d_ff];
        let inner =
            |name| w.matrix(name, &stored, &[d_model], &[d_ff], Init::truncated_normal(1.0, &[d_model]));
        let (gate, wi) =
            if activation.gated() { (Some(inner("wi_0")), inner("wi_1")) } else { (None, inner("wi")) };
        let wo = w.matrix("wo", &stored, &[d_ff], &[d_model], Init::truncated_normal(1.0, &[d_ff]));
        Self { wi, gate, wo, activation, d_model: d_model.clone(), d_ff: d_ff.clone() }
    }

    /// Applies the layer to `x` of `[batch, length, d_model]`.
    pub fn forward<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, batch: &Dim, length: &Dim) -> Tensor<'g> {
        let hidden = self.hidden(cx, x, (batch, length));
        self.wo.product(cx, hidden, [batch, length, &self.d_model])
    }

    /// Returns the hidden layer, `[batch, length, d_ff]`.
    fn hidden<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, (batch, length): (&Dim, &Dim)) -> Tensor<'g> {
        let inner = |weight: &Weight| weight.product(cx, x, [batch, length, &self.d_ff]);
        match &self.gate {
            // Dropout factors are not negative, so dropout commutes with relu. Applied first, the backward
            // pass reads only the result of both.
            None => self.activation.apply(cx.drop(inner(&self.wi), &[length])),
            Some(gate) => cx.drop(self.activation.apply(inner(gate)) * inner(&self.wi), &[length]),
        }
    }

    /// Declares a transposed copy of the outer matrix, called `name`. A product with few rows reads it
    /// without a transpose; products with many rows prefer the order of the parameter.
    pub fn transposed(&self, p: &Program, name: &str, dtype: DType) -> State {
        p.store(name, dtype, [&self.d_ff, &self.d_model], Init::Zeros)
    }

    /// Fills the copy that [`FeedForward::transposed`] declared, for the current layer.
    pub fn set_transposed(&self, cx: &Context<'_>, transposed: &State) {
        transposed.assign(self.wo.read(cx));
    }

    /// [`FeedForward::forward`] with the copy that [`FeedForward::transposed`] declared.
    pub fn forward_transposed<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        (batch, length): (&Dim, &Dim),
        transposed: &State,
    ) -> Tensor<'g> {
        let hidden = self.hidden(cx, x, (batch, length));
        einsum([hidden, transposed.read(cx.g)], [batch, length, &self.d_model])
    }
}
