//! What a model is: sizes, precision, routing, objective and optimizer, with T5's and the Switch
//! Transformer's values as defaults, and how settings change them.

use crate::optimizer::{Method, Optimizer, Schedule};
use mesh::{DType, Diagnostic, dsl::Args, ir::Remat};

/// A T5 or Switch Transformer and how it is trained.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Name of the program.
    pub name: String,
    /// Sequences per step.
    pub batch: usize,
    /// Tokens of an input.
    pub input_length: usize,
    /// Tokens of a target.
    pub target_length: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Size of the residual stream.
    pub d_model: usize,
    /// Size of the hidden layer of a feed-forward layer.
    pub d_ff: usize,
    /// Attention heads.
    pub heads: usize,
    /// Size of a head; `heads · d_kv` need not be `d_model`.
    pub d_kv: usize,
    /// Blocks of the encoder.
    pub encoder_layers: usize,
    /// Blocks of the decoder.
    pub decoder_layers: usize,
    /// What is between the products of a dense feed-forward layer.
    pub activation: Activation,
    /// Whether the output projection is the embedding.
    pub tied: bool,
    /// Buckets of relative positions.
    pub buckets: usize,
    /// The distance from which all positions share a bucket.
    pub max_distance: usize,
    /// The small number in norms.
    pub epsilon: f64,
    /// Sparse layers, if there are any.
    pub switch: Option<Switch>,
    /// Share of elements dropped in training.
    pub dropout: f64,
    /// Whether all tokens of a sequence share a dropout mask, as in T5; otherwise every element has its
    /// own, which costs as many random numbers as there are activations.
    pub dropout_broadcast: bool,
    /// Weight of the squared log-normalizer of the output.
    pub z_loss: f64,
    /// Element types.
    pub precision: Precision,
    /// What the layers keep for the backward pass.
    pub remat: Remat,
    /// Whether layers are emitted one after the other instead of as a loop.
    pub unroll: bool,
    /// How parameters move.
    pub optimizer: Optimizer,
}

/// What is between the products of a feed-forward layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// `relu(x wi)`: T5 1.0.
    Relu,
    /// `gelu(x wi_0) · x wi_1`: T5 1.1.
    GatedGelu,
}

/// Element types of activations and of the router. Parameters and optimizer slots are `f32` always, and
/// so are softmax, statistics of norms, and losses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// `f32` throughout.
    F32,
    /// `bf16` activations and what crosses an all-to-all; `f32` around the router (the paper's section 2.4).
    Selective,
    /// `bf16` activations, the router too.
    Bf16,
}

impl Precision {
    /// Element type of activations.
    pub fn activations(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Selective | Self::Bf16 => DType::Bf16,
        }
    }
    /// Element type of the router's product and softmax.
    pub fn router(self) -> DType {
        match self {
            Self::F32 | Self::Selective => DType::F32,
            Self::Bf16 => DType::Bf16,
        }
    }
    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Selective => "selective",
            Self::Bf16 => "bf16",
        }
    }
}

