//! Dispatch and combine: moves tokens to their expert slots and back, by index or by a product with a
//! one-hot mask. Both ways give the same result.
//!
//! Each expert has `capacity` expert slots in every group; an expert slot holds at most one token. If tokens
//! choose, pairs of choice and token and expert slots form a partial permutation, so both directions are
//! gathers. If experts choose, a token may be in several expert slots: dispatch is a gather, and combine
//! adds up.

use super::routing::{Assignment, Routing};
use crate::{Context, Dispatch, Switch};
use mesh::{
    DType, Dim, Name,
    dsl::{Tensor, einsum},
};

/// Cost of moving one row by index, in rows of a product with a mask. On CPU both ways take the same time
/// for 64 tokens and 80 expert slots (`bench dispatch`).
const MOVED_ROW: usize = 36;

/// Up to this many pairs of token and expert slot in a group, comparing all pairs is cheaper than a scatter.
const COMPARE_PAIRS: usize = 1 << 18;

/// The dispatch of a layer, by one of several ways.
#[derive(Clone, Debug)]
pub struct Slots<'g> {
    move_by: MoveBy<'g>,
    batch: Dim,
    tokens: Dim,
    d_model: Dim,
    /// The experts of each size, or blocks of expert slots, and the expert slots of each.
    sizes: Vec<[Dim; 2]>,
    all: Dim,
}

