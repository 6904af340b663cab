//! Validation of the options of Switch layers.

use super::{
    Balance, EvalCapacity, Exploration, Priority, RoutingMethod, Scores, SecondExpertPolicy, Switch,
};
use crate::{Config, mistakes::Mistakes};

impl Switch {
    /// Notes all mistakes, for layers of the model `config`.
    pub(crate) fn mistakes(&self, config: &Config, wrong: &mut Mistakes) {
        wrong.require(self.experts > 0, "experts", "at least 1", self.experts);
        let rule = "at least 1 (1 for all layers, 2 for every other)";
        wrong.require(self.sparse_step > 0, "sparse_step", rule, self.sparse_step);
        self.wrong_routing(wrong);
        self.wrong_balance(wrong);
        let before = wrong.count();
        wrong.positive("capacity_factor", self.capacity_factor);
        wrong.positive("eval_capacity_factor", self.eval_capacity_factor);
        self.wrong_expert_groups(config, wrong);
        self.wrong_sizes(wrong);
        self.wrong_dropless(wrong);
        let parts = config.schedule.exchange_parts;
        wrong.require(parts > 0, "exchange_parts", "at least 1", parts);
        wrong.unless(
            parts <= 1 || self.sparse_parts.ffn(),
            || format!("`exchange_parts` must be 1 with `experts_in` = attention, got {parts}"),
            "or set `experts_in` to ffn or both",
        );
        let (batch, sequences) = (config.microbatch().batch, self.group_sequences);
        let divides = sequences == 0 || batch.is_multiple_of(sequences);
        let rule = format!("0 or a divisor of the {batch} sequences of a microbatch");
        wrong.require(divides, "group_sequences", &rule, sequences);
        if wrong.count() == before && self.experts > 0 {
            self.wrong_capacity(config, wrong);
        }
        wrong.positive("gate_scale", self.gate_scale);
        wrong.positive("temperature", self.temperature);
        wrong.share("jitter", self.jitter);
        wrong.share("router_dropout", self.router_dropout);
        wrong.share("drop_experts", self.drop_experts);
        let chosen = !self.routing.by_experts() && !self.routing.is_fixed();
        wrong.unless(
            self.drop_experts == 0.0 || (chosen && self.exploration != Exploration::Sample),
            || "`drop_experts` does not work if experts choose tokens, are drawn, or are fixed".into(),
            "set it to 0, or `routing` to switch, top_k or ntlb and `exploration` to another than sample",
        );
        wrong.share("expert_dropout", self.expert_dropout.unwrap_or(0.0));
        for (what, value) in [
            ("aux_loss", self.aux_loss),
            ("balance_bias", self.balance_bias),
            ("router_z_loss", self.router_z_loss),
            ("init_scale", self.scale()),
            ("router_init_scale", self.router_init_scale),
            ("second_threshold", self.second_threshold),
            ("eval_second_threshold", self.eval_second_threshold),
        ] {
            wrong.not_negative(what, value);
        }
    }

    /// Checks the routing method and the number of choices.
    fn wrong_routing(&self, wrong: &mut Mistakes) {
        let (top_k, experts) = (self.top_k, self.experts);
        match self.routing {
            RoutingMethod::Switch | RoutingMethod::Hash | RoutingMethod::Random => wrong.unless(
                top_k <= 1,
                || {
                    let routing = match self.routing {
                        RoutingMethod::Hash => "hash",
                        RoutingMethod::Random => "random",
                        RoutingMethod::Switch
                        | RoutingMethod::TopK
                        | RoutingMethod::Ntlb
                        | RoutingMethod::ExpertChoice
                        | RoutingMethod::ExpertSelection => "switch",
                    };
                    format!("`top_k` must be 1 with `routing` = {routing}, got {top_k}")
                },
                "set `routing` to top_k for several experts per token",
            ),
            RoutingMethod::TopK | RoutingMethod::Ntlb => wrong.require(
                self.choices() <= experts.max(1),
                "top_k",
                &format!("at most `experts` = {experts}"),
                self.choices(),
            ),
            RoutingMethod::ExpertChoice | RoutingMethod::ExpertSelection => wrong.unless(
                top_k == 0,
                || format!("`top_k` must be 0 if experts choose tokens, got {top_k}"),
                "`capacity_factor` determines how many tokens an expert takes",
            ),
        }
        let sampled = self.exploration == Exploration::Sample && self.routing.by_experts();
        wrong.unless(
            !sampled,
            || "`exploration` = sample does not work if experts choose tokens".into(),
            "set it to argmax, input_dropout or input_jitter",
        );
        wrong.unless(
            self.eval_capacity == EvalCapacity::Factor || !self.routing.by_experts(),
            || "`eval_capacity` = all does not work if experts choose tokens: each would choose all".into(),
            "set it to factor",
        );
        wrong.unless(
            self.eval_second_policy != SecondExpertPolicy::Random,
            || "`eval_second_policy` = random does not work: evaluation draws no random numbers".into(),
            "set it to all, none or threshold",
        );
    }

    /// Checks how the load is balanced.
    fn wrong_balance(&self, wrong: &mut Mistakes) {
        let learned = !self.routing.by_experts() && !self.routing.is_fixed();
        let legal = "set `routing` to switch, top_k or ntlb";
        let batch = self.balance == Balance::Batch;
        wrong.unless(
            !batch || learned,
            || "`balance` = batch has no effect if experts choose tokens or nothing is learned".into(),
            legal,
        );
        wrong.unless(
            !(batch && self.second_place_loss),
            || "`balance` = batch counts all choices, so `second_place_loss` has no effect".into(),
            "set one of them only",
        );
        let biased = self.balance_bias > 0.0;
        wrong.unless(
            !biased || learned,
            || "`balance_bias` has no effect if experts choose tokens or nothing is learned".into(),
            legal,
        );
        wrong.unless(
            !(biased && self.exploration == Exploration::Sample),
            || "`balance_bias` does not work with `exploration` = sample, whose choice is a draw".into(),
            "set `exploration` to argmax, input_dropout or input_jitter",
        );
        wrong.unless(
            self.scores == Scores::Softmax || (learned && self.exploration != Exploration::Sample),
            || "`router_scores` = sigmoid does not work if experts choose tokens, are drawn, or are fixed".into(),
            "set it to softmax, or `routing` to switch, top_k or ntlb and `exploration` to another than sample",
        );
    }

