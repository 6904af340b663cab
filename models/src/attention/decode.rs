//! Attention from one position, with cached keys and values of the positions attended to.

use super::{Attention, dims::AttentionDims};
use crate::Context;
use mesh::{
    DType, Dim, Name,
    dsl::{Tensor, einsum_as},
};

/// Keys and values of one block.
pub type KeyValue<'g> = [Tensor<'g>; 2];

/// Cached positions that a step attends to.
#[derive(Clone, Debug)]
pub struct Cached<'g> {
    /// Keys and values, with the dim `memory_length`.
    pub kv: KeyValue<'g>,
    /// Added to the logits over these positions.
    pub masks: Vec<Tensor<'g>>,
}

impl Attention {
    /// Attends from one position for each of `beams`, `x` of `[batch, beams, d_model]`, to all positions of
    /// `seen`. Returns `[batch, beams, d_model]`.
    pub fn step<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, beams: &Dim, seen: &[Cached<'g>]) -> Tensor<'g> {
        let AttentionDims { batch, d_model, d_kv, .. } = &self.dims;
        let length = Dim::new("memory_length", 1);
        let q = squeeze_single_beam(self.query(cx, x, beams), beams);
        let rows: Vec<&Dim> = [batch, beams].into_iter().filter(|d| q.has(&d.name)).collect();
        let rows = |more: &[&Dim]| -> Vec<Name> { rows.iter().chain(more).map(|d| d.name.clone()).collect() };
        let by_head = |more: &Dim| rows(&self.heads().into_iter().chain([more]).collect::<Vec<_>>());
        let logits = |part: &Cached<'g>| {
            let logits = einsum_as(DType::F32, [q, part.kv[0]], by_head(&length));
            part.masks.iter().fold(logits, |logits, mask| logits + *mask)
        };
        let logits: Vec<Tensor<'g>> = seen.iter().map(logits).collect();
        let largest = logits.iter().map(|logits| logits.max(&length));
        let largest = largest.reduce(|a, b| a.maximum(b)).expect("a step sees its own position");
        let weights: Vec<Tensor<'g>> = logits.into_iter().map(|logits| (logits - largest).exp()).collect();
        let mixed = weights
            .iter()
            .zip(seen)
            .map(|(e, part)| einsum_as(DType::F32, [e.cast(cx.dtype()), part.kv[1]], by_head(d_kv)));
        let mixed = mixed.reduce(|a, b| a + b).expect("a step sees its own position");
        let sum = weights.iter().map(|e| e.sum(&length)).reduce(|a, b| a + b);
        let mixed = mixed / sum.expect("a step sees its own position");
        let found = self.o.product(cx, mixed.cast(cx.dtype()), rows(&[d_model]));
        if found.has(&beams.name) { found } else { found.broadcast(beams) }
    }
}

/// Squeezes the dim `beams` if its size is 1: XLA copies the whole cache if a dim of size 1 stands between
/// it and the products that read it.
pub fn squeeze_single_beam<'g>(x: Tensor<'g>, beams: &Dim) -> Tensor<'g> {
    if beams.size == 1 { x.squeeze(&beams.name) } else { x }
}