/// Switch layers: every token goes to the one expert that the router likes best.
#[derive(Clone, PartialEq, Debug)]
pub struct Switch {
    /// Experts of a layer.
    pub experts: usize,
    /// 1: all layers are sparse; otherwise layer `i` (from 0) is sparse if `i % sparse_step == 1`.
    pub sparse_step: usize,
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

impl Default for Config {
    /// T5 1.0 Small's proportions with a byte vocabulary; models say what differs.
    fn default() -> Self {
        Self {
            name: "t5".into(),
            batch: 32,
            input_length: 128,
            target_length: 128,
            vocab: 384,
            d_model: 512,
            d_ff: 2048,
            heads: 8,
            d_kv: 64,
            encoder_layers: 6,
            decoder_layers: 6,
            activation: Activation::Relu,
            tied: true,
            buckets: 32,
            max_distance: 128,
            epsilon: 1e-6,
            switch: None,
            dropout: 0.1,
            dropout_broadcast: true,
            z_loss: 1e-4,
            precision: Precision::F32,
            remat: Remat::SaveAll,
            unroll: false,
            optimizer: Optimizer::default(),
        }
    }
}

impl Config {
    /// With the settings of the command line.
    pub fn with(mut self, args: &Args) -> Self {
        self.precision = match args.dtype(&["f32", "selective", "bf16"]) {
            "selective" => Precision::Selective,
            "bf16" => Precision::Bf16,
            _ => Precision::F32,
        };
        let sizes: [(&str, &mut usize); 10] = [
            ("batch", &mut self.batch),
            ("input_length", &mut self.input_length),
            ("target_length", &mut self.target_length),
            ("vocab", &mut self.vocab),
            ("d_model", &mut self.d_model),
            ("d_ff", &mut self.d_ff),
            ("heads", &mut self.heads),
            ("d_kv", &mut self.d_kv),
            ("buckets", &mut self.buckets),
            ("max_distance", &mut self.max_distance),
        ];
        for (key, size) in sizes {
            *size = args.get(key, *size);
        }
        // 0 stands for "as the model says".
        let layers = args.get("layers", 0);
        if layers > 0 {
            (self.encoder_layers, self.decoder_layers) = (layers, layers);
        }
        self.encoder_layers = args.get("encoder_layers", self.encoder_layers);
        self.decoder_layers = args.get("decoder_layers", self.decoder_layers);
        self.dropout = args.get("dropout", self.dropout);
        self.dropout_broadcast = args.get("dropout_broadcast", self.dropout_broadcast);
        self.z_loss = args.get("z_loss", self.z_loss);
        self.tied = args.get("tied", self.tied);
        self.unroll = args.get("unroll", self.unroll);
        let word = match self.remat {
            Remat::SaveAll => "all",
            Remat::SaveContractions => "contractions",
            Remat::SaveCarries => "carries",
        };
        self.remat = match args.choice("remat", &["all", "contractions", "carries"], word) {
            "contractions" => Remat::SaveContractions,
            "carries" => Remat::SaveCarries,
            _ => Remat::SaveAll,
        };
        self.switch = self.switch.map(|switch| switch.with(args, self.dropout));
        self.optimizer = self.optimizer.with(args);
        self
    }

    /// What is wrong with the numbers, before anything is built from them.
    pub fn mistakes(&self) -> Vec<Diagnostic> {
        let mut wrong = Mistakes::default();
        for (what, size) in [
            ("batch", self.batch),
            ("input_length", self.input_length),
            ("target_length", self.target_length),
            ("d_model", self.d_model),
            ("d_ff", self.d_ff),
            ("heads", self.heads),
            ("d_kv", self.d_kv),
            ("encoder_layers", self.encoder_layers),
            ("decoder_layers", self.decoder_layers),
        ] {
            wrong.unless(size > 0, || format!("`{what}` is 0"), "at least 1");
        }
        wrong.unless(
            self.vocab > 2,
            || format!("`vocab` is {}", self.vocab),
            "at least 3: padding, end, unknown",
        );
        let (buckets, distance) = (self.buckets, self.max_distance);
        wrong.unless(
            buckets >= 4 && buckets.is_multiple_of(4),
            || format!("`buckets` is {buckets}"),
            "a multiple of 4: half of them for each direction, half of these for single positions",
        );
        wrong.unless(
            distance > buckets / 2,
            || format!("`max_distance` is {distance}, with {buckets} buckets"),
            "more than half of the buckets, which serve single positions",
        );
        wrong.share("dropout", self.dropout);
        wrong.unless(self.z_loss >= 0.0, || format!("`z_loss` is {}", self.z_loss), "a number from 0");
        if let Some(switch) = &self.switch {
            switch.mistakes(self, &mut wrong);
        }
        self.optimizer.mistakes(&mut wrong);
        wrong.0
    }

