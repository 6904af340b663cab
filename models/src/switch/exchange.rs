//! The exchange of expert slots between the devices of tokens and those of experts, in one or several parts.
//!
//! Before, a device has expert slots of all experts for its groups; after, expert slots of its experts for
//! all groups. If a layout shards experts, the two renames are all-to-alls. With several parts (schedule
//! entry `exchange_parts`), the exchange of one part overlaps with the experts' work on another, if the
//! backend runs collectives asynchronously.

use mesh::dsl::Tensor;

/// Names of dims before and after the exchange.
pub(super) const FLAT: [(&str, &str); 2] = [("batch", "expert_batch"), ("experts_all", "experts")];
/// The same for the second of two steps.
pub(super) const INNER: [(&str, &str); 2] =
    [("inner_batch", "inner_senders"), ("group_experts_all", "group_experts")];

/// The dim along which expert slots are divided into parts.
pub(super) const EXCHANGED_DIM: &str = "capacity";

pub(super) fn to_experts<'g>(x: Tensor<'g>, names: [(&str, &str); 2]) -> Tensor<'g> {
    x.rename_all(names)
}

pub(super) fn from_experts<'g>(x: Tensor<'g>, names: [(&str, &str); 2]) -> Tensor<'g> {
    x.rename_all(names.map(|(there, here)| (here, there)))
}

/// Exchanges `slots`, applies `experts`, and exchanges the results back, in `parts` parts; `names` are the
/// dims before and after.
pub(super) fn exchange<'g>(
    parts: usize,
    slots: Tensor<'g>,
    names: [(&str, &str); 2],
    experts: impl Fn(Tensor<'g>) -> Tensor<'g>,
) -> Tensor<'g> {
    let g = slots.graph();
    let exchange = |part: Tensor<'g>| {
        let sent = g.scope("dispatch", || to_experts(part, names).named("sent"));
        let done = g.scope("experts", || experts(sent));
        g.scope("combine", || from_experts(done, names).named("received"))
    };
    let size = slots.dims().iter().find(|d| d.name == EXCHANGED_DIM).map_or(1, |d| d.size);
    let parts = parts.clamp(1, size.max(1));
    if parts == 1 {
        return exchange(slots);
    }
    let part = |i: usize| {
        let range = i * size / parts..(i + 1) * size / parts;
        exchange(g.scope("dispatch", || slots.slice(EXCHANGED_DIM, range)))
    };
    let done: Vec<Tensor<'g>> = (0..parts).map(part).collect();
    g.scope("combine", || g.concat(&done, EXCHANGED_DIM))
}
