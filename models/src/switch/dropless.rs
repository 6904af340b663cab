//! Routing without capacity: "dropless" experts (Gale et al. 2022, MegaBlocks).
//!
//! With a capacity, every expert has as many expert slots as the busiest one may need, or tokens are
//! dropped. Without one, the tokens of a part of the batch are sorted by expert, and the rows of each expert
//! are padded to whole *blocks*. The number of blocks is bounded whatever the router decides: `n` rows of `e`
//! experts in blocks of `b` rows fill at most `(n + e (b - 1)) / b` blocks. A loop over blocks then
//! multiplies each block by the matrix of its expert.
//!
//! The rows of a block belong to one part, so a part is the unit that devices can share out: schedule entry
//! `sorted_parts`. Experts are not: every device needs all matrices, and a layout that shards experts gathers
//! them.

use super::{
    Groups, SwitchFfn,
    dispatch::Slots,
    options::Switch,
    routing::{Assignment, Routing},
};
use crate::{Context, Weight, stream};
use mesh::{
    DType, Dim, Name,
    dsl::{ScanOptions, Tensor, einsum},
    ir::Remat,
};

/// The smallest number of rows of a block. Each block reads a matrix, which takes as long as some tens of
/// rows.
const LEAST: usize = 8;

/// The largest number of rows of a block.
const MOST: usize = 512;

/// Padding is at most one row for this many rows, if blocks are not the smallest.
const ROWS_PER_PADDING: usize = 12;

/// Blocks of expert slots, each of one expert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Blocks {
    count: usize,
    /// Rows of each.
    rows: usize,
}

impl Blocks {
    /// Returns the blocks for `rows` choices of tokens, however they are divided among the experts.
    fn new(rows: usize, experts: usize) -> Self {
        let most = rows / ROWS_PER_PADDING / experts.max(1) + 1;
        let size = (most / LEAST * LEAST).clamp(LEAST, MOST);
        // An expert without tokens has no block.
        let padding = experts.min(rows) * (size - 1);
        Self { count: ((rows + padding) / size).max(1), rows: size }
    }
}

/// A part of the batch, with tokens sorted by expert.
struct Sorted<'g> {
    slots: Slots<'g>,
    /// The expert of each block: `s32[batch, blocks]`.
    expert: Tensor<'g>,
    blocks: Dim,
}

impl SwitchFfn {
    /// True if the tokens of the groups `positions` are sorted by expert. In evaluation, few tokens take
    /// expert slots by capacity, of which there are enough for all: a block for each of them would read more
    /// matrices than there are.
    pub(super) fn sorts(&self, cx: &Context<'_>, positions: [&Dim; 2]) -> bool {
        let sizes = positions.map(|dim| dim.size);
        self.options.dropless && (cx.train() || enough(&self.options, sizes, cx.schedule.sorted_parts))
    }

    /// Sorts `x`, the tokens at `positions`, by expert, applies the experts, and combines their outputs.
    pub(super) fn through_blocks<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: [&Dim; 2],
        routing: &Routing<'g>,
    ) -> Tensor<'g> {
        let g = cx.g;
        let Assignment::TokenChoice(choices) = &routing.assignment else {
            return self.through_experts(cx, x, positions, routing);
        };
        let parts = whole_groups(cx, positions);
        let d_model = stream::dim_of(x, &self.d_model);
        let sorted =
            g.scope("dispatch", || sorted(&self.options, &parts, &d_model, choices, routing.capacity));
        let sent = g.scope("dispatch", || sorted.slots.dispatch(parts.regroup(x)).named("sent"));
        let dropout = self.dropout(cx);
        let names = ["batch", "blocks", "capacity"].map(Name::from);
        let product = |x, weight: &Weight, out| sorted.product(cx, x, weight, out);
        // Experts without capacity are all alike.
        let experts = |sent| self.sizes[0].apply(cx, &dropout, sent, &names, product);
        let done = g.scope("experts", || self.whole(sent, experts).named("received"));
        g.scope("combine", || parts.ungroup(sorted.slots.combine(done, &[&d_model])).named("combined"))
    }
}

/// Returns the number of parts of the batch that are sorted separately; each has whole groups.
fn parts(cx: &Context<'_>, group: &Dim) -> usize {
    divided(cx.schedule.sorted_parts, group.size)
}

fn divided(parts: usize, groups: usize) -> usize {
    (1..=parts.min(groups)).rev().find(|n| parts.is_multiple_of(*n) && groups.is_multiple_of(*n)).unwrap_or(1)
}

/// True if evaluation sorts the tokens of `groups` groups of `tokens` each, in `parts` parts if possible:
/// each has enough for every expert.
fn enough(options: &Switch, [groups, tokens]: [usize; 2], parts: usize) -> bool {
    let rows = groups * tokens / divided(parts, groups) * options.choices();
    rows >= LEAST * ROWS_PER_PADDING * options.experts
}

