//! Options of Switch layers: sizes, routing, capacity, losses and noise. Defaults are the paper's router;
//! `docs/routing.md` lists the options that reproduce the routers of other systems.
//!
//! `settings` reads them from the command line, `sizes` has the sizes of experts, `validate` checks all.

mod settings;
mod sizes;
mod validate;

pub use sizes::{ExpertSize, ExpertSizes};

/// Options of Switch layers: feed-forward layers with several experts, of which each token uses one or a
/// few.
#[derive(Clone, PartialEq, Debug)]
pub struct Switch {
    /// Number of experts of a layer.
    pub experts: usize,
    /// 1 if all layers are sparse; otherwise layer `i` (from 0) is sparse if `i % sparse_step == 1`.
    pub sparse_step: usize,
    /// The same for the decoder; 0 means as in the encoder.
    pub decoder_sparse_step: usize,
    /// Parts of a sparse block that have experts.
    pub sparse_parts: SparseParts,
    /// The routing method.
    pub routing: RoutingMethod,
    /// Number of experts that a token chooses; 0 means the usual number for `routing`.
    pub top_k: usize,
    /// True if the gates of a token are divided by their sum; `None` means as is usual for `routing`.
    pub renormalize: Option<bool>,
    /// The function that makes scores of logits.
    pub scores: Scores,
    /// Gates are multiplied by it, after renormalization.
    pub gate_scale: f64,
    /// Policy for choices after the first, in training.
    pub second_policy: SecondExpertPolicy,
    /// The same in evaluation.
    pub eval_second_policy: SecondExpertPolicy,
    /// Threshold of the policy, in training.
    pub second_threshold: f64,
    /// The same in evaluation.
    pub eval_second_threshold: f64,
    /// Order in which tokens get expert slots if an expert has fewer than tokens that chose it.
    pub priority: Priority,
    /// Exploration noise, in training.
    pub exploration: Exploration,
    /// The router's input is multiplied by uniform numbers in `[1 - jitter, 1 + jitter]` (`input_jitter`).
    pub jitter: f64,
    /// Dropout rate of the router's input (`input_dropout`).
    pub router_dropout: f64,
    /// The probability with which an expert of a layer is not chosen in a step, in training.
    pub drop_experts: f64,
    /// Logits are divided by it before an expert is sampled (`sample`).
    pub temperature: f64,
    /// Capacity in training, as a multiple of an even share of the tokens.
    pub capacity_factor: f64,
    /// The same in evaluation.
    pub eval_capacity_factor: f64,
    /// Capacity in evaluation: by the factor, or an expert slot for every token.
    pub eval_capacity: EvalCapacity,
    /// True if experts have no capacity: every choice of a token gets an expert slot, and experts compute
    /// little more than the slots in use.
    pub dropless: bool,
    /// Rounding of the capacity to whole expert slots.
    pub capacity_rounding: CapacityRounding,
    /// True if the even share counts every choice of a token instead of every token.
    pub capacity_per_choice: bool,
    /// Minimum capacity, in expert slots.
    pub min_capacity: usize,
    /// Number of expert groups for dispatch in two steps, to the group and from there to the expert; 0 means
    /// one step.
    pub expert_groups: usize,
    /// Capacity of a group of experts, as a multiple of an even share of the tokens.
    pub group_capacity_factor: f64,
    /// Fixed capacity, in expert slots; 0 means by the capacity factors.
    pub fixed_capacity: usize,
    /// Tokens that compete for expert slots; 0 means those of one sequence.
    pub group_size: usize,
    /// The same as a number of whole sequences, for both stacks; 0 means by `group_size`.
    pub group_sequences: usize,
    /// True if padding is not routed; otherwise it is routed like any token, as in Flaxformer and Hugging
    /// Face's code.
    pub ignore_padding: bool,
    /// Weight of the load-balancing loss of each layer.
    pub aux_loss: f64,
    /// The tokens over which the load-balancing loss is computed.
    pub balance: Balance,
    /// The rate by which a step changes each expert's bias for the choice, towards an even load; 0 means no
    /// biases.
    pub balance_bias: f64,
    /// Reduction of the router losses over layers.
    pub aux_layers: AuxReduction,
    /// True if second choices have a load-balancing loss too, with half the weight.
    pub second_place_loss: bool,
    /// Weight of the router z-loss.
    pub router_z_loss: f64,
    /// True if that weight is multiplied by `aux_loss`, as in Mesh TensorFlow.
    pub router_z_scaled: bool,
    /// True if the router adds a bias to its logits.
    pub router_bias: bool,
    /// True if probabilities are rounded to the type of activations before the choice, as in Hugging Face's
    /// code.
    pub round_probabilities: bool,
    /// Number of shared experts: a dense feed-forward layer as wide as so many experts, for all tokens.
    pub shared_experts: usize,
    /// Size of the hidden layer of an expert; 0 means that of dense layers.
    pub expert_d_ff: usize,
    /// The sizes of experts; empty means that all are alike.
    pub expert_sizes: ExpertSizes,
    /// Dropout rate inside experts; `None` means as elsewhere.
    pub expert_dropout: Option<f64>,
    /// Scale of the initialization of router and experts: truncated normal with deviation
    /// `sqrt(init_scale / fan_in)`. `None` means the scale that suits the model's optimizer, or the paper's
    /// 0.1 for a layer outside of a model.
    pub init_scale: Option<f64>,
    /// Scale of the initialization of the router; 0 means `init_scale`.
    pub router_init_scale: f64,
}

