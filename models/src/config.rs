//! Model configuration: sizes, precision, routing, objective, optimizer and schedule. Defaults are those of
//! T5 and the Switch Transformer; settings of the command line override them.

use crate::{
    Context, Switch,
    lora::Lora,
    mistakes::Mistakes,
    optimizer::{LrSchedule, Method, Optimizer},
    patterns::Patterns,
    precision::Precision,
    stream::STREAM,
    switch::{always_sorts, options::lcm},
    tokens::{EOS, PAD},
};
use mesh::{
    Diagnostic, Dim, Schedule, Task,
    dsl::{Args, Graph, Rng, Tensor},
    schedule::Residual,
    task::{Objective, Sentinels, SpecialTokens, TaskKind},
};

/// The default number of input tokens of a decoder-only language model in generation and scoring.
const INPUTS: usize = 32;

/// A T5 or Switch Transformer and its training settings.
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
    /// Objective: makes inputs and targets from text.
    pub objective: Objective,
    /// True if a row may hold several examples, separated by segment masks.
    pub packing: bool,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Rows of the embedding after those of the vocabulary, so that the dim `vocab` divides into shards. No
    /// token has them, and their logits are masked.
    pub vocab_padding: usize,
    /// Size of the residual stream.
    pub d_model: usize,
    /// Size of the hidden layer of a feed-forward layer.
    pub d_ff: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// Size of a head; `heads · d_kv` need not be `d_model`.
    pub d_kv: usize,
    /// Blocks of the encoder; 0 means a decoder-only model.
    pub encoder_layers: usize,
    /// Blocks of the decoder.
    pub decoder_layers: usize,
    /// Activation of feed-forward layers, dense ones and experts.
    pub activation: Activation,
    /// True if the output projection shares the embedding table.
    pub tied: bool,
    /// True if the decoder's output is multiplied by `d_model^-0.5` before the output projection;
    /// `None` means if `tied`, as in T5.
    pub scaled_output: Option<bool>,
    /// True if every layer has its own table of relative position biases, as in umT5; otherwise the layers of
    /// a stack share one, as in T5.
    pub layer_biases: bool,
    /// The tokens that mark removed spans; `None` means those of the tokenizer.
    pub sentinels: Option<Sentinels>,
    /// The token that ends a sequence.
    pub eos_token: u32,
    /// The token that a decoder-only model reads where it predicts the first token of a text; that of an
    /// encoder-decoder is padding.
    pub start_token: u32,
    /// The way in which self-attention knows positions.
    pub positions: Positions,
    /// The base of the frequencies of rotary positions.
    pub rope_theta: f64,
    /// Heads of keys and values, with rotary positions; 0 means as many as heads ("grouped-query attention").
    pub kv_heads: usize,
    /// Number of last positions, with its own, that a position of a decoder-only model sees; 0 means all.
    pub window: usize,
    /// Number of relative-position buckets.
    pub buckets: usize,
    /// Distance from which all positions share the last bucket.
    pub max_distance: usize,
    /// Added to the mean square in norms.
    pub epsilon: f64,
    /// Options of the sparse layers; `None` for a dense model.
    pub switch: Option<Switch>,
    /// Dropout rate in training.
    pub dropout: f64,
    /// True if all tokens of a sequence share a dropout mask, as in T5. Otherwise every element draws its
    /// own, which costs one random number per activation.
    pub dropout_broadcast: bool,
    /// Weight of the squared log-normalizer of the output.
    pub z_loss: f64,
    /// Element types.
    pub precision: Precision,
    /// Choices that change time and memory, not results.
    pub schedule: Schedule,
    /// Update rule, learning-rate schedule and clipping.
    pub optimizer: Optimizer,
    /// Names of parameters that training does not change.
    pub freeze: Patterns,
    /// Low-rank adapters, which are trained in place of all other parameters; `None` means no adapters.
    pub lora: Option<Lora>,
}

/// Ways in which self-attention knows positions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Positions {
    /// By biases for relative positions (T5).
    Relative,
    /// By rotary positions (RoFormer). Logits are then divided by `sqrt(d_kv)`.
    Rope,
}

