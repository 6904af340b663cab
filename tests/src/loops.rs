//! Reference implementation of routing, in plain loops over tokens.

use crate::moe::Layer;
use compiler::interp::Tensors;
use models::{
    Switch,
    switch::options::{Balance, Priority, RoutingMethod, Scores, SecondExpertPolicy},
};

/// Expected results of a layer. Arrays are flat and row-major.
#[derive(Debug)]
pub struct Want {
    /// Number of groups.
    pub groups: usize,
    /// Tokens per group.
    pub tokens: usize,
    /// Capacity: expert slots per expert.
    pub capacity: usize,
    /// 1 where a token is in an expert slot: `[group][token][expert][slot]`.
    pub dispatch: Vec<f64>,
    /// The gate of the token in the expert slot: `[group][token][expert][slot]`.
    pub combine: Vec<f64>,
    /// The load of each expert.
    pub load: Vec<f64>,
    /// Fraction of dropped tokens.
    pub dropped: f64,
    /// The load-balancing loss.
    pub aux: f64,
    /// Mean of the squared log of the softmax normalizer.
    pub z: f64,
    /// Mean entropy of the probabilities.
    pub entropy: f64,
}

/// One group: scores of tokens and the padding mask.
struct Group<'a> {
    o: &'a Switch,
    train: bool,
    logits: Vec<&'a [f64]>,
    /// Added to scores for the choice.
    bias: &'a [f64],
    real: Vec<bool>,
    capacity: usize,
}

/// `e^x / Σ e^x`.
pub fn softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = x.iter().map(|x| (x - most).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|e| e / sum).collect()
}

/// Returns the scores of experts.
fn scores(o: &Switch, logits: &[f64]) -> Vec<f64> {
    match o.scores {
        Scores::Softmax => softmax(logits),
        Scores::Sigmoid => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
    }
}

/// Returns the scores of experts, divided by their sum.
fn normalized(o: &Switch, logits: &[f64]) -> Vec<f64> {
    let scores = scores(o, logits);
    let sum: f64 = scores.iter().sum();
    scores.iter().map(|s| s / sum).collect()
}

