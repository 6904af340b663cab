//! The options of Switch layers: sizes, losses, noise, and how tokens travel; how settings change them, and
//! what cannot be.

use crate::config::Mistakes;
use mesh::dsl::Args;

/// Switch layers: every token goes to the one expert that the router likes best.
#[derive(Clone, PartialEq, Debug)]
pub struct Switch {
    /// Experts of a layer.
    pub experts: usize,
    /// 1: all layers are sparse; otherwise layer `i` (from 0) is sparse if `i % sparse_step == 1`.
    pub sparse_step: usize,
    /// The same in the decoder; 0: as in the encoder.
    pub decoder_sparse_step: usize,
    /// Slots of an expert, as a multiple of an even share of the tokens, in training.
    pub capacity_factor: f64,
    /// The same in evaluation.
    pub eval_capacity_factor: f64,
    /// Fewest slots of an expert.
    pub min_capacity: usize,
    /// Tokens that compete for the slots; 0: those of one sequence.
    pub group_size: usize,
    /// The router's input is multiplied by even numbers in [1 - jitter, 1 + jitter], in training.
    pub jitter: f64,
    /// Weight of the load-balancing loss of each layer.
    pub aux_loss: f64,
    /// Weight of the squared log-normalizer of the router.
    pub router_z_loss: f64,
    /// Dropout inside experts; nothing: as elsewhere.
    pub expert_dropout: Option<f64>,
    /// Initial values: truncated normal with deviation `sqrt(init_scale / fan_in)`.
    pub init_scale: f64,
    /// How tokens get to their slots.
    pub dispatch: Dispatch,
}

/// How tokens get to the slots of their experts. All ways give the same result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dispatch {
    /// By index: a partial permutation, forward and backward.
    Permute,
    /// By a product with a one-hot mask.
    Einsum,
    /// By whichever is cheaper for the size of a group.
    Auto,
}

impl Default for Switch {
    /// Values of the paper and of the released code.
    fn default() -> Self {
        Self {
            experts: 8,
            sparse_step: 1,
            decoder_sparse_step: 0,
            capacity_factor: 1.25,
            eval_capacity_factor: 2.0,
            min_capacity: 4,
            group_size: 0,
            jitter: 1e-2,
            aux_loss: 1e-2,
            router_z_loss: 0.0,
            expert_dropout: None,
            init_scale: 0.1,
            dispatch: Dispatch::Permute,
        }
    }
}

impl Switch {
    pub(crate) fn with(mut self, args: &Args, dropout: f64) -> Self {
        self.experts = args.get("experts", self.experts);
        self.sparse_step = args.get("sparse_step", self.sparse_step);
        self.decoder_sparse_step = args.get("decoder_sparse_step", self.decoder_sparse_step);
        self.capacity_factor = args.get("capacity_factor", self.capacity_factor);
        self.eval_capacity_factor = args.get("eval_capacity_factor", self.eval_capacity_factor);
        self.min_capacity = args.get("min_capacity", self.min_capacity);
        self.group_size = args.get("group_size", self.group_size);
        self.jitter = args.get("jitter", self.jitter);
        self.aux_loss = args.get("aux_loss", self.aux_loss);
        self.router_z_loss = args.get("router_z_loss", self.router_z_loss);
        self.expert_dropout = Some(args.get("expert_dropout", self.expert_dropout.unwrap_or(dropout)));
        self.init_scale = args.get("init_scale", self.init_scale);
        let word = match self.dispatch {
            Dispatch::Permute => "permute",
            Dispatch::Einsum => "einsum",
            Dispatch::Auto => "auto",
        };
        // `sort` is what other systems call dispatch by index.
        self.dispatch = match args.choice("dispatch", &["permute", "sort", "einsum", "auto"], word) {
            "einsum" => Dispatch::Einsum,
            "auto" => Dispatch::Auto,
            _ => Dispatch::Permute,
        };
        self
    }

    pub(crate) fn mistakes(&self, wrong: &mut Mistakes) {
        wrong.unless(self.experts > 0, || "`experts` is 0".into(), "at least 1");
        wrong.unless(
            self.sparse_step > 0,
            || "`sparse_step` is 0".into(),
            "1 for all layers, 2 for every other",
        );
        for (what, factor) in
            [("capacity_factor", self.capacity_factor), ("eval_capacity_factor", self.eval_capacity_factor)]
        {
            wrong.unless(
                factor > 0.0 && factor.is_finite(),
                || format!("`{what}` is {factor}"),
                "more than 0",
            );
        }
        wrong.unless(
            self.min_capacity > 0,
            || "`min_capacity` is 0".into(),
            "at least 1, so that every expert has a slot",
        );
        wrong.share("jitter", self.jitter);
        wrong.share("expert_dropout", self.expert_dropout.unwrap_or(0.0));
        for (what, weight) in [
            ("aux_loss", self.aux_loss),
            ("router_z_loss", self.router_z_loss),
            ("init_scale", self.init_scale),
        ] {
            wrong.unless(weight >= 0.0, || format!("`{what}` is {weight}"), "a number from 0");
        }
    }

    /// Groups and tokens per group of `batch` sequences of `length` tokens: the smallest number of groups
    /// that divides the tokens and gives groups of at most about `group_size`.
    pub fn groups(&self, batch: usize, length: usize) -> (usize, usize) {
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
        let factor = if train { self.capacity_factor } else { self.eval_capacity_factor };
        // Saturating and truncating, as in Mesh TensorFlow.
        let share = (tokens as f64 * factor / self.experts as f64) as usize;
        share.min(tokens).max(self.min_capacity)
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
    }

    #[test]
    fn capacity_is_truncated_and_kept_between_its_bounds() {
        let switch = Switch { experts: 8, ..Switch::default() };
        assert_eq!(switch.capacity(128, true), 20);
        assert_eq!(switch.capacity(128, false), 32);
        assert_eq!(switch.capacity(16, true), 4, "no less than the fewest slots");
        let all = Switch { capacity_factor: 100.0, ..switch };
        assert_eq!(all.capacity(128, true), 128, "no more than there are tokens");
    }
}
