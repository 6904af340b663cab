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
//!
//! If later positions are hidden, [`super::zigzag`] computes fewer products.

use super::{
    Attention, AttentionDims, Inputs,
    blocks::{Blocks, Passed, RING, Rows, Sums},
    zigzag::Zigzag,
};
use crate::{Context, position::RelativeBias, switch::RouterMetrics};
use mesh::{DType, Dim, dsl::Tensor};

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
        let mixed = match seen.causal && Zigzag::divides(query, cx.schedule.ring) {
            true => Zigzag::new(cx, &self.dims, query, seen.bias).attend(q, k, v),
            false => Ring::new(cx, &self.dims, query, seen).attend(q, k, v),
        };
        let AttentionDims { batch, d_model, .. } = &self.dims;
        (self.o.product(cx, mixed.cast(cx.dtype()), [batch, query, d_model]), metrics)
    }
}

/// Attention in which every block of queries meets every block of keys.
struct Ring<'a, 'g> {
    blocks: Blocks<'a, 'g>,
    seen: Seen<'a, 'g>,
    /// Querying positions.
    positions: &'a Dim,
    steps: Dim,
}

impl<'a, 'g> Ring<'a, 'g> {
    fn new(cx: &'a Context<'g>, dims: &'a AttentionDims, positions: &'a Dim, seen: Seen<'a, 'g>) -> Self {
        let count = cx.schedule.ring;
        let blocks = Blocks {
            cx,
            dims,
            ring: Dim::new(RING, count),
            query: Dim::new("query_length", positions.size / count),
            memory: Dim::new("memory_length", seen.length.size / count),
        };
        Self { blocks, seen, positions, steps: Dim::new("ring_steps", count) }
    }

    /// Returns the mean of values by weights, `f32[batch, heads, positions, d_kv]`.
    fn attend(&self, q: Tensor<'g>, k: Tensor<'g>, v: Tensor<'g>) -> Tensor<'g> {
        let Blocks { cx, ring, query, memory, .. } = &self.blocks;
        let blocks = |x: Tensor<'g>| x.split(self.seen.length, [ring, memory]);
        let passed = Passed { k: blocks(k), v: blocks(v), padding: self.seen.padding.map(blocks) };
        let q = q.split(self.positions, [ring, query]);
        let rows = cx.g.scope("round", || self.values(q, passed));
        let derived = cx.g.scope("gradient", || self.derived(q, passed, rows));
        rows.mixed.with_gradient_of(derived).merge([ring, query], self.positions)
    }

    /// The first round: returns the softmax of each row, divided by its sum, without gradients.
    fn values(&self, q: Tensor<'g>, passed: Passed<'g>) -> Rows<'g> {
        let (_, rows) =
            self.blocks.round(&self.steps, (passed, self.blocks.rows()), |(passed, rows), step| {
                (passed.next(), self.blocks.see(rows, q, passed, self.mask(step)))
            });
        Rows { mixed: rows.mixed / rows.sum, ..rows }
    }

    /// The second round: a sum whose gradient is that of attention. Its values are not used.
    fn derived(&self, q: Tensor<'g>, passed: Passed<'g>, rows: Rows<'g>) -> Tensor<'g> {
        let [mixed, max, sum] = [rows.mixed, rows.max, rows.sum].map(Tensor::stop_gradient);
        let start = (passed, self.blocks.sums());
        let (_, sums) = self.blocks.round(&self.steps, start, |(passed, sums), step| {
            let more = self.blocks.weigh(max, q, passed, self.mask(step));
            let (values, weights) = (sums.values + more.values, sums.weights + more.weights);
            (passed.next(), Sums { values, weights })
        });
        (sums.values - mixed * sums.weights) / sum
    }

    /// Returns the bias and causal mask of a step.
    fn mask(&self, step: Tensor<'g>) -> Option<Tensor<'g>> {
        let Seen { bias, causal, .. } = self.seen;
        if bias.is_none() && !causal {
            return None;
        }
        let Blocks { cx, ring, query, memory, .. } = &self.blocks;
        let block = cx.g.iota(ring, DType::S32);
        // In step s, block b holds what block b - s held at first.
        let from = block - step;
        let from = from.lt(0).select(from + ring.size as u32, from);
        let to = from * memory.size as u32 + cx.g.iota(memory, DType::S32);
        let from = block * query.size as u32 + cx.g.iota(query, DType::S32);
        self.blocks.mask(bias, causal, from, to)
    }
}