/// Returns positions in order of descending score; ties are in order of position.
fn ranked(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

/// `(token, expert, position, gate)` of every occupied expert slot.
type Placed = Vec<(usize, usize, usize, f64)>;

impl Group<'_> {
    fn scores(&self) -> Vec<Vec<f64>> {
        self.logits.iter().map(|l| scores(self.o, l)).collect()
    }

    fn probabilities(&self) -> Vec<Vec<f64>> {
        self.logits.iter().map(|l| normalized(self.o, l)).collect()
    }

    /// Returns the experts of a token in the order of its choice.
    fn choice(&self, scores: &[f64]) -> Vec<usize> {
        ranked(&scores.iter().zip(self.bias).map(|(s, b)| s + b).collect::<Vec<_>>())
    }

    fn tokens_choose(&self) -> Placed {
        let o = self.o;
        let p = self.scores();
        let order: Vec<usize> = match o.priority {
            Priority::Order => (0..p.len()).collect(),
            Priority::Gate => ranked(&p.iter().map(|p| p[self.choice(p)[0]]).collect::<Vec<_>>()),
        };
        let (policy, threshold) = match self.train {
            true => (o.second_policy, o.second_threshold),
            false => (o.eval_second_policy, o.eval_second_threshold),
        };
        let mut counts = vec![0; o.experts];
        let mut placed: Placed = Vec::new();
        for round in 0..o.choices() {
            for t in order.iter().copied().filter(|t| self.real[*t]) {
                let best = self.choice(&p[t]);
                let sum: f64 = best[..o.choices()].iter().map(|e| p[t][*e]).sum();
                let expert = best[round];
                let gate = if o.renormalizes() { p[t][expert] / (sum + 1e-9) } else { p[t][expert] };
                let gate = gate * o.gate_scale;
                let counted = match policy {
                    _ if round == 0 || o.routing != RoutingMethod::TopK => true,
                    SecondExpertPolicy::All => true,
                    SecondExpertPolicy::None => false,
                    SecondExpertPolicy::Threshold => gate > threshold,
                    SecondExpertPolicy::Random => panic!("the loops draw no numbers"),
                };
                let done = o.routing == RoutingMethod::Ntlb && placed.iter().any(|slot| slot.0 == t);
                if counted && !done && counts[expert] < self.capacity {
                    placed.push((t, expert, counts[expert], gate));
                    counts[expert] += 1;
                }
            }
        }
        placed
    }

    fn experts_choose(&self) -> Placed {
        let p = self.probabilities();
        let mut placed: Placed = Vec::new();
        for e in 0..self.o.experts {
            let scores: Vec<f64> = match self.o.routing {
                RoutingMethod::ExpertSelection => self.attention(e),
                _ => p.iter().map(|p| p[e]).collect(),
            };
            let order = ranked(&scores).into_iter().filter(|t| self.real[*t]).take(self.capacity);
            placed.extend(order.enumerate().map(|(place, t)| (t, e, place, scores[t])));
        }
        if self.o.routing == RoutingMethod::ExpertSelection {
            let times = |t| placed.iter().filter(|slot| slot.0 == t).count() as f64;
            return placed.iter().map(|(t, e, place, gate)| (*t, *e, *place, gate / times(*t))).collect();
        }
        placed
    }

    /// Returns the softmax of an expert's logits over tokens that are not padding; 0 for padding.
    fn attention(&self, e: usize) -> Vec<f64> {
        if !self.real.contains(&true) {
            return vec![0.0; self.real.len()];
        }
        let shown = |(l, real): (&&[f64], &bool)| if *real { l[e] } else { f64::NEG_INFINITY };
        softmax(&self.logits.iter().zip(&self.real).map(shown).collect::<Vec<_>>())
    }

    /// Returns the load-balancing loss of this group, and the fraction of tokens per expert.
    fn balance(&self, placed: &Placed) -> (f64, Vec<f64>) {
        let (o, p, s) = (self.o, self.probabilities(), self.real.len() as f64);
        let real = self.real.iter().filter(|r| **r).count() as f64;
        let experts = o.experts as f64;
        let share = |round: usize, all: bool| -> Vec<f64> {
            let mut share = vec![0.0; o.experts];
            for (p, _) in self.scores().iter().zip(&self.real).filter(|(_, real)| all || **real) {
                share[self.choice(p)[round]] += 1.0 / s;
            }
            share
        };
        let mean = |all: bool| -> Vec<f64> {
            let of = |e: usize| {
                p.iter().zip(&self.real).filter(|(_, r)| all || **r).map(|(p, _)| p[e]).sum::<f64>()
            };
            (0..o.experts).map(|e| of(e) / s).collect()
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() * experts;
        match o.routing {
            RoutingMethod::Hash | RoutingMethod::Random => panic!("the loops learn"),
            RoutingMethod::Switch => (dot(&share(0, true), &mean(true)) * real / s, share(0, false)),
            RoutingMethod::Ntlb => {
                let rounds = (0..o.choices()).map(|i| dot(&share(i, true), &mean(true)));
                (rounds.sum::<f64>() / o.choices() as f64 * real / s, share(0, false))
            }
            RoutingMethod::TopK => {
                let mut aux = dot(&share(0, false), &mean(false));
                if o.second_place_loss {
                    let mut rest = vec![0.0; o.experts];
                    for (p, real) in p.iter().zip(&self.real) {
                        let first = if *real { ranked(p)[0] } else { o.experts };
                        let left: Vec<f64> =
                            (0..o.experts).map(|e| if e == first { 0.0 } else { p[e] }).collect();
                        let sum: f64 = left.iter().sum();
                        left.iter().zip(&mut rest).for_each(|(l, r)| *r += l / (sum + 1e-9) / s);
                    }
                    aux += 0.5 * dot(&share(1, false), &rest);
                }
                (aux, share(0, false))
            }
            RoutingMethod::ExpertChoice | RoutingMethod::ExpertSelection => {
                let used = |e: usize| placed.iter().filter(|slot| slot.1 == e).count() as f64;
                let load = (0..o.experts).map(used).collect();
                if o.routing == RoutingMethod::ExpertChoice {
                    return (1.0, load);
                }
                let attention: Vec<Vec<f64>> = (0..o.experts).map(|e| self.attention(e)).collect();
                let of = |t: usize| attention.iter().map(|a| a[t]).sum::<f64>() / experts;
                let squares = (0..self.real.len()).map(|t| of(t).powi(2)).sum::<f64>();
                (squares / s * real * s, load)
            }
        }
    }
}

/// Returns the expected results of `layer` for the logits `x`; `bias` is added to scores for the choice.
pub fn want(layer: &Layer, x: &[f64], padding: &[f64], bias: &[f64]) -> Want {
    let o = &layer.options;
    let (groups, tokens) = o.groups(layer.batch, layer.length);
    let capacity = o.capacity(tokens, layer.train);
    let cells = groups * tokens * o.experts * capacity;
    let mut want = Want {
        groups,
        tokens,
        capacity,
        dispatch: vec![0.0; cells],
        combine: vec![0.0; cells],
        load: vec![0.0; o.experts],
        dropped: 0.0,
        aux: 0.0,
        z: 0.0,
        entropy: 0.0,
    };
    let is_real = |i: usize| !o.ignore_padding || padding[i] != 0.0;
    let reals = (0..groups * tokens).filter(|i| is_real(*i)).count().max(1) as f64;
    for g in 0..groups {
        let rows = (0..tokens).map(|t| g * tokens + t);
        let group = Group {
            o,
            train: layer.train,
            bias,
            logits: rows.clone().map(|i| &x[i * o.experts..(i + 1) * o.experts]).collect(),
            real: rows.clone().map(is_real).collect(),
            capacity,
        };
        let placed = if o.routing.by_experts() { group.experts_choose() } else { group.tokens_choose() };
        for (t, e, place, gate) in &placed {
            let at = (((g * tokens + t) * o.experts) + e) * capacity + place;
            want.dispatch[at] += 1.0;
            want.combine[at] += gate;
        }
        let (aux, load) = group.balance(&placed);
        want.aux += aux / groups as f64;
        // Experts are loaded by the tokens that count; a group of experts' choices is one of `groups`.
        let share = if o.routing.by_experts() { 1.0 / groups as f64 } else { tokens as f64 / reals };
        want.load.iter_mut().zip(load).for_each(|(a, b)| *a += b * share);
        for t in (0..tokens).filter(|t| group.real[*t]) {
            let found = placed.iter().any(|slot| slot.0 == t);
            want.dropped += f64::from(!found) / reals;
            let normalizer = group.logits[t].iter().map(|l| l.exp()).sum::<f64>().ln();
            want.z += normalizer.powi(2) / reals;
            want.entropy -= normalized(o, group.logits[t]).iter().map(|p| p * p.ln()).sum::<f64>() / reals;
        }
    }
    if o.balance == Balance::Batch {
        want.aux = of_batch(o, x, &is_real, bias, reals);
    }
    if o.routing.by_experts() {
        let all: f64 = want.load.iter().sum();
        want.load.iter_mut().for_each(|l| *l /= all.max(1e-9));
    }
    want
}

/// Returns the load-balancing loss of all tokens that count, whose number is `reals`.
fn of_batch(o: &Switch, x: &[f64], is_real: &dyn Fn(usize) -> bool, bias: &[f64], reals: f64) -> f64 {
    let (mut chosen, mut mean) = (vec![0.0; o.experts], vec![0.0; o.experts]);
    for (_, logits) in x.chunks(o.experts).enumerate().filter(|(i, _)| is_real(*i)) {
        let biased: Vec<f64> = scores(o, logits).iter().zip(bias).map(|(s, b)| s + b).collect();
        ranked(&biased)[..o.choices()].iter().for_each(|e| chosen[*e] += 1.0 / (o.choices() as f64 * reals));
        normalized(o, logits).iter().zip(&mut mean).for_each(|(p, sum)| *sum += p / reals);
    }
    chosen.iter().zip(&mean).map(|(f, p)| f * p).sum::<f64>() * o.experts as f64
}

/// Returns the expected output: for every token, the sum of its experts' outputs times its gates.
pub fn output(layer: &Layer, want: &Want, x: &[f64], state: &Tensors) -> Vec<f64> {
    let (e_count, d, f) = (layer.options.experts, layer.d_model, layer.d_ff);
    let (wi, wo) = (state["wi"].elements(), state["wo"].elements());
    let mut y = vec![0.0; x.len()];
    for i in 0..want.groups * want.tokens {
        let token = &x[i * d..(i + 1) * d];
        if layer.options.shared_experts > 0 {
            let (wi, wo) = (state["shared/wi"].elements(), state["shared/wo"].elements());
            let wide = f * layer.options.shared_experts;
            for j in 0..wide {
                let hidden: f64 = (0..d).map(|k| token[k] * wi[k * wide + j]).sum();
                (0..d).for_each(|k| y[i * d + k] += hidden.max(0.0) * wo[k * wide + j]);
            }
        }
        for e in 0..e_count {
            let slots = (i * e_count + e) * want.capacity;
            let gate: f64 = want.combine[slots..slots + want.capacity].iter().sum();
            for j in 0..f {
                let hidden: f64 = (0..d).map(|k| token[k] * wi[(e * d + k) * f + j]).sum();
                (0..d).for_each(|k| y[i * d + k] += gate * hidden.max(0.0) * wo[(e * f + j) * d + k]);
            }
        }
    }
    y
}
