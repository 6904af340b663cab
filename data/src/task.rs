//! The shape of batches and the training objective.

/// The shape of batches and how examples are made of text, as the program requires it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    /// Rows of a batch.
    pub batch: usize,
    /// Tokens of an input row.
    pub input_length: usize,
    /// Tokens of a target row.
    pub target_length: usize,
    /// The size of the vocabulary.
    pub vocab: usize,
    /// The training objective.
    pub objective: Objective,
    /// True if a row may hold several examples.
    pub packing: bool,
}

/// The training objective: how inputs and targets are made of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Objective {
    /// Spans are removed from the input, and form the target.
    #[default]
    SpanCorruption,
    /// The input is the beginning of the text, the target is the rest.
    PrefixLm,
    /// The target is the text; the input holds only the end token.
    Lm,
}

impl Objective {
    /// All objectives.
    pub const ALL: [Self; 3] = [Self::SpanCorruption, Self::PrefixLm, Self::Lm];

    /// The name, such as `span_corruption`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SpanCorruption => "span_corruption",
            Self::PrefixLm => "prefix_lm",
            Self::Lm => "lm",
        }
    }
}
