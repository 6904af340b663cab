//! Experts in self-attention (the paper's appendix A, table 10). A token's expert computes its query with
//! one matrix, and its key with another; the key is the value, too. One router serves both, as in the
//! released code.
//!
//! Experts are linear and replace the trainable matrices of dense attention. A dropped token has a query,
//! key and value of 0, so it attends to all positions by their biases alone.

use super::{
    Groups, Router, RouterMetrics, Switch,
    dispatch::Slots,
    exchange::{FLAT, from_experts, to_experts},
};
use crate::{Context, Weight, Weights, attention::dims::AttentionDims};
use mesh::{
    Dim, Name,
    dsl::{Init, State, Tensor},
};

/// A router and the projections of its experts.
#[derive(Clone, Debug)]
pub struct SwitchProjections {
    router: Router,
    q: Weight,
    kv: Weight,
    dims: AttentionDims,
    options: Switch,
}

/// Queries, and keys that are also the values, both `[batch, length, heads, d_kv]`.
#[derive(Clone, Debug)]
pub struct Projected<'g> {
    /// Queries.
    pub q: Tensor<'g>,
    /// Keys and values.
    pub kv: Tensor<'g>,
    /// Metrics of the router.
    pub metrics: RouterMetrics<'g>,
}

impl SwitchProjections {
    /// Declares the projections with T5's initialization, scaled as that of other experts.
    pub fn new(w: &Weights<'_>, dims: &AttentionDims, options: &Switch) -> Self {
        let AttentionDims { d_model, heads, d_kv, .. } = dims;
        let experts = Dim::new("experts", options.experts);
        let stored = [&experts, d_model, heads, d_kv];
        let project = |name, fan_in: usize| {
            let init = Init::Normal((options.scale() / fan_in as f64).sqrt());
            w.matrix(name, &stored, &[d_model], &[heads, d_kv], init)
        };
        Self {
            router: Router::new(w, d_model, options, "attention"),
            q: project("q", d_model.size * d_kv.size),
            kv: project("kv", d_model.size),
            dims: dims.clone(),
            options: options.clone(),
        }
    }

    /// Returns the state of the router's biases for the choice.
    pub(crate) fn balance_bias(&self) -> Option<&State> {
        self.router.balance_bias()
    }

    /// Projects `x` of `[batch, length, d_model]`.
    pub fn forward<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, length: &Dim) -> Projected<'g> {
        let AttentionDims { batch, d_model, heads, d_kv } = &self.dims;
        let g = cx.g;
        let groups = Groups::new(&self.options, batch, length);
        let x = groups.regroup(x);
        let cx = &Context { tokens: cx.tokens.map(|tokens| groups.regroup(tokens)), ..*cx };
        let (group, token) = (&groups.group, &groups.token);
        let non_padding = cx.non_padding.map(|non_padding| groups.regroup(non_padding));
        let (routing, metrics) = g.scope("router", || self.router.forward(cx, x, non_padding, group, token));
        let slots = Slots::new(cx, &self.options, d_model, [group, token], &routing);
        let sent = g.scope("dispatch", || to_experts(slots.dispatch(x), FLAT));
        let by = |weight: &Weight| {
            let slots_of = ["expert_batch", "experts", "capacity"].map(Name::from);
            let out = slots_of.into_iter().chain([heads.name.clone(), d_kv.name.clone()]).collect::<Vec<_>>();
            let made = g.scope("experts", || weight.product(cx, sent, out));
            groups.ungroup(g.scope("combine", || slots.combine(from_experts(made, FLAT), &[heads, d_kv])))
        };
        Projected { q: by(&self.q), kv: by(&self.kv), metrics }
    }
}