/// Parts of a sparse block that have experts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SparseParts {
    /// The feed-forward layer.
    Ffn,
    /// The projections of self-attention (the paper's appendix A).
    Attention,
    /// Both.
    Both,
}

impl SparseParts {
    /// True if the feed-forward layer has experts.
    pub fn ffn(self) -> bool {
        matches!(self, Self::Ffn | Self::Both)
    }
    /// True if self-attention has experts.
    pub fn attention(self) -> bool {
        matches!(self, Self::Attention | Self::Both)
    }
}

/// Routing methods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoutingMethod {
    /// Each token chooses the expert with the highest probability.
    Switch,
    /// Each token chooses the `top_k` experts with the highest probabilities; second choices are assigned
    /// after all first ones.
    TopK,
    /// Each token goes to one expert: the first of its `top_k` choices with a free expert slot ("no token
    /// left behind").
    Ntlb,
    /// The token determines its expert, by a hash of its number (Roller et al. 2021). Nothing is learned.
    Hash,
    /// Experts are drawn at random in training; in evaluation a hash of token and position determines them. A
    /// baseline.
    Random,
    /// Each expert chooses the tokens with the highest probabilities, by softmax over experts (Zhou et al.
    /// 2022).
    ExpertChoice,
    /// Each expert chooses the tokens with the highest probabilities, by softmax over tokens; a token's
    /// output is the mean over its experts (Mesh TensorFlow).
    ExpertSelection,
}

impl RoutingMethod {
    /// True if experts choose tokens.
    pub fn by_experts(self) -> bool {
        matches!(self, Self::ExpertChoice | Self::ExpertSelection)
    }

    /// True if the router has no parameters.
    pub fn is_fixed(self) -> bool {
        matches!(self, Self::Hash | Self::Random)
    }
}

/// Functions that make scores of logits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scores {
    /// The softmax over experts.
    Softmax,
    /// The logistic function of each logit.
    Sigmoid,
}

/// Tokens over which the load-balancing loss is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Balance {
    /// Those of a group; the loss is the mean over groups.
    Group,
    /// Those of the whole batch, on all devices, without padding. All choices of a token count.
    Batch,
}

/// Policies for choices after the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecondExpertPolicy {
    /// All count.
    All,
    /// None counts, but their gates take part in renormalization.
    None,
    /// Those with a gate above the threshold count.
    Threshold,
    /// Each counts with probability gate / threshold.
    Random,
}

/// Orders in which tokens get expert slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// The order of tokens in the group.
    Order,
    /// Descending first gate: "batch-prioritized" routing, `switch_max` in Mesh TensorFlow.
    Gate,
}

/// Exploration noise, in training.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exploration {
    /// None.
    Argmax,
    /// Experts are sampled by their probabilities.
    Sample,
    /// Dropout on the router's input.
    InputDropout,
    /// The router's input is multiplied by random numbers near 1.
    InputJitter,
}

/// Capacity of an expert in evaluation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EvalCapacity {
    /// By `eval_capacity_factor`, or the fixed capacity.
    Factor,
    /// An expert slot for every token of a group, so that no token is dropped.
    All,
}

/// Rounding of the capacity to whole expert slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CapacityRounding {
    /// Down.
    Down,
    /// To the nearest, halves up.
    Nearest,
    /// Up.
    Up,
}

