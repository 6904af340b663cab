//! Ring attention of a sequence to itself in which later positions are hidden, without hidden products.
//!
//! The sequence is divided into twice as many chunks as there are blocks, and block `b` holds the early chunk
//! `b` and the late chunk `2n - 1 - b`. If it meets the keys of block `j ≠ b`, its late queries see the early
//! keys. Of the other three products one is visible: early queries see early keys if `j < b`, and late
//! queries see late keys if `j > b`. Every block therefore computes two of four products in each step, and
//! which two is a selection of operands. (A block computes three products with the keys it holds at first.)
//!
//! Chunks reach their blocks by two exchanges: each block takes a part of all chunks, orders the chunks, and
//! returns them. Both are renames, which cost nothing where no dim is split.

use super::{
    AttentionDims,
    blocks::{Blocks, Passed, RING, Rows, Sums},
};
use crate::{Context, position::RelativeBias};
use mesh::{
    DType, Dim,
    dsl::{Tensor, Tree, concat},
};

/// The early and the late chunk of each block.
type Halves<T> = [T; 2];

/// Attention of a sequence to itself by early and late chunks.
pub(super) struct Zigzag<'a, 'g> {
    /// The blocks, with the positions of a chunk.
    blocks: Blocks<'a, 'g>,
    bias: Option<&'a RelativeBias>,
    positions: &'a Dim,
    steps: Dim,
}

impl<'a, 'g> Zigzag<'a, 'g> {
    /// True if `positions` divide into chunks for `ring` blocks, and chunks into a part for each block.
    pub(super) fn divides(positions: &Dim, ring: usize) -> bool {
        let parts = ring.checked_mul(ring).and_then(|parts| parts.checked_mul(2));
        parts.is_some_and(|parts| parts > 0 && positions.size.is_multiple_of(parts))
    }

    pub(super) fn new(
        cx: &'a Context<'g>,
        dims: &'a AttentionDims,
        positions: &'a Dim,
        bias: Option<&'a RelativeBias>,
    ) -> Self {
        let count = cx.schedule.ring;
        let chunk = positions.size / (2 * count);
        let blocks = Blocks {
            cx,
            dims,
            ring: Dim::new(RING, count),
            query: Dim::new("query_length", chunk),
            memory: Dim::new("memory_length", chunk),
        };
        Self { blocks, bias, positions, steps: Dim::new("ring_steps", count) }
    }

    /// Returns the mean of values by weights, `[batch, heads, positions, d_kv]`.
    pub(super) fn attend(&self, q: Tensor<'g>, k: Tensor<'g>, v: Tensor<'g>) -> Tensor<'g> {
        let Blocks { cx, query, memory, .. } = &self.blocks;
        let (q, k, v) =
            cx.g.scope("order", || (self.halves(q, query), self.halves(k, memory), self.halves(v, memory)));
        let passed = [0, 1].map(|half| Passed { k: k[half], v: v[half], padding: None });
        let rows = cx.g.scope("round", || self.values(q, passed));
        let derived = cx.g.scope("gradient", || self.derived(q, passed, rows));
        let mixed = [0, 1].map(|half| rows[half].mixed.with_gradient_of(derived[half]).cast(cx.dtype()));
        cx.g.scope("order", || self.whole(mixed))
    }

    /// The first round: returns the softmax of each row, divided by its sum, without gradients.
    fn values(&self, q: Halves<Tensor<'g>>, passed: Halves<Passed<'g>>) -> Halves<Rows<'g>> {
        let b = &self.blocks;
        let first = b.round(&once(), b.rows(), |rows, _| b.see(rows, q[0], passed[0], self.own_mask()));
        let start = (passed, [first, b.rows()]);
        let (_, rows) = b.round(&self.steps, start, |(passed, [early, late]), step| {
            let Meeting { is_earlier, late_mask, chosen } = self.meeting(q, passed, step);
            let late = b.see(late, q[1], passed[0], late_mask);
            let rows = select(is_earlier, early, late);
            let rows = b.see(rows, chosen.q, chosen.passed, chosen.mask);
            let rows = [select(is_earlier, rows, early), select(is_earlier, late, rows)];
            (passed.map(Passed::next), rows)
        });
        rows.map(|rows| Rows { mixed: rows.mixed / rows.sum, ..rows })
    }

