//! The router: a product that gives every token a probability for every expert, who chooses whom by them
//! ([`super::assignment`]), and what it says of itself ([`super::balance`]).
//!
//! Semantics are those of Mesh TensorFlow's gating: probabilities by softmax of a product in the router's
//! element type; the expert of the highest one, the first of equals; slots in the order of tokens; the gate is
//! the probability itself. Options make it the router of other systems.

use super::{
    assignment::{self, GatingInputs},
    options::{Exploration, Switch},
};
use crate::{Context, Weight, Weights, stream};
use mesh::{
    DType, Dim,
    dsl::{Init, Tensor, Tree, einsum},
};

/// The product that gives the logits.
#[derive(Clone, Debug)]
pub struct Router {
    weight: Weight,
    bias: Option<Weight>,
    experts: Dim,
    options: Switch,
    place: &'static str,
}

/// Where tokens go.
#[derive(Clone, Debug)]
pub struct Routing<'g> {
    /// Experts of the layer.
    pub experts: usize,
    /// Slots of each expert.
    pub capacity: usize,
    /// Who has which slot.
    pub assignment: Assignment<'g>,
}

/// Who has which slot. Slots are numbered over all experts of a layer; gates are in the type of activations.
#[derive(Clone, Debug)]
pub enum Assignment<'g> {
    /// For every choice of a token its slot, or -1, and the gate: `s32[batch, tokens]`, `[batch, tokens]`.
    TokenChoice(Vec<(Tensor<'g>, Tensor<'g>)>),
    /// For every slot its token, or -1, and the gate.
    ExpertChoice {
        /// `s32[batch, slots]`.
        token: Tensor<'g>,
        /// `[batch, slots]`.
        gate: Tensor<'g>,
    },
}

impl<'g> Routing<'g> {
    /// The dim of all slots of a group.
    pub fn slots(&self) -> Dim {
        Dim::new("slots", self.experts * self.capacity)
    }

    /// The assignment as two tensors `[batch, tokens, slots]`: 1 where a token is in a slot (Mesh
    /// TensorFlow's "dispatch"), and its gate there ("combine").
    pub fn masks(&self, tokens: &Dim) -> (Tensor<'g>, Tensor<'g>) {
        match &self.assignment {
            Assignment::TokenChoice(choices) => {
                let mask = |(slot, gate): &(Tensor<'g>, Tensor<'g>)| {
                    let mask = slot.one_hot(&self.slots(), gate.dtype());
                    (mask, mask * *gate)
                };
                let all = choices.iter().map(mask);
                // A token is in no slot twice, so that the sum of masks is a mask.
                all.reduce(|a, b| (a.0 + b.0, a.1 + b.1)).expect("a token has at least one choice")
            }
            Assignment::ExpertChoice { token, gate } => {
                let mask = token.one_hot(tokens, gate.dtype());
                (mask, mask * *gate)
            }
        }
    }
}

/// What is worth knowing of one router in one step, in `f32`.
#[derive(Clone, Copy, Debug)]
pub struct RouterMetrics<'g> {
    /// The part of the layer that has experts.
    pub place: &'static str,
    /// Share of the tokens that want each expert; where experts choose, share of the slots in use that are
    /// its own: `[experts_all]`.
    pub load: Tensor<'g>,
    /// Share of the tokens that found no slot at all.
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
    /// The expert that the token wants most, as `s32[batch, tokens]`.
    pub expert: Tensor<'g>,
    /// 1 if it found a slot, else 0; `s32[batch, tokens]`.
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

impl<'g> RouterMetrics<'g> {
    /// Tokens for which `lost` holds found no slot on their way; of those that `real` says, if it says.
    pub(super) fn record_drops(
        &mut self,
        dropped: Tensor<'g>,
        non_padding: Option<Tensor<'g>>,
        positions: [&Dim; 2],
    ) {
        self.trace.kept = (!dropped).cast(DType::S32);
        self.dropped = match non_padding {
            None => dropped.cast(DType::F32).mean(positions),
            Some(non_padding) => {
                let dropped = (dropped & non_padding).cast(DType::F32).sum(positions);
                dropped / non_padding.cast(DType::F32).sum(positions).maximum(1.0)
            }
        };
    }
}