/// Reductions of the router losses over layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuxReduction {
    /// Their sum.
    Sum,
    /// Their mean.
    Mean,
}

impl Default for Switch {
    /// The values of the paper and of the released code.
    fn default() -> Self {
        Self {
            experts: 8,
            sparse_step: 1,
            decoder_sparse_step: 0,
            sparse_parts: SparseParts::Ffn,
            routing: RoutingMethod::Switch,
            top_k: 0,
            renormalize: None,
            scores: Scores::Softmax,
            gate_scale: 1.0,
            second_policy: SecondExpertPolicy::All,
            eval_second_policy: SecondExpertPolicy::All,
            second_threshold: 0.2,
            eval_second_threshold: 0.2,
            priority: Priority::Order,
            exploration: Exploration::InputJitter,
            jitter: 1e-2,
            router_dropout: 0.1,
            drop_experts: 0.0,
            temperature: 1.0,
            capacity_factor: 1.25,
            eval_capacity_factor: 2.0,
            eval_capacity: EvalCapacity::Factor,
            dropless: false,
            capacity_rounding: CapacityRounding::Down,
            capacity_per_choice: false,
            min_capacity: 4,
            fixed_capacity: 0,
            expert_groups: 0,
            group_capacity_factor: 1.25,
            group_size: 0,
            group_sequences: 0,
            ignore_padding: true,
            aux_loss: 1e-2,
            balance: Balance::Group,
            balance_bias: 0.0,
            aux_layers: AuxReduction::Sum,
            second_place_loss: false,
            router_z_loss: 0.0,
            router_z_scaled: false,
            router_bias: false,
            round_probabilities: false,
            shared_experts: 0,
            expert_d_ff: 0,
            expert_sizes: ExpertSizes::default(),
            expert_dropout: None,
            init_scale: None,
            router_init_scale: 0.0,
        }
    }
}

impl Switch {
    /// Returns the scale of the initialization of experts.
    pub fn scale(&self) -> f64 {
        self.init_scale.unwrap_or(0.1)
    }

    /// Returns the scale of the initialization of the router.
    pub fn router_scale(&self) -> f64 {
        if self.router_init_scale > 0.0 { self.router_init_scale } else { self.scale() }
    }

    /// Returns the options of Hugging Face's Switch Transformers: a fixed capacity for each sequence,
    /// padding that is routed, probabilities rounded to the type of activations, and its weights of router
    /// losses.
    pub fn hugging_face(experts: usize, capacity: usize) -> Self {
        Self {
            experts,
            fixed_capacity: capacity,
            ignore_padding: false,
            round_probabilities: true,
            aux_loss: 1e-3,
            router_z_loss: 1e-3,
            ..Self::default()
        }
    }

    /// Returns the options of top-2 gating as in GShard and Mesh TensorFlow ("MoE" in the paper's tables).
    pub fn top_2(experts: usize) -> Self {
        Self {
            experts,
            routing: RoutingMethod::TopK,
            top_k: 2,
            exploration: Exploration::Argmax,
            ..Self::default()
        }
    }

    /// Returns the number of experts that a token chooses; 0 if experts choose.
    pub fn choices(&self) -> usize {
        match (self.routing, self.top_k) {
            (RoutingMethod::ExpertChoice | RoutingMethod::ExpertSelection, _) => 0,
            (RoutingMethod::Hash | RoutingMethod::Random, _) => 1,
            (RoutingMethod::Switch | RoutingMethod::TopK | RoutingMethod::Ntlb, k) if k > 0 => k,
            (RoutingMethod::Switch, _) => 1,
            (RoutingMethod::TopK, _) => 2,
            (RoutingMethod::Ntlb, _) => self.experts.min(4),
        }
    }

    /// Returns the size of the hidden layer of an expert, in a model whose dense layers have `d_ff`.
    pub fn d_ff(&self, d_ff: usize) -> usize {
        if self.expert_d_ff > 0 { self.expert_d_ff } else { d_ff }
    }

    /// Returns the sizes of experts, in a model whose dense layers have `d_ff`; at least one.
    pub fn sizes(&self, d_ff: usize) -> Vec<ExpertSize> {
        match self.expert_sizes.is_empty() {
            true => vec![ExpertSize { d_ff: self.d_ff(d_ff), count: self.experts, capacity: 1.0 }],
            false => self.expert_sizes.all.clone(),
        }
    }

