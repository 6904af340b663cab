//! Assignment of tokens to experts and expert slots.
//!
//! If tokens choose, assignment runs in rounds: all first choices are assigned, then all second choices, and
//! so on; within a round in the order of tokens, or of their gates. If experts choose, each takes the tokens
//! with the highest scores.

use super::{
    options::{Priority, RoutingMethod, SecondExpertPolicy, Switch},
    routing::{Assignment, Routes, by_size},
};
use crate::Context;
use mesh::{
    DType, Dim,
    dsl::{Tensor, sort},
};

/// A score lower than any other.
const MASKED_SCORE: f64 = -1e30;

/// Inputs of the assignment, for the groups of one layer.
pub(super) struct GatingInputs<'a, 'g> {
    pub(super) options: &'a Switch,
    pub(super) cx: &'a Context<'g>,
    pub(super) batch: &'a Dim,
    pub(super) tokens: &'a Dim,
    pub(super) experts: &'a Dim,
    /// Expert slots of each expert; of experts of several sizes, the largest number.
    pub(super) capacity: usize,
    /// The number of experts of each size, and the expert slots of each of them.
    pub(super) sizes: &'a [(usize, usize)],
    /// Logits, their softmax (possibly rounded), and the scores that decide the choice, each `[batch,
    /// tokens, experts]`.
    pub(super) logits: Tensor<'g>,
    pub(super) probabilities: Tensor<'g>,
    pub(super) scores: Tensor<'g>,
    /// The expert of each token, `s32[batch, tokens]`, if the router does not compute it from logits.
    pub(super) fixed: Option<Tensor<'g>>,
    /// Mask of the tokens that are not padding, `pred[batch, tokens]`; `None` means all.
    pub(super) non_padding: Option<Tensor<'g>>,
}

/// One choice of every token.
#[derive(Clone, Copy)]
pub(super) struct Round<'g> {
    /// The chosen expert, `s32[batch, tokens]`.
    pub(super) expert: Tensor<'g>,
    /// The same as a one-hot mask, `s32[batch, tokens, experts]`.
    pub(super) wanted: Tensor<'g>,
    /// Mask of tokens that take part; `None` means all.
    counts: Option<Tensor<'g>>,
    /// The gate, in the element type of the router.
    pub(super) gate: Tensor<'g>,
}

/// The assignment, and what the router losses need.
pub(super) struct Gating<'g> {
    pub(super) assignment: Assignment<'g>,
    /// The choices of tokens; empty if experts choose.
    pub(super) rounds: Vec<Round<'g>>,
    /// If experts choose: their scores of tokens, and which of their expert slots are used, `pred[batch,
    /// capacity, experts]`.
    pub(super) taken: Option<(Tensor<'g>, Tensor<'g>)>,
    /// Tokens without an expert slot, `pred[batch, tokens]`, including padding.
    pub(super) dropped: Tensor<'g>,
    /// All choices; `None` unless the context records them.
    pub(super) routes: Option<Routes<'g>>,
}

pub(super) fn assign<'g>(inputs: &GatingInputs<'_, 'g>) -> Gating<'g> {
    match inputs.options.routing {
        RoutingMethod::Switch
        | RoutingMethod::TopK
        | RoutingMethod::Ntlb
        | RoutingMethod::Hash
        | RoutingMethod::Random => {
            let mut rounds = inputs.rounds();
            // The order uses the gates before renormalization: a token whose two gates are close is not
            // urgent.
            let priority = (inputs.options.priority == Priority::Gate).then_some(rounds[0].gate);
            let order = priority.map(|gate| inputs.order(gate));
            if inputs.options.renormalizes() {
                renormalize(&mut rounds);
            }
            if inputs.options.gate_scale != 1.0 {
                rounds.iter_mut().for_each(|r| r.gate *= inputs.options.gate_scale);
            }
            inputs.restrict(&mut rounds);
            let gating = inputs.assign_slots(rounds, order);
            Gating { routes: gating.routes.map(|r| Routes { priority: priority.map(f32), ..r }), ..gating }
        }
        RoutingMethod::ExpertChoice | RoutingMethod::ExpertSelection => inputs.experts_choose(),
    }
}

/// Divides the gates of each token by their sum.
fn renormalize(rounds: &mut [Round<'_>]) {
    let sum = rounds.iter().map(|r| r.gate).reduce(|a, b| a + b).expect("there is a first round");
    let sum = sum + 1e-9;
    rounds.iter_mut().for_each(|r| r.gate /= sum);
}

fn f32(x: Tensor<'_>) -> Tensor<'_> {
    x.cast(DType::F32)
}

fn and<'g>(a: Option<Tensor<'g>>, b: Option<Tensor<'g>>) -> Option<Tensor<'g>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a & b),
        (a, b) => a.or(b),
    }
}

