//! Dispatch in two steps, for very many experts: a token is sent to the group of its expert first, and from
//! there to the expert. Each step has its own expert slots and its own all-to-all, over one factor of the
//! devices.
//!
//! In one step, every pair of sender and expert needs at least one expert slot: with 2048 senders, an expert
//! has 2048 of them for the few hundred tokens that choose it. In two steps, senders share expert slots:
//! tokens of all senders are merged in the group before they are assigned to its experts.
//!
//! Rows (groups of tokens that compete) form a rectangle, `outer_batch` by `inner_batch`. First the rows of
//! one column exchange with all expert groups, then the rows of one group with its experts.

use super::{
    dispatch::token_of_slot,
    exchange::{INNER, exchange},
    options::Switch,
    router::Trace,
};
use crate::Context;
use mesh::{DType, Dim, dsl::Tensor};

/// The dims of both steps.
pub(super) struct Hierarchy<'a> {
    options: &'a Switch,
    /// Rows, and the tokens of each.
    batch: &'a Dim,
    tokens: &'a Dim,
    outer: Dim,
    inner: Dim,
    /// Expert groups as senders see them; slots of a group in a row; all of them.
    groups: Dim,
    group_slots: Dim,
    outer_slots: Dim,
    /// Senders of a group, and the tokens that arrive from all of them.
    senders: Dim,
    arrived: Dim,
    /// Experts of a group as the group sees them; expert slots of each; all of them.
    experts: Dim,
    capacity: Dim,
    inner_slots: Dim,
}

/// One step of dispatch: the slot of each token and the token of each slot; -1 for none.
#[derive(Clone, Copy)]
struct Step<'a, 'g> {
    tokens: &'a Dim,
    slots: &'a Dim,
    slot: Tensor<'g>,
    token: Tensor<'g>,
}