/// Activation of feed-forward layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// `relu(x wi)`: T5 1.0.
    Relu,
    /// `gelu(x wi_0) · x wi_1`: T5 1.1.
    GatedGelu,
    /// `silu(x wi_0) · x wi_1`: UL2.
    GatedSilu,
}

impl Activation {
    /// All activations.
    pub const ALL: [Self; 3] = [Self::Relu, Self::GatedGelu, Self::GatedSilu];

    /// Returns the word in settings, which is also Hugging Face's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Relu => "relu",
            Self::GatedGelu => "gated-gelu",
            Self::GatedSilu => "gated-silu",
        }
    }

    /// True if a second matrix multiplies the hidden layer.
    pub fn gated(self) -> bool {
        match self {
            Self::Relu => false,
            Self::GatedGelu | Self::GatedSilu => true,
        }
    }

    /// Applies the function to `x`, without the product with the second matrix.
    pub(crate) fn apply(self, x: Tensor<'_>) -> Tensor<'_> {
        match self {
            Self::Relu => x.relu(),
            Self::GatedGelu => x.gelu(),
            Self::GatedSilu => x * x.logistic(),
        }
    }
}

impl Default for Config {
    /// T5 1.0 Small with a byte vocabulary.
    fn default() -> Self {
        Self {
            name: "t5".into(),
            batch: 32,
            input_length: 128,
            // Span corruption of 128 tokens has targets of 29.
            target_length: 32,
            objective: Objective::SpanCorruption,
            packing: false,
            vocab: 384,
            vocab_padding: 0,
            d_model: 512,
            d_ff: 2048,
            heads: 8,
            d_kv: 64,
            encoder_layers: 6,
            decoder_layers: 6,
            activation: Activation::Relu,
            tied: true,
            scaled_output: None,
            layer_biases: false,
            sentinels: None,
            eos_token: EOS,
            start_token: PAD,
            positions: Positions::Relative,
            rope_theta: 1e4,
            kv_heads: 0,
            window: 0,
            buckets: 32,
            max_distance: 128,
            epsilon: 1e-6,
            switch: None,
            dropout: 0.1,
            dropout_broadcast: true,
            z_loss: 1e-4,
            precision: Precision::F32,
            schedule: Schedule::default(),
            optimizer: Optimizer::default(),
            freeze: Patterns::default(),
            lora: None,
        }
    }
}

impl Config {
    /// Returns the configuration with the settings of the command line applied.
    pub fn with(mut self, args: &Args) -> Self {
        self.precision = match args.dtype(&["f32", "selective", "bf16"]) {
            "selective" => Precision::Selective,
            "bf16" => Precision::Bf16,
            _ => Precision::F32,
        };
        let sizes: [(&str, &mut usize); 13] = [
            ("batch", &mut self.batch),
            ("input_length", &mut self.input_length),
            ("target_length", &mut self.target_length),
            ("vocab", &mut self.vocab),
            ("vocab_padding", &mut self.vocab_padding),
            ("d_model", &mut self.d_model),
            ("d_ff", &mut self.d_ff),
            ("heads", &mut self.heads),
            ("d_kv", &mut self.d_kv),
            ("buckets", &mut self.buckets),
            ("max_distance", &mut self.max_distance),
            ("kv_heads", &mut self.kv_heads),
            ("window", &mut self.window),
        ];
        for (key, size) in sizes {
            *size = args.get(key, *size);
        }
        let chosen = args.choice("objective", &Objective::ALL.map(Objective::name), self.objective.name());
        self.objective = Objective::ALL.into_iter().find(|o| o.name() == chosen).unwrap_or(self.objective);
        self.packing = args.get("packing", self.packing);
        // 0 means the model's own number of layers.
        let layers = args.get("layers", 0);
        if layers > 0 {
            let encoder = if self.is_decoder_only() { 0 } else { layers };
            (self.encoder_layers, self.decoder_layers) = (encoder, layers);
        }
        self.encoder_layers = args.get("encoder_layers", self.encoder_layers);
        self.decoder_layers = args.get("decoder_layers", self.decoder_layers);
        self.dropout = args.get("dropout", self.dropout);
        self.dropout_broadcast = args.get("dropout_broadcast", self.dropout_broadcast);
        self.z_loss = args.get("z_loss", self.z_loss);
        self.epsilon = args.get("epsilon", self.epsilon);
        let words = Activation::ALL.map(Activation::name);
        let chosen = args.choice("activation", &words, self.activation.name());
        self.activation = Activation::ALL.into_iter().find(|a| a.name() == chosen).unwrap_or(self.activation);
        self.read_positions(args);
        self.tied = args.get("tied", self.tied);
        self.scaled_output = Some(args.get("scaled_output", self.scales_output()));
        self.layer_biases = args.get("layer_biases", self.layer_biases);
        self.read_special_tokens(args);
        self.optimizer = self.optimizer.with(args);
        let init_scale = self.optimizer.method.init_scale();
        self.switch = self.switch.map(|switch| switch.with(args, self.dropout, init_scale));
        self.schedule = args.schedule(self.schedule);
        self.freeze = args.get("freeze", self.freeze);
        self.lora = Lora::with(self.lora, args);
        self
    }

