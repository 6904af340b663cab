//! The way of slots to their experts and back, in one part or in several.
//!
//! Each device has slots for all experts before, and slots from all groups of tokens after: where a layout splits
//! experts, the two renames are all-to-alls. In several parts ([`mesh::Schedule::exchange_parts`]) one part is on its way while
//! experts work on another, if the backend's collectives are asynchronous.

use mesh::dsl::Tensor;

/// How dims are called at those who send and at experts.
pub(super) const FLAT: [(&str, &str); 2] = [("batch", "expert_batch"), ("experts_all", "experts")];
/// The same for the second of two steps.
pub(super) const INNER: [(&str, &str); 2] =
    [("inner_batch", "inner_senders"), ("group_experts_all", "group_experts")];

/// The dim that is cut.
pub(super) const EXCHANGED_DIM: &str = "capacity";

pub(super) fn to_experts<'g>(x: Tensor<'g>, names: [(&str, &str); 2]) -> Tensor<'g> {
    x.rename_all(names)
}

pub(super) fn from_experts<'g>(x: Tensor<'g>, names: [(&str, &str); 2]) -> Tensor<'g> {
    x.rename_all(names.map(|(there, here)| (here, there)))
}

/// Sends `slots` to their experts in `parts` parts and returns what `experts` make of them, sent back; `names` are the
/// dims that are renamed.
pub(super) fn exchange<'g>(
    parts: usize,
    slots: Tensor<'g>,
    names: [(&str, &str); 2],
    experts: impl Fn(Tensor<'g>) -> Tensor<'g>,
) -> Tensor<'g> {
    let g = slots.graph();
    let exchange = |part: Tensor<'g>| {
        let sent = g.scope("dispatch", || to_experts(part, names));
        let done = g.scope("experts", || experts(sent));
        g.scope("combine", || from_experts(done, names))
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