impl<'g> Step<'_, 'g> {
    fn there(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.permute_with_inverse(self.tokens, self.slots, self.token, self.slot)
    }
    fn back(&self, y: Tensor<'g>) -> Tensor<'g> {
        y.permute_with_inverse(self.slots, self.tokens, self.slot, self.token)
    }
    /// [`Self::there`] for integers from 1; an empty slot holds 0.
    fn number_there(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.gather(self.tokens, self.token)
    }
    /// [`Self::back`] for integers; a token without a slot gets 0.
    fn number_back(&self, y: Tensor<'g>) -> Tensor<'g> {
        y.gather(self.slots, self.slot)
    }
}

impl Switch {
    /// Returns the dim of expert groups.
    pub(super) fn group_dim(&self) -> Dim {
        Dim::new("expert_groups", self.expert_groups)
    }
    /// Returns the dim of the experts of a group.
    pub(super) fn inner_dim(&self) -> Dim {
        Dim::new("group_experts", self.experts / self.expert_groups.max(1))
    }
}

impl<'a> Hierarchy<'a> {
    /// Prepares the dispatch of rows with the given dims.
    pub(super) fn new(options: &'a Switch, [batch, tokens]: [&'a Dim; 2], train: bool) -> Self {
        let (groups, experts) = (options.expert_groups, options.experts / options.expert_groups.max(1));
        let (group_slots, capacity) = options.group_capacities(tokens.size, train);
        // A group has as many senders as there are groups.
        let arrived = groups * group_slots;
        let capacity = capacity.min(arrived);
        Self {
            options,
            batch,
            tokens,
            outer: Dim::new("outer_batch", groups),
            inner: Dim::new("inner_batch", batch.size / groups.max(1)),
            groups: Dim::new("groups_all", groups),
            group_slots: Dim::new("group_slots", group_slots),
            outer_slots: Dim::new("outer_slots", groups * group_slots),
            senders: Dim::new("outer_senders", groups),
            arrived: Dim::new("arrived", arrived),
            experts: Dim::new("group_experts_all", experts),
            capacity: Dim::new("capacity", capacity),
            inner_slots: Dim::new("inner_slots", experts * capacity),
        }
    }

    /// Sends `x` to its experts, applies `experts`, and returns their outputs times the gates, `[batch,
    /// tokens, d_model]`, and the mask of dropped tokens, `pred[batch, tokens]`.
    pub(super) fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        non_padding: Option<Tensor<'g>>,
        chosen: &Trace<'g>,
        experts: impl Fn(Tensor<'g>) -> Tensor<'g>,
    ) -> (Tensor<'g>, Tensor<'g>) {
        let g = x.graph();
        let non_padding = non_padding.filter(|_| self.options.ignore_padding);
        let in_group = self.experts.size as u32;
        let (x, expert, gate) = (self.rows(x), self.rows(chosen.expert), self.rows(chosen.gate));
        let (first, second, sent) = g.scope("dispatch", || {
            let group = expert / in_group;
            let wanted = group.one_hot(&self.groups, DType::S32);
            let wanted =
                non_padding.map_or(wanted, |non_padding| wanted * self.rows(non_padding).cast(DType::S32));
            let slots = [&self.group_slots, &self.outer_slots];
            let first = step([&self.outer, &self.inner], self.tokens, slots, (group, wanted, &self.groups));
            let arrived = self.arrive(first.there(x));
            // Indices count from 1, so that 0 means an empty slot.
            let inside = self.arrive(first.number_there(expert % in_group + 1)) - 1;
            let slots = [&self.capacity, &self.inner_slots];
            let wanted = inside.one_hot(&self.experts, DType::S32);
            let rows = [&self.inner, &self.options.group_dim()];
            let second = step(rows, &self.arrived, slots, (inside, wanted, &self.experts));
            let sent = second.there(arrived).split(&self.inner_slots, [&self.experts, &self.capacity]);
            (first, second, sent)
        });
        let done = exchange(cx.schedule.exchange_parts, sent, INNER, experts);
        g.scope("combine", || {
            let done = done.merge([&self.experts, &self.capacity], &self.inner_slots.name);
            let y = first.back(self.leave(second.back(done))) * gate;
            let used = second.slot.ge(0).cast(DType::S32);
            let dropped = first.number_back(self.leave(used)).eq(0);
            (self.batches(y), self.batches(dropped))
        })
    }

    /// Splits rows into the rectangle.
    fn rows<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.split(self.batch, [&self.outer, &self.inner])
    }

    fn batches<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.merge([&self.outer, &self.inner], &self.batch.name)
    }

    /// Exchanges the slots of the first step: from all groups at a sender to what arrives in each group. The
    /// first slots of all senders come first.
    fn arrive<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        let x = x.split(&self.outer_slots, [&self.groups, &self.group_slots]);
        let x = x.rename_all([("outer_batch", "outer_senders"), ("groups_all", "expert_groups")]);
        x.merge([&self.group_slots, &self.senders], &self.arrived.name)
    }

    /// The inverse of [`Self::arrive`].
    fn leave<'g>(&self, y: Tensor<'g>) -> Tensor<'g> {
        let y = y.split(&self.arrived, [&self.group_slots, &self.senders]);
        let y = y.rename_all([("outer_senders", "outer_batch"), ("expert_groups", "groups_all")]);
        y.merge([&self.groups, &self.group_slots], &self.outer_slots.name)
    }
}

/// Assigns slots to tokens, in their order. `of` is the index among `among` that a token chose, `wanted` the
/// same as a one-hot mask; each has `each` of `all` slots.
fn step<'a, 'g>(
    rows: [&Dim; 2],
    tokens: &'a Dim,
    [each, all]: [&'a Dim; 2],
    (of, wanted, among): (Tensor<'g>, Tensor<'g>, &Dim),
) -> Step<'a, 'g> {
    let capacity = each.size as u32;
    let position = (wanted.cumsum_exclusive(tokens) * wanted).sum(among);
    let used = position.lt(capacity) & wanted.sum(among).gt(0);
    let slot = used.select(of * capacity + position, -1);
    Step { tokens, slots: all, slot, token: token_of_slot(slot, &rows, tokens, all) }
}
