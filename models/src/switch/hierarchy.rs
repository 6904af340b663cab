//! Dispatch in two steps, for very many experts: a token travels to the group of its expert first, and from there
//! to the expert. Each step has slots of its own, and one all-to-all over its own factor of the devices.
//!
//! With one step, every pair of sender and expert has at least one slot: with 2048 senders, an expert has 2048
//! slots for the few hundred tokens that want it. With two, senders share the slots of an expert: those that send
//! to a group are put together there before they are sorted by expert.
//!
//! Rows (groups of tokens that compete) lie in a rectangle: `outer_batch` by `inner_batch`. Those of one column send
//! to each other first, over the groups; then those of one group, over its experts.

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
    /// Rows, and tokens of each.
    batch: &'a Dim,
    tokens: &'a Dim,
    outer: Dim,
    inner: Dim,
    /// Groups, as those who send see them; slots of each; all slots.
    groups: Dim,
    group_slots: Dim,
    outer_slots: Dim,
    /// What arrives in a group, from all senders.
    senders: Dim,
    arrived: Dim,
    /// Experts of a group, as the group sees them; slots of each; all slots.
    experts: Dim,
    capacity: Dim,
    inner_slots: Dim,
}

/// Tokens and slots: where each goes, and what each holds; -1 for none.
#[derive(Clone, Copy)]
struct Step<'a, 'g> {
    tokens: &'a Dim,
    slots: &'a Dim,
    slot: Tensor<'g>,
    token: Tensor<'g>,
}

impl<'g> Step<'_, 'g> {
    fn there(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.permute(self.tokens, self.slots, self.token, self.slot)
    }
    fn back(&self, y: Tensor<'g>) -> Tensor<'g> {
        y.permute(self.slots, self.tokens, self.slot, self.token)
    }
    /// [`Self::there`] for whole numbers from 1; an empty slot holds 0.
    fn number_there(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.gather(self.tokens, self.token)
    }
    /// [`Self::back`] for whole numbers; a token without a slot gets 0.
    fn number_back(&self, y: Tensor<'g>) -> Tensor<'g> {
        y.gather(self.slots, self.slot)
    }
}

impl Switch {
    /// The groups of experts.
    pub(super) fn group_dim(&self) -> Dim {
        Dim::new("expert_groups", self.expert_groups)
    }
    /// The experts of a group.
    pub(super) fn inner_dim(&self) -> Dim {
        Dim::new("group_experts", self.experts / self.expert_groups.max(1))
    }
}

impl<'a> Hierarchy<'a> {
    /// For rows and the tokens of each.
    pub(super) fn new(options: &'a Switch, [batch, tokens]: [&'a Dim; 2], train: bool) -> Self {
        let (groups, experts) = (options.expert_groups, options.experts / options.expert_groups.max(1));
        let (group_slots, capacity) = options.group_capacities(tokens.size, train);
        // As many rows send to a group as there are groups.
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

    /// `x` to its experts, what `experts` make of it back, times the gates; and which tokens found no slot on the
    /// way: `[batch, tokens, d_model]` and `pred[batch, tokens]`.
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
            // From 1, so that 0 is an empty slot.
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
            let kept = second.slot.ge(0).cast(DType::S32);
            let dropped = first.number_back(self.leave(kept)).eq(0);
            (self.batches(y), self.batches(dropped))
        })
    }

    /// Rows as a rectangle.
    fn rows<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.split(self.batch, [&self.outer, &self.inner])
    }

    fn batches<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        x.merge([&self.outer, &self.inner], &self.batch.name)
    }

    /// From the slots of all groups at those who send to what has arrived in each group; first comes what was first
    /// at any sender.
    fn arrive<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        let x = x.split(&self.outer_slots, [&self.groups, &self.group_slots]);
        let x = x.rename_all([("outer_batch", "outer_senders"), ("groups_all", "expert_groups")]);
        x.merge([&self.group_slots, &self.senders], &self.arrived.name)
    }

    /// The way back of [`Self::arrive`].
    fn leave<'g>(&self, y: Tensor<'g>) -> Tensor<'g> {
        let y = y.split(&self.arrived, [&self.group_slots, &self.senders]);
        let y = y.rename_all([("outer_senders", "outer_batch"), ("expert_groups", "groups_all")]);
        y.merge([&self.groups, &self.group_slots], &self.outer_slots.name)
    }
}

/// Slots for tokens that want the `of`th of `among`, which `wanted` has as a mask; in the order of tokens. Each has
/// `each` of `all` slots.
fn step<'a, 'g>(
    rows: [&Dim; 2],
    tokens: &'a Dim,
    [each, all]: [&'a Dim; 2],
    (of, wanted, among): (Tensor<'g>, Tensor<'g>, &Dim),
) -> Step<'a, 'g> {
    let capacity = each.size as u32;
    let position = (wanted.cumsum_exclusive(tokens) * wanted).sum(among);
    let kept = position.lt(capacity) & wanted.sum(among).gt(0);
    let slot = kept.select(of * capacity + position, -1);
    Step { tokens, slots: all, slot, token: token_of_slot(slot, &rows, tokens, all) }
}
