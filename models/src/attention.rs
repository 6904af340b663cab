//! Multi-head attention as in T5: no division by `sqrt(d_kv)` (initial values make up for it), position
//! biases and masks added to the logits, softmax in `f32`.

mod decode;

pub use decode::{KeyValue, single};

use crate::{
    Config, Context, Switch, Weight, Weights,
    switch::{RouterMetrics, attention::SwitchProjections},
};
use mesh::{
    DType, Dim,
    dsl::{Init, Tensor, einsum, einsum_as},
    schedule::AttentionMinor,
};

/// The number that masks a logit: so low that adding any logit to it changes nothing, and far enough
/// from the end of the range that several can be added.
pub(crate) const MASKED: f64 = -1e30;

/// Dims of attention.
#[derive(Clone, Debug)]
pub struct AttentionDims {
    /// Sequences.
    pub batch: Dim,
    /// The residual stream.
    pub d_model: Dim,
    /// Heads.
    pub heads: Dim,
    /// Elements of a head.
    pub d_kv: Dim,
}

impl AttentionDims {
    /// Of a model.
    pub fn new(config: &Config) -> Self {
        Self {
            batch: Dim::new("batch", config.batch),
            d_model: Dim::new("d_model", config.d_model),
            heads: Dim::new("heads", config.heads),
            d_kv: Dim::new("d_kv", config.d_kv),
        }
    }
}

/// The four projections.
#[derive(Clone, Debug)]
pub struct Attention {
    dims: AttentionDims,
    inputs: Inputs,
    o: Weight,
}

/// What makes queries, keys and values.
#[derive(Clone, Debug)]
enum Inputs {
    /// A matrix for each.
    Dense(Box<[Weight; 3]>),
    /// Experts.
    Switch(Box<SwitchProjections>),
}

impl Attention {
    /// With T5's initial values.
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
        Self { dims: dims.clone(), inputs: Inputs::Dense(Box::new(inputs)), o: output(w, dims) }
    }

    /// Self-attention with experts.
    pub fn switch(w: &Weights<'_>, dims: &AttentionDims, options: &Switch) -> Self {
        let inputs = Inputs::Switch(Box::new(SwitchProjections::new(w, dims, options)));
        Self { dims: dims.clone(), inputs, o: output(w, dims) }
    }

    /// What the positions `query` of `x` find among the positions `memory_length` of `memory`. `masks` are
    /// added to the logits. Experts look at `x` alone: `memory` is to be the same.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        query: &Dim,
        memory: Tensor<'g>,
        masks: &[Tensor<'g>],
    ) -> (Tensor<'g>, Option<RouterMetrics<'g>>) {
        let AttentionDims { batch, d_model, heads, d_kv } = &self.dims;
        // Products and folds go by names of dims; the size of this one is that of `memory`.
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
        let mut logits = einsum_as(DType::F32, [q, k], [batch, heads, positions[0], positions[1]]);
        for mask in masks {
            logits += *mask;
        }
        // Softmax, but divided by its sum after the product with `v`, where there is less to divide; the
        // backward pass is cheaper by the same token.
        // The sum is that of the weights as they are used, so that they alone need to be kept.
        let e = (logits - logits.max(&length).stop_gradient()).exp().cast(cx.dtype());
        let sum = e.cast(DType::F32).sum(&length);
        // For the same reason dropout of the weights, if queries share its mask, is dropout of `v`.
        let (weights, v) = match cx.dropout_broadcast {
            true => (e, cx.drop(v, &[d_kv])),
            false => (cx.drop(e, &[query]), v),
        };
        let mixed = einsum([weights, v], [batch, heads, query, d_kv]).cast(DType::F32) / sum;
        (einsum([mixed.cast(cx.dtype()), self.o.read(cx)], [batch, query, d_model]), metrics)
    }
}

impl Attention {
    /// Queries of `x`, whose positions have the dim `positions`: `[batch, positions, heads, d_kv]`.
    pub(crate) fn query<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, positions: &Dim) -> Tensor<'g> {
        match &self.inputs {
            Inputs::Dense(weights) => self.project(cx, x, positions, &weights[0]),
            Inputs::Switch(experts) => experts.forward(cx, x, positions).q,
        }
    }

    /// Its keys and values, with the same dims.
    pub(crate) fn keys_values<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: &Dim,
    ) -> [Tensor<'g>; 2] {
        match &self.inputs {
            Inputs::Dense(weights) => [&weights[1], &weights[2]].map(|w| self.project(cx, x, positions, w)),
            Inputs::Switch(experts) => [experts.forward(cx, x, positions).kv; 2],
        }
    }

    fn project<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, positions: &Dim, weight: &Weight) -> Tensor<'g> {
        let AttentionDims { batch, heads, d_kv, .. } = &self.dims;
        einsum([x, weight.read(cx)], [batch, positions, heads, d_kv])
    }
}

/// The projection of what was found.
fn output(w: &Weights<'_>, dims: &AttentionDims) -> Weight {
    let AttentionDims { d_model, heads, d_kv, .. } = dims;
    let init = Init::Normal(((heads.size * d_kv.size) as f64).powf(-0.5));
    w.matrix("o", &[heads, d_kv, d_model], &[heads, d_kv], &[d_model], init)
}

/// What to add to logits so that padding (token 0) is not looked at: `[batch, memory_length]`.
pub fn padding_mask<'g>(tokens: Tensor<'g>, length: &Dim) -> Tensor<'g> {
    (tokens.eq(0).cast(DType::F32) * MASKED).rename(length, "memory_length")
}

/// What to add to logits so that positions look only at those of their own segment, by the numbers of segments:
/// `[batch, query, memory_length]`.
pub fn segment_mask<'g>(query: Tensor<'g>, memory: Tensor<'g>, length: &Dim) -> Tensor<'g> {
    query.ne(memory.rename(length, "memory_length")).cast(DType::F32) * MASKED
}

/// What to add to logits so that only earlier positions and the own one are looked at:
/// `[query, memory_length]`.
pub fn causal_mask<'g>(cx: &Context<'g>, query: &Dim, memory: &Dim) -> Tensor<'g> {
    let later = cx.g.iota(memory, DType::S32).gt(cx.g.iota(query, DType::S32));
    later.cast(DType::F32) * MASKED
}
