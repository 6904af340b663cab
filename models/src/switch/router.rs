//! The router: logits and probabilities of tokens for experts. Assignment is in `super::assignment`,
//! losses and metrics are in `super::balance`.
//!
//! Defaults follow Mesh TensorFlow's gating: probabilities are the softmax of a product in the router's
//! element type; a token chooses the expert with the highest one, the first of equals; expert slots are
//! assigned in the order of tokens; the gate is the probability. Options select the routers of other
//! systems.

use super::{
    assignment::{self, GatingInputs},
    options::{Exploration, RoutingMethod, Scores, Switch},
    routing::{Routes, Routing},
};
use crate::{Context, Weight, Weights, stream};
use mesh::{
    DType, Diagnostic, Dim,
    dsl::{Init, State, Tensor, Tree, einsum},
};

/// The name of the state of biases for the choice.
pub(crate) const BALANCE_BIAS: &str = "balance_bias";

/// 2^32 divided by the golden ratio: the factor of Knuth's multiplicative hash.
const GOLDEN: u32 = 2_654_435_769;

/// Sets hashes of equal tokens at adjacent positions apart.
const POSITIONS: u32 = 40_503;

/// More than scores differ by.
const DROPPED: f64 = 1024.0;

/// Returns the upper bits of a multiplicative hash, `u32`.
fn hash(x: Tensor<'_>) -> Tensor<'_> {
    x.cast(DType::U32) * GOLDEN / (1u32 << 16)
}

/// The router of a layer.
#[derive(Clone, Debug)]
pub struct Router {
    /// `None` if nothing is learned.
    weight: Option<Weight>,
    bias: Option<Weight>,
    /// Added to scores for the choice; `None` means no biases.
    balance_bias: Option<State>,
    experts: Dim,
    options: Switch,
    place: &'static str,
}

/// Metrics of one router in one step, in `f32`.
#[derive(Clone, Copy, Debug)]
pub struct RouterMetrics<'g> {
    /// The part of the block that has experts: `ffn` or `attention`.
    pub place: &'static str,
    /// Fraction of tokens that choose each expert; if experts choose, each expert's share of the used expert
    /// slots: `[experts_all]`.
    pub load: Tensor<'g>,
    /// Each expert's share of all choices, `[experts_all]`; `None` means that the router has no biases for
    /// the choice, and its load-balancing loss is that of each group.
    pub choices: Option<Tensor<'g>>,
    /// The mean probability of each expert, `[experts_all]`, if the load-balancing loss is that of the whole
    /// batch; `None` means that it is that of each group.
    pub probability: Option<Tensor<'g>>,
    /// Fraction of tokens without any expert slot.
    pub dropped: Tensor<'g>,
    /// Mean entropy of the probabilities, in nats.
    pub entropy: Tensor<'g>,
    /// Load-balancing loss of these tokens, 1 if balanced, without its weight.
    pub aux: Tensor<'g>,
    /// Mean square of the log-normalizer (z-loss), without its weight.
    pub z: Tensor<'g>,
    /// Decisions for each token.
    pub trace: Trace<'g>,
    /// All choices; `None` unless the context records them.
    pub routes: Option<Routes<'g>>,
}

/// Decisions of a router for each token, for comparison with other systems. Unused, they are removed as dead
/// code.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'g> {
    /// In `f32`: `[batch, tokens, experts_all]`.
    pub logits: Tensor<'g>,
    /// The normalized scores; with softmax, the scores.
    pub probabilities: Tensor<'g>,
    /// The expert with the highest score, `s32[batch, tokens]`.
    pub expert: Tensor<'g>,
    /// 1 if the token got an expert slot, else 0: `s32[batch, tokens]`.
    pub assigned: Tensor<'g>,
    /// The probability of that expert, in the type of activations.
    pub gate: Tensor<'g>,
}

impl<'g> Tree<'g> for Trace<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            logits: f(self.logits),
            probabilities: f(self.probabilities),
            expert: f(self.expert),
            assigned: f(self.assigned),
            gate: f(self.gate),
        }
    }
}