    /// Reads tokens with a special meaning.
    fn read_special_tokens(&mut self, args: &Args) {
        // 0 means those of the tokenizer.
        let sentinels = self.sentinels.unwrap_or(Sentinels { first: 0, count: 0 });
        let count = args.get("sentinels", sentinels.count);
        let first = args.get("first_sentinel", sentinels.first);
        self.sentinels = (count > 0).then_some(Sentinels { first, count });
        self.eos_token = args.get("eos_token", self.eos_token);
        self.start_token = args.get("start_token", self.start_token);
    }

    /// Reads the way in which self-attention knows positions.
    fn read_positions(&mut self, args: &Args) {
        let words = [("relative", Positions::Relative), ("rope", Positions::Rope)];
        let own = words.iter().find(|(_, p)| *p == self.positions).map_or("", |(word, _)| *word);
        let chosen = args.choice("positions", &words.map(|(word, _)| word), own);
        self.positions =
            words.into_iter().find(|(word, _)| *word == chosen).map_or(self.positions, |(_, p)| p);
        self.rope_theta = args.get("rope_theta", self.rope_theta);
    }

    /// Returns the options of Switch layers, with the scale of the initialization that suits the optimizer
    /// unless it is set. `None` means that the model is dense.
    pub fn sparse_layers(&self) -> Option<Switch> {
        let init_scale = |s: &Switch| s.init_scale.or(Some(self.optimizer.method.init_scale()));
        self.switch.as_ref().map(|s| Switch { init_scale: init_scale(s), ..s.clone() })
    }

    /// Validates the configuration; returns all mistakes.
    pub fn mistakes(&self) -> Vec<Diagnostic> {
        let mut wrong = Mistakes::default();
        for (what, size) in [
            ("batch", self.batch),
            ("target_length", self.target_length),
            ("d_model", self.d_model),
            ("d_ff", self.d_ff),
            ("heads", self.heads),
            ("d_kv", self.d_kv),
            ("decoder_layers", self.decoder_layers),
        ] {
            wrong.require(size > 0, what, "at least 1", size);
        }
        let (batch, parts) = (self.batch, self.schedule.microbatches);
        let divides = parts > 0 && batch.is_multiple_of(parts);
        wrong.require(divides, "microbatches", &format!("a divisor of `batch` = {batch}"), parts);
        self.stage_mistakes(&mut wrong);
        self.ring_mistakes(&mut wrong);
        self.decoder_only_mistakes(&mut wrong);
        wrong.require(self.vocab > 2, "vocab", "at least 3 (padding, end of sequence, unknown)", self.vocab);
        let fewer = format!("less than `vocab` = {}", self.vocab);
        wrong.require(self.vocab_padding < self.vocab, "vocab_padding", &fewer, self.vocab_padding);
        wrong.positive("epsilon", self.epsilon);
        let (buckets, distance) = (self.buckets, self.max_distance);
        let fits = (4..=1024).contains(&buckets) && buckets.is_multiple_of(4);
        let rule = "a multiple of 4 up to 1024 (half of them for each direction, half of these for single distances)";
        wrong.require(fits, "buckets", rule, buckets);
        let rule = format!("more than half of `buckets` = {buckets}");
        wrong.require(distance > buckets / 2, "max_distance", &rule, distance);
        wrong.share("dropout", self.dropout);
        wrong.not_negative("z_loss", self.z_loss);
        if let Some(Sentinels { first, count }) = self.sentinels {
            let below = format!("less than `vocab` = {}", self.vocab);
            wrong.require((first as usize) < self.vocab, "first_sentinel", &below, first);
            let fits = format!(
                "at most {}: they count down from `first_sentinel` = {first}",
                first.saturating_sub(1)
            );
            wrong.require(count < first, "sentinels", &fits, count);
        }
        if let Some(switch) = &self.switch {
            switch.mistakes(self, &mut wrong);
        }
        self.optimizer.mistakes(&mut wrong);
        if let Some(lora) = &self.lora {
            wrong.require(lora.alpha.is_finite(), "lora_alpha", "a finite number", lora.alpha);
        }
        wrong.0
    }

