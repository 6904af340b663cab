//! Attention from one position, with cached keys and values of the positions attended to.

use super::{Attention, dims::AttentionDims};
use crate::Context;
use mesh::{
    DType, Dim, Name,
    dsl::{Tensor, einsum_as},
};

/// Keys and values of one block.
pub type KeyValue<'g> = [Tensor<'g>; 2];

impl Attention {
    /// Attends from one position for each of `beams`, `x` of `[batch, beams, d_model]`, to the cached
    /// positions `memory_length`; `masks` are added to the logits. Returns `[batch, beams, d_model]`.
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
        let q = squeeze_single_beam(self.query(cx, x, beams), beams);
        let rows: Vec<&Dim> = [batch, beams].into_iter().filter(|d| q.has(&d.name)).collect();
        let dims = |more: &[&Dim]| -> Vec<Name> { rows.iter().chain(more).map(|d| d.name.clone()).collect() };
        let mut logits = einsum_as(DType::F32, [q, keys], dims(&[heads, &length]));
        for mask in masks {
            logits += *mask;
        }
        let e = (logits - logits.max(&length)).exp();
        let mixed = einsum_as(DType::F32, [e.cast(cx.dtype()), values], dims(&[heads, d_kv]));
        let mixed = mixed / e.sum(&length);
        let found = self.o.product(cx, mixed.cast(cx.dtype()), dims(&[d_model]));
        if found.has(&beams.name) { found } else { found.broadcast(beams) }
    }
}

/// Squeezes the dim `beams` if its size is 1: XLA copies the whole cache if a dim of size 1 stands between
/// it and the products that read it.
pub fn squeeze_single_beam<'g>(x: Tensor<'g>, beams: &Dim) -> Tensor<'g> {
    if beams.size == 1 { x.squeeze(&beams.name) } else { x }
}
