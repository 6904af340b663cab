//! Moving tokens into the slots of their experts, and back: by index, or by a product with a one-hot
//! mask. Both move the same numbers to the same places.

use super::router::Routing;
use crate::{Dispatch, Switch};
use mesh::{
    DType, Dim,
    dsl::{Tensor, einsum},
};

/// Up to this many tokens in a group a product with a mask is cheap; beyond it, its arithmetic (tokens ·
/// slots for each element) costs more than moving rows.
const EINSUM_TOKENS: usize = 16;

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

#[derive(Clone, Copy, Debug)]
enum MoveBy<'g> {
    /// For each token its slot, and for each slot its token; -1 for none.
    Index { slot: Tensor<'g>, token: Tensor<'g> },
    /// 1 where a token is in a slot: `[batch, tokens, slots]`.
    Mask(Tensor<'g>),
}

impl<'g> Slots<'g> {
    /// For the tokens of one layer, whose dims of groups and of tokens in a group are `positions`.
    pub fn new(options: &Switch, d_model: &Dim, positions: [&Dim; 2], routing: &Routing<'g>) -> Self {
        let [batch, tokens] = positions;
        let by_index = match options.dispatch {
            Dispatch::Permute => true,
            Dispatch::Einsum => false,
            Dispatch::Auto => tokens.size > EINSUM_TOKENS,
        };
        let all = Dim::new("slots", options.experts * routing.capacity);
        let slot = routing.slot;
        let move_by = if by_index {
            MoveBy::Index { slot, token: token_of_slot(slot, batch, tokens, &all) }
        } else {
            // A slot of -1 has no 1 in its row.
            MoveBy::Mask(slot.one_hot(&all, routing.gate.dtype()))
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
        let filled = match self.move_by {
            MoveBy::Index { slot, token } => x.permute(&self.tokens, &self.all, token, slot),
            MoveBy::Mask(mask) => einsum([x, mask], [&self.batch, &self.all, &self.d_model]),
        };
        filled.split(&self.all, [&self.experts, &self.capacity])
    }

    /// Back again, times the gate; a token without a slot gets 0.
    pub fn combine(&self, y: Tensor<'g>, gate: Tensor<'g>) -> Tensor<'g> {
        let y = y.merge([&self.experts, &self.capacity], &self.all);
        let back = match self.move_by {
            MoveBy::Index { slot, token } => y.permute(&self.all, &self.tokens, slot, token),
            MoveBy::Mask(mask) => einsum([y, mask], [&self.batch, &self.tokens, &self.d_model]),
        };
        back * gate
    }
}

/// For each slot the token that took it, or -1.
fn token_of_slot<'g>(slot: Tensor<'g>, batch: &Dim, tokens: &Dim, all: &Dim) -> Tensor<'g> {
    let g = slot.graph();
    // Counted from 1, so that 0 is "none".
    let number = g.iota(tokens, DType::S32) + 1;
    let number = if tokens.size * all.size <= COMPARE_PAIRS {
        let here = slot.eq(g.iota(all, DType::S32));
        (here.cast(DType::S32) * number).sum(tokens)
    } else {
        slot.scatter_add(all, tokens, number.broadcast(batch))
    };
    number - 1
}