    /// Returns the set options that no system before 2021 has, by name: a conversion to one refuses them.
    pub fn later_options(&self) -> Vec<&'static str> {
        let usual = Self::default();
        let set = [
            ("router_scores", self.scores != usual.scores),
            ("gate_scale", self.gate_scale != usual.gate_scale),
            ("balance", self.balance != usual.balance),
            ("balance_bias", self.balance_bias != usual.balance_bias),
            ("dropless", self.dropless != usual.dropless),
            ("shared_experts", self.shared_experts != usual.shared_experts),
            ("expert_d_ff", self.expert_d_ff != usual.expert_d_ff),
            ("drop_experts", self.drop_experts != usual.drop_experts),
            ("expert_sizes", self.expert_sizes != usual.expert_sizes),
        ];
        set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
    }

    /// True if the gates of a token are divided by their sum.
    pub fn renormalizes(&self) -> bool {
        self.renormalize.unwrap_or(self.routing == RoutingMethod::TopK)
    }

    /// Returns the number of groups and the tokens of each, for `batch` sequences of `length` tokens: the
    /// smallest number of groups that divides the tokens and has groups of at most about `group_size`.
    pub fn groups(&self, batch: usize, length: usize) -> (usize, usize) {
        if self.group_sequences > 0 {
            let sequences = self.group_sequences;
            return (batch / sequences, sequences * length);
        }
        if self.group_size == 0 {
            return (batch, length);
        }
        let tokens = batch * length;
        let least = (tokens / self.group_size).max(1);
        let groups = (least..=tokens).find(|g| tokens.is_multiple_of(*g)).unwrap_or(tokens);
        (groups, tokens / groups)
    }

    /// Returns the smallest number of sequences that consist of whole groups, for `batch` sequences of
    /// `length` tokens.
    pub fn sequences_of_whole_groups(&self, batch: usize, length: usize) -> usize {
        let (_, tokens) = self.groups(batch, length);
        lcm(tokens, length) / length.max(1)
    }

    /// Returns the number of experts of each size and the capacity of one of them, for a group of `tokens`.
    pub fn capacities(&self, tokens: usize, train: bool) -> Vec<(usize, usize)> {
        let capacity = |size: ExpertSize| match self.drops_nothing(train) {
            true => tokens,
            false => self.scaled_capacity(tokens, train, size.capacity),
        };
        self.sizes(0).into_iter().map(|size| (size.count, capacity(size))).collect()
    }

    /// Returns the capacity of one expert for a group of `tokens`; of experts of several sizes, the largest.
    pub fn capacity(&self, tokens: usize, train: bool) -> usize {
        // A token takes at most one slot of an expert, so more slots than tokens would stay empty.
        if self.drops_nothing(train) {
            return tokens;
        }
        self.usual_capacity(tokens, train)
    }

    /// True if every token has a slot of each expert that it chooses, in training or in evaluation.
    pub fn drops_nothing(&self, train: bool) -> bool {
        self.dropless || (!train && self.eval_capacity == EvalCapacity::All)
    }

    /// Returns the options for programs of which the mesh is not known when they are built: in evaluation, a
    /// layer without capacity runs with the smallest of several capacities that holds all tokens.
    pub(crate) fn without_sorting(&self) -> Self {
        let eval_capacity = if self.dropless { EvalCapacity::All } else { self.eval_capacity };
        Self { eval_capacity, dropless: false, ..self.clone() }
    }

    /// Returns the capacity by the factors, or the fixed one; of experts of several sizes, the largest.
    pub(super) fn usual_capacity(&self, tokens: usize, train: bool) -> usize {
        let of = |size: ExpertSize| self.scaled_capacity(tokens, train, size.capacity);
        self.sizes(0).into_iter().map(of).max().unwrap_or(0)
    }

    /// Returns the capacity by `scale` times the factors, or the fixed one.
    fn scaled_capacity(&self, tokens: usize, train: bool, scale: f64) -> usize {
        if self.fixed_capacity > 0 {
            return self.fixed_capacity.min(tokens);
        }
        let factor = if train { self.capacity_factor } else { self.eval_capacity_factor };
        let choices = if self.capacity_per_choice { self.choices().max(1) } else { 1 };
        self.slots_for(tokens * choices, factor * scale, self.experts).min(tokens)
    }

    /// Returns the capacity of a group of experts and of an expert in it, if experts are in groups, for
    /// `tokens` of each sender and as many senders as groups.
    pub fn group_capacities(&self, tokens: usize, train: bool) -> (usize, usize) {
        if self.drops_nothing(train) {
            // All tokens of all senders of the group.
            return (tokens, tokens * self.expert_groups.max(1));
        }
        let factor = if train { self.capacity_factor } else { self.eval_capacity_factor };
        let group = self.slots_for(tokens, self.group_capacity_factor, self.expert_groups.max(1));
        let inside = self.slots_for(tokens, factor, self.experts / self.expert_groups.max(1));
        (group.min(tokens), inside)
    }

    fn slots_for(&self, tokens: usize, factor: f64, among: usize) -> usize {
        let share = tokens as f64 * factor / among.max(1) as f64;
        let share = match self.capacity_rounding {
            CapacityRounding::Down => share,
            CapacityRounding::Nearest => share.round(),
            CapacityRounding::Up => share.ceil(),
        };
        // The cast saturates and truncates, as in Mesh TensorFlow.
        (share as usize).max(self.min_capacity)
    }

    /// Returns the weight of the router z-loss in the training loss.
    pub fn z_weight(&self) -> f64 {
        if self.router_z_scaled { self.router_z_loss * self.aux_loss } else { self.router_z_loss }
    }
}

