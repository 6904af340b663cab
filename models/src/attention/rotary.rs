//! Rotary positions (RoFormer, Su et al. 2021): queries and keys are rotated by angles that grow with their
//! position, so that their product depends on the distance only.
//!
//! Element `i` of the first half of a head and element `i` of the second half are the coordinates of a point,
//! as in GPT-NeoX and Llama; the angle of the point is `position · theta^(-2i/d_kv)`.

use crate::Context;
use mesh::{
    DType, Dim,
    dsl::{Tensor, concat},
};

/// The options of self-attention with rotary positions.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// The base of the frequencies.
    pub theta: f64,
    /// Query heads that share a head of keys and values ("grouped-query attention"); `None` means one.
    pub queries: Option<Dim>,
}

impl Rotary {
    /// Rotates `x`, whose positions have the dim `positions`. They count from 0, unless the context has
    /// positions.
    pub(super) fn apply<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: &Dim,
        d_kv: &Dim,
    ) -> Tensor<'g> {
        let half = d_kv.sized(d_kv.size / 2);
        let place = match cx.positions {
            // The size of a dim in operations by name is free; that of the tensor counts.
            None => {
                let own = x.dims().into_iter().find(|dim| dim.name == positions.name);
                cx.g.iota(own.unwrap_or_else(|| positions.clone()), DType::S32)
            }
            Some(place) => {
                let own = place.dims().into_iter().find(|dim| dim.name != *"batch");
                own.map_or(place, |own| {
                    if own.name == positions.name { place } else { place.rename(&own, positions) }
                })
            }
        };
        let exponent = cx.g.iota(&half, DType::S32).cast(DType::F32) * (-2.0 / d_kv.size as f64);
        let angle = place.cast(DType::F32) * (exponent * self.theta.ln()).exp();
        let (cos, sin) = (angle.cos(), angle.sin());
        let wide = x.cast(DType::F32);
        let (first, second) = (wide.slice(d_kv, ..half.size), wide.slice(d_kv, half.size..));
        let rotated = [first * cos - second * sin, second * cos + first * sin];
        concat(rotated, d_kv).cast(x.dtype())
    }
}
