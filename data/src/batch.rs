//! The rows of one step.

use super::batch_spec::BatchSpec;
use std::collections::BTreeMap;

/// Inputs and targets of one step.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Batch {
    /// The number of rows.
    pub size: usize,
    /// The padding token.
    pub pad: i32,
    /// Input tokens, `[size, input_length]`, padded.
    pub inputs: Vec<i32>,
    /// Target tokens, `[size, target_length]`, padded.
    pub targets: Vec<i32>,
    /// For each token of inputs and targets, the number of its example within the row, from 1; 0 for padding.
    /// `None` if every row holds one example.
    pub segments: Option<[Vec<i32>; 2]>,
    /// For each row, the index of its corpus in the mixture. Empty if there is only one corpus.
    pub corpora: Vec<usize>,
    /// The numbers of input and target tokens, without padding, of rows that were not built because another
    /// process needs them: by row.
    pub not_built: BTreeMap<usize, [usize; 2]>,
    /// The largest logits of a teacher for each target token. `None` means there is no teacher.
    pub teacher: Option<Top>,
}

/// The largest logits for each target token, `[size, target_length, top]`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Top {
    /// The tokens with the largest logits.
    pub tokens: Vec<i32>,
    /// Their logits.
    pub logits: Vec<f32>,
}

impl Batch {
    /// A batch of padding only.
    pub(super) fn empty(spec: &BatchSpec) -> Self {
        let tokens = |length: usize, token: i32| vec![token; spec.batch * length];
        let lengths = [spec.input_length, spec.target_length];
        let [inputs, targets] = lengths.map(|length| tokens(length, spec.pad()));
        let segments = spec.packing.then(|| lengths.map(|length| tokens(length, 0)));
        Self { size: spec.batch, pad: spec.pad(), inputs, targets, segments, ..Self::default() }
    }

    /// Adds an example to a row that is not built.
    pub(super) fn count(&mut self, row: usize, (input, target): (usize, usize)) {
        let counts = self.not_built.entry(row).or_default();
        // There are no inputs if their length is 0.
        counts[0] += if self.inputs.is_empty() { 0 } else { input };
        counts[1] += target;
    }

    /// Appends an example to a row. The row has room for it.
    pub(super) fn put(&mut self, row: usize, input: &[i32], target: &[i32]) {
        let segments = self.segments.as_mut().map(|[i, t]| [Some(i), Some(t)]).unwrap_or([None, None]);
        let sides = [(&mut self.inputs, input), (&mut self.targets, target)];
        for ((tokens, example), segments) in sides.into_iter().zip(segments) {
            let length = tokens.len() / self.size;
            if length == 0 {
                // The program takes no inputs.
                continue;
            }
            let row = row * length..(row + 1) * length;
            let used = tokens[row.clone()].iter().rposition(|t| *t != self.pad).map_or(0, |last| last + 1);
            let range = row.start + used..row.start + used + example.len();
            tokens[range.clone()].copy_from_slice(example);
            if let Some(segments) = segments {
                let number = 1 + segments[row].iter().max().copied().unwrap_or(0);
                segments[range].fill(number);
            }
        }
    }

    /// The arrays of the batch with their roles; each has [`Batch::size`] rows of equal length. Inputs are
    /// missing if their length is 0.
    pub fn arrays(&self) -> impl Iterator<Item = (&'static str, &[i32])> {
        let segments =
            self.segments.as_ref().map(|[i, t]| [("inputs_segments", &**i), ("targets_segments", &**t)]);
        [("inputs", &*self.inputs), ("targets", &*self.targets)]
            .into_iter()
            .chain(segments.into_iter().flatten())
            .filter(|(_, tokens)| !tokens.is_empty())
    }

    /// The number of tokens of inputs and targets of all rows, without padding.
    pub fn tokens(&self) -> usize {
        let built = self.inputs.iter().chain(&self.targets).filter(|t| **t != self.pad).count();
        built + self.not_built.values().flatten().sum::<usize>()
    }

    /// The target tokens of the rows that were built, without padding.
    pub fn target_ids(&self) -> impl Iterator<Item = i32> {
        self.targets.iter().copied().filter(|t| *t != self.pad)
    }

    /// The number of target tokens of all rows, without padding.
    pub fn target_tokens(&self) -> usize {
        self.row_target_tokens().sum()
    }

    /// The number of target tokens of each row, without padding.
    pub fn row_target_tokens(&self) -> impl Iterator<Item = usize> {
        let rows = self.targets.chunks((self.targets.len() / self.size.max(1)).max(1));
        rows.enumerate().map(|(number, row)| match self.not_built.get(&number) {
            Some([_, target]) => *target,
            None => row.iter().filter(|t| **t != self.pad).count(),
        })
    }
}