    /// [`Config::mistakes`] of a model with inputs, as generation and scoring use it
    /// ([`Config::with_inputs`]).
    pub fn mistakes_with_inputs(&self) -> Vec<Diagnostic> {
        let lm = self.is_decoder_only() && self.objective == Objective::Lm;
        let input_length = if lm { 0 } else { self.input_length };
        Self { input_length, ..self.clone() }.mistakes()
    }

    /// Checks settings of decoder-only models.
    fn decoder_only_mistakes(&self, wrong: &mut Mistakes) {
        let (alone, lm) = (self.is_decoder_only(), self.objective == Objective::Lm);
        let inputs = self.input_length;
        if alone && lm {
            let rule = "0 for a decoder-only model with `objective` = lm, which has no inputs";
            wrong.require(inputs == 0, "input_length", rule, inputs);
        } else {
            wrong.require(inputs > 0, "input_length", "at least 1", inputs);
        }
        let rotary = self.positions == Positions::Rope;
        for (what, token) in [("eos_token", self.eos_token), ("start_token", self.start_token)] {
            let below = format!("less than `vocab` = {}", self.vocab);
            wrong.require((token as usize) < self.vocab, what, &below, token);
        }
        wrong.require(
            self.eos_token != PAD,
            "eos_token",
            &format!("other than {PAD}, padding"),
            self.eos_token,
        );
        let only = |what: &str| format!("`{what}` needs a decoder-only model (`encoder_layers` = 0)");
        let legal = "set `encoder_layers` to 0, or leave it out";
        wrong.unless(alone || !rotary, || only("positions=rope"), legal);
        wrong.unless(alone || self.window == 0, || only("window"), legal);
        wrong.unless(alone || self.start_token == PAD, || only("start_token"), legal);
        wrong.unless(
            rotary || self.kv_heads == 0,
            || format!("`kv_heads` = {} needs `positions` = rope", self.kv_heads),
            "set `positions` to rope, or `kv_heads` to 0",
        );
        let heads = format!("0 or a divisor of `heads` = {}", self.heads);
        let divides = self.kv_heads == 0 || self.heads.is_multiple_of(self.kv_heads);
        wrong.require(divides, "kv_heads", &heads, self.kv_heads);
        if rotary {
            wrong.positive("rope_theta", self.rope_theta);
            wrong.require(self.d_kv.is_multiple_of(2), "d_kv", "even with `positions` = rope", self.d_kv);
            wrong.require(
                !self.layer_biases,
                "layer_biases",
                "false with `positions` = rope",
                self.layer_biases,
            );
            let dense = self.switch.as_ref().is_none_or(|s| !s.sparse_parts.attention());
            wrong.unless(
                dense,
                || "`experts_in` = attention and both do not work with `positions` = rope".into(),
                "set `experts_in` to ffn",
            );
        }
        if alone {
            wrong.require(self.schedule.ring == 1, "ring", "1 for a decoder-only model", self.schedule.ring);
            wrong.unless(
                lm || !self.packing,
                || "`packing` of a decoder-only model needs `objective` = lm".into(),
                "set `packing` to false",
            );
        }
    }

