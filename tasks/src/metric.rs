//! Metrics by name.

use serde::Deserialize;

/// A metric. Values are in percent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The share of predictions that are the right label; without a label set, of those equal to an answer.
    Accuracy,
    /// The share of predictions that equal an answer.
    ExactMatch,
    /// F1 of the second label of two.
    F1,
    /// The mean of the F1 of all labels.
    MacroF1,
    /// F1 of sets of labels that are separated by `, `.
    MultiLabelF1,
    /// The correlation coefficient of Matthews.
    Matthews,
    /// Pearson's correlation coefficient of numbers; other predictions count as -1.
    Pearson,
    /// Spearman's rank correlation coefficient of numbers; other predictions count as -1.
    Spearman,
    /// Exact match and F1 of SQuAD: `squad_em` and `squad_f1`.
    Squad,
    /// The share of groups all of whose predictions are right.
    GroupExactMatch,
    /// `rouge1`, `rouge2` and `rougeLsum`: means of F-measures.
    Rouge,
    /// BLEU of all predictions together.
    Bleu,
}

impl Metric {
    /// The name in a task file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::ExactMatch => "exact_match",
            Self::F1 => "f1",
            Self::MacroF1 => "macro_f1",
            Self::MultiLabelF1 => "multi_label_f1",
            Self::Matthews => "matthews",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
            Self::Squad => "squad",
            Self::GroupExactMatch => "group_exact_match",
            Self::Rouge => "rouge",
            Self::Bleu => "bleu",
        }
    }

    /// True if the task must have a label set.
    pub fn needs_labels(self) -> bool {
        matches!(self, Self::F1 | Self::MacroF1 | Self::Matthews)
    }

    /// True if the task must have groups.
    pub fn needs_groups(self) -> bool {
        self == Self::GroupExactMatch
    }
}