    /// How many layers one iteration over stacked layers has.
    pub fn period(&self) -> usize {
        self.switch.as_ref().map_or(1, |s| s.sparse_step.max(1))
    }

    /// Whether layer `i` (from 0) is sparse.
    pub fn is_sparse(&self, i: usize) -> bool {
        self.switch.as_ref().is_some_and(|s| s.sparse_step == 1 || i % s.sparse_step == 1)
    }

    /// The default layout, for any mesh with axes `data`, `expert` and `model`.
    pub fn layout(&self) -> &'static str {
        match self.switch {
            Some(_) => {
                "batch:data+expert,expert_batch:data,experts:expert,heads:model,d_ff:model,vocab:model"
            }
            None => "batch:data+expert,heads:model,d_ff:model,vocab:model",
        }
    }
}

impl Switch {
    fn with(mut self, args: &Args, dropout: f64) -> Self {
        self.experts = args.get("experts", self.experts);
        self.sparse_step = args.get("sparse_step", self.sparse_step);
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

    fn mistakes(&self, config: &Config, wrong: &mut Mistakes) {
        wrong.unless(self.experts > 0, || "`experts` is 0".into(), "at least 1");
        wrong.unless(
            self.sparse_step > 0,
            || "`sparse_step` is 0".into(),
            "1 for all layers, 2 for every other",
        );
        for (what, layers) in
            [("encoder_layers", config.encoder_layers), ("decoder_layers", config.decoder_layers)]
        {
            let step = self.sparse_step.max(1);
            let near = if layers < step { step } else { layers / step * step };
            wrong.unless(
                layers.is_multiple_of(step),
                || format!("`{what}` is {layers}, which `sparse_step` = {step} does not divide"),
                &format!("{near} or {} layers; or a sparse_step that divides {layers}", near + step),
            );
        }
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

/// Mistakes found in numbers.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<Diagnostic>);

impl Mistakes {
    /// Notes `message` unless `good`.
    pub fn unless(&mut self, good: bool, message: impl FnOnce() -> String, legal: &str) {
        if !good {
            self.0.push(Diagnostic::new("", message()).help(legal));
        }
    }
    /// A share of something: from 0, less than 1.
    pub fn share(&mut self, what: &str, value: f64) {
        self.unless((0.0..1.0).contains(&value), || format!("`{what}` is {value}"), "from 0, less than 1");
    }
}

/// The warm-up of [`Config`]s that train on little data, and the rate that goes with it.
pub fn small_model_optimizer() -> Optimizer {
    Optimizer {
        method: Method::adamw(),
        schedule: Schedule { rate: 2e-3, warmup: 50, ..Schedule::default() },
        ..Optimizer::default()
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

    #[test]
    fn every_setting_is_read() {
        let words = "--dtype selective --set layers=4 --set decoder_layers=6 --set sparse_step=2 --set \
                     dispatch=sort --set optimizer=adafactor --set dropout=0.3 --set remat=carries --set lr=0.5";
        let args = Args::parse(words.split_whitespace().map(str::to_owned)).expect("the arguments are legal");
        let config = Config { switch: Some(Switch::default()), ..Config::default() }.with(&args);
        assert_eq!(args.mistakes(), []);
        assert_eq!(config.mistakes(), []);
        let switch = config.switch.clone().expect("it stays sparse");
        assert_eq!((config.encoder_layers, config.decoder_layers, config.period()), (4, 6, 2));
        assert_eq!((switch.dispatch, switch.expert_dropout), (Dispatch::Permute, Some(0.3)));
        assert_eq!((config.precision, config.remat), (Precision::Selective, Remat::SaveCarries));
        assert_eq!((config.optimizer.method, config.optimizer.schedule.rate), (Method::adafactor(), 0.5));
        assert!(!Config::default().is_sparse(1));
    }
}
