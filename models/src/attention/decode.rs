//! Attention from one position: keys and values of earlier positions are kept, not computed again.

use super::Attention;
use crate::{Context, attention::AttentionDims};
use mesh::{
    DType, Dim,
    dsl::{Tensor, einsum, einsum_as},
};

/// Keys and values.
pub type KeyValue<'g> = [Tensor<'g>; 2];

impl Attention {
    /// Keys and values of `x`, whose positions have the dims `positions`: `[batch, positions, heads, d_kv]`.
    pub fn keep<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, positions: &Dim) -> KeyValue<'g> {
        self.keys_values(cx, x, positions)
    }

    /// What one position for each of `beams`, `x` of `[batch, beams, d_model]`, finds among the kept positions
    /// `memory_length`. `masks` are added to the logits.
    pub fn step<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        beams: &Dim,
        [keys, values]: KeyValue<'g>,
        masks: &[Tensor<'g>],
    ) -> Tensor<'g> {
        let AttentionDims { batch, d_model, heads, d_kv } = &self.dims;
        let length = Dim::new("memory_length", 1);
        let q = self.query(cx, x, beams);
        let mut logits = einsum_as(DType::F32, [q, keys], [batch, beams, heads, &length]);
        for mask in masks {
            logits += *mask;
        }
        let e = (logits - logits.max(&length)).exp();
        let mixed = einsum_as(DType::F32, [e.cast(cx.dtype()), values], [batch, beams, heads, d_kv]);
        let mixed = mixed / e.sum(&length);
        einsum([mixed.cast(cx.dtype()), self.o.read(cx)], [batch, beams, d_model])
    }
}