impl<'g> RouterMetrics<'g> {
    /// Returns the metrics with the load-balancing loss over the whole batch, if it is that of the whole
    /// batch. `choices` are the shares of choices over it, if these tokens are a part of the batch.
    ///
    /// Computed from means that leave a scan over layers as pending sums, it costs one all-reduce of a few
    /// numbers for each stack.
    pub(crate) fn over_batch(self, choices: Option<Tensor<'g>>) -> Self {
        let Some((choices, probability)) = choices.or(self.choices).zip(self.probability) else {
            return self;
        };
        Self { aux: balance_over_batch(choices, probability), ..self }
    }

    /// Records the tokens that were dropped on the way to their experts; `non_padding` restricts the mean.
    pub(super) fn record_drops(
        &mut self,
        cx: &Context<'g>,
        dropped: Tensor<'g>,
        non_padding: Option<Tensor<'g>>,
        positions: [&Dim; 2],
    ) {
        self.trace.assigned = (!dropped).cast(DType::S32);
        let assigned = self.trace.assigned;
        let arrived = |state: Tensor<'g>| state.eq(0).select(state, assigned + 1);
        if let Some(routes) = &mut self.routes {
            routes.state = routes.state.map(arrived);
        }
        self.dropped = match non_padding {
            None => dropped.cast(DType::F32).mean(positions),
            Some(non_padding) => cx.mean_without_padding(dropped.cast(DType::F32), non_padding, positions),
        };
    }
}

/// Returns the load-balancing loss over the whole batch, 1 if balanced: experts · Σ f·P. `choices` has each
/// expert's share f of all choices, and `probability` its mean probability P, both with `experts_all`; P of
/// a microbatch gives the microbatch's part of the loss.
pub(crate) fn balance_over_batch<'g>(choices: Tensor<'g>, probability: Tensor<'g>) -> Tensor<'g> {
    let experts = choices.dims().iter().find(|dim| dim.name == "experts_all").map_or(1, |dim| dim.size);
    (choices * probability).sum("experts_all") * experts as f64
}

impl<'g> Tree<'g> for RouterMetrics<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            place: self.place,
            load: f(self.load),
            choices: self.choices.map(&mut *f),
            probability: self.probability.map(&mut *f),
            dropped: f(self.dropped),
            entropy: f(self.entropy),
            aux: f(self.aux),
            z: f(self.z),
            trace: self.trace.map(f),
            routes: Tree::map(self.routes, f),
        }
    }
}

impl Router {
    /// Declares the router with the paper's initialization. Its dim of experts is called `experts_all`:
    /// every device routes its own tokens to all experts.
    pub fn new(w: &Weights<'_>, d_model: &Dim, options: &Switch, place: &'static str) -> Self {
        let experts = Dim::new("experts_all", options.experts);
        let init = Init::truncated_normal(options.router_scale(), &[d_model]);
        let learned = !options.routing.is_fixed();
        let weight = learned.then(|| w.matrix("router", &[d_model, &experts], &[d_model], &[&experts], init));
        let biased = learned && options.balance_bias > 0.0;
        let balance_bias = biased.then(|| w.without_gradient(BALANCE_BIAS, &[&experts], Init::Zeros));
        let bias = options.router_bias.then(|| w.table("router_bias", &[&experts], &[], Init::Zeros));
        Self { weight, bias, balance_bias, experts, options: options.clone(), place }
    }