    /// The second round: sums whose gradients are those of attention. Their values are not used.
    fn derived(
        &self,
        q: Halves<Tensor<'g>>,
        passed: Halves<Passed<'g>>,
        rows: Halves<Rows<'g>>,
    ) -> Halves<Tensor<'g>> {
        let b = &self.blocks;
        let rows = rows.map(|rows| rows.map(&mut Tensor::stop_gradient));
        let max = rows.map(|rows| rows.max);
        let first = b
            .round(&once(), b.sums(), |sums, _| add(sums, b.weigh(max[0], q[0], passed[0], self.own_mask())));
        let start = (passed, [first, b.sums()]);
        let (_, sums) = b.round(&self.steps, start, |(passed, [early, late]), step| {
            let Meeting { is_earlier, late_mask, chosen } = self.meeting(q, passed, step);
            let late = add(late, b.weigh(max[1], q[1], passed[0], late_mask));
            let more = b.weigh(is_earlier.select(max[0], max[1]), chosen.q, chosen.passed, chosen.mask);
            let sums = [add(early, only(is_earlier, more)), add(late, only(!is_earlier, more))];
            (passed.map(Passed::next), sums)
        });
        [0, 1].map(|half| {
            let (Rows { mixed, sum, .. }, Sums { values, weights }) = (rows[half], sums[half]);
            (values - mixed * weights) / sum
        })
    }

    /// Returns the bias and causal mask of the early chunk of a block in itself.
    fn own_mask(&self) -> Option<Tensor<'g>> {
        let block = self.block();
        self.blocks.mask(self.bias, true, self.queries(block), self.keys(block))
    }

    /// Returns the products of a step, in which block `b` holds what block `b - step` held at first.
    fn meeting(&self, q: Halves<Tensor<'g>>, passed: Halves<Passed<'g>>, step: Tensor<'g>) -> Meeting<'g> {
        let (own, last) = (self.block(), 2 * self.blocks.ring.size as u32 - 1);
        let other = own - step;
        let is_earlier = other.ge(0);
        let other = is_earlier.select(other, other + self.blocks.ring.size as u32);
        // In the first step blocks meet themselves, and the late chunk sees a part of itself.
        let is_earlier = is_earlier & step.gt(0);
        let late_mask = self.blocks.mask(self.bias, false, self.queries(-own + last), self.keys(other));
        let from = is_earlier.select(own, -own + last);
        let to = is_earlier.select(other, -other + last);
        let chosen = Product {
            q: is_earlier.select(q[0], q[1]),
            passed: Passed {
                k: is_earlier.select(passed[0].k, passed[1].k),
                v: is_earlier.select(passed[0].v, passed[1].v),
                padding: None,
            },
            mask: self.blocks.mask(self.bias, true, self.queries(from), self.keys(to)),
        };
        Meeting { is_earlier, late_mask, chosen }
    }

    /// Returns the number of each block.
    fn block(&self) -> Tensor<'g> {
        self.blocks.cx.g.iota(&self.blocks.ring, DType::S32)
    }

    /// Returns the querying positions of chunks.
    fn queries(&self, chunk: Tensor<'g>) -> Tensor<'g> {
        let query = &self.blocks.query;
        chunk * query.size as u32 + self.blocks.cx.g.iota(query, DType::S32)
    }

    /// Returns the positions of chunks that are attended to.
    fn keys(&self, chunk: Tensor<'g>) -> Tensor<'g> {
        let memory = &self.blocks.memory;
        chunk * memory.size as u32 + self.blocks.cx.g.iota(memory, DType::S32)
    }

    /// Returns the early and late chunks of `x`, whose positions are then `chunk`.
    fn halves(&self, x: Tensor<'g>, chunk: &Dim) -> Halves<Tensor<'g>> {
        let order = Order::new(&self.blocks.ring, chunk);
        let x = x.split(self.positions, [&self.blocks.ring, &order.half, chunk]);
        let x = x.rename_all([(&self.blocks.ring, &order.block), (chunk, &self.blocks.ring)]);
        let x = order.apply(x.merge([&order.block, &order.half], &order.chunks));
        let x = x.split(&order.chunks, [&order.half, &order.block]);
        let x = x.rename_all([(&self.blocks.ring, chunk), (&order.block, &self.blocks.ring)]);
        [0, 1].map(|half| x.slice(&order.half, half..=half).squeeze(&order.half))
    }

    /// Returns the positions of early and late chunks in order.
    fn whole(&self, halves: Halves<Tensor<'g>>) -> Tensor<'g> {
        let chunk = &self.blocks.query;
        let order = Order::new(&self.blocks.ring, chunk);
        let x = concat(halves.map(|x| x.broadcast(order.half.sized(1))), &order.half);
        let x = x.rename_all([(chunk, &self.blocks.ring), (&self.blocks.ring, &order.block)]);
        let x = order.apply(x.merge([&order.half, &order.block], &order.chunks));
        let x = x.split(&order.chunks, [&order.block, &order.half]);
        let x = x.rename_all([(&self.blocks.ring, chunk), (&order.block, &self.blocks.ring)]);
        x.merge([&self.blocks.ring, &order.half, chunk], self.positions)
    }
}

/// The products of one step.
struct Meeting<'g> {
    /// True for blocks whose early queries see the early keys, `pred[ring]`.
    is_earlier: Tensor<'g>,
    /// The bias of late queries that see early keys.
    late_mask: Option<Tensor<'g>>,
    /// Early queries and keys where `is_earlier` holds, else late ones.
    chosen: Product<'g>,
}

/// Operands of a product of a chunk of queries and a chunk of keys.
struct Product<'g> {
    q: Tensor<'g>,
    passed: Passed<'g>,
    mask: Option<Tensor<'g>>,
}

/// The dims by which chunks are ordered.
struct Order {
    block: Dim,
    half: Dim,
    chunks: Dim,
}

impl Order {
    fn new(ring: &Dim, chunk: &Dim) -> Self {
        let name = |what: &str| format!("{}.{what}", chunk.name);
        Self {
            block: Dim::new(name("block"), ring.size),
            half: Dim::new(name("half"), 2),
            chunks: Dim::new(name("chunks"), 2 * ring.size),
        }
    }

    /// Reverses the second half of all chunks.
    fn apply<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        let count = self.block.size as u32;
        let ordered = self.chunks.renamed(format!("{}.ordered", self.chunks.name));
        let place = |dim: &Dim| {
            let at = x.graph().iota(dim, DType::S32);
            at.lt(count).select(at, -at + (3 * count - 1))
        };
        let x = x.permute_with_inverse(&self.chunks, &ordered, place(&ordered), place(&self.chunks));
        x.rename(&ordered, &self.chunks)
    }
}

/// The dim of a round that is not repeated.
fn once() -> Dim {
    Dim::new("ring_once", 1)
}

/// Returns `a` where `p` holds, else `b`.
fn select<'g, T: Tree<'g> + Copy>(p: Tensor<'g>, a: T, b: T) -> T {
    let mut others = Vec::new();
    b.map(&mut |x| {
        others.push(x);
        x
    });
    let mut others = others.into_iter();
    a.map(&mut |x| p.select(x, others.next().expect("both trees have one type")))
}

/// Returns sums where `p` holds, else zeros.
fn only<'g>(p: Tensor<'g>, sums: Sums<'g>) -> Sums<'g> {
    sums.map(&mut |x| p.select(x, 0.0))
}

/// Adds sums.
fn add<'g>(a: Sums<'g>, b: Sums<'g>) -> Sums<'g> {
    Sums { values: a.values + b.values, weights: a.weights + b.weights }
}
