//! The requirements of a program on its batches.

use proto::manifest::{Objective, SpecialTokens};

/// The requirements of a program on its batches: the values of its task contract.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BatchSpec {
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of an input row. 0 means there are no inputs.
    pub input_length: usize,
    /// Tokens of a target row.
    pub target_length: usize,
    /// The size of the vocabulary.
    pub vocab: usize,
    /// The training objective.
    pub objective: Objective,
    /// True if a row may hold several examples.
    pub packing: bool,
    /// The tokens for padding, ends of sequences, and removed spans.
    pub special_tokens: SpecialTokens,
}

impl BatchSpec {
    /// The padding token.
    pub fn pad(&self) -> i32 {
        self.special_tokens.pad as i32
    }

    /// The end-of-sequence token.
    pub fn eos(&self) -> i32 {
        self.special_tokens.eos as i32
    }
}

/// The name of an objective in sentences and digests, such as `span_corruption`.
pub(super) fn name(objective: Objective) -> &'static str {
    match objective {
        Objective::Unspecified => "unspecified",
        Objective::SpanCorruption => "span_corruption",
        Objective::PrefixLm => "prefix_lm",
        Objective::Lm => "lm",
    }
}
