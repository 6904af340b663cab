//! Router losses and metrics: load of the experts, dropped tokens, load-balancing loss and z-loss.

use super::{
    assignment::{Gating, GatingInputs},
    options::{Balance, RoutingMethod, Scores},
    router::{RouterMetrics, Trace, balance_over_batch},
};
use mesh::{DType, dsl::Tensor};

impl<'g> GatingInputs<'_, 'g> {
    /// Returns the metrics of one layer; `exact` are the probabilities before rounding.
    pub(super) fn metrics(
        &self,
        gating: &Gating<'g>,
        exact: Tensor<'g>,
        place: &'static str,
    ) -> RouterMetrics<'g> {
        let (logits, probabilities) = (self.logits.cast(DType::F32), exact.cast(DType::F32));
        let normalizer = logits.logsumexp(self.experts);
        let entropy = match self.options.scores {
            Scores::Softmax => normalizer - (probabilities * logits).sum(self.experts),
            Scores::Sigmoid => -(probabilities * probabilities.maximum(1e-30).log()).sum(self.experts),
        };
        let (load, aux) = self.load_and_aux(gating, probabilities);
        // The mean of dropped tokens, not 1 minus the mean of the others: a mean over shards leaves a scan
        // without a reduction.
        let dropped = self
            .non_padding
            .map_or(gating.dropped, |non_padding| gating.dropped & non_padding)
            .cast(DType::F32);
        let mean = |x: Tensor<'g>| self.mean_of_tokens(x);
        let of_batch = self.options.balance == Balance::Batch;
        RouterMetrics {
            place,
            load,
            choices: (of_batch || self.options.balance_bias > 0.0).then(|| self.choices_by_expert(gating)),
            probability: of_batch.then(|| mean(probabilities)),
            dropped: mean(dropped),
            entropy: mean(entropy),
            aux,
            z: mean(normalizer.square()),
            trace: self.trace(gating, logits, probabilities),
            routes: gating.routes,
        }
    }

    fn trace(&self, gating: &Gating<'g>, logits: Tensor<'g>, probabilities: Tensor<'g>) -> Trace<'g> {
        let (expert, gate) = match gating.rounds.first() {
            Some(first) => (first.expert, first.gate),
            None => (self.probabilities.argmax(self.experts), self.probabilities.max(self.experts)),
        };
        let assigned = (!gating.dropped).cast(DType::S32);
        Trace { logits, probabilities, expert, assigned, gate: gate.cast(self.cx.dtype()) }
    }

    /// Returns the load of each expert, without padding if it is ignored, and the load-balancing loss (the
    /// paper's equations 4 to 6), in which padding counts as in Mesh TensorFlow.
    fn load_and_aux(&self, gating: &Gating<'g>, probabilities: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
        let (batch, tokens, experts) = (self.batch, self.tokens, self.experts);
        let of_tokens = |x: Tensor<'g>| x.cast(DType::F32).mean(tokens);
        let without_padding = |x: Tensor<'g>| match self.non_padding {
            None => x,
            Some(non_padding) => x * non_padding.cast(x.dtype()),
        };
        // `f · P` of a round, summed over experts: `[batch]`.
        let uneven = |share: Tensor<'g>, mean: Tensor<'g>| (share * mean).sum(experts);
        let (share, uneven) = match self.options.routing {
            RoutingMethod::Switch | RoutingMethod::Hash | RoutingMethod::Random => {
                let share = of_tokens(gating.rounds[0].wanted);
                (share, self.scaled_by_non_padding(uneven(share, of_tokens(probabilities))))
            }
            RoutingMethod::Ntlb => {
                let shares: Vec<Tensor<'g>> = gating.rounds.iter().map(|r| of_tokens(r.wanted)).collect();
                let sum = shares.iter().copied().reduce(|a, b| a + b).expect("there is a first round");
                let mean = sum / shares.len() as f64;
                (shares[0], self.scaled_by_non_padding(uneven(mean, of_tokens(probabilities))))
            }
            RoutingMethod::TopK => {
                let share = of_tokens(without_padding(gating.rounds[0].wanted));
                let mut sum = uneven(share, of_tokens(without_padding(probabilities)));
                if self.options.second_place_loss && gating.rounds.len() > 1 {
                    let first = without_padding(gating.rounds[0].wanted).cast(DType::F32);
                    let rest = probabilities * (1.0 - first);
                    let rest = rest / (rest.sum(experts) + 1e-9);
                    let second = of_tokens(without_padding(gating.rounds[1].wanted));
                    sum += uneven(second, of_tokens(rest)) * 0.5;
                }
                (share, sum)
            }
            RoutingMethod::ExpertChoice | RoutingMethod::ExpertSelection => return self.experts_load(gating),
        };
        let load = match self.non_padding {
            None => share.mean(batch),
            Some(_) => self.mean_of_tokens(gating.rounds[0].wanted.cast(DType::F32)),
        };
        let aux = match self.options.balance {
            Balance::Group => uneven.mean(batch) * experts.size as f64,
            Balance::Batch => {
                balance_over_batch(self.choices_by_expert(gating), self.mean_of_tokens(probabilities))
            }
        };
        (load, aux)
    }

    /// Returns each expert's share of all choices of the tokens that are not padding, over the whole batch:
    /// `[experts]`.
    fn choices_by_expert(&self, gating: &Gating<'g>) -> Tensor<'g> {
        let chosen = gating.rounds.iter().map(|round| round.wanted.cast(DType::F32));
        let all = chosen.reduce(|a, b| a + b).unwrap_or_else(|| self.cx.g.constant(0.0, DType::F32));
        self.mean_of_tokens(all) / gating.rounds.len().max(1) as f64
    }

    /// Returns the mean over all tokens of the batch that are not padding.
    fn mean_of_tokens(&self, x: Tensor<'g>) -> Tensor<'g> {
        let positions = [self.batch, self.tokens];
        match self.non_padding {
            None => x.mean(positions),
            Some(non_padding) => self.cx.mean_without_padding(x, non_padding, positions),
        }
    }

    /// Multiplies `x` of each group by its fraction of tokens that are not padding.
    fn scaled_by_non_padding(&self, x: Tensor<'g>) -> Tensor<'g> {
        self.non_padding.map_or(x, |non_padding| x * non_padding.cast(DType::F32).mean(self.tokens))
    }

    /// Returns load and loss if experts choose. Their load is balanced by construction; Mesh TensorFlow then
    /// balances how much of the experts' attention each token gets.
    fn experts_load(&self, gating: &Gating<'g>) -> (Tensor<'g>, Tensor<'g>) {
        let (batch, tokens, experts) = (self.batch, self.tokens, self.experts);
        let (scores, taken) = gating.taken.expect("experts chose");
        let used = taken.cast(DType::F32).mean("capacity").mean(batch);
        let load = used / used.sum(experts).maximum(1e-9);
        if self.options.routing == RoutingMethod::ExpertChoice {
            return (load, self.cx.g.constant(1.0, DType::F32));
        }
        let attention = scores.cast(DType::F32).mean(experts);
        let squares = attention.square();
        let size = tokens.size as f64;
        let aux = match self.non_padding {
            None => squares.mean(tokens) * (size * size),
            Some(non_padding) => {
                let non_padding = non_padding.cast(DType::F32);
                (squares * non_padding).mean(tokens) * non_padding.sum(tokens) * size
            }
        };
        (load, aux.mean(batch))
    }
}