/// Returns the least common multiple; 0 if a number is 0.
pub(crate) fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a.checked_div(x).map_or(0, |parts| parts * b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_divide_the_tokens_and_are_no_larger_than_asked() {
        let of = |group_size| Switch { group_size, ..Switch::default() }.groups(4, 12);
        assert_eq!(of(0), (4, 12), "one sequence each");
        assert_eq!(of(16), (3, 16));
        assert_eq!(of(10), (4, 12), "48 / 10 = 4 groups, as Mesh TensorFlow counts");
        assert_eq!(of(9), (6, 8), "5 groups do not divide 48 tokens");
        assert_eq!(of(1000), (1, 48));
        let whole = Switch { group_sequences: 2, ..Switch::default() };
        assert_eq!(whole.groups(4, 12), (2, 24), "two sequences each");
        assert_eq!(whole.sequences_of_whole_groups(4, 12), 2);
        let of = |group_size| Switch { group_size, ..Switch::default() }.sequences_of_whole_groups(6, 12);
        assert_eq!([8, 12, 18, 24, 36].map(of), [2, 1, 3, 2, 3], "18 tokens are one and a half sequences");
    }

    #[test]
    fn capacity_is_truncated_and_kept_between_its_bounds() {
        let switch = Switch { experts: 8, ..Switch::default() };
        assert_eq!(switch.capacity(128, true), 20);
        assert_eq!(switch.capacity(128, false), 32);
        assert_eq!(switch.capacity(16, true), 4, "no less than the fewest slots");
        assert_eq!(switch.capacity(1, true), 1, "no more than there are tokens");
        let all = Switch { capacity_factor: 100.0, ..switch.clone() };
        assert_eq!(all.capacity(128, true), 128);
        let rounded = |capacity_rounding| {
            Switch { capacity_rounding, capacity_factor: 1.3, ..switch.clone() }.capacity(100, true)
        };
        assert_eq!(
            [CapacityRounding::Down, CapacityRounding::Nearest, CapacityRounding::Up].map(rounded),
            [16, 16, 17]
        );
        let fixed = Switch { fixed_capacity: 7, ..switch.clone() };
        assert_eq!(
            (fixed.capacity(128, true), fixed.capacity(128, false), fixed.capacity(3, false)),
            (7, 7, 3)
        );
        let none = Switch { eval_capacity: EvalCapacity::All, ..fixed };
        assert_eq!(
            (none.capacity(128, true), none.capacity(128, false)),
            (7, 128),
            "evaluation drops nothing"
        );
        let top = Switch { capacity_per_choice: true, capacity_factor: 1.0, ..Switch::top_2(8) };
        assert_eq!(top.capacity(128, true), 32, "both choices of a token count");
    }

    #[test]
    fn each_way_of_routing_has_its_usual_number_of_choices() {
        let of = |routing, top_k| Switch { experts: 3, routing, top_k, ..Switch::default() }.choices();
        assert_eq!(
            (of(RoutingMethod::Switch, 0), of(RoutingMethod::TopK, 0), of(RoutingMethod::TopK, 3)),
            (1, 2, 3)
        );
        assert_eq!(
            (of(RoutingMethod::Ntlb, 0), of(RoutingMethod::Ntlb, 2), of(RoutingMethod::ExpertChoice, 0)),
            (3, 2, 0)
        );
    }
}
