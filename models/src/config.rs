//! What a model is: sizes, precision, routing, objective and optimizer, with T5's and the Switch
//! Transformer's values as defaults, and how settings change them.

use crate::{
    Switch,
    optimizer::{LrSchedule, Method, Optimizer},
    stream::STREAM,
};
use mesh::{DType, Diagnostic, Schedule, dsl::Args, schedule::Residual};

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
    /// What is made of text.
    pub objective: Objective,
    /// Whether a row may have several examples, kept apart.
    pub packing: bool,
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
    /// What is between the products of a feed-forward layer, dense or of an expert.
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
    /// Choices that change time and memory, not results.
    pub schedule: Schedule,
    /// How parameters move.
    pub optimizer: Optimizer,
}

/// What inputs and targets are made of text. The runtime makes them; the program says which it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Objective {
    /// T5's: spans are missing, and are to be written out.
    SpanCorruption,
    /// The beginning of a text, and what follows it.
    PrefixLm,
    /// Text, with nothing but an end in front of the encoder.
    Lm,
}

impl Objective {
    /// The word on the command line, and the fact `task` of a program that trains.
    pub fn name(self) -> &'static str {
        match self {
            Self::SpanCorruption => "span_corruption",
            Self::PrefixLm => "prefix_lm",
            Self::Lm => "lm",
        }
    }
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

impl Default for Config {
    /// T5 1.0 Small's proportions with a byte vocabulary; models say what differs.
    fn default() -> Self {
        Self {
            name: "t5".into(),
            batch: 32,
            input_length: 128,
            target_length: 128,
            objective: Objective::SpanCorruption,
            packing: false,
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
            schedule: Schedule::default(),
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
        let words = [Objective::SpanCorruption, Objective::PrefixLm, Objective::Lm];
        let chosen = args.choice("objective", &words.map(Objective::name), self.objective.name());
        self.objective = words.into_iter().find(|o| o.name() == chosen).unwrap_or(self.objective);
        self.packing = args.get("packing", self.packing);
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
        self.epsilon = args.get("epsilon", self.epsilon);
        let word = match self.activation {
            Activation::Relu => "relu",
            Activation::GatedGelu => "gated-gelu",
        };
        self.activation = match args.choice("activation", &["relu", "gated-gelu"], word) {
            "gated-gelu" => Activation::GatedGelu,
            _ => Activation::Relu,
        };
        self.tied = args.get("tied", self.tied);
        self.switch = self.switch.map(|switch| switch.with(args, self.dropout));
        self.optimizer = self.optimizer.with(args);
        self.schedule = args.schedule(self.schedule);
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
        let (batch, parts) = (self.batch, self.schedule.microbatches);
        wrong.unless(
            parts > 0 && batch.is_multiple_of(parts),
            || format!("`microbatches` is {parts}, for a `batch` of {batch}"),
            "a number from 1 that divides the batch",
        );
        wrong.unless(
            self.vocab > 2,
            || format!("`vocab` is {}", self.vocab),
            "at least 3: padding, end, unknown",
        );
        let epsilon = self.epsilon;
        wrong.unless(
            epsilon > 0.0 && epsilon.is_finite(),
            || format!("`epsilon` is {epsilon}"),
            "a small number above 0",
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

    /// The same model as a preset of [`crate::zoo`] and all settings that make it of that, as `--set` takes
    /// them, with spaces between: what a checkpoint says about itself. Its name and precision are apart.
    pub fn described(&self) -> (&'static str, String) {
        let args = Args::default();
        // Asking for every setting says what it is without being set.
        let _ = self.clone().with(&args);
        // `layers` sets both stacks at once, and is of no use once they are set.
        let settings = args.settings().into_iter().filter(|s| s.key != "layers");
        let words: Vec<String> = settings.map(|s| format!("{}={}", s.key, s.default)).collect();
        (if self.switch.is_some() { "switch" } else { "t5" }, words.join(" "))
    }

    /// The same model for one part of a batch.
    pub fn microbatch(&self) -> Self {
        let schedule = Schedule { microbatches: 1, ..self.schedule };
        Self { batch: self.batch / self.schedule.microbatches.max(1), schedule, ..self.clone() }
    }

    /// Which layers of a stack are sparse: all (1), or those whose number from 0 has the remainder 1;
    /// nothing if the model has no sparse layers.
    pub fn sparse_step(&self, decoder: bool) -> Option<usize> {
        let of = |s: &Switch| match s.decoder_sparse_step {
            step if decoder && step > 0 => step,
            _ => s.sparse_step,
        };
        self.switch.as_ref().map(of)
    }

    /// How many layers of a stack one iteration over stacked layers has.
    pub fn period(&self, decoder: bool) -> usize {
        self.sparse_step(decoder).map_or(1, |step| step.max(1))
    }

    /// Whether layer `i` (from 0) of a stack is sparse.
    pub fn is_sparse(&self, decoder: bool, i: usize) -> bool {
        self.sparse_step(decoder).is_some_and(|step| step == 1 || i % step == 1)
    }

    /// The default layout, for any mesh with axes `data`, `expert` and `model`; where experts are in groups, `expert`
    /// splits the groups and `inner` the experts of each. A residual stream with a dim of its own is split over `model`.
    pub fn layout(&self) -> String {
        let rules = match &self.switch {
            Some(switch) if switch.expert_groups > 0 => {
                "batch:expert+data+inner,outer_batch:expert,inner_batch:data+inner,inner_senders:data,\
                 experts:expert+inner,expert_groups:expert,group_experts:inner,heads:model,d_ff:model,vocab:model"
            }
            Some(_) => {
                "batch:data+expert,expert_batch:data,experts:expert,heads:model,d_ff:model,vocab:model"
            }
            None => "batch:data+expert,heads:model,d_ff:model,vocab:model",
        };
        match self.schedule.residual {
            Residual::Stream => format!("{rules},{STREAM}:model"),
            Residual::DModel => rules.to_owned(),
        }
    }
}

/// Mistakes found in numbers.
#[derive(Debug, Default)]
pub struct Mistakes(pub(crate) Vec<Diagnostic>);

impl Mistakes {
    /// Those noted so far.
    pub fn found(self) -> Vec<Diagnostic> {
        self.0
    }
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
    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// The warm-up of [`Config`]s that train on little data, and the rate that goes with it.
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

    #[test]
    fn a_model_is_what_its_description_makes() {
        for (name, preset) in crate::zoo::ALL {
            let config = preset();
            let (model, settings) = config.described();
            let words = settings.split(' ').flat_map(|s| ["--set".to_owned(), s.to_owned()]);
            let schedule = config.schedule.to_string();
            let entries = schedule.split_whitespace().flat_map(|e| ["--schedule".to_owned(), e.to_owned()]);
            let args = Args::parse(words.chain(entries)).expect("the arguments are legal");
            let base = crate::zoo::named(model).expect("it names a preset");
            let again = Config { name: config.name.clone(), ..base.with(&args) };
            assert_eq!(args.mistakes(), []);
            // Being asked without being set makes explicit what follows from other settings.
            assert_eq!(again, config.with(&Args::default()), "{name}");
        }
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
