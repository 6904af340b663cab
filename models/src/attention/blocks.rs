//! Products of blocks of queries with blocks of keys and values, and the softmax of rows that are computed
//! block by block.

use super::{AttentionDims, MASKED};
use crate::{Context, position::RelativeBias};
use mesh::{
    DType, Dim,
    dsl::{ScanOptions, Tensor, Tree, einsum, einsum_as},
    ir::Remat,
};

/// The dim along which blocks are counted, for layouts.
pub const RING: &str = "ring";

/// Below every logit.
const LOWEST: f64 = -3e38;

/// The tensors that blocks pass on: `[batch, ring, memory_length, …]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed<'g> {
    pub(super) k: Tensor<'g>,
    pub(super) v: Tensor<'g>,
    pub(super) padding: Option<Tensor<'g>>,
}

impl<'g> Passed<'g> {
    /// Every block after it has passed its part on.
    pub(super) fn next(self) -> Self {
        self.map(&mut |x| x.roll(RING, 1))
    }
}

impl<'g> Tree<'g> for Passed<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self { k: f(self.k), v: f(self.v), padding: self.padding.map(f) }
    }
}

/// The running softmax of each row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'g> {
    /// The largest logit so far.
    pub(super) max: Tensor<'g>,
    /// The sum of `e^(logits - max)` so far.
    pub(super) sum: Tensor<'g>,
    /// The sum of values by `e^(logits - max)` so far.
    pub(super) mixed: Tensor<'g>,
}

impl<'g> Tree<'g> for Rows<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self { max: f(self.max), sum: f(self.sum), mixed: f(self.mixed) }
    }
}

/// Sums over the keys of a row so far, from which its gradient is derived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums<'g> {
    /// The sum of values by weights.
    pub(super) values: Tensor<'g>,
    /// The sum of weights.
    pub(super) weights: Tensor<'g>,
}

impl<'g> Tree<'g> for Sums<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self { values: f(self.values), weights: f(self.weights) }
    }
}

/// The dims of one attention by blocks.
pub(super) struct Blocks<'a, 'g> {
    pub(super) cx: &'a Context<'g>,
    pub(super) dims: &'a AttentionDims,
    /// The blocks.
    pub(super) ring: Dim,
    /// Querying positions of a block.
    pub(super) query: Dim,
    /// Positions of a block that are attended to.
    pub(super) memory: Dim,
}

impl<'g> Blocks<'_, 'g> {
    /// Returns the softmax of rows that have seen no key.
    pub(super) fn rows(&self) -> Rows<'g> {
        let Sums { values, weights } = self.sums();
        Rows { max: weights + LOWEST, sum: weights, mixed: values }
    }

    /// Returns zeros for each row, `f32[batch, heads, ring, query_length]`, and for its result.
    pub(super) fn sums(&self) -> Sums<'g> {
        let AttentionDims { batch, heads, d_kv, .. } = self.dims;
        let zero = self.cx.g.constant(0.0, DType::F32);
        let rows = [batch, heads, &self.ring, &self.query];
        let values = zero.broadcast([rows[0], rows[1], rows[2], rows[3], d_kv]);
        Sums { values, weights: zero.broadcast(rows) }
    }

    /// Runs `step` for each of `steps`, with its number. The backward pass recomputes all values, so that
    /// none are saved.
    pub(super) fn round<C: Tree<'g>>(
        &self,
        steps: &Dim,
        start: C,
        step: impl FnOnce(C, Tensor<'g>) -> C,
    ) -> C {
        let g = self.cx.g;
        let options = ScanOptions { remat: Remat::SaveCarries, ..ScanOptions::default() };
        let numbers = g.iota(steps, DType::S32);
        g.scan_with(steps, options, start, numbers, |carry, number| (step(carry, number), ())).0
    }

    /// Adds keys to the softmax of rows, without gradients.
    pub(super) fn see(
        &self,
        rows: Rows<'g>,
        q: Tensor<'g>,
        passed: Passed<'g>,
        mask: Option<Tensor<'g>>,
    ) -> Rows<'g> {
        let Rows { max, sum, mixed } = rows;
        let logits = self.logits(q, passed, mask).stop_gradient();
        let larger = max.maximum(logits.max(&self.memory));
        let e = (logits - larger).exp().cast(self.cx.dtype());
        let scale = (max - larger).exp();
        let sum = sum * scale + e.cast(DType::F32).sum(&self.memory);
        let mixed = mixed * scale + self.mix(e, passed.v.stop_gradient());
        Rows { max: larger, sum, mixed }
    }

    /// Returns the sums over keys for rows whose largest logit is `max`.
    pub(super) fn weigh(
        &self,
        max: Tensor<'g>,
        q: Tensor<'g>,
        passed: Passed<'g>,
        mask: Option<Tensor<'g>>,
    ) -> Sums<'g> {
        let weight = (self.logits(q, passed, mask) - max).exp().cast(self.cx.dtype());
        let values = self.mix(weight, passed.v);
        Sums { values, weights: weight.cast(DType::F32).sum(&self.memory) }
    }

    /// Returns the bias and causal mask of positions `from` that attend to positions `to`: `s32[ring,
    /// query_length]` and `s32[ring, memory_length]`.
    pub(super) fn mask(
        &self,
        bias: Option<&RelativeBias>,
        causal: bool,
        from: Tensor<'g>,
        to: Tensor<'g>,
    ) -> Option<Tensor<'g>> {
        if bias.is_none() && !causal {
            return None;
        }
        let relative = to - from;
        let bias = bias
            .map(|bias| bias.of(self.cx, relative, &[&self.ring.name, &self.query.name, &self.memory.name]));
        let later = causal.then(|| relative.gt(0).cast(DType::F32) * MASKED);
        match (bias, later) {
            (Some(bias), Some(later)) => Some(bias + later),
            (bias, later) => bias.or(later),
        }
    }

    /// Returns the sum of values by weights over the positions of a block.
    fn mix(&self, weights: Tensor<'g>, v: Tensor<'g>) -> Tensor<'g> {
        let AttentionDims { batch, heads, d_kv, .. } = self.dims;
        einsum([weights, v], [batch, heads, &self.ring, &self.query, d_kv]).cast(DType::F32)
    }

    /// Returns logits, `f32[batch, heads, ring, query_length, memory_length]`.
    fn logits(&self, q: Tensor<'g>, passed: Passed<'g>, mask: Option<Tensor<'g>>) -> Tensor<'g> {
        let AttentionDims { batch, heads, .. } = self.dims;
        let positions = [batch, heads, &self.ring, &self.query, &self.memory];
        let mut logits = einsum_as(DType::F32, [q, passed.k], positions);
        if let Some(mask) = mask {
            logits += mask;
        }
        passed.padding.map_or(logits, |padding| logits + padding)
    }
}
