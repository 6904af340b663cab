//! RMS norm, as in T5: scales to a root mean square of 1, without centring and without bias.

use crate::{Context, Weight, Weights, stream};
use mesh::{
    DType, Dim,
    dsl::{Init, Tensor},
};

/// A norm over `d_model`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    scale: Weight,
    d_model: Dim,
    epsilon: f64,
}

impl RmsNorm {
    /// Declares a norm whose scale is initialized to 1.
    pub fn new(w: &Weights<'_>, name: &str, d_model: &Dim, epsilon: f64) -> Self {
        let scale = w.table(name, &[d_model], &[], Init::Ones);
        Self { scale, d_model: d_model.clone(), epsilon }
    }

    /// Returns the normalized `x`; statistics are `f32`, the result has the type of activations.
    pub fn forward<'g>(&self, cx: &Context<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let wide = x.cast(DType::F32);
        let factor = (wide.square().mean(stream::dim_of(x, &self.d_model)) + self.epsilon).rsqrt();
        (wide * factor).cast(cx.dtype()) * stream::enter(self.scale.read(cx), x, &self.d_model)
    }
}