    /// Checks that attention can be divided into blocks.
    fn ring_mistakes(&self, wrong: &mut Mistakes) {
        let ring = self.schedule.ring;
        let (inputs, targets) = (self.input_length, self.target_length);
        let divides = ring > 0 && inputs.is_multiple_of(ring) && targets.is_multiple_of(ring);
        let rule = format!("a divisor of `input_length` = {inputs} and `target_length` = {targets}");
        wrong.require(divides, "ring", &rule, ring);
        if self.packing {
            wrong.require(ring == 1, "ring", "1 with `packing`, whose segment masks are not divided", ring);
        }
    }

    /// Returns a preset of [`crate::zoo`] and the space-separated `--set` settings that turn it into this
    /// model. Checkpoints record both; name, precision and schedule are recorded separately.
    pub fn described(&self) -> (&'static str, String) {
        let args = Args::default();
        // Reading all settings records each of them with its current value as the default.
        let _ = self.clone().with(&args);
        // `layers` sets both stacks at once; their own settings follow.
        let settings = args.settings().into_iter().filter(|s| s.key != "layers");
        let words: Vec<String> = settings.map(|s| format!("{}={}", s.key, s.default)).collect();
        (if self.switch.is_some() { "switch" } else { "t5" }, words.join(" "))
    }

    /// Returns the dim of the vocabulary, with its padding.
    pub fn vocab_dim(&self) -> Dim {
        Dim::new("vocab", self.vocab + self.vocab_padding)
    }

    /// Returns the meta entry `padded`: the used part of the dim `vocab`, and the setting that pads it.
    pub(crate) fn padded(&self) -> String {
        format!("vocab={}:vocab_padding", self.vocab)
    }

    /// True if the decoder's output is multiplied by `d_model^-0.5` before the output projection.
    pub fn scales_output(&self) -> bool {
        self.scaled_output.unwrap_or(self.tied)
    }

    /// Notes stacks that do not divide into the stages of a pipeline.
    fn stage_mistakes(&self, wrong: &mut Mistakes) {
        let stages = self.schedule.stages;
        for decoder in [false, true].into_iter().filter(|_| stages > 1) {
            let (layers, period) = (self.layers(decoder), self.period(decoder));
            let (stack, key) =
                if decoder { ("decoder", "decoder_layers") } else { ("encoder", "encoder_layers") };
            let whole = layers.is_multiple_of(period) && (layers / period).is_multiple_of(stages);
            let rule = match period {
                1 => format!("a multiple of the {stages} `stages` of the {stack}"),
                _ => format!(
                    "a multiple of {period} times the {stages} `stages` of the {stack}: {period} layers repeat"
                ),
            };
            wrong.require(whole, key, &rule, layers);
        }
    }

    /// Returns the same model for one microbatch.
    pub fn microbatch(&self) -> Self {
        let schedule = Schedule { microbatches: 1, ..self.schedule };
        Self { batch: self.batch / self.schedule.microbatches.max(1), schedule, ..self.clone() }
    }

    /// True if the model has no encoder.
    pub fn is_decoder_only(&self) -> bool {
        self.encoder_layers == 0
    }

    /// Returns the model with inputs, as generation and scoring need them: a decoder-only language model,
    /// which is trained without, reads the beginning of a text.
    pub fn with_inputs(&self) -> Self {
        let input_length = if self.input_length > 0 { self.input_length } else { INPUTS };
        Self { input_length, ..self.clone() }
    }

    /// Returns the number of query heads that share a head of keys and values.
    pub fn query_group(&self) -> usize {
        self.heads.checked_div(self.kv_heads).unwrap_or(1).max(1)
    }

    /// Returns the lengths of the rows that stacks read, with the settings that determine them.
    pub fn row_lengths(&self) -> Vec<(&'static str, usize)> {
        match self.is_decoder_only() {
            true => vec![("target_length", self.input_length + self.target_length)],
            false => vec![("input_length", self.input_length), ("target_length", self.target_length)],
        }
    }

    /// Returns the number of adjacent sequences that a microbatch takes together, so that its groups are
    /// groups of the whole batch: the fewest that consist of whole groups in both stacks.
    pub fn adjacent_sequences(&self) -> usize {
        let Some(switch) = &self.switch else { return 1 };
        let batch = self.microbatch().batch;
        let of = |length| switch.sequences_of_whole_groups(batch, length);
        self.row_lengths().into_iter().map(|(_, length)| of(length)).fold(1, lcm).max(1)
    }

