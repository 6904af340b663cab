//! The Switch layer: a feed-forward layer of which every token uses one of several copies, the *experts*.
//!
//! Reading order: [`options`] (what a Switch layer is), [`SwitchFfn`] (the experts, and how tokens travel to
//! them and back), [`router`] (which expert, and which of its slots), [`dispatch`] (moving tokens into slots
//! and back).

pub mod dispatch;
pub mod options;
pub mod router;

use crate::{Context, Weight, Weights};
use dispatch::Slots;
use mesh::{
    Dim, Name,
    dsl::{Init, Tensor, einsum},
};
pub use options::{Dispatch, Switch};
use router::Router;
pub use router::RouterMetrics;

/// A router and its experts.
#[derive(Clone, Debug)]
pub struct SwitchFfn {
    router: Router,
    wi: Weight,
    wo: Weight,
    d_model: Dim,
    d_ff: Dim,
    options: Switch,
}

impl SwitchFfn {
    /// With the paper's initial values. (The experts' dim is not part of fan-in.)
    pub fn new(w: &Weights<'_>, d_model: &Dim, d_ff: &Dim, options: &Switch) -> Self {
        let experts = Dim::new("experts", options.experts);
        let (scale, stored) = (options.init_scale, [&experts, d_model, d_ff]);
        Self {
            router: Router::new(w, d_model, options),
            wi: w.matrix("wi", &stored, &[d_model], &[d_ff], Init::truncated_normal(scale, &[d_model])),
            wo: w.matrix("wo", &stored, &[d_ff], &[d_model], Init::truncated_normal(scale, &[d_ff])),
            d_model: d_model.clone(),
            d_ff: d_ff.clone(),
            options: options.clone(),
        }
    }

    /// For `x` of `[batch, length, d_model]`. Tokens that found no slot give 0: they go on through the
    /// residual only.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        batch: &Dim,
        length: &Dim,
    ) -> (Tensor<'g>, RouterMetrics<'g>) {
        let g = cx.g;
        // Tokens compete within groups: by default a group is a sequence, and nothing is reshaped.
        let (groups, tokens) = self.options.groups(batch.size, length.size);
        let regroup = (groups, tokens) != (batch.size, length.size);
        let (group, token) = if regroup {
            (batch.sized(groups), Dim::new("group", tokens))
        } else {
            (batch.clone(), length.clone())
        };
        let x = if regroup { x.reshape([batch, length], [&group, &token]) } else { x };

        let (routing, metrics) = g.scope("router", || self.router.forward(cx, x, &group, &token));
        let slots = Slots::new(&self.options, &self.d_model, [&group, &token], &routing);
        let sent = g.scope("dispatch", || slots.dispatch(x));
        // From here to the next rename each device has its own experts and tokens from all groups. The two
        // renames are where a layout that splits experts has its all-to-alls.
        let sent = sent.rename_all([("batch", "expert_batch"), ("experts_all", "experts")]);
        let done = g.scope("experts", || self.experts(cx, sent));
        let done = done.rename_all([("expert_batch", "batch"), ("experts", "experts_all")]);
        let y = g.scope("combine", || slots.combine(done, routing.gate));
        let y = if regroup { y.reshape([&group, &token], [batch, length]) } else { y };
        (y, metrics)
    }

    fn experts<'g>(&self, cx: &Context<'g>, x: Tensor<'g>) -> Tensor<'g> {
        // Dropout goes by the name of the dim that shares its mask.
        let slots = Dim::new("capacity", 1);
        let rate = self.options.expert_dropout.unwrap_or(cx.dropout);
        let positions = [Name::from("expert_batch"), "experts".into(), "capacity".into()];
        let out = |dim: &Dim| positions.iter().cloned().chain([dim.name.clone()]).collect::<Vec<_>>();
        let hidden = einsum([x, self.wi.read(cx)], out(&self.d_ff));
        // Dropout before relu, as in the dense layer.
        let hidden = cx.drop_at(rate, hidden, &[&slots]).relu();
        einsum([hidden, self.wo.read(cx)], out(&self.d_model))
    }
}
