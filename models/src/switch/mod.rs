//! The Switch layer: a feed-forward layer of which every token uses one of several copies, the *experts*.
//!
//! Reading order: [`options`] (what a Switch layer is), [`SwitchFfn`] (the experts, and how tokens travel to
//! them and back), [`router`] (which expert, and which of its slots), [`dispatch`] (moving tokens into slots
//! and back).

pub mod dispatch;
pub mod options;
pub mod router;

use crate::{Activation, Context, Weight, Weights};
use dispatch::Slots;
use mesh::{
    Dim, Name,
    dsl::{Init, Tensor, einsum},
};
pub use options::{Dispatch, Switch};
use router::Router;
pub use router::{RouterMetrics, Trace};

/// A router and its experts.
#[derive(Clone, Debug)]
pub struct SwitchFfn {
    router: Router,
    wi: Weight,
    gate: Option<Weight>,
    wo: Weight,
    d_model: Dim,
    d_ff: Dim,
    options: Switch,
}

impl SwitchFfn {
    /// With the paper's initial values. (The experts' dim is not part of fan-in.)
    pub fn new(w: &Weights<'_>, d_model: &Dim, d_ff: &Dim, activation: Activation, options: &Switch) -> Self {
        let experts = Dim::new("experts", options.experts);
        let (scale, stored) = (options.init_scale, [&experts, d_model, d_ff]);
        let router = Router::new(w, d_model, options);
        let inner =
            |name| w.matrix(name, &stored, &[d_model], &[d_ff], Init::truncated_normal(scale, &[d_model]));
        let (gate, wi) = match activation {
            Activation::Relu => (None, inner("wi")),
            Activation::GatedGelu => (Some(inner("wi_0")), inner("wi_1")),
        };
        Self {
            router,
            wi,
            gate,
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
        let inner = |weight: &Weight| einsum([x, weight.read(cx)], out(&self.d_ff));
        let hidden = match &self.gate {
            // Dropout before relu, as in the dense layer.
            None => cx.drop_at(rate, inner(&self.wi), &[&slots]).relu(),
            Some(gate) => cx.drop_at(rate, inner(gate).gelu() * inner(&self.wi), &[&slots]),
        };
        einsum([hidden, self.wo.read(cx)], out(&self.d_model))
    }
}
