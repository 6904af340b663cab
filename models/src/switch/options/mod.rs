//! The options of Switch layers: sizes, who chooses whom, losses, noise, and how tokens travel. The defaults
//! are the paper's router; `docs/routing.md` says which options make the router of which other system.
//!
//! How settings change them is in `settings`, what cannot be in `validate`.

mod settings;
mod validate;

/// Switch layers: layers of which every token uses one of several copies, or a few.
#[derive(Clone, PartialEq, Debug)]
pub struct Switch {
    /// Experts of a layer.
    pub experts: usize,
    /// 1: all layers are sparse; otherwise layer `i` (from 0) is sparse if `i % sparse_step == 1`.
    pub sparse_step: usize,
    /// The same in the decoder; 0: as in the encoder.
    pub decoder_sparse_step: usize,
    /// Which parts of a sparse layer have experts.
    pub sparse_parts: SparseParts,
    /// Who chooses whom.
    pub routing: RoutingMethod,
    /// How many experts a token chooses; 0: as many as is usual for `routing`.
    pub top_k: usize,
    /// Whether the gates of a token are divided by their sum; nothing: as is usual for `routing`.
    pub renormalize: Option<bool>,
    /// Which choices after a token's first count, in training.
    pub second_policy: SecondExpertPolicy,
    /// The same in evaluation.
    pub eval_second_policy: SecondExpertPolicy,
    /// The number in the policy, in training.
    pub second_threshold: f64,
    /// The same in evaluation.
    pub eval_second_threshold: f64,
    /// Who goes first when an expert has fewer slots than tokens that want it.
    pub priority: Priority,
    /// Noise of the choice, in training.
    pub exploration: Exploration,
    /// The router's input is multiplied by even numbers in [1 - jitter, 1 + jitter] (`input_jitter`).
    pub jitter: f64,
    /// Share of the router's input that is dropped (`input_dropout`).
    pub router_dropout: f64,
    /// What logits are divided by before a choice is drawn (`sample`).
    pub temperature: f64,
    /// Slots of an expert, as a multiple of an even share of the tokens, in training.
    pub capacity_factor: f64,
    /// The same in evaluation.
    pub eval_capacity_factor: f64,
    /// What is done with a part of a slot.
    pub capacity_rounding: CapacityRounding,
    /// Whether the share counts every choice of a token and not every token.
    pub capacity_per_choice: bool,
    /// Fewest slots of an expert.
    pub min_capacity: usize,
    /// Experts in so many groups: tokens travel to the group first and to the expert from there, each way with
    /// slots of its own; 0: straight to the expert.
    pub expert_groups: usize,
    /// Slots of a group of experts, as a multiple of an even share of the tokens.
    pub group_capacity_factor: f64,
    /// Slots of an expert whatever the tokens are; 0: by the factors.
    pub fixed_capacity: usize,
    /// Tokens that compete for the slots; 0: those of one sequence.
    pub group_size: usize,
    /// The same as a number of whole sequences, for both stacks alike; 0: by `group_size`.
    pub group_sequences: usize,
    /// Whether padding is kept away from the experts. Otherwise it is routed like any token.
    pub ignore_padding: bool,
    /// Weight of the load-balancing loss of each layer.
    pub aux_loss: f64,
    /// How the losses of layers are put together.
    pub aux_layers: AuxReduction,
    /// Whether second choices are balanced too, at half the weight.
    pub second_place_loss: bool,
    /// Weight of the squared log-normalizer of the router.
    pub router_z_loss: f64,
    /// Whether that weight is multiplied by `aux_loss`, as in Mesh TensorFlow.
    pub router_z_scaled: bool,
    /// Whether the router adds a bias to its logits.
    pub router_bias: bool,
    /// Whether probabilities are rounded to the type of activations before the choice, as in Hugging Face's
    /// code.
    pub round_probabilities: bool,
    /// ExpertDropout inside experts; nothing: as elsewhere.
    pub expert_dropout: Option<f64>,
    /// Initial values: truncated normal with deviation `sqrt(init_scale / fan_in)`.
    pub init_scale: f64,
}

/// Which parts of a sparse layer have experts.
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
    /// Whether the feed-forward layer has experts.
    pub fn ffn(self) -> bool {
        matches!(self, Self::Ffn | Self::Both)
    }
    /// Whether self-attention has experts.
    pub fn attention(self) -> bool {
        matches!(self, Self::Attention | Self::Both)
    }
}

/// Who chooses whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoutingMethod {
    /// Every token the expert it likes best.
    Switch,
    /// Every token the `top_k` experts it likes best, second choices after all first ones.
    TopK,
    /// Every token one expert: the first of its `top_k` choices that has a slot left ("no token left behind").
    Ntlb,
    /// Every expert the tokens that like it best, by softmax over experts (Zhou et al. 2022).
    ExpertChoice,
    /// Every expert the tokens it likes best, by softmax over tokens; what a token gets is a mean over its
    /// experts (Mesh TensorFlow).
    ExpertSelection,
}

impl RoutingMethod {
    /// Whether experts choose.
    pub fn by_experts(self) -> bool {
        matches!(self, Self::ExpertChoice | Self::ExpertSelection)
    }
}