    /// Returns the number of layers of a stack.
    pub fn layers(&self, decoder: bool) -> usize {
        if decoder { self.decoder_layers } else { self.encoder_layers }
    }

    /// Returns the distance between sparse layers of a stack: 1 if all are sparse, otherwise those whose
    /// index has remainder 1. `None` means that the model is dense.
    pub fn sparse_step(&self, decoder: bool) -> Option<usize> {
        let of = |s: &Switch| match s.decoder_sparse_step {
            step if decoder && step > 0 => step,
            _ => s.sparse_step,
        };
        self.switch.as_ref().map(of)
    }

    /// Returns the number of layers in one iteration of the scan over a stack.
    pub fn period(&self, decoder: bool) -> usize {
        self.sparse_step(decoder).map_or(1, |step| step.max(1))
    }

    /// True if layer `i` (from 0) of a stack is sparse.
    pub fn is_sparse(&self, decoder: bool, i: usize) -> bool {
        self.sparse_step(decoder).is_some_and(|step| step == 1 || i % step == 1)
    }

    /// Returns the task contract of a program of this model.
    pub(crate) fn task(&self, kind: TaskKind) -> Task {
        Task {
            vocab: self.vocab,
            batch: self.batch,
            input_length: self.input_length,
            target_length: self.target_length,
            continues: self.is_decoder_only() && self.objective == Objective::Lm && self.input_length > 0,
            special_tokens: SpecialTokens { pad: PAD, eos: self.eos_token, sentinels: self.sentinels },
            ..Task::new(kind)
        }
    }

    /// True if no function of the model has expert slots with a capacity.
    fn always_sorts(&self, switch: &Switch) -> bool {
        let lengths: Vec<usize> = self.row_lengths().iter().map(|(_, length)| *length).collect();
        always_sorts(switch, self.microbatch().batch, &lengths, self.schedule.sorted_parts)
    }

    /// Returns the default layout, for any mesh with axes `data`, `expert` and `model`. With groups of
    /// experts, `expert` shards the groups and `inner` the experts of a group. A residual stream with its
    /// own dim is sharded over `model`. The stages of a pipeline, and with them the parameters of layers, are
    /// sharded over `pipe`, and so is the vocabulary, which no stage needs.
    pub fn layout(&self) -> String {
        let rules = match &self.switch {
            Some(switch) if switch.expert_groups > 0 => {
                "batch:expert+data+inner,outer_batch:expert,inner_batch:data+inner,inner_senders:data,\
                 experts:expert+inner,expert_groups:expert,group_experts:inner,heads:model,d_ff:model,vocab:model"
            }
            Some(switch) if self.always_sorts(switch) => {
                "batch:data+expert,experts:expert,heads:model,d_ff:model,vocab:model"
            }
            Some(_) => {
                "batch:data+expert,expert_batch:data,experts:expert,heads:model,d_ff:model,vocab:model"
            }
            None => "batch:data+expert,heads:model,d_ff:model,vocab:model",
        };
        let rules = match self.schedule.residual {
            Residual::Stream => format!("{rules},{STREAM}:model"),
            Residual::DModel => rules.to_owned(),
        };
        match self.schedule.stages {
            0 | 1 => rules,
            _ => format!("{},layers:pipe", rules.replace("vocab:model", "vocab:model+pipe")),
        }
    }
}

impl<'g> Context<'g> {
    /// Returns a context for a model, of a training step if `rng` is given.
    pub fn new(g: &'g Graph, config: &Config, rng: Option<Rng<'g>>) -> Self {
        Self {
            g,
            precision: config.precision,
            rng,
            dropout: config.dropout,
            dropout_broadcast: config.dropout_broadcast,
            schedule: config.schedule,
            non_padding: None,
            tokens: None,
            counts: None,
            routed: None,
            segment_mask: None,
            positions: None,
            visible_prefix: 0,
            window: config.window,
            records_routes: false,
        }
    }
}

