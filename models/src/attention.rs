//! Multi-head attention as in T5: no division by `sqrt(d_kv)` (initial values make up for it), position
//! biases and masks added to the logits, softmax in `f32`.

use crate::{Config, Context, Weight, Weights};
use mesh::{
    DType, Dim,
    dsl::{Init, Tensor, einsum, einsum_as},
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
    q: Weight,
    k: Weight,
    v: Weight,
    o: Weight,
}

impl Attention {
    /// With T5's initial values.
    pub fn new(w: &Weights<'_>, dims: &AttentionDims) -> Self {
        let AttentionDims { d_model, heads, d_kv, .. } = dims;
        let deviation = |size: usize| Init::Normal((size as f64).powf(-0.5));
        let o = deviation(heads.size * d_kv.size);
        let stored = [d_model, heads, d_kv];
        let project = |name, init| w.matrix(name, &stored, &[d_model], &[heads, d_kv], init);
        Self {
            dims: dims.clone(),
            q: project("q", deviation(d_model.size * d_kv.size)),
            k: project("k", deviation(d_model.size)),
            v: project("v", deviation(d_model.size)),
            o: w.matrix("o", &[heads, d_kv, d_model], &[heads, d_kv], &[d_model], o),
        }
    }

    /// What the positions `query` of `x` find among the positions `memory_length` of `memory`. `masks` are
    /// added to the logits.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        query: &Dim,
        memory: Tensor<'g>,
        masks: &[Tensor<'g>],
    ) -> Tensor<'g> {
        let AttentionDims { batch, d_model, heads, d_kv } = &self.dims;
        // Products and folds go by names of dims; the size of this one is that of `memory`.
        let length = Dim::new("memory_length", 1);
        let q = einsum([x, self.q.read(cx)], [batch, query, heads, d_kv]);
        let k = einsum([memory, self.k.read(cx)], [batch, &length, heads, d_kv]);
        let v = einsum([memory, self.v.read(cx)], [batch, &length, heads, d_kv]);
        let mut logits = einsum_as(DType::F32, [q, k], [batch, heads, query, &length]);
        for mask in masks {
            logits += *mask;
        }
        // Softmax, but divided by its sum after the product with `v`, where there is less to divide; the
        // backward pass is cheaper by the same token.
        let e = (logits - logits.max(&length).stop_gradient()).exp();
        let sum = e.sum(&length);
        // For the same reason dropout of the weights, if queries share its mask, is dropout of `v`.
        let (weights, v) = match cx.broadcast {
            true => (e.cast(cx.dtype()), cx.drop(v, &[d_kv])),
            false => (cx.drop(e.cast(cx.dtype()), &[query]), v),
        };
        let mixed = einsum_as(DType::F32, [weights, v], [batch, heads, query, d_kv]) / sum;
        einsum([mixed.cast(cx.dtype()), self.o.read(cx)], [batch, query, d_model])
    }
}

/// What to add to logits so that padding (token 0) is not looked at: `[batch, memory_length]`.
pub fn padding_mask<'g>(tokens: Tensor<'g>, length: &Dim) -> Tensor<'g> {
    (tokens.eq(0).cast(DType::F32) * MASKED).rename(length, "memory_length")
}

/// What to add to logits so that only earlier positions and the own one are looked at:
/// `[query, memory_length]`.
pub fn causal_mask<'g>(cx: &Context<'g>, query: &Dim, memory: &Dim) -> Tensor<'g> {
    let later = cx.g.iota(memory, DType::S32).gt(cx.g.iota(query, DType::S32));
    later.cast(DType::F32) * MASKED
}
