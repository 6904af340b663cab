//! The router: which expert each token goes to, and which of the expert's slots it takes.
//!
//! Semantics are those of Mesh TensorFlow's switch gating: probabilities by softmax of a product in the
//! router's element type; the expert of the highest one, the first of equals; slots in the order of
//! tokens; the gate is the probability itself.

use crate::{Context, Switch, Weight, Weights};
use mesh::{
    DType, Dim,
    dsl::{Init, Tensor, Tree, einsum},
};

/// The product that gives the logits.
#[derive(Clone, Debug)]
pub struct Router {
    weight: Weight,
    experts: Dim,
    options: Switch,
}

/// Where tokens go.
#[derive(Clone, Copy, Debug)]
pub struct Routing<'g> {
    /// Slots of each expert.
    pub capacity: usize,
    /// For each token its slot among those of all experts, or -1: `s32[batch, tokens]`.
    pub slot: Tensor<'g>,
    /// For each token the probability of its expert, in the type of activations: `[batch, tokens]`.
    pub gate: Tensor<'g>,
}

/// What is worth knowing of one router in one step, in `f32`.
#[derive(Clone, Copy, Debug)]
pub struct RouterMetrics<'g> {
    /// Share of the tokens that want each expert: `[experts_all]`.
    pub load: Tensor<'g>,
    /// Share of the tokens that found no slot.
    pub dropped: Tensor<'g>,
    /// Mean entropy of the probabilities, in nats.
    pub entropy: Tensor<'g>,
    /// Load-balancing loss, 1 if the load is even; not weighted yet.
    pub aux: Tensor<'g>,
    /// Mean square of the log-normalizer; not weighted yet.
    pub z: Tensor<'g>,
    /// What it decided for each token.
    pub trace: Trace<'g>,
}

/// What a router decided for each token: for comparisons with other software. Where nothing asks for it, the
/// compiler takes it out.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'g> {
    /// In `f32`: `[batch, tokens, experts_all]`.
    pub logits: Tensor<'g>,
    /// Their softmax.
    pub probabilities: Tensor<'g>,
    /// The expert that the token wants, as `s32[batch, tokens]`.
    pub expert: Tensor<'g>,
    /// 1 if it found a slot there, else 0; `s32[batch, tokens]`.
    pub kept: Tensor<'g>,
    /// The probability of that expert, in the type of activations.
    pub gate: Tensor<'g>,
}

impl<'g> Tree<'g> for Trace<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            logits: f(self.logits),
            probabilities: f(self.probabilities),
            expert: f(self.expert),
            kept: f(self.kept),
            gate: f(self.gate),
        }
    }
}

impl<'g> Tree<'g> for RouterMetrics<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            load: f(self.load),
            dropped: f(self.dropped),
            entropy: f(self.entropy),
            aux: f(self.aux),
            z: f(self.z),
            trace: self.trace.map(f),
        }
    }
}

impl Router {
    /// With the paper's initial values. Its dim of experts has a name of its own, `experts_all`: every
    /// device routes its own tokens to all experts.
    pub fn new(w: &Weights<'_>, d_model: &Dim, options: &Switch) -> Self {
        let experts = Dim::new("experts_all", options.experts);
        let init = Init::truncated_normal(options.init_scale, &[d_model]);
        let weight = w.matrix("router", &[d_model, &experts], &[d_model], &[&experts], init);
        Self { weight, experts, options: options.clone() }
    }

    /// For `x` of `[batch, tokens, d_model]`, tokens of one row competing for slots.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        batch: &Dim,
        tokens: &Dim,
    ) -> (Routing<'g>, RouterMetrics<'g>) {
        let (experts, dtype) = (&self.experts, cx.precision.router());
        // The cast comes before the product: that is what makes selective precision work (section 2.4).
        let input = self.jitter(cx, x.cast(dtype));
        let logits = einsum([input, self.weight.state.read(cx.g).cast(dtype)], [batch, tokens, experts]);
        let probabilities = logits.softmax(experts);

        let expert = probabilities.argmax(experts);
        let wanted = expert.one_hot(experts, DType::S32);
        let earlier = wanted.cumsum_exclusive(tokens);
        let position = (earlier * wanted).sum(experts);
        let capacity = self.options.capacity(tokens.size, cx.train());
        let kept = position.lt(capacity as u32);
        let slot = kept.select(expert * (capacity as u32) + position, -1);

        let chosen = wanted.cast(dtype);
        let gate = (probabilities * chosen).sum(experts).cast(cx.dtype());
        let trace = Trace {
            logits: logits.cast(DType::F32),
            probabilities: probabilities.cast(DType::F32),
            expert,
            kept: kept.cast(DType::S32),
            gate,
        };
        let metrics = self.metrics(trace, wanted, kept, batch, tokens);
        (Routing { capacity, slot, gate }, metrics)
    }

    fn jitter<'g>(&self, cx: &Context<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let amount = self.options.jitter;
        match cx.rng {
            Some(rng) if amount > 0.0 => {
                let noise = rng.uniform(x.dims(), x.dtype());
                x * (noise * (2.0 * amount) + (1.0 - amount))
            }
            Some(_) | None => x,
        }
    }

    fn metrics<'g>(
        &self,
        trace: Trace<'g>,
        wanted: Tensor<'g>,
        kept: Tensor<'g>,
        batch: &Dim,
        tokens: &Dim,
    ) -> RouterMetrics<'g> {
        let experts = &self.experts;
        let Trace { logits, probabilities, .. } = trace;
        // f and P of the paper's equations 4 to 6, for each group.
        let share = wanted.cast(DType::F32).mean(tokens);
        let mean = probabilities.mean(tokens);
        let aux = (share * mean).sum(experts).mean(batch) * (experts.size as f64);
        let normalizer = logits.logsumexp(experts);
        let entropy = normalizer - (probabilities * logits).sum(experts);
        RouterMetrics {
            load: share.mean(batch),
            // Of what was dropped, not 1 less what was kept: a mean of shards needs no sum before it leaves a scan.
            dropped: (!kept).cast(DType::F32).mean([batch, tokens]),
            entropy: entropy.mean([batch, tokens]),
            aux,
            z: normalizer.square().mean([batch, tokens]),
            trace,
        }
    }
}