    /// Routes `x` of `[batch, tokens, d_model]`; the tokens of a row compete for expert slots. `non_padding`
    /// is the mask `pred[batch, tokens]` of tokens that are not padding, used if the options ignore padding.
    pub fn forward<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        non_padding: Option<Tensor<'g>>,
        batch: &Dim,
        tokens: &Dim,
    ) -> (Routing<'g>, RouterMetrics<'g>) {
        let experts = &self.experts;
        let logits = self.logits(cx, x, [batch, tokens]);
        let exact = match self.options.scores {
            Scores::Softmax => logits.softmax(experts).named("probabilities"),
            Scores::Sigmoid => logits.logistic().named("scores"),
        };
        let probabilities = match cx.dtype() {
            DType::Bf16 if self.options.round_probabilities => exact.round_bf16(),
            _ => exact,
        };
        let sizes = self.options.capacities(tokens.size, cx.train());
        let inputs = GatingInputs {
            options: &self.options,
            cx,
            batch,
            tokens,
            experts,
            capacity: self.options.capacity(tokens.size, cx.train()),
            sizes: &sizes,
            logits,
            probabilities,
            scores: self.available(cx, self.scores(cx, logits, probabilities)),
            fixed: self.fixed(cx, [batch, tokens]),
            non_padding: non_padding.filter(|_| self.options.ignore_padding),
        };
        let gating = assignment::assign(&inputs);
        let normalized = match self.options.scores {
            Scores::Softmax => exact,
            Scores::Sigmoid => exact / (exact.sum(experts) + 1e-20),
        };
        let metrics = inputs.metrics(&gating, normalized, self.place);
        let (experts, capacity) = (experts.size, inputs.capacity);
        (Routing { experts, capacity, sizes, assignment: gating.assignment }, metrics)
    }

    /// Returns the state of the biases for the choice.
    pub(crate) fn balance_bias(&self) -> Option<&State> {
        self.balance_bias.as_ref()
    }

    /// Returns the logits; zeros if nothing is learned.
    fn logits<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, [batch, tokens]: [&Dim; 2]) -> Tensor<'g> {
        let (experts, dtype) = (&self.experts, cx.precision.router());
        let Some(weight) = &self.weight else { return cx.g.full(0.0, dtype, [batch, tokens, experts]) };
        // The input is cast before the product: that is the point of selective precision (section 2.4).
        let input = self.explored(cx, x.cast(dtype));
        let matrix = stream::enter(weight.value(cx.g).cast(dtype), x, &weight.rows[0]);
        let mut logits = einsum([input, matrix], [batch, tokens, experts]);
        if let Some(bias) = &self.bias {
            logits += bias.state.read(cx.g).cast(dtype);
        }
        logits.named("logits")
    }

    /// Returns the expert of each token, `s32[batch, tokens]`, if nothing is learned.
    fn fixed<'g>(&self, cx: &Context<'g>, [batch, tokens]: [&Dim; 2]) -> Option<Tensor<'g>> {
        let count = self.options.experts as u32;
        let number = || match cx.tokens {
            Some(tokens) => tokens,
            None => cx.g.mistake(
                Diagnostic::new("", "`routing` = hash and random need the tokens that the layer reads")
                    .help("call `Context::with_tokens` before the layer"),
            ),
        };
        let hashed = match (self.options.routing, cx.rng) {
            (RoutingMethod::Hash, _) => hash(number()),
            (RoutingMethod::Random, Some(rng)) => rng.bits([batch, tokens]),
            (RoutingMethod::Random, None) => {
                let place = cx.g.iota(tokens, DType::S32) * POSITIONS;
                hash(number() + place)
            }
            (
                RoutingMethod::Switch
                | RoutingMethod::TopK
                | RoutingMethod::Ntlb
                | RoutingMethod::ExpertChoice
                | RoutingMethod::ExpertSelection,
                _,
            ) => return None,
        };
        Some((hashed % count).cast(DType::S32))
    }

    /// Returns the input with the noise of exploration.
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

    /// Returns the scores with those of the experts that are dropped in this step below all others. Between
    /// dropped experts the order stays, for tokens that choose more experts than there are left.
    fn available<'g>(&self, cx: &Context<'g>, scores: Tensor<'g>) -> Tensor<'g> {
        let Some(rng) = cx.rng.filter(|_| self.options.drop_experts > 0.0) else { return scores };
        let dropped = rng.bernoulli(self.options.drop_experts, [&self.experts]);
        scores.cast(DType::F32).stop_gradient() - dropped.cast(DType::F32) * DROPPED
    }

    /// Returns the scores that decide the choice: probabilities, or logits with Gumbel noise, whose maximum
    /// is a sample from the softmax.
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
            ) => match &self.balance_bias {
                // In f32: a step changes a bias by less than bf16 can tell.
                Some(bias) => probabilities.cast(DType::F32).stop_gradient() + bias.read(cx.g),
                None => probabilities,
            },
        }
    }
}
