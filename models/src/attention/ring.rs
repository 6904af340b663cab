//! Ring attention (Liu et al. 2023): attention over positions that are divided into blocks, between which
//! keys and values move.
//!
//! Queries stay in their block, and keys and values pass from block to block along the dim `ring`. After one
//! round each query has met all keys, and a running maximum and sum have made the softmax of the whole row
//! (Milakov and Gimelshein 2018). If a layout splits `ring` over an axis, the blocks move by
//! collective-permutes, and no device holds the keys, values or logits of all positions.
//!
//! The result has its own gradient, because that of the running softmax would save the partial results of
//! every step. With the row's maximum `m`, its sum `s` and the result `o`, the weights are
//! `e^(logits - m) / s`, and the gradient of `Σ weights · (v - o)`, in which `m`, `s` and `o` are constants,
//! is that of attention. A second round computes it from queries, keys and values. It takes `m` and `s` and
//! not `m + ln s`, because in a row that is all padding `m` is so low that this sum rounds to `m`.

use super::{Attention, AttentionDims, Inputs, MASKED};
use crate::{Context, position::RelativeBias, switch::RouterMetrics};
use mesh::{
    DType, Dim,
    dsl::{ScanOptions, Tensor, einsum, einsum_as},
    ir::Remat,
};

/// The dim along which blocks are counted, for layouts.
pub const RING: &str = "ring";

/// Below every logit.
const LOWEST: f64 = -3e38;

/// Positions that queries attend to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a, 'g> {
    /// Positions of keys and values.
    pub(crate) length: &'a Dim,
    /// The bias of relative positions.
    pub(crate) bias: Option<&'a RelativeBias>,
    /// True if later positions are hidden.
    pub(crate) causal: bool,
    /// The mask, to be added to logits, that hides padding: `[batch, length]`.
    pub(crate) padding: Option<Tensor<'g>>,
}

impl Attention {
    /// [`Attention::forward`] by blocks. `memory` has the positions `seen.length`.
    pub(crate) fn forward_in_ring<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        query: &Dim,
        memory: Tensor<'g>,
        seen: Seen<'_, 'g>,
    ) -> (Tensor<'g>, Option<RouterMetrics<'g>>) {
        let (q, [k, v], metrics) = match &self.inputs {
            Inputs::Dense(_) => (self.query(cx, x, query), self.keys_values(cx, memory, seen.length), None),
            Inputs::Switch(experts) => {
                let made = experts.forward(cx, x, query);
                (made.q, [made.kv, made.kv], Some(made.metrics))
            }
        };
        // Queries share the dropout masks of weights, because the two rounds draw no equal numbers.
        let shared = Context { dropout_broadcast: true, ..*cx };
        let v = shared.drop(v, &[&self.dims.d_kv]);
        let ring = Ring::new(cx, &self.dims, query, seen);
        let blocks = |x: Tensor<'g>| x.split(seen.length, [&ring.blocks, &ring.memory]);
        let kept = Passed { k: blocks(k), v: blocks(v), padding: seen.padding.map(blocks) };
        let mixed = ring.attend(q.split(query, [&ring.blocks, &ring.query]), kept);
        let mixed = mixed.cast(cx.dtype()).merge([&ring.blocks, &ring.query], query);
        let AttentionDims { batch, d_model, .. } = &self.dims;
        (self.o.product(cx, mixed, [batch, query, d_model]), metrics)
    }
}

/// The tensors that blocks pass on: `[batch, ring, memory_length, …]`.
#[derive(Clone, Copy, Debug)]
struct Passed<'g> {
    k: Tensor<'g>,
    v: Tensor<'g>,
    padding: Option<Tensor<'g>>,
}

impl<'g> Passed<'g> {
    /// The parts as a tree that a scan carries.
    fn parts(self) -> (Tensor<'g>, Tensor<'g>, Option<Tensor<'g>>) {
        (self.k, self.v, self.padding)
    }

    fn of((k, v, padding): (Tensor<'g>, Tensor<'g>, Option<Tensor<'g>>)) -> Self {
        Self { k, v, padding }
    }

    /// Every block after it has passed its part on.
    fn next(self) -> Self {
        let roll = |x: Tensor<'g>| x.roll(RING, 1);
        Self { k: roll(self.k), v: roll(self.v), padding: self.padding.map(roll) }
    }
}

/// Results of the first round for each row.
#[derive(Clone, Copy, Debug)]
struct Rows<'g> {
    /// The mean of values by weights.
    mixed: Tensor<'g>,
    /// The largest logit.
    max: Tensor<'g>,
    /// The sum of `e^(logits - max)`.
    sum: Tensor<'g>,
}

/// The rounds of one attention.
struct Ring<'a, 'g> {
    cx: &'a Context<'g>,
    dims: &'a AttentionDims,
    seen: Seen<'a, 'g>,
    blocks: Dim,
    /// Querying positions of a block.
    query: Dim,
    /// Positions of a block that are attended to.
    memory: Dim,
    steps: Dim,
}

impl<'a, 'g> Ring<'a, 'g> {
    fn new(cx: &'a Context<'g>, dims: &'a AttentionDims, query: &Dim, seen: Seen<'a, 'g>) -> Self {
        let count = cx.schedule.ring;
        Self {
            cx,
            dims,
            seen,
            blocks: Dim::new(RING, count),
            query: Dim::new("query_length", query.size / count),
            memory: Dim::new("memory_length", seen.length.size / count),
            steps: Dim::new("ring_steps", count),
        }
    }