/// An optimizer for models that train on little data: AdamW with a short warm-up.
pub fn small_model_optimizer() -> Optimizer {
    Optimizer {
        method: Method::adamw(),
        schedule: LrSchedule { rate: 2e-3, warmup: 50, ..LrSchedule::default() },
        ..Optimizer::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_scale(words: &str, expect: f64) {
        let args = words.split_whitespace().flat_map(|w| ["--set".to_owned(), w.to_owned()]);
        let args = Args::parse(args).expect("the arguments are legal");
        let sparse = Config { switch: Some(Switch::default()), ..Config::default() };
        let scale = sparse.with(&args).sparse_layers().map(|s| s.scale());
        assert_eq!((scale, args.mistakes()), (Some(expect), vec![]), "{words}");
    }

    #[test]
    fn the_initialization_scale_follows_from_the_optimizer_unless_it_is_set() {
        check_scale("", 1.0);
        check_scale("optimizer=sgd", 1.0);
        check_scale("optimizer=adafactor", 0.1);
        check_scale("optimizer=adafactor relative=false", 1.0);
        check_scale("optimizer=adafactor init_scale=0.5", 0.5);
        check_scale("init_scale=0.1", 0.1);
    }

    #[test]
    fn a_model_is_what_its_description_makes() {
        for crate::zoo::Preset { name, config, .. } in crate::zoo::ALL {
            let config = config();
            let (model, settings) = config.described();
            let words = settings.split(' ').flat_map(|s| ["--set".to_owned(), s.to_owned()]);
            let schedule = config.schedule.to_string();
            let entries = schedule.split_whitespace().flat_map(|e| ["--schedule".to_owned(), e.to_owned()]);
            let args = Args::parse(words.chain(entries)).expect("the arguments are legal");
            let base = crate::zoo::named(model).expect("it names a preset");
            let again = Config { name: config.name.clone(), ..base.with(&args) };
            assert_eq!(args.mistakes(), []);
            // Reading the settings makes explicit those that follow from others.
            assert_eq!(again, config.with(&Args::default()), "{name}");
        }
    }

    #[test]
    fn the_layout_names_only_dims_that_the_program_has() {
        let of = |batch, dropless| {
            let switch = Some(Switch { dropless, ..Switch::default() });
            Config { batch, switch, ..Config::default() }.layout().contains("expert_batch")
        };
        assert_eq!([of(8, false), of(1, true), of(64, true)], [true, true, false]);
    }

    #[test]
    fn every_setting_is_read() {
        let words = "--dtype selective --set layers=4 --set decoder_layers=6 --set sparse_step=2 --set \
                     decoder_sparse_step=3 --set activation=gated-gelu --set epsilon=1e-5 --set \
                     optimizer=adafactor --set dropout=0.3 --set lr=0.5 --schedule dispatch=sort --schedule \
                     remat=carries --schedule microbatches=4 --set gather=step";
        let args = Args::parse(words.split_whitespace().map(str::to_owned)).expect("the arguments are legal");
        let config = Config { switch: Some(Switch::default()), ..Config::default() }.with(&args);
        assert_eq!(args.mistakes(), []);
        assert_eq!(config.mistakes(), []);
        let switch = config.switch.clone().expect("it stays sparse");
        assert_eq!((config.encoder_layers, config.decoder_layers, config.period(false)), (4, 6, 2));
        assert_eq!(switch.expert_dropout, Some(0.3));
        assert_eq!(config.precision, Precision::Selective);
        let schedule = "remat=carries microbatches=4 gather=step dispatch=permute";
        assert_eq!(config.schedule.to_string(), schedule, "a `--set` of an entry counts");
        assert_eq!(config.microbatch().batch, 8);
        let optimizer = &config.optimizer;
        assert_eq!((&optimizer.method, optimizer.schedule.rate), (&Method::adafactor(), 0.5));
        assert!(!Config::default().is_sparse(false, 1));
        let sparse = |decoder| (0..6).filter(|i| config.is_sparse(decoder, *i)).collect::<Vec<_>>();
        assert_eq!((sparse(false), sparse(true)), (vec![1, 3, 5], vec![1, 4]));
    }
}