impl<'g> GatingInputs<'_, 'g> {
    /// Returns the choices of every token, in descending order of scores.
    fn rounds(&self) -> Vec<Round<'g>> {
        let (experts, count) = (self.experts, self.options.choices());
        if let Some(expert) = self.fixed {
            let gate = self.cx.g.full(1.0, self.probabilities.dtype(), [self.batch, self.tokens]);
            let wanted = expert.one_hot(experts, DType::S32);
            return vec![Round { expert, wanted, counts: self.non_padding, gate }];
        }
        let mut left = self.scores;
        let mut rounds = Vec::new();
        for i in 0..count {
            let expert = left.argmax(experts);
            let wanted = expert.one_hot(experts, DType::S32);
            let chosen = wanted.cast(self.probabilities.dtype());
            let gate = (self.probabilities * chosen).sum(experts).named("gate");
            rounds.push(Round { expert, wanted, counts: self.non_padding, gate });
            if i + 1 < count {
                left = wanted.eq(0).select(left, MASKED_SCORE);
            }
        }
        rounds
    }

    /// Masks later choices that the policy excludes.
    fn restrict(&self, rounds: &mut [Round<'g>]) {
        let options = self.options;
        let (policy, threshold) = if self.cx.train() {
            (options.second_policy, options.second_threshold)
        } else {
            (options.eval_second_policy, options.eval_second_threshold)
        };
        if options.routing != RoutingMethod::TopK {
            return;
        }
        for round in rounds.iter_mut().skip(1) {
            let passes = match policy {
                SecondExpertPolicy::All => continue,
                SecondExpertPolicy::None => round.gate.lt(MASKED_SCORE),
                SecondExpertPolicy::Threshold => round.gate.gt(threshold),
                SecondExpertPolicy::Random => {
                    // Evaluation has no random numbers; validation excludes this policy there.
                    let Some(rng) = self.cx.rng else { continue };
                    let share = round.gate.cast(DType::F32) / threshold.max(1e-9);
                    rng.uniform([self.batch, self.tokens], DType::F32).lt(share)
                }
            };
            round.counts = and(round.counts, Some(passes));
        }
    }

    /// Assigns expert slots to the choices, round by round.
    fn assign_slots(&self, rounds: Vec<Round<'g>>, order: Option<Order<'g>>) -> Gating<'g> {
        let (tokens, experts) = (self.tokens, self.experts);
        let capacity = u32::try_from(self.capacity).unwrap_or(u32::MAX);
        let one_slot = self.options.routing == RoutingMethod::Ntlb;
        // `filled` counts the tokens of each expert in earlier rounds, which may exceed its expert slots;
        // `waiting` masks the tokens without an expert slot, if a token gets only one.
        let (mut filled, mut waiting): (Option<Tensor<'g>>, Option<Tensor<'g>>) = (None, None);
        let mut placed = Vec::new();
        for (i, round) in rounds.iter().enumerate() {
            let counts = and(round.counts, waiting);
            let wanted = counts.map_or(round.wanted, |c| round.wanted * c.cast(DType::S32));
            let earlier = match &order {
                Some(order) => order.cumsum_exclusive(wanted, tokens),
                None => wanted.cumsum_exclusive(tokens),
            };
            let earlier = filled.map_or(earlier, |f| earlier + f);
            let position = (earlier * wanted).sum(experts);
            let fits = self.fits(round.expert, position);
            let assigned = counts.map_or(fits, |c| fits & c);
            placed.push((assigned, assigned.select(round.expert * capacity + position, -1)));
            if i + 1 < rounds.len() {
                let total = wanted.sum(tokens);
                filled = Some(filled.map_or(total, |f| f + total));
                waiting = one_slot.then(|| waiting.map_or(!assigned, |w| w & !assigned));
            }
        }
        let routes = self.cx.records_routes.then(|| self.choices(&rounds, &placed));
        let dropped = placed.iter().map(|(assigned, _)| !*assigned).reduce(|a, b| a & b);
        let dtype = self.cx.dtype();
        let choices = rounds.iter().zip(&placed);
        let choices: Vec<(Tensor<'g>, Tensor<'g>)> = if one_slot {
            let gate = |(round, (assigned, slot)): (&Round<'g>, &(Tensor<'g>, Tensor<'g>))| {
                (*slot, round.gate * assigned.cast(round.gate.dtype()))
            };
            let one = choices.map(gate).reduce(|a, b| (a.0.maximum(b.0), a.1 + b.1));
            one.into_iter().map(|(slot, gate)| (slot, gate.cast(dtype))).collect()
        } else {
            choices.map(|(round, (_, slot))| (*slot, round.gate.cast(dtype))).collect()
        };
        let dropped = dropped.expect("there is a first round");
        Gating { assignment: Assignment::TokenChoice(choices), rounds, taken: None, dropped, routes }
    }

    /// True where the expert has an expert slot for a token at this position among those that chose it.
    fn fits(&self, expert: Tensor<'g>, position: Tensor<'g>) -> Tensor<'g> {
        let slots = |capacity: usize| u32::try_from(capacity).unwrap_or(u32::MAX);
        if self.sizes.iter().all(|(_, capacity)| *capacity == self.capacity) {
            return position.lt(slots(self.capacity));
        }
        let number = |(_, capacity): &(usize, usize)| self.cx.g.constant(slots(*capacity), DType::S32);
        let capacities: Vec<Tensor<'g>> = self.sizes.iter().map(number).collect();
        position.lt(by_size(expert, self.sizes, &capacities))
    }

    /// Returns the choices of all rounds, to be recorded; `placed` has for each round the mask of tokens that
    /// got an expert slot.
    fn choices(&self, rounds: &[Round<'g>], placed: &[(Tensor<'g>, Tensor<'g>)]) -> Routes<'g> {
        let one = Dim::new("choices", 1);
        let together = |of: Vec<Tensor<'g>>| {
            let parts: Vec<Tensor<'g>> = of.into_iter().map(|x| x.broadcast(&one)).collect();
            self.cx.g.concat(&parts, "choices")
        };
        let state = |(round, (assigned, _)): (&Round<'g>, &(Tensor<'g>, Tensor<'g>))| {
            let assigned = assigned.cast(DType::S32);
            match round.counts {
                None => assigned + 1,
                // The policy may exclude a choice; a choice without an expert slot still counts.
                Some(counts) => assigned + counts.cast(DType::S32),
            }
        };
        Routes {
            chosen: together(rounds.iter().map(|round| round.expert).collect()),
            gate: together(rounds.iter().map(|round| f32(round.gate)).collect()),
            state: Some(together(rounds.iter().zip(placed).map(state).collect())),
            priority: None,
        }
    }

    /// Returns the order of tokens by descending gate; of equal gates the earlier token comes first, padding
    /// last.
    fn order(&self, gate: Tensor<'g>) -> Order<'g> {
        let key = gate.stop_gradient();
        let key = self.non_padding.map_or(key, |non_padding| non_padding.select(key, -1.0));
        let number = key.graph().iota(self.tokens, DType::S32).broadcast(self.batch);
        let [_, token] = sort([key, number], self.tokens, true);
        let [_, rank] = sort([token, number], self.tokens, false);
        Order { token: token.rename(self.tokens, "ranked"), rank }
    }

    /// Assigns to every expert the tokens with the highest scores.
    fn experts_choose(&self) -> Gating<'g> {
        let (tokens, experts) = (self.tokens, self.experts);
        let never =
            |x: Tensor<'g>, low: f64| self.non_padding.map_or(x, |non_padding| non_padding.select(x, low));
        let selection = self.options.routing == RoutingMethod::ExpertSelection;
        let scores =
            if selection { never(self.logits, MASKED_SCORE).softmax(tokens) } else { self.probabilities };
        let capacity = Dim::new("capacity", self.capacity);
        let (gate, token) = never(scores, -1.0).top_k(tokens, &capacity);
        let taken = gate.ge(0.0);
        let slots = Dim::new("slots", experts.size * capacity.size);
        let flat = |x: Tensor<'g>| x.merge([experts, &capacity], &slots);
        let token = flat(taken.select(token, -1));
        let mut gate = flat(taken.select(gate, 0.0));
        let count = token.scatter_add(tokens, &slots, flat(taken.cast(DType::F32)));
        if selection {
            gate /= count.maximum(1.0).gather(tokens, token).maximum(1.0).cast(gate.dtype());
        }
        let routes = Routes { chosen: token, gate: f32(gate), state: None, priority: None };
        Gating {
            routes: self.cx.records_routes.then_some(routes),
            assignment: Assignment::ExpertChoice { token, gate: gate.cast(self.cx.dtype()) },
            rounds: Vec::new(),
            taken: Some((scores, taken)),
            dropped: count.eq(0.0),
        }
    }
}

/// A permutation of the tokens of each group.
struct Order<'g> {
    /// The token of each rank: `s32[batch, ranked]`.
    token: Tensor<'g>,
    /// The rank of each token: `s32[batch, tokens]`.
    rank: Tensor<'g>,
}

impl<'g> Order<'g> {
    /// Returns for every token the sum over tokens of lower rank.
    fn cumsum_exclusive(&self, x: Tensor<'g>, tokens: &Dim) -> Tensor<'g> {
        x.gather(tokens, self.token).cumsum_exclusive("ranked").gather("ranked", self.rank)
    }
}
