//! Multi-head attention as in T5: logits are not divided by `sqrt(d_kv)` (the initialization makes up for
//! it), position biases and masks are added to them, and softmax is computed in `f32`.

mod blocks;
mod decode;
pub mod dims;
pub(crate) mod ring;
mod rotary;
mod zigzag;

pub use decode::{Cached, KeyValue, squeeze_single_beam};
pub use dims::AttentionDims;
pub use rotary::Rotary;

use crate::{
    Context, Switch, Weight, Weights,
    switch::{RouterMetrics, attention::SwitchProjections},
    tokens::PAD,
};
use mesh::{
    DType, Dim, Name,
    dsl::{Init, State, Tensor, einsum, einsum_as},
    schedule::AttentionMinor,
};

/// Added to a logit to mask it: low enough to dominate any logit, and far enough from the smallest `f32`
/// that several masks can be added.
pub(crate) const MASKED: f64 = -1e30;

/// An attention layer: projections of queries, keys and values, and the output projection.
#[derive(Clone, Debug)]
pub struct Attention {
    dims: AttentionDims,
    inputs: Inputs,
    o: Weight,
    /// Rotary positions; `None` means that biases tell positions.
    rotary: Option<Rotary>,
}

/// Projections of queries, keys and values.
#[derive(Clone, Debug)]
enum Inputs {
    /// One matrix each.
    Dense(Box<[Weight; 3]>),
    /// Experts (the paper's appendix A).
    Switch(Box<SwitchProjections>),
}

impl Attention {
    /// Declares dense projections with T5's initialization.
    pub fn new(w: &Weights<'_>, dims: &AttentionDims) -> Self {
        let AttentionDims { d_model, heads, d_kv, .. } = dims;
        let deviation = |size: usize| Init::Normal((size as f64).powf(-0.5));
        let stored = [d_model, heads, d_kv];
        let project = |name, init| w.matrix(name, &stored, &[d_model], &[heads, d_kv], init);
        let inputs = [
            project("q", deviation(d_model.size * d_kv.size)),
            project("k", deviation(d_model.size)),
            project("v", deviation(d_model.size)),
        ];
        Self {
            dims: dims.clone(),
            inputs: Inputs::Dense(Box::new(inputs)),
            o: output(w, dims, None),
            rotary: None,
        }
    }

    /// Declares dense projections of self-attention with rotary positions. The heads of `dims` are those of
    /// keys and values.
    pub fn rotary(w: &Weights<'_>, dims: &AttentionDims, rotary: Rotary) -> Self {
        let AttentionDims { d_model, heads, d_kv, .. } = dims;
        let init = || Init::Normal((d_model.size as f64).powf(-0.5));
        let project = |name, columns: &[&Dim]| {
            w.matrix(name, &[&[d_model], columns].concat(), &[d_model], columns, init())
        };
        let queries = rotary.queries.as_ref();
        let own: Vec<&Dim> = [heads].into_iter().chain(queries).chain([d_kv]).collect();
        let shared = [heads, d_kv];
        let inputs = [project("q", &own), project("k", &shared), project("v", &shared)];
        let o = output(w, dims, queries);
        Self { dims: dims.clone(), inputs: Inputs::Dense(Box::new(inputs)), o, rotary: Some(rotary) }
    }

    /// Declares self-attention with experts.
    pub fn switch(w: &Weights<'_>, dims: &AttentionDims, options: &Switch) -> Self {
        let inputs = Inputs::Switch(Box::new(SwitchProjections::new(w, dims, options)));
        Self { dims: dims.clone(), inputs, o: output(w, dims, None), rotary: None }
    }

    /// Returns the state of the router's biases for the choice, with experts.
    pub(crate) fn balance_bias(&self) -> Option<&State> {
        match &self.inputs {
            Inputs::Dense(_) => None,
            Inputs::Switch(experts) => experts.balance_bias(),
        }
    }

    /// Attends from the positions `query` of `x` to the positions `memory_length` of `memory`; `masks` are
    /// added to the logits. With experts, keys and values come from `x`, and `memory` must be the same
    /// tensor. Returns `[batch, query, d_model]` and, with experts, the metrics of the router.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        query: &Dim,
        memory: Tensor<'g>,
        masks: &[Tensor<'g>],
    ) -> (Tensor<'g>, Option<RouterMetrics<'g>>) {
        let AttentionDims { batch, d_model, d_kv, .. } = &self.dims;
        // Operations look dims up by name, so this size is never used.
        let length = Dim::new("memory_length", 1);
        let (q, [k, v], metrics) = match &self.inputs {
            Inputs::Dense(_) => (self.query(cx, x, query), self.keys_values(cx, memory, &length), None),
            Inputs::Switch(experts) => {
                let made = experts.forward(cx, x, query);
                let kv = made.kv.rename(query, &length);
                (made.q, [kv, kv], Some(made.metrics))
            }
        };
        let positions = match cx.schedule.attention_minor {
            AttentionMinor::Query => [&length, query],
            AttentionMinor::Memory => [query, &length],
        };
        let mut logits = einsum_as(DType::F32, [q, k], self.by_head(&positions));
        for mask in masks {
            logits += *mask;
        }
        // Softmax, divided by its sum after the product with `v`, which has fewer elements; this also makes
        // the backward pass cheaper. The sum is taken over the rounded weights, so that only those are
        // saved for the backward pass.
        let e = (logits - logits.max(&length).stop_gradient()).exp().cast(cx.dtype());
        let sum = e.cast(DType::F32).sum(&length);
        // If queries share the dropout mask of the weights, dropout of `v` is equivalent and cheaper.
        let (weights, v) =
            if cx.dropout_broadcast { (e, cx.drop(v, &[d_kv])) } else { (cx.drop(e, &[query]), v) };
        let mixed = einsum([weights, v], self.by_head(&[query, d_kv])).cast(DType::F32) / sum;
        (self.o.product(cx, mixed.cast(cx.dtype()), [batch, query, d_model]), metrics)
    }
}

