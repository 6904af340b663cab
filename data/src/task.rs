//! The task of a program: sizes of its batches, and what inputs and targets are made of.

/// What a program wants to be trained on, by its own account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    /// Sequences in a batch.
    pub batch: usize,
    /// Tokens of an input.
    pub input_length: usize,
    /// Tokens of a target.
    pub target_length: usize,
    /// Tokens there are.
    pub vocab: usize,
    /// What inputs and targets are made of text.
    pub objective: Objective,
    /// Whether a row has several examples.
    pub packing: bool,
}

/// What a program is trained on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Objective {
    /// Spans are missing from the input, and are the target.
    #[default]
    SpanCorruption,
    /// The input is the beginning of the text, the target the rest.
    PrefixLm,
    /// The target is the text; the input is nothing but an end.
    Lm,
}

impl Objective {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::SpanCorruption, Self::PrefixLm, Self::Lm];

    /// The fact `task` of a program.
    pub fn name(self) -> &'static str {
        match self {
            Self::SpanCorruption => "span_corruption",
            Self::PrefixLm => "prefix_lm",
            Self::Lm => "lm",
        }
    }
}
