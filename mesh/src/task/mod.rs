//! The task contract: the typed description of its task that a program gives to the runtime.
//!
//! A [`Task`] is part of a [`crate::Module`]. The compiler copies it into the manifest of the artefact; the
//! runtime makes batches, calls functions and reads results by it, and knows no model.
//! `docs/train-contract.md` explains it to authors of programs.
//!
//! Reading order: the types here, [`check`] (what a program lacks for its task), `text` (the line `task …` of
//! `.mesh` text).

pub mod check;
mod text;

use crate::Name;

/// The beginning of the names of outputs that are shown to the person who runs the program.
pub const PRINT: &str = "print/";
/// The beginning of the names of outputs that stop the program unless all their numbers are 0. The dim
/// [`NAN_INF`] has the numbers of NaN and of infinite elements of a value; the other dims are those of scans.
pub const ASSERT_FINITE: &str = "assert_finite/";
/// The dim of the two numbers of an assertion.
pub const NAN_INF: &str = "nan_inf";

/// The task of a program, with everything the runtime must know to run it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// The kind of task.
    pub kind: TaskKind,
    /// The size of the vocabulary: token ids are below it.
    pub vocab: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of an input row. 0 means that the program has no input `inputs` (only for [`Objective::Lm`]).
    pub input_length: usize,
    /// Tokens of a target row.
    pub target_length: usize,
    /// True if inputs are the beginning of a text that targets continue: no end token follows them.
    pub continues: bool,
    /// Tokens with a special meaning.
    pub special_tokens: SpecialTokens,
    /// The names of the inputs and outputs of functions.
    pub names: Names,
}

/// The kind of task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskKind {
    /// Functions `train_step` and, for evaluation, `eval_step`.
    Train {
        /// The training objective.
        objective: Objective,
        /// True if a row may hold several examples; the program then takes segment numbers.
        packing: bool,
    },
    /// The function `score`: log-likelihoods of given targets.
    Score,
    /// Functions `encode`, `decode` and `results`, and optionally `prepare`.
    Generate(Generation),
}

/// Training objectives: the ways to make examples of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Objective {
    /// T5's span corruption: spans are removed from the input, and form the target.
    SpanCorruption,
    /// The input is the beginning of a text, the target is the rest.
    PrefixLm,
    /// The target is a text.
    Lm,
}

/// The options that a generation program was built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generation {
    /// The choice of the next token.
    pub method: DecodingMethod,
    /// Sequences for each input: beams of a search, or samples.
    pub beams: usize,
    /// Positions that one call of `decode` computes.
    pub steps: usize,
    /// True if sampling takes `top_k` and `top_p`.
    pub filter: bool,
}

/// Decoding methods: the choice of the next token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodingMethod {
    /// The most likely token.
    Greedy,
    /// A random token, by its probability.
    Sample,
    /// Beam search.
    Beam,
}

/// Tokens with a special meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpecialTokens {
    /// Fills rows behind their last token.
    pub pad: u32,
    /// Ends a sequence.
    pub eos: u32,
    /// The tokens that mark removed spans. `None` means the tokenizer's own, or else tokens that count down
    /// from the end of the vocabulary.
    pub sentinels: Option<Sentinels>,
}

/// Consecutive tokens that mark removed spans: the first span is marked by `first`, the next by `first - 1`,
/// and so on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sentinels {
    /// The token of the first span.
    pub first: u32,
    /// The number of sentinels.
    pub count: u32,
}

/// The names of inputs and outputs that have a role, the same in every function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// Input: the tokens of the inputs, `s32[batch, input_length]`.
    pub inputs: Name,
    /// Input: the tokens of the targets, `s32[batch, target_length]`.
    pub targets: Name,
    /// Input: the segment numbers of the inputs, from 1, 0 for padding, `s32[batch, input_length]`.
    pub inputs_segments: Name,
    /// Input: the segment numbers of the targets, `s32[batch, target_length]`.
    pub targets_segments: Name,
    /// Input: the seed of random numbers, `u32[]`.
    pub seed: Name,
    /// Output: the mean loss of the batch, `f32[]`.
    pub loss: Name,
    /// Output: the contribution of each row to the loss, `f32[batch]`.
    pub row_loss: Name,
}

impl Task {
    /// A training task. Sizes are 0 until they are set:
    /// `Task { vocab: 384, batch: 8, target_length: 64, ..Task::train(Objective::Lm) }`.
    pub fn train(objective: Objective) -> Self {
        Self::new(TaskKind::Train { objective, packing: false })
    }

    /// A task of any kind. Sizes are 0 until they are set.
    pub fn new(kind: TaskKind) -> Self {
        Self {
            kind,
            vocab: 0,
            batch: 0,
            input_length: 0,
            target_length: 0,
            continues: false,
            special_tokens: SpecialTokens::default(),
            names: Names::default(),
        }
    }

    /// A short description: `span corruption, 32 rows of 128 → 128 tokens`.
    pub fn summary(&self) -> String {
        let what = match self.kind {
            TaskKind::Train { objective, packing } => {
                format!("{}{}", objective.words(), if packing { ", packed" } else { "" })
            }
            TaskKind::Score => "scoring".to_owned(),
            TaskKind::Generate(generation) => format!("generation, {}", generation.method.name()),
        };
        let input = match self.input_length {
            0 => String::new(),
            length => format!("{length} → "),
        };
        format!("{what}, {} rows of {input}{} tokens", self.batch, self.target_length)
    }
}

impl Objective {
    /// All objectives.
    pub const ALL: [Self; 3] = [Self::SpanCorruption, Self::PrefixLm, Self::Lm];

    /// The name in settings and `.mesh` text.
    pub fn name(self) -> &'static str {
        match self {
            Self::SpanCorruption => "span_corruption",
            Self::PrefixLm => "prefix_lm",
            Self::Lm => "lm",
        }
    }

    /// The name in sentences.
    fn words(self) -> &'static str {
        match self {
            Self::SpanCorruption => "span corruption",
            Self::PrefixLm => "prefix language modelling",
            Self::Lm => "language modelling",
        }
    }
}

impl DecodingMethod {
    /// All methods.
    pub const ALL: [Self; 3] = [Self::Greedy, Self::Sample, Self::Beam];

    /// The name in settings and `.mesh` text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Sample => "sample",
            Self::Beam => "beam",
        }
    }
}

impl TaskKind {
    /// The name in settings and `.mesh` text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train { .. } => "train",
            Self::Score => "score",
            Self::Generate(_) => "generate",
        }
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self { method: DecodingMethod::Greedy, beams: 1, steps: 1, filter: false }
    }
}

impl SpecialTokens {
    /// T5's tokens: 0 is padding, 1 is the end.
    pub const T5: Self = Self { pad: 0, eos: 1, sentinels: None };
}

impl Default for SpecialTokens {
    fn default() -> Self {
        Self::T5
    }
}

impl Default for Names {
    /// Every role under its own name.
    fn default() -> Self {
        Self {
            inputs: "inputs".into(),
            targets: "targets".into(),
            inputs_segments: "inputs_segments".into(),
            targets_segments: "targets_segments".into(),
            seed: "seed".into(),
            loss: "loss".into(),
            row_loss: "row_loss".into(),
        }
    }
}
