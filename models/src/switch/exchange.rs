//! The way of slots to their experts and back, in one part or in several.
//!
//! Each device has slots for all experts before, and slots from all groups of tokens after: where a layout splits
//! experts, the two renames are all-to-alls. In several parts ([`Switch::exchange_parts`]) one part is on its way while
//! experts work on another, if the backend's collectives are asynchronous.

use super::Switch;
use crate::Context;
use mesh::{Dim, dsl::Tensor};
use std::cell::OnceCell;

/// How dims are called at those who send and at experts.
pub(super) const FLAT: [(&str, &str); 2] = [("batch", "expert_batch"), ("experts_all", "experts")];
/// The same for the second of two steps.
pub(super) const INNER: [(&str, &str); 2] =
    [("inner_batch", "inner_senders"), ("group_experts_all", "group_experts")];

/// The dim that is cut.
const CUT: &str = "capacity";

pub(super) fn to_experts<'g>(x: Tensor<'g>, names: [(&str, &str); 2]) -> Tensor<'g> {
    x.rename_all(names)
}

pub(super) fn from_experts<'g>(x: Tensor<'g>, names: [(&str, &str); 2]) -> Tensor<'g> {
    x.rename_all(names.map(|(there, here)| (here, there)))
}

impl Switch {
    /// What `experts` make of slots with dims of `names`.
    pub(super) fn exchange<'g>(
        &self,
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
        let size = slots.dims().iter().find(|d| d.name == CUT).map_or(1, |d| d.size);
        let parts = self.exchange_parts.clamp(1, size.max(1));
        if parts == 1 {
            return exchange(slots);
        }
        let part = |i: usize| {
            let range = i * size / parts..(i + 1) * size / parts;
            exchange(g.scope("dispatch", || slots.slice(CUT, range)))
        };
        let done: Vec<Tensor<'g>> = (0..parts).map(part).collect();
        g.scope("combine", || g.concat(&done, CUT))
    }
}

/// Dropout inside experts, the same in several parts as in one where slots share a mask.
pub(super) struct Dropout<'g> {
    rate: f64,
    shared: OnceCell<Option<Tensor<'g>>>,
}

impl<'g> Dropout<'g> {
    pub(super) fn new(rate: f64) -> Self {
        Self { rate, shared: OnceCell::new() }
    }

    pub(super) fn apply(&self, cx: &Context<'g>, x: Tensor<'g>) -> Tensor<'g> {
        // Dropout goes by the name of the dim that shares its mask.
        let draw = || cx.mask_at(self.rate, x, &[&Dim::new(CUT, 1)]);
        let mask = if cx.broadcast { *self.shared.get_or_init(draw) } else { draw() };
        mask.map_or(x, |mask| x * mask)
    }
}
