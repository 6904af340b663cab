//! Reads the options of Switch layers from `--set key=value`.

use super::{
    AuxReduction, Balance, CapacityRounding, EvalCapacity, Exploration, Priority, RoutingMethod, Scores,
    SecondExpertPolicy, SparseParts, Switch,
};
use mesh::dsl::Args;

/// Words for the values of an option; the first word of a value is the one that is printed.
type Words<T> = [(&'static str, T)];

const PLACES: &Words<SparseParts> =
    &[("ffn", SparseParts::Ffn), ("attention", SparseParts::Attention), ("both", SparseParts::Both)];
/// `top_2` and `switch_max` are Mesh TensorFlow's names for combinations of options.
const ROUTING: &Words<RoutingMethod> = &[
    ("switch", RoutingMethod::Switch),
    ("top_k", RoutingMethod::TopK),
    ("ntlb", RoutingMethod::Ntlb),
    ("hash", RoutingMethod::Hash),
    ("random", RoutingMethod::Random),
    ("expert_choice", RoutingMethod::ExpertChoice),
    ("expert_selection", RoutingMethod::ExpertSelection),
    ("top_2", RoutingMethod::TopK),
    ("switch_max", RoutingMethod::Switch),
];
const SECOND: &Words<SecondExpertPolicy> = &[
    ("all", SecondExpertPolicy::All),
    ("none", SecondExpertPolicy::None),
    ("threshold", SecondExpertPolicy::Threshold),
    ("random", SecondExpertPolicy::Random),
];
const SCORES: &Words<Scores> = &[("softmax", Scores::Softmax), ("sigmoid", Scores::Sigmoid)];
const BALANCE: &Words<Balance> = &[("group", Balance::Group), ("batch", Balance::Batch)];
const PRIORITY: &Words<Priority> = &[("order", Priority::Order), ("gate", Priority::Gate)];
const EXPLORATION: &Words<Exploration> = &[
    ("argmax", Exploration::Argmax),
    ("sample", Exploration::Sample),
    ("input_dropout", Exploration::InputDropout),
    ("input_jitter", Exploration::InputJitter),
];
const EVAL_CAPACITY: &Words<EvalCapacity> = &[("factor", EvalCapacity::Factor), ("all", EvalCapacity::All)];
const ROUNDING: &Words<CapacityRounding> =
    &[("down", CapacityRounding::Down), ("nearest", CapacityRounding::Nearest), ("up", CapacityRounding::Up)];
const OVER: &Words<AuxReduction> = &[("sum", AuxReduction::Sum), ("mean", AuxReduction::Mean)];
/// Returns the word set for `key` and its value; without one, the word of `value`.
fn word<T: Copy + PartialEq>(args: &Args, key: &str, words: &Words<T>, value: T) -> (&'static str, T) {
    let choices: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
    let own = words.iter().find(|(_, v)| *v == value).map_or("", |(word, _)| *word);
    let chosen = args.choice(key, &choices, own);
    words.iter().copied().find(|(word, _)| *word == chosen).unwrap_or((own, value))
}

impl Switch {
    /// Returns the options with the settings of the command line applied. `dropout` is the model's dropout
    /// rate, the default of `expert_dropout`, and `init_scale` the scale that suits its optimizer.
    pub(crate) fn with(mut self, args: &Args, dropout: f64, init_scale: f64) -> Self {
        self.expert_sizes = args.get("expert_sizes", self.expert_sizes);
        if !self.expert_sizes.is_empty() {
            self.experts = self.expert_sizes.experts();
        }
        for (key, size) in [
            ("experts", &mut self.experts),
            ("sparse_step", &mut self.sparse_step),
            ("decoder_sparse_step", &mut self.decoder_sparse_step),
            ("min_capacity", &mut self.min_capacity),
            ("fixed_capacity", &mut self.fixed_capacity),
            ("expert_groups", &mut self.expert_groups),
            ("group_size", &mut self.group_size),
            ("group_sequences", &mut self.group_sequences),
            ("shared_experts", &mut self.shared_experts),
            ("expert_d_ff", &mut self.expert_d_ff),
        ] {
            *size = args.get(key, *size);
        }
        self.sparse_parts = word(args, "experts_in", PLACES, self.sparse_parts).1;
        self.choice(args);
        for (key, number) in [
            ("second_threshold", &mut self.second_threshold),
            ("eval_second_threshold", &mut self.eval_second_threshold),
            ("jitter", &mut self.jitter),
            ("router_dropout", &mut self.router_dropout),
            ("drop_experts", &mut self.drop_experts),
            ("temperature", &mut self.temperature),
            ("capacity_factor", &mut self.capacity_factor),
            ("group_capacity_factor", &mut self.group_capacity_factor),
            ("eval_capacity_factor", &mut self.eval_capacity_factor),
            ("aux_loss", &mut self.aux_loss),
            ("balance_bias", &mut self.balance_bias),
            ("gate_scale", &mut self.gate_scale),
            ("router_z_loss", &mut self.router_z_loss),
            ("router_init_scale", &mut self.router_init_scale),
        ] {
            *number = args.get(key, *number);
        }
        for (key, flag) in [
            ("dropless", &mut self.dropless),
            ("capacity_per_choice", &mut self.capacity_per_choice),
            ("ignore_padding", &mut self.ignore_padding),
            ("second_place_loss", &mut self.second_place_loss),
            ("router_z_scaled", &mut self.router_z_scaled),
            ("router_bias", &mut self.router_bias),
            ("round_probabilities", &mut self.round_probabilities),
        ] {
            *flag = args.get(key, *flag);
        }
        self.words(args);
        self.expert_dropout = Some(args.get("expert_dropout", self.expert_dropout.unwrap_or(dropout)));
        self.init_scale = Some(args.get("init_scale", self.init_scale.unwrap_or(init_scale)));
        self
    }

    /// Reads the options whose values are words.
    fn words(&mut self, args: &Args) {
        self.scores = word(args, "router_scores", SCORES, self.scores).1;
        self.balance = word(args, "balance", BALANCE, self.balance).1;
        self.second_policy = word(args, "second_policy", SECOND, self.second_policy).1;
        self.eval_second_policy = word(args, "eval_second_policy", SECOND, self.eval_second_policy).1;
        self.exploration = word(args, "exploration", EXPLORATION, self.exploration).1;
        self.eval_capacity = word(args, "eval_capacity", EVAL_CAPACITY, self.eval_capacity).1;
        self.capacity_rounding = word(args, "capacity_rounding", ROUNDING, self.capacity_rounding).1;
        self.aux_layers = word(args, "aux_layers", OVER, self.aux_layers).1;
    }

    /// Reads the routing method. A word for a combination of options changes their defaults, so that each of
    /// them can still be set.
    fn choice(&mut self, args: &Args) {
        let (name, routing) = word(args, "routing", ROUTING, self.routing);
        if routing != self.routing {
            (self.top_k, self.renormalize) = (0, None);
        }
        self.routing = routing;
        match name {
            "top_2" => self.top_k = 2,
            "switch_max" => self.priority = Priority::Gate,
            _ => {}
        }
        // 0 means the usual number.
        self.top_k = args.get("top_k", self.top_k);
        self.renormalize = Some(args.get("renormalize", self.renormalizes()));
        self.priority = word(args, "priority", PRIORITY, self.priority).1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &str) -> Switch {
        let args = words.split_whitespace().flat_map(|w| ["--set".to_owned(), w.to_owned()]);
        let args = Args::parse(args).expect("the arguments are legal");
        let switch = Switch::default().with(&args, 0.1, 0.1);
        assert_eq!(args.mistakes(), []);
        switch
    }

    #[test]
    fn names_of_other_systems_mean_several_options() {
        let top = set("routing=top_2 second_policy=threshold second_threshold=0.3");
        assert_eq!((top.routing, top.choices(), top.renormalizes()), (RoutingMethod::TopK, 2, true));
        assert_eq!((top.second_policy, top.second_threshold), (SecondExpertPolicy::Threshold, 0.3));
        let max = set("routing=switch_max");
        assert_eq!((max.routing, max.priority, max.choices()), (RoutingMethod::Switch, Priority::Gate, 1));
        let kept = set("routing=top_k top_k=3 renormalize=false priority=gate");
        assert_eq!((kept.choices(), kept.renormalizes(), kept.priority), (3, false, Priority::Gate));
    }

    #[test]
    fn every_option_can_be_set() {
        let other = set(
            "experts=4 sparse_step=2 decoder_sparse_step=3 experts_in=both routing=ntlb top_k=3 \
                         renormalize=true second_policy=none eval_second_policy=threshold second_threshold=0.1 \
                         eval_second_threshold=0.3 priority=gate exploration=sample jitter=0.2 \
                         router_dropout=0.3 drop_experts=0.2 temperature=2 capacity_factor=1 eval_capacity_factor=3 eval_capacity=all dropless=true \
                         capacity_rounding=up capacity_per_choice=true min_capacity=1 fixed_capacity=9 \
                         expert_groups=2 group_capacity_factor=1.5 group_size=64 group_sequences=2 \
                         ignore_padding=false aux_loss=0.1 aux_layers=mean \
                         second_place_loss=true router_z_loss=0.01 router_z_scaled=true router_bias=true \
                         round_probabilities=true router_scores=sigmoid gate_scale=2.5 balance=batch \
                         balance_bias=0.001 shared_experts=1 expert_d_ff=32 expert_sizes=8x1,9x3@2 expert_dropout=0.4 init_scale=1 router_init_scale=0.2",
        );
        let expect = Switch {
            experts: 4,
            sparse_step: 2,
            decoder_sparse_step: 3,
            sparse_parts: SparseParts::Both,
            routing: RoutingMethod::Ntlb,
            top_k: 3,
            renormalize: Some(true),
            scores: Scores::Sigmoid,
            gate_scale: 2.5,
            second_policy: SecondExpertPolicy::None,
            eval_second_policy: SecondExpertPolicy::Threshold,
            second_threshold: 0.1,
            eval_second_threshold: 0.3,
            priority: Priority::Gate,
            exploration: Exploration::Sample,
            jitter: 0.2,
            router_dropout: 0.3,
            drop_experts: 0.2,
            temperature: 2.0,
            capacity_factor: 1.0,
            eval_capacity_factor: 3.0,
            eval_capacity: EvalCapacity::All,
            dropless: true,
            capacity_rounding: CapacityRounding::Up,
            capacity_per_choice: true,
            min_capacity: 1,
            fixed_capacity: 9,
            expert_groups: 2,
            group_capacity_factor: 1.5,
            group_size: 64,
            group_sequences: 2,
            ignore_padding: false,
            aux_loss: 0.1,
            balance: Balance::Batch,
            balance_bias: 0.001,
            aux_layers: AuxReduction::Mean,
            second_place_loss: true,
            router_z_loss: 0.01,
            router_z_scaled: true,
            router_bias: true,
            round_probabilities: true,
            shared_experts: 1,
            expert_d_ff: 32,
            expert_sizes: "8x1,9x3@2".parse().unwrap(),
            expert_dropout: Some(0.4),
            init_scale: Some(1.0),
            router_init_scale: 0.2,
        };
        assert_eq!(other, expect);
    }
}