    /// Returns the mean of values by weights, `f32[batch, heads, ring, query_length, d_kv]`.
    fn attend(&self, q: Tensor<'g>, passed: Passed<'g>) -> Tensor<'g> {
        let g = self.cx.g;
        let rows = g.scope("round", || self.values(q, passed));
        let derived = g.scope("gradient", || self.derived(q, passed, rows));
        rows.mixed.with_gradient_of(derived)
    }

    /// The first round: returns the result, and the softmax of each row, without gradients.
    fn values(&self, q: Tensor<'g>, passed: Passed<'g>) -> Rows<'g> {
        let [sum, mixed] = self.zeros();
        let start = (passed.parts(), sum + LOWEST, sum, mixed);
        let ((_, max, sum, mixed), ()) = self.round(start, |(parts, max, sum, mixed), step| {
            let passed = Passed::of(parts);
            let logits = self.logits(q, passed, step).stop_gradient();
            let larger = max.maximum(logits.max(&self.memory));
            let e = (logits - larger).exp().cast(self.cx.dtype());
            let scale = (max - larger).exp();
            let sum = sum * scale + e.cast(DType::F32).sum(&self.memory);
            let mixed = mixed * scale + self.mix(e, passed.v.stop_gradient());
            (passed.next().parts(), larger, sum, mixed)
        });
        Rows { mixed: mixed / sum, max, sum }
    }

    /// The second round: a sum whose gradient is that of attention. Its values are not used.
    fn derived(&self, q: Tensor<'g>, passed: Passed<'g>, rows: Rows<'g>) -> Tensor<'g> {
        let [mixed, max, sum] = [rows.mixed, rows.max, rows.sum].map(Tensor::stop_gradient);
        let [weights, values] = self.zeros();
        let start = (passed.parts(), values, weights);
        let ((_, values, weights), ()) = self.round(start, |(parts, values, weights), step| {
            let passed = Passed::of(parts);
            let logits = self.logits(q, passed, step);
            let weight = (logits - max).exp().cast(self.cx.dtype());
            let values = values + self.mix(weight, passed.v);
            let weights = weights + weight.cast(DType::F32).sum(&self.memory);
            (passed.next().parts(), values, weights)
        });
        (values - mixed * weights) / sum
    }

    /// Returns zeros for each row, and for its result.
    fn zeros(&self) -> [Tensor<'g>; 2] {
        let AttentionDims { batch, heads, d_kv, .. } = self.dims;
        let zero = self.cx.g.constant(0.0, DType::F32);
        let rows = [batch, heads, &self.blocks, &self.query];
        [zero.broadcast(rows), zero.broadcast([rows[0], rows[1], rows[2], rows[3], d_kv])]
    }

    /// Runs `step` for each block that comes by. The backward pass recomputes all values, so that none are
    /// saved.
    fn round<C: mesh::dsl::Tree<'g>>(&self, start: C, step: impl FnOnce(C, Tensor<'g>) -> C) -> (C, ()) {
        let g = self.cx.g;
        let options = ScanOptions { remat: Remat::SaveCarries, ..ScanOptions::default() };
        let numbers = g.iota(&self.steps, DType::S32);
        g.scan_with(&self.steps, options, start, numbers, |carry, number| (step(carry, number), ()))
    }

    /// Returns the sum of values by weights over the positions of a block.
    fn mix(&self, weights: Tensor<'g>, v: Tensor<'g>) -> Tensor<'g> {
        let AttentionDims { batch, heads, d_kv, .. } = self.dims;
        einsum([weights, v], [batch, heads, &self.blocks, &self.query, d_kv]).cast(DType::F32)
    }

    /// Returns the logits of a step, `f32[batch, heads, ring, query_length, memory_length]`.
    fn logits(&self, q: Tensor<'g>, passed: Passed<'g>, step: Tensor<'g>) -> Tensor<'g> {
        let AttentionDims { batch, heads, .. } = self.dims;
        let positions = [batch, heads, &self.blocks, &self.query, &self.memory];
        let mut logits = einsum_as(DType::F32, [q, passed.k], positions);
        if let Some(mask) = self.mask(step) {
            logits += mask;
        }
        passed.padding.map_or(logits, |padding| logits + padding)
    }

    /// Returns the bias and causal mask of a step.
    fn mask(&self, step: Tensor<'g>) -> Option<Tensor<'g>> {
        let Seen { bias, causal, .. } = self.seen;
        if bias.is_none() && !causal {
            return None;
        }
        let g = self.cx.g;
        let block = g.iota(&self.blocks, DType::S32);
        // In step s, block b holds what block b - s held at first.
        let from = block - step;
        let from = from.lt(0).select(from + self.blocks.size as u32, from);
        let memory = from * self.memory.size as u32 + g.iota(&self.memory, DType::S32);
        let query = block * self.query.size as u32 + g.iota(&self.query, DType::S32);
        let relative = memory - query;
        let bias = bias.map(|bias| {
            bias.of(self.cx, relative, &[&self.blocks.name, &self.query.name, &self.memory.name])
        });
        let later = causal.then(|| relative.gt(0).cast(DType::F32) * MASKED);
        match (bias, later) {
            (Some(bias), Some(later)) => Some(bias + later),
            (bias, later) => bias.or(later),
        }
    }
}