impl Attention {
    /// Returns the queries of `x`, whose positions have the dim `positions`: `[batch, positions, heads,
    /// d_kv]`. Rotary positions are those of the context.
    pub(crate) fn query<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, positions: &Dim) -> Tensor<'g> {
        match &self.inputs {
            Inputs::Dense(weights) => {
                let queries = self.rotary.as_ref().and_then(|rotary| rotary.queries.as_ref());
                let q = self.project(cx, x, positions, &weights[0], queries);
                let Some(rotary) = &self.rotary else { return q };
                let d_kv = &self.dims.d_kv;
                rotary.apply(cx, q, positions, d_kv) * (d_kv.size as f64).powf(-0.5)
            }
            Inputs::Switch(experts) => experts.forward(cx, x, positions).q,
        }
    }

    /// Returns the keys and values of `x`, each `[batch, positions, heads, d_kv]`. Rotary positions are those
    /// of the context.
    pub(crate) fn keys_values<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: &Dim,
    ) -> [Tensor<'g>; 2] {
        match &self.inputs {
            Inputs::Dense(weights) => {
                let [k, v] = [&weights[1], &weights[2]].map(|w| self.project(cx, x, positions, w, None));
                let rotary = self.rotary.as_ref();
                [rotary.map_or(k, |rotary| rotary.apply(cx, k, positions, &self.dims.d_kv)), v]
            }
            Inputs::Switch(experts) => [experts.forward(cx, x, positions).kv; 2],
        }
    }

    fn project<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: &Dim,
        weight: &Weight,
        queries: Option<&Dim>,
    ) -> Tensor<'g> {
        let AttentionDims { batch, heads, d_kv, .. } = &self.dims;
        let dims: Vec<&Dim> = [batch, positions, heads].into_iter().chain(queries).chain([d_kv]).collect();
        weight.product(cx, x, dims.into_iter().map(|d| d.name.clone()).collect::<Vec<Name>>())
    }

    /// Returns the names of sequences, query heads, and `more`.
    fn by_head(&self, more: &[&Dim]) -> Vec<Name> {
        let heads = [&self.dims.batch].into_iter().chain(self.heads());
        heads.chain(more.iter().copied()).map(|d| d.name.clone()).collect()
    }

    /// Returns the dims of query heads.
    fn heads(&self) -> Vec<&Dim> {
        let queries = self.rotary.as_ref().and_then(|rotary| rotary.queries.as_ref());
        [&self.dims.heads].into_iter().chain(queries).collect()
    }
}

/// Declares the output projection.
fn output(w: &Weights<'_>, dims: &AttentionDims, queries: Option<&Dim>) -> Weight {
    let AttentionDims { d_model, heads, d_kv, .. } = dims;
    let rows: Vec<&Dim> = [heads].into_iter().chain(queries).chain([d_kv]).collect();
    let init = Init::Normal((rows.iter().map(|d| d.size).product::<usize>() as f64).powf(-0.5));
    w.matrix("o", &[&rows[..], &[d_model]].concat(), &rows, &[d_model], init)
}

/// Returns the mask, to be added to logits, that hides padding: `[batch, memory_length]`.
pub fn padding_mask<'g>(tokens: Tensor<'g>, length: &Dim) -> Tensor<'g> {
    (tokens.eq(PAD).cast(DType::F32) * MASKED).rename(length, "memory_length")
}

/// Returns the mask, to be added to logits, that hides positions of other segments: `[batch, query,
/// memory_length]`.
pub fn segment_mask<'g>(query: Tensor<'g>, memory: Tensor<'g>, length: &Dim) -> Tensor<'g> {
    query.ne(memory.rename(length, "memory_length")).cast(DType::F32) * MASKED
}

/// Returns the mask, to be added to logits, that hides later positions: `[query, memory_length]`. The context
/// may make the first positions visible to all, and hide those too far back.
pub fn causal_mask<'g>(cx: &Context<'g>, query: &Dim, memory: &Dim) -> Tensor<'g> {
    let (from, to) = (cx.g.iota(query, DType::S32), cx.g.iota(memory, DType::S32));
    let mut hidden = to.gt(from);
    if cx.visible_prefix > 0 {
        hidden &= to.ge(cx.visible_prefix as u32);
    }
    if cx.window > 0 {
        hidden |= (from - to).ge(cx.window as u32);
    }
    hidden.cast(DType::F32) * MASKED
}
