//! Moving tokens into the slots of their experts, and back: by index, or by a product with a one-hot mask.
//! Both move the same numbers to the same sparse_parts.
//!
//! A *slot* is one of `capacity` places of one expert in one group; no slot holds two tokens. Where tokens
//! choose, (choice, token) pairs and slots are a partial permutation, both ways a gather. Where experts choose,
//! any number of slots may hold one token: tokens are gathered, and what comes back is added up.

use super::router::{Assignment, Routing};
use crate::{Context, Dispatch, Switch};
use mesh::{
    DType, Dim, Name,
    dsl::{Tensor, einsum},
};

/// What moving one row by index costs, in rows of a product with a mask. On CPU both ways take the same time
/// for 64 tokens and 80 slots (`bench dispatch`).
const MOVED_ROW: usize = 36;

/// Up to this many pairs of token and slot in a group, comparing all of them is cheaper than a scatter.
const COMPARE_PAIRS: usize = 1 << 18;

/// Who is in which slot, in every group.
#[derive(Clone, Debug)]
pub struct Slots<'g> {
    move_by: MoveBy<'g>,
    batch: Dim,
    tokens: Dim,
    d_model: Dim,
    experts: Dim,
    capacity: Dim,
    all: Dim,
}

#[derive(Clone, Debug)]
enum MoveBy<'g> {
    /// For each token its slot, and for each slot its token; -1 for none.
    Index { slot: Tensor<'g>, token: Tensor<'g>, gate: Tensor<'g> },
    /// The same for pairs of choice and token, numbered with the choice as the major part.
    Pairs { pairs: Dim, choice: Dim, slot: Tensor<'g>, pair: Tensor<'g>, gate: Tensor<'g> },
    /// For each slot its token.
    Shared { token: Tensor<'g>, gate: Tensor<'g> },
    /// 1 where a token is in a slot, `[batch, tokens, slots]`; what comes back is weighed by token.
    Mask { mask: Tensor<'g>, gate: Tensor<'g> },
    /// The same, but what comes back is weighed by token and slot.
    Masks { mask: Tensor<'g>, weighed: Tensor<'g> },
}

impl Switch {
    /// Whether the tokens of a group go to their slots by index and not by a product.
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

/// Whether moving by index is cheaper than by a product: a product costs as many multiplications for each
/// element as there are pairs of token and slot, moving by index a read and a write for each token and slot.
fn index_is_cheaper(tokens: usize, slots: usize, choices: usize) -> bool {
    tokens * slots > MOVED_ROW * (tokens * choices.max(1) + slots)
}

impl<'g> Slots<'g> {
    /// For the tokens of one layer, whose dims of groups and of tokens in a group are `positions`.
    pub fn new(
        cx: &Context<'g>,
        options: &Switch,
        d_model: &Dim,
        positions: [&Dim; 2],
        routing: &Routing<'g>,
    ) -> Self {
        let [batch, tokens] = positions;
        let by_index = options.dispatches_by_index(cx.schedule.dispatch, tokens.size, cx.train());
        let all = routing.slots();
        let move_by = match (&routing.assignment, by_index) {
            (Assignment::TokenChoice(choices), true) => by_permutation(choices, batch, tokens, &all),
            (Assignment::TokenChoice(choices), false) => match choices[..] {
                // A slot of -1 has no 1 in its row.
                [(slot, gate)] => MoveBy::Mask { mask: slot.one_hot(&all, gate.dtype()), gate },
                _ => {
                    let (mask, weighed) = routing.masks(tokens);
                    MoveBy::Masks { mask, weighed }
                }
            },
            (Assignment::ExpertChoice { token, gate }, true) => MoveBy::Shared { token: *token, gate: *gate },
            (Assignment::ExpertChoice { .. }, false) => {
                let (mask, weighed) = routing.masks(tokens);
                MoveBy::Masks { mask, weighed }
            }
        };
        Self {
            move_by,
            batch: batch.clone(),
            tokens: tokens.clone(),
            d_model: d_model.clone(),
            experts: Dim::new("experts_all", options.experts),
            capacity: Dim::new("capacity", routing.capacity),
            all,
        }
    }

    /// `[batch, tokens, d_model]` to `[batch, experts_all, capacity, d_model]`; a slot that no token took
    /// holds 0.
    pub fn dispatch(&self, x: Tensor<'g>) -> Tensor<'g> {
        let filled = match &self.move_by {
            MoveBy::Index { slot, token, .. } => x.permute(&self.tokens, &self.all, *token, *slot),
            MoveBy::Pairs { pairs, choice, slot, pair, .. } => {
                let each = x.broadcast(choice).merge([choice, &self.tokens], &pairs.name);
                each.permute(pairs, &self.all, *pair, *slot)
            }
            MoveBy::Shared { token, .. } => x.gather(&self.tokens, *token),
            MoveBy::Mask { mask, .. } | MoveBy::Masks { mask, .. } => {
                einsum([x, *mask], [&self.batch, &self.all, &self.d_model])
            }
        };
        filled.split(&self.all, [&self.experts, &self.capacity])
    }

    /// Back again, times the gates, added up for each token; a token without a slot gets 0. `out` is the dim
    /// that stands for what experts make.
    pub fn combine(&self, y: Tensor<'g>, out: &[&Dim]) -> Tensor<'g> {
        let y = y.merge([&self.experts, &self.capacity], &self.all);
        let back = [&self.batch, &self.tokens].into_iter().chain(out.iter().copied());
        let back: Vec<Name> = back.map(|dim| dim.name.clone()).collect();
        match &self.move_by {
            MoveBy::Index { slot, token, gate } => y.permute(&self.all, &self.tokens, *slot, *token) * *gate,
            MoveBy::Pairs { pairs, choice, slot, pair, gate } => {
                let each = y.permute(&self.all, pairs, *slot, *pair) * *gate;
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

/// For each slot the token that took it, or -1; in each row of `batch`.
pub(super) fn token_of_slot<'g>(slot: Tensor<'g>, batch: &[&Dim], tokens: &Dim, all: &Dim) -> Tensor<'g> {
    let g = slot.graph();
    // Counted from 1, so that 0 is "none".
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
