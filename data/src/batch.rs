//! The rows of one step.

use super::{task::Task, tokenizer::PAD};

/// Inputs and targets of a step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// Sequences.
    pub size: usize,
    /// What is read, each row padded to the same length.
    pub inputs: Vec<i32>,
    /// What is to be written, each row padded to the same length.
    pub targets: Vec<i32>,
    /// Which example of its row each token of inputs and targets belongs to, from 1; 0 for padding. Nothing if every
    /// row is one example.
    pub segments: Option<[Vec<i32>; 2]>,
    /// Which of several texts each row is of, by their order; empty if there is only one.
    pub texts: Vec<usize>,
}

impl Batch {
    /// Nothing but padding.
    pub(super) fn empty(task: &Task) -> Self {
        let [inputs, targets] =
            [task.input_length, task.target_length].map(|length| vec![PAD; task.batch * length]);
        let segments = task.packing.then(|| [inputs.clone(), targets.clone()]);
        Self { size: task.batch, inputs, targets, segments, texts: Vec::new() }
    }

    /// Adds an example to a row, behind those that it has. There is room for it.
    pub(super) fn put(&mut self, row: usize, input: &[i32], target: &[i32]) {
        let segments = self.segments.as_mut().map(|[i, t]| [Some(i), Some(t)]).unwrap_or([None, None]);
        let sides = [(&mut self.inputs, input), (&mut self.targets, target)];
        for ((tokens, example), segments) in sides.into_iter().zip(segments) {
            let length = tokens.len() / self.size;
            let row = row * length..(row + 1) * length;
            let used = tokens[row.clone()].iter().rposition(|t| *t != PAD).map_or(0, |last| last + 1);
            let place = row.start + used..row.start + used + example.len();
            tokens[place.clone()].copy_from_slice(example);
            if let Some(segments) = segments {
                let number = 1 + segments[row].iter().max().copied().unwrap_or(0);
                segments[place].fill(number);
            }
        }
    }

    /// The arrays of the batch by the names of the program's inputs; each has [`Batch::size`] rows of equal length.
    pub fn arrays(&self) -> impl Iterator<Item = (&'static str, &[i32])> {
        let segments =
            self.segments.as_ref().map(|[i, t]| [("inputs_segments", &**i), ("targets_segments", &**t)]);
        [("inputs", &*self.inputs), ("targets", &*self.targets)]
            .into_iter()
            .chain(segments.into_iter().flatten())
    }
    /// Tokens of inputs and targets that are not padding.
    pub fn tokens(&self) -> usize {
        self.inputs.iter().chain(&self.targets).filter(|t| **t != PAD).count()
    }
    /// Tokens of targets that are not padding.
    pub fn target_tokens(&self) -> usize {
        self.row_target_tokens().sum()
    }
    /// The same row by row.
    pub fn row_target_tokens(&self) -> impl Iterator<Item = usize> {
        let rows = self.targets.chunks((self.targets.len() / self.size.max(1)).max(1));
        rows.map(|row| row.iter().filter(|t| **t != PAD).count())
    }
}