#[derive(Clone, Debug)]
enum MoveBy<'g> {
    /// For each token its expert slot, and for each expert slot its token; -1 for none.
    Index { slot: Tensor<'g>, token: Tensor<'g>, gate: Tensor<'g> },
    /// The same for pairs of choice and token, with the choice as the major dim.
    Pairs { pairs: Dim, choice: Dim, slot: Tensor<'g>, pair: Tensor<'g>, gate: Tensor<'g> },
    /// For each expert slot its token.
    Shared { token: Tensor<'g>, gate: Tensor<'g> },
    /// 1 where a token is in an expert slot, `[batch, tokens, slots]`; combine multiplies by the gate of the
    /// token.
    Mask { mask: Tensor<'g>, gate: Tensor<'g> },
    /// The same, but combine multiplies by a gate for each pair of token and expert slot.
    Masks { mask: Tensor<'g>, weighed: Tensor<'g> },
}

impl Switch {
    /// True if the tokens of a group are dispatched by index and not by a product.
    pub fn dispatches_by_index(&self, dispatch: Dispatch, tokens: usize, train: bool) -> bool {
        match dispatch {
            Dispatch::Permute => true,
            Dispatch::Einsum => false,
            Dispatch::Auto => {
                let slots = self.experts * self.capacity(tokens, train);
                index_is_cheaper(tokens, slots, self.choices())
            }
        }
    }
}

/// True if dispatch by index is cheaper than by a product. Per element, a product costs a multiplication for
/// each pair of token and expert slot, dispatch by index a read and a write for each token and expert slot.
fn index_is_cheaper(tokens: usize, slots: usize, choices: usize) -> bool {
    tokens * slots > MOVED_ROW * (tokens * choices.max(1) + slots)
}

impl<'g> Slots<'g> {
    /// Prepares the dispatch of one layer's tokens; `positions` are the dims of groups and of tokens in a
    /// group.
    pub fn new(
        cx: &Context<'g>,
        options: &Switch,
        d_model: &Dim,
        positions: [&Dim; 2],
        routing: &Routing<'g>,
    ) -> Self {
        let [batch, tokens] = positions;
        let by_index = options.dispatches_by_index(cx.schedule.dispatch, tokens.size, cx.train());
        let (assignment, all) = routing.packed();
        let move_by = match (&assignment, by_index) {
            (Assignment::TokenChoice(choices), true) => by_permutation(choices, batch, tokens, &all),
            (Assignment::TokenChoice(choices), false) => match choices[..] {
                // An expert slot of -1 gives a row of zeros.
                [(slot, gate)] => MoveBy::Mask { mask: slot.one_hot(&all, gate.dtype()), gate },
                _ => {
                    let (mask, weighed) = assignment.masks(tokens, &all);
                    MoveBy::Masks { mask, weighed }
                }
            },
            (Assignment::ExpertChoice { token, gate }, true) => MoveBy::Shared { token: *token, gate: *gate },
            (Assignment::ExpertChoice { .. }, false) => {
                let (mask, weighed) = assignment.masks(tokens, &all);
                MoveBy::Masks { mask, weighed }
            }
        };
        let dims = |(count, capacity): &(usize, usize)| {
            [Dim::new("experts_all", *count), Dim::new("capacity", *capacity)]
        };
        let sizes = routing.sizes.iter().map(dims).collect();
        let (batch, tokens, d_model) = (batch.clone(), tokens.clone(), d_model.clone());
        Self { move_by, batch, tokens, d_model, sizes, all }
    }

    /// Prepares the dispatch to blocks of expert slots, by index. `choices` have for every choice of a token
    /// its row, counted over all blocks, or -1, and the gate.
    pub(super) fn of_blocks(
        choices: &[(Tensor<'g>, Tensor<'g>)],
        positions: [&Dim; 2],
        d_model: &Dim,
        [blocks, rows]: [&Dim; 2],
    ) -> Self {
        let [batch, tokens] = positions;
        let all = Dim::new("slots", blocks.size * rows.size);
        Self {
            move_by: by_permutation(choices, batch, tokens, &all),
            batch: batch.clone(),
            tokens: tokens.clone(),
            d_model: d_model.clone(),
            sizes: vec![[blocks.clone(), rows.clone()]],
            all,
        }
    }

    /// Moves `[batch, tokens, d_model]` to `[batch, experts_all, capacity, d_model]`, if all experts are
    /// alike; empty expert slots hold 0.
    pub fn dispatch(&self, x: Tensor<'g>) -> Tensor<'g> {
        self.dispatch_by_size(x)[0]
    }

    /// [`Slots::dispatch`] for the experts of each size.
    pub(super) fn dispatch_by_size(&self, x: Tensor<'g>) -> Vec<Tensor<'g>> {
        let filled = match &self.move_by {
            MoveBy::Index { slot, token, .. } => {
                x.permute_with_inverse(&self.tokens, &self.all, *token, *slot)
            }
            MoveBy::Pairs { pairs, choice, slot, pair, .. } => {
                let each = x.broadcast(choice).merge([choice, &self.tokens], &pairs.name);
                each.permute_with_inverse(pairs, &self.all, *pair, *slot)
            }
            MoveBy::Shared { token, .. } => x.gather(&self.tokens, *token),
            MoveBy::Mask { mask, .. } | MoveBy::Masks { mask, .. } => {
                einsum([x, *mask], [&self.batch, &self.all, &self.d_model])
            }
        };
        let mut first = 0;
        let of_size = |[experts, capacity]: &[Dim; 2]| {
            let slots = first..first + experts.size * capacity.size;
            first = slots.end;
            let own = if slots.len() == self.all.size { filled } else { filled.slice(&self.all, slots) };
            own.split(&self.all.name, [experts, capacity]).named("dispatched")
        };
        self.sizes.iter().map(of_size).collect()
    }

    /// Moves expert outputs back to their tokens, multiplied by the gates and added up for each token;
    /// dropped tokens get 0. `out` are the dims of an expert output.
    pub fn combine(&self, y: Tensor<'g>, out: &[&Dim]) -> Tensor<'g> {
        self.combine_by_size(&[y], out)
    }

    /// [`Slots::combine`] of the outputs of the experts of each size.
    pub(super) fn combine_by_size(&self, y: &[Tensor<'g>], out: &[&Dim]) -> Tensor<'g> {
        let flat =
            |(y, [experts, capacity]): (&Tensor<'g>, &[Dim; 2])| y.merge([experts, capacity], &self.all.name);
        let y: Vec<Tensor<'g>> = y.iter().zip(&self.sizes).map(flat).collect();
        let y = if let [one] = y[..] { one } else { y[0].graph().concat(&y, &self.all) };
        let back = [&self.batch, &self.tokens].into_iter().chain(out.iter().copied());
        let back: Vec<Name> = back.map(|dim| dim.name.clone()).collect();
        match &self.move_by {
            MoveBy::Index { slot, token, gate } => {
                y.permute_with_inverse(&self.all, &self.tokens, *slot, *token) * *gate
            }
            MoveBy::Pairs { pairs, choice, slot, pair, gate } => {
                let each = y.permute_with_inverse(&self.all, pairs, *slot, *pair) * *gate;
                each.split(pairs, [choice, &self.tokens]).sum(choice)
            }
            MoveBy::Shared { token, gate } => token.scatter_add(&self.tokens, &self.all, y * *gate),
            MoveBy::Mask { mask, gate } => einsum([y, *mask], back) * *gate,
            MoveBy::Masks { weighed, .. } => einsum([y, *weighed], back),
        }
    }
}

fn by_permutation<'g>(
    choices: &[(Tensor<'g>, Tensor<'g>)],
    batch: &Dim,
    tokens: &Dim,
    all: &Dim,
) -> MoveBy<'g> {
    if let [(slot, gate)] = choices[..] {
        return MoveBy::Index { slot, token: token_of_slot(slot, &[batch], tokens, all), gate };
    }
    let pairs = Dim::new("pairs", choices.len() * tokens.size);
    let of = |part: &dyn Fn(&(Tensor<'g>, Tensor<'g>)) -> Tensor<'g>| {
        let parts: Vec<Tensor<'g>> = choices.iter().map(|c| part(c).rename(tokens, &pairs)).collect();
        parts[0].graph().concat(&parts, &pairs)
    };
    let (slot, gate) = (of(&|(slot, _)| *slot), of(&|(_, gate)| *gate));
    let pair = token_of_slot(slot, &[batch], &pairs, all);
    MoveBy::Pairs { choice: Dim::new("choice", choices.len()), pairs, slot, pair, gate }
}

/// Returns for each expert slot the token in it, or -1; in each row of `batch`.
pub(super) fn token_of_slot<'g>(slot: Tensor<'g>, batch: &[&Dim], tokens: &Dim, all: &Dim) -> Tensor<'g> {
    let g = slot.graph();
    // Token indices count from 1, so that 0 means none.
    let number = g.iota(tokens, DType::S32) + 1;
    let number = if tokens.size * all.size <= COMPARE_PAIRS {
        let here = slot.eq(g.iota(all, DType::S32));
        (here.cast(DType::S32) * number).sum(tokens)
    } else {
        slot.scatter_add(all, tokens, number.broadcast(batch.to_vec()))
    };
    number - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_groups_go_by_product_and_large_ones_by_index() {
        assert!(!index_is_cheaper(64, 80, 1));
        assert!(index_is_cheaper(128, 160, 1));
        assert!(index_is_cheaper(4096, 5120, 1));
    }
}