    /// Checks the sizes of experts.
    fn wrong_sizes(&self, wrong: &mut Mistakes) {
        if let Some(text) = self.expert_sizes.wrong() {
            let rule = "D_FFxEXPERTS for each size, such as 512x8,2048x4, or 2048x4@2 for twice the capacity";
            wrong.require(false, "expert_sizes", rule, text);
        }
        if self.expert_sizes.is_empty() {
            return;
        }
        let all = &self.expert_sizes;
        for size in &all.all {
            let good = size.d_ff > 0 && size.count > 0 && size.capacity > 0.0 && size.capacity.is_finite();
            wrong.require(good, "expert_sizes", "numbers above 0", all);
        }
        let rule = format!("{}, the number of experts of `expert_sizes`", all.experts());
        wrong.require(self.experts == all.experts(), "experts", &rule, self.experts);
        let scaled = all.all.iter().any(|size| size.capacity != 1.0);
        for (also, what, help) in [
            (self.dropless, "`dropless`", "set `eval_capacity` to all, or larger capacity factors"),
            (self.expert_groups > 0, "`expert_groups` above 0", "set `expert_groups` to 0"),
            (self.expert_d_ff > 0, "`expert_d_ff`", "state all sizes in `expert_sizes`"),
            (self.sparse_parts.attention(), "experts in attention", "set `experts_in` to ffn"),
            (
                scaled && self.routing.by_experts(),
                "several capacities if experts choose tokens",
                "leave out `@` in `expert_sizes`",
            ),
            (
                scaled && self.fixed_capacity > 0,
                "several capacities and `fixed_capacity`",
                "leave out `@` in `expert_sizes`",
            ),
        ] {
            wrong.unless(!also, || format!("`expert_sizes` does not work with {what}"), help);
        }
    }

    /// Checks routing without capacity.
    fn wrong_dropless(&self, wrong: &mut Mistakes) {
        if !self.dropless {
            return;
        }
        wrong.unless(
            !self.routing.by_experts(),
            || "`dropless` does not work if experts choose tokens: each would choose all".into(),
            "set `routing` to switch, top_k, hash or random",
        );
        let rule = "`dropless` drops no token";
        for (wasted, what) in [
            (self.routing == RoutingMethod::Ntlb, "`routing` = ntlb"),
            (self.priority == Priority::Gate, "`priority` = gate"),
        ] {
            wrong.unless(!wasted, || format!("{rule}, so {what} has no effect"), "set one of them only");
        }
        for (unsupported, what) in [
            (self.expert_groups > 0, "`expert_groups`"),
            (self.sparse_parts.attention(), "experts in attention"),
        ] {
            wrong.unless(
                !unsupported,
                || format!("`dropless` does not support {what}"),
                "set `expert_groups` to 0 and `experts_in` to ffn, or use a large `capacity_factor` instead",
            );
        }
    }

    /// Checks groups of experts.
    fn wrong_expert_groups(&self, config: &Config, wrong: &mut Mistakes) {
        let (groups, experts) = (self.expert_groups, self.experts);
        if groups == 0 {
            return;
        }
        let rule = format!("0 or a divisor of `experts` = {experts}");
        wrong.require(experts.is_multiple_of(groups), "expert_groups", &rule, groups);
        wrong.positive("group_capacity_factor", self.group_capacity_factor);
        let supported = self.routing == RoutingMethod::Switch
            && self.priority == Priority::Order
            && !self.sparse_parts.attention();
        wrong.unless(
            supported,
            || format!("`expert_groups` = {groups} needs `routing` = switch, `priority` = order and `experts_in` = ffn"),
            "set these, or `expert_groups` to 0",
        );
        for (_, length) in config.row_lengths() {
            let (rows, _) = self.groups(config.microbatch().batch, length);
            let rule = format!("0 or a divisor of the {rows} groups of tokens");
            wrong.require(rows.is_multiple_of(groups), "expert_groups", &rule, groups);
        }
    }

    /// Checks that every expert has at least one expert slot in every group of tokens.
    fn wrong_capacity(&self, config: &Config, wrong: &mut Mistakes) {
        let lengths = config.row_lengths();
        for (what, train) in [("capacity_factor", true), ("eval_capacity_factor", false)] {
            let factor = if train { self.capacity_factor } else { self.eval_capacity_factor };
            let empty = lengths.iter().copied().find_map(|(name, length)| {
                let (_, tokens) = self.groups(config.microbatch().batch, length);
                (tokens > 0 && self.capacity(tokens, train) == 0).then_some((name, tokens))
            });
            let Some((name, tokens)) = empty else { continue };
            let (experts, least) = (self.experts, (self.experts as f64 / tokens as f64 * 1e4).ceil() / 1e4);
            let message = format!(
                "`{what}` = {factor} gives the {experts} experts no expert slots in a group of {tokens} tokens (from \
                 `{name}`)"
            );
            wrong.unless(
                false,
                || message,
                &format!("set `{what}` to at least {least}, or `min_capacity` to 1, or make groups larger"),
            );
        }
    }
}
