//! Validation of the options of Switch layers.

use super::{Exploration, Priority, RoutingMethod, SecondExpertPolicy, Switch};
use crate::{Config, config::Mistakes};

impl Switch {
    /// Notes all mistakes, for layers of the model `config`.
    pub(crate) fn mistakes(&self, config: &Config, wrong: &mut Mistakes) {
        wrong.unless(self.experts > 0, || "`experts` is 0".into(), "at least 1");
        wrong.unless(
            self.sparse_step > 0,
            || "`sparse_step` is 0".into(),
            "1 for all layers, 2 for every other",
        );
        self.wrong_choice(wrong);
        let before = wrong.count();
        for (what, factor) in
            [("capacity_factor", self.capacity_factor), ("eval_capacity_factor", self.eval_capacity_factor)]
        {
            let legal = factor > 0.0 && factor.is_finite();
            wrong.unless(legal, || format!("`{what}` is {factor}"), "more than 0");
        }
        self.wrong_groups(config, wrong);
        let parts = config.schedule.exchange_parts;
        wrong.unless(parts > 0, || "`exchange_parts` is 0".into(), "at least 1");
        wrong.unless(
            parts <= 1 || self.sparse_parts.ffn(),
            || format!("`exchange_parts` is {parts}, but experts are in attention only"),
            "`exchange_parts` = 1, or `experts_in` = ffn or both",
        );
        let (batch, sequences) = (config.microbatch().batch, self.group_sequences);
        wrong.unless(
            sequences == 0 || batch.is_multiple_of(sequences),
            || format!("`group_sequences` is {sequences}, for {batch} sequences"),
            "0, or a number that divides the sequences of a microbatch",
        );
        if wrong.count() == before && self.experts > 0 {
            self.wrong_capacity(config, wrong);
        }
        let temperature = self.temperature;
        let legal = temperature > 0.0 && temperature.is_finite();
        wrong.unless(legal, || format!("`temperature` is {temperature}"), "more than 0");
        wrong.share("jitter", self.jitter);
        wrong.share("router_dropout", self.router_dropout);
        wrong.share("expert_dropout", self.expert_dropout.unwrap_or(0.0));
        for (what, weight) in [
            ("aux_loss", self.aux_loss),
            ("router_z_loss", self.router_z_loss),
            ("init_scale", self.init_scale),
            ("second_threshold", self.second_threshold),
            ("eval_second_threshold", self.eval_second_threshold),
        ] {
            let legal = weight >= 0.0 && weight.is_finite();
            wrong.unless(legal, || format!("`{what}` is {weight}"), "a number from 0");
        }
    }

    /// Checks the routing method and the number of choices.
    fn wrong_choice(&self, wrong: &mut Mistakes) {
        let (k, experts) = (self.choices(), self.experts);
        let legal = match self.routing {
            RoutingMethod::Switch => {
                (self.top_k > 1).then_some("`routing` = top_k for more than one expert for each token")
            }
            RoutingMethod::TopK | RoutingMethod::Ntlb => None,
            RoutingMethod::ExpertChoice | RoutingMethod::ExpertSelection => (self.top_k > 0)
                .then_some("leave it out: `capacity_factor` says how many tokens an expert takes"),
        };
        if let Some(legal) = legal {
            let who = match self.routing.by_experts() {
                true => "where experts choose their tokens",
                false => "with `routing` = switch, which chooses one expert",
            };
            wrong.unless(false, || format!("`top_k` is {} {who}", self.top_k), legal);
        } else {
            wrong.unless(
                k <= experts.max(1),
                || format!("`top_k` is {k}, but there are {experts} experts"),
                &format!("at most {experts}; or more experts"),
            );
        }
        let sampled = self.exploration == Exploration::Sample && self.routing.by_experts();
        wrong.unless(
            !sampled,
            || "`exploration` is sample where experts choose their tokens".into(),
            "argmax, input_dropout or input_jitter",
        );
        wrong.unless(
            self.eval_second_policy != SecondExpertPolicy::Random,
            || "`eval_second_policy` is random, but evaluation has no random numbers".into(),
            "all, none or threshold",
        );
    }

    /// Checks groups of experts.
    fn wrong_groups(&self, config: &Config, wrong: &mut Mistakes) {
        let groups = self.expert_groups;
        if groups == 0 {
            return;
        }
        let experts = self.experts;
        wrong.unless(
            experts.is_multiple_of(groups),
            || format!("`expert_groups` is {groups}, for {experts} experts"),
            "a number that divides the experts",
        );
        let factor = self.group_capacity_factor;
        wrong.unless(
            factor > 0.0 && factor.is_finite(),
            || format!("`group_capacity_factor` is {factor}"),
            "more than 0",
        );
        let plain = self.routing == RoutingMethod::Switch
            && self.priority == Priority::Order
            && !self.sparse_parts.attention();
        wrong.unless(
            plain,
            || format!("`expert_groups` is {groups} with this way of routing"),
            "`routing` = switch, `priority` = order and `experts_in` = ffn; or `expert_groups` = 0",
        );
        for length in [config.input_length, config.target_length] {
            let (rows, _) = self.groups(config.microbatch().batch, length);
            wrong.unless(
                rows.is_multiple_of(groups),
                || format!("`expert_groups` is {groups}, but {rows} groups of tokens send to them"),
                "a number that divides the groups of tokens; or a larger batch",
            );
        }
    }

    /// Checks that every expert has at least one expert slot in every group of tokens.
    fn wrong_capacity(&self, config: &Config, wrong: &mut Mistakes) {
        let lengths = [("input_length", config.input_length), ("target_length", config.target_length)];
        for (what, train) in [("capacity_factor", true), ("eval_capacity_factor", false)] {
            let factor = if train { self.capacity_factor } else { self.eval_capacity_factor };
            let empty = lengths.into_iter().find_map(|(name, length)| {
                let (_, tokens) = self.groups(config.microbatch().batch, length);
                (tokens > 0 && self.capacity(tokens, train) == 0).then_some((name, tokens))
            });
            let Some((name, tokens)) = empty else { continue };
            let (experts, least) = (self.experts, (self.experts as f64 / tokens as f64 * 1e4).ceil() / 1e4);
            let message = format!(
                "`{what}` = {factor} gives each of {experts} experts no slot for a group of {tokens} tokens (by \
                 `{name}`)"
            );
            wrong.unless(
                false,
                || message,
                &format!("`{what}` = {least}, or `min_capacity` = 1, or larger groups"),
            );
        }
    }
}