/// True if no function of a model has expert slots with a capacity, whose rules of a layout would then name
/// dims that no tensor has. The model has `batch` sequences of the lengths `lengths`, in `parts` parts.
pub(crate) fn always_sorts(options: &Switch, batch: usize, lengths: &[usize], parts: usize) -> bool {
    let all = || lengths.iter().map(|length| options.groups(batch, *length));
    options.dropless && all().all(|(groups, tokens)| enough(options, [groups, tokens], parts))
}

/// Returns the parts as groups of the tokens at `positions`.
fn whole_groups(cx: &Context<'_>, [group, token]: [&Dim; 2]) -> Groups {
    let parts = parts(cx, group);
    let same = parts == group.size;
    let sorted = if same { token.clone() } else { Dim::new("sorted", group.size / parts * token.size) };
    Groups { batch: group.clone(), length: token.clone(), group: group.sized(parts), token: sorted }
}

/// Sorts the tokens of each part by expert. `choices` have a slot of `capacity` slots of an expert for every
/// choice of a token that counts: positions in an expert count from 0 in each group.
fn sorted<'g>(
    options: &Switch,
    parts: &Groups,
    d_model: &Dim,
    choices: &[(Tensor<'g>, Tensor<'g>)],
    capacity: usize,
) -> Sorted<'g> {
    let g = choices[0].0.graph();
    let experts = Dim::new("experts_all", options.experts);
    let Groups { batch: group, length: token, group: part, token: of_part } = parts;
    let member = Dim::new("members", group.size / part.size);
    let size = Blocks::new(of_part.size * choices.len(), options.experts);
    let (blocks, rows) = (Dim::new("blocks", size.count), size.rows as u32);
    let expert_of = |slot: Tensor<'g>| slot.maximum(0) / capacity as u32;
    let wanted = |slot: Tensor<'g>| slot.ge(0).select(expert_of(slot), -1).one_hot(&experts, DType::S32);
    let counts = choices.iter().map(|(slot, _)| wanted(*slot).sum(token)).reduce(|a, b| a + b);
    let counts = counts.expect("a token has at least one choice").reshape([group], [part, &member]);
    let used = (counts.sum(&member) + (rows - 1)) / rows;
    let end = used.cumsum(&experts);
    // The row of an expert's first token of each group.
    let first = counts.cumsum_exclusive(&member) + (end - used) * rows;
    let first = first.reshape([part, &member], [group]);
    let row = |slot: Tensor<'g>| {
        let first = (first * wanted(slot)).sum(&experts);
        slot.ge(0).select(first + (slot - expert_of(slot) * capacity as u32), -1)
    };
    let placed: Vec<(Tensor<'g>, Tensor<'g>)> =
        choices.iter().map(|(slot, gate)| (parts.regroup(row(*slot)), parts.regroup(*gate))).collect();
    // Blocks after the last one in use have no rows, and any expert.
    let expert = end.le(g.iota(&blocks, DType::S32)).cast(DType::S32).sum(&experts);
    let expert = expert.minimum(options.experts as u32 - 1).named("expert_of_block");
    let slots =
        Slots::of_blocks(&placed, [part, of_part], d_model, [&blocks, &Dim::new("capacity", size.rows)]);
    Sorted { slots, expert, blocks }
}

impl<'g> Sorted<'g> {
    /// Returns the product of each block of `x` and the matrix of its expert, with the dims `out`.
    fn product(&self, cx: &Context<'g>, x: Tensor<'g>, weight: &Weight, out: Vec<Name>) -> Tensor<'g> {
        // In float32, so that the gradients of blocks are added in float32.
        let matrices = weight.value(cx.g).rename("experts", "experts_all");
        let out: Vec<Name> = out.into_iter().filter(|name| *name != self.blocks.name).collect();
        // The matrix of a block is read again for the backward pass.
        let options = ScanOptions { remat: Remat::SaveContractions, ..ScanOptions::default() };
        let block = |(): (), (x, expert): (Tensor<'g>, Tensor<'g>)| {
            let matrix = matrices.gather_clamped("experts_all", expert).cast(cx.dtype());
            ((), einsum([x, matrix], &out))
        };
        cx.g.scan_with(&self.blocks, options, (), (x, self.expert), block).1
    }
}

#[cfg(test)]
mod tests {
    use super::Blocks;

    #[test]
    fn blocks_hold_every_division_of_the_rows_with_little_padding() {
        for (rows, experts) in [(1, 1), (5, 8), (64, 4), (1000, 7), (4096, 8), (8192, 64), (1 << 20, 16)] {
            let blocks = Blocks::new(rows, experts);
            // The worst division: one row more than whole blocks for every expert but the last.
            let (mut left, mut need) = (rows, 0);
            for _ in 1..experts {
                let row = left.min(1);
                (left, need) = (left - row, need + row);
            }
            need += left.div_ceil(blocks.rows);
            assert!(need <= blocks.count, "{rows} rows of {experts} experts: {blocks:?}");
            let all = blocks.count * blocks.rows;
            assert!(
                blocks.rows == 8 || all * 12 <= rows * 13,
                "{rows} rows of {experts} experts: {blocks:?}"
            );
        }
        assert_eq!(Blocks::new(4096, 8), Blocks { count: 110, rows: 40 });
    }
}