impl<'g> Tree<'g> for RouterMetrics<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            place: self.place,
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
    pub fn new(w: &Weights<'_>, d_model: &Dim, options: &Switch, place: &'static str) -> Self {
        let experts = Dim::new("experts_all", options.experts);
        let init = Init::truncated_normal(options.init_scale, &[d_model]);
        let weight = w.matrix("router", &[d_model, &experts], &[d_model], &[&experts], init);
        let bias = options.router_bias.then(|| w.table("router_bias", &[&experts], &[], Init::Zeros));
        Self { weight, bias, experts, options: options.clone(), place }
    }

    /// For `x` of `[batch, tokens, d_model]`, tokens of one row competing for slots. `real` is a `pred`
    /// `[batch, tokens]` that says which tokens are no padding; it counts if the options ignore padding.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        non_padding: Option<Tensor<'g>>,
        batch: &Dim,
        tokens: &Dim,
    ) -> (Routing<'g>, RouterMetrics<'g>) {
        let (experts, dtype) = (&self.experts, cx.precision.router());
        // The cast comes before the product: that is what makes selective precision work (section 2.4).
        let input = self.explored(cx, x.cast(dtype));
        let weight = stream::enter(self.weight.state.read(cx.g).cast(dtype), x, &self.weight.rows[0]);
        let mut logits = einsum([input, weight], [batch, tokens, experts]);
        if let Some(bias) = &self.bias {
            logits += bias.state.read(cx.g).cast(dtype);
        }
        let exact = logits.softmax(experts);
        let probabilities = match cx.dtype() {
            DType::Bf16 if self.options.round_probabilities => exact.round_bf16(),
            _ => exact,
        };
        let inputs = GatingInputs {
            options: &self.options,
            cx,
            batch,
            tokens,
            experts,
            capacity: self.options.capacity(tokens.size, cx.train()),
            logits,
            probabilities,
            scores: self.scores(cx, logits, probabilities),
            non_padding: non_padding.filter(|_| self.options.ignore_padding),
        };
        let gating = assignment::assign(&inputs);
        let metrics = inputs.metrics(&gating, exact, self.place);
        (Routing { experts: experts.size, capacity: inputs.capacity, assignment: gating.assignment }, metrics)
    }

    /// The input with the noise of exploration.
    fn explored<'g>(&self, cx: &Context<'g>, x: Tensor<'g>) -> Tensor<'g> {
        let Some(rng) = cx.rng else { return x };
        let amount = self.options.jitter;
        match self.options.exploration {
            Exploration::InputJitter if amount > 0.0 => {
                let noise = rng.uniform(x.dims(), x.dtype());
                x * (noise * (2.0 * amount) + (1.0 - amount))
            }
            Exploration::InputDropout => cx.drop_at(self.options.router_dropout, x, &[]),
            Exploration::Argmax | Exploration::Sample | Exploration::InputJitter => x,
        }
    }

    /// What the choice goes by: probabilities; or logits with Gumbel noise, the highest of which is a draw
    /// from the softmax.
    fn scores<'g>(&self, cx: &Context<'g>, logits: Tensor<'g>, probabilities: Tensor<'g>) -> Tensor<'g> {
        match (self.options.exploration, cx.rng) {
            (Exploration::Sample, Some(rng)) => {
                let uniform = rng.uniform(logits.dims(), DType::F32).maximum(1e-20);
                let noise = -(-uniform.log()).log();
                logits.cast(DType::F32).stop_gradient() / self.options.temperature + noise
            }
            (
                Exploration::Argmax
                | Exploration::Sample
                | Exploration::InputDropout
                | Exploration::InputJitter,
                _,
            ) => probabilities,
        }
    }
}