/// Which choices after the first count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecondExpertPolicy {
    /// All.
    All,
    /// None, though they have their part in renormalized gates.
    None,
    /// Those with a gate above the threshold.
    Threshold,
    /// Those drawn with probability gate / threshold.
    Random,
}

/// Who goes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Priority {
    /// The first in the group.
    Order,
    /// The token with the highest first gate: "batch-prioritized" routing, `switch_max` in Mesh TensorFlow.
    Gate,
}

/// Noise of the choice, in training.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exploration {
    /// None.
    Argmax,
    /// Experts are drawn by their probabilities.
    Sample,
    /// ExpertDropout on the router's input.
    InputDropout,
    /// The router's input times numbers near 1.
    InputJitter,
}

/// What is done with a part of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CapacityRounding {
    /// It goes.
    Down,
    /// A half and more counts as one.
    Nearest,
    /// It counts as one.
    Up,
}

/// How the losses of layers are put together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuxReduction {
    /// By their sum.
    Sum,
    /// By their mean.
    Mean,
}

impl Default for Switch {
    /// Values of the paper and of the released code.
    fn default() -> Self {
        Self {
            experts: 8,
            sparse_step: 1,
            decoder_sparse_step: 0,
            sparse_parts: SparseParts::Ffn,
            routing: RoutingMethod::Switch,
            top_k: 0,
            renormalize: None,
            second_policy: SecondExpertPolicy::All,
            eval_second_policy: SecondExpertPolicy::All,
            second_threshold: 0.2,
            eval_second_threshold: 0.2,
            priority: Priority::Order,
            exploration: Exploration::InputJitter,
            jitter: 1e-2,
            router_dropout: 0.1,
            temperature: 1.0,
            capacity_factor: 1.25,
            eval_capacity_factor: 2.0,
            capacity_rounding: CapacityRounding::Down,
            capacity_per_choice: false,
            min_capacity: 4,
            fixed_capacity: 0,
            expert_groups: 0,
            group_capacity_factor: 1.25,
            group_size: 0,
            group_sequences: 0,
            ignore_padding: false,
            aux_loss: 1e-2,
            aux_layers: AuxReduction::Sum,
            second_place_loss: false,
            router_z_loss: 0.0,
            router_z_scaled: false,
            router_bias: false,
            round_probabilities: false,
            expert_dropout: None,
            init_scale: 0.1,
        }
    }
}

impl Switch {
    /// The router of Hugging Face's Switch Transformers: a fixed number of slots for each sequence,
    /// probabilities rounded to the type of activations, its weights of losses.
    pub fn hugging_face(experts: usize, capacity: usize) -> Self {
        Self {
            experts,
            fixed_capacity: capacity,
            round_probabilities: true,
            aux_loss: 1e-3,
            router_z_loss: 1e-3,
            ..Self::default()
        }
    }

    /// Of top-2 gating as in GShard and Mesh TensorFlow ("MoE" in the paper's tables).
    pub fn top_2(experts: usize) -> Self {
        Self {
            experts,
            routing: RoutingMethod::TopK,
            top_k: 2,
            exploration: Exploration::Argmax,
            ..Self::default()
        }
    }

    /// How many experts a token chooses; 0 where experts choose.
    pub fn choices(&self) -> usize {
        match (self.routing, self.top_k) {
            (RoutingMethod::ExpertChoice | RoutingMethod::ExpertSelection, _) => 0,
            (RoutingMethod::Switch | RoutingMethod::TopK | RoutingMethod::Ntlb, k) if k > 0 => k,
            (RoutingMethod::Switch, _) => 1,
            (RoutingMethod::TopK, _) => 2,
            (RoutingMethod::Ntlb, _) => self.experts.min(4),
        }
    }

    /// Whether the gates of a token are divided by their sum.
    pub fn renormalizes(&self) -> bool {
        self.renormalize.unwrap_or(self.routing == RoutingMethod::TopK)
    }

    /// Groups and tokens per group of `batch` sequences of `length` tokens: the smallest number of groups
    /// that divides the tokens and gives groups of at most about `group_size`.
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

    /// Slots of one expert for a group of `tokens`.
    pub fn capacity(&self, tokens: usize, train: bool) -> usize {
        // More slots than tokens would stay empty: no token takes two slots of one expert.
        if self.fixed_capacity > 0 {
            return self.fixed_capacity.min(tokens);
        }
        let factor = if train { self.capacity_factor } else { self.eval_capacity_factor };
        let choices = if self.capacity_per_choice { self.choices().max(1) } else { 1 };
        self.slots_for(tokens * choices, factor, self.experts).min(tokens)
    }

    /// Slots of a group of experts and of an expert in it, for as many `tokens` from each sender as senders send
    /// to a group, where experts are in groups.
    pub fn group_capacities(&self, tokens: usize, train: bool) -> (usize, usize) {
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
        // Saturating and truncating, as in Mesh TensorFlow.
        (share as usize).max(self.min_capacity)
    }

    /// The weight of a router's squared log-normalizer in what training makes small.
    pub fn z_weight(&self) -> f64 {
        if self.router_z_scaled { self.router_z_loss * self.aux_loss } else { self.router_z_loss }
    }
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
