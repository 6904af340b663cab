//! Batches of examples.

use super::{
    order::{Permutation, Rng},
    spans::{self, Lengths, SpanCorruption},
    stream::Stream,
    tokenizer::{EOS, PAD, Tokenizer},
};
use crate::{Artefact, Error, HostTensor, Result, data::Text};
use std::{fmt, sync::Arc};

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
}

impl Task {
    /// The task of a program, from the facts in its manifest.
    pub fn of(artefact: &Artefact) -> Result<Self> {
        let program = &artefact.manifest.program;
        match artefact.fact("task") {
            Some("span_corruption") => {}
            Some(task) => {
                return Err(Error::input(
                    format!("program `{program}` has the task `{task}`"),
                    "the tasks that can be trained are: span_corruption",
                ));
            }
            None => {
                return Err(Error::input(
                    format!("program `{program}` does not say what it is trained on"),
                    "add the fact `task` = `span_corruption` to the program",
                ));
            }
        }
        Ok(Self {
            batch: artefact.number("batch")?,
            input_length: artefact.number("input_length")?,
            target_length: artefact.number("target_length")?,
            vocab: artefact.number("vocab")?,
        })
    }
}

/// What can be chosen about examples.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// Share of the text, at its end, that is kept for evaluation.
    pub held_out: f64,
    /// How much of it is missing.
    pub corruption: SpanCorruption,
}

/// One text, cut into windows; each is an example of span corruption. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    inner: Arc<Inner>,
}

struct Inner {
    text: Text,
    task: Task,
    tokenizer: Tokenizer,
    tokens: Stream,
    /// Mark spans, the first one first.
    sentinels: Vec<i32>,
    corruption: SpanCorruption,
    lengths: Lengths,
    /// Windows for training, from the start of the text.
    train: usize,
    /// Windows for evaluation, after those for training.
    held_out: usize,
}

/// Inputs and targets of a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Sequences.
    pub size: usize,
    /// Corrupted texts, each padded to the same length.
    pub inputs: Vec<i32>,
    /// What is missing, each padded to the same length.
    pub targets: Vec<i32>,
}

/// Stands where the number of the epoch does, for examples that are in none.
const HELD_OUT: u64 = u64::MAX;
/// What random numbers are for: part of their keys.
const ORDER: u64 = 1;
const NOISE: u64 = 2;

impl Source {
    /// Examples of `text` for `task`.
    pub fn new(text: Text, task: Task, options: &Options) -> Result<Self> {
        let (corruption, share) = (options.corruption, options.held_out);
        let lengths = corruption.lengths(task.input_length)?;
        if lengths.target > task.target_length {
            return Err(Error::input(
                format!(
                    "targets of {} tokens are too short for inputs of {}: {} tokens of text miss {} with their sentinels and the end",
                    task.target_length, task.input_length, lengths.raw, lengths.target
                ),
                format!("give the model a `target_length` of at least {}", lengths.target),
            ));
        }
        let tokenizer = options.tokenizer.clone();
        let sentinels = tokenizer.sentinels(task.vocab, corruption.noise(lengths.raw).spans)?;
        if task.batch == 0 || !(0.0..1.0).contains(&share) {
            return Err(Error::input(
                format!("a batch of {} with a share of {share} held out", task.batch),
                "a batch has at least 1 sequence; the share is from 0, less than 1",
            ));
        }
        let tokens = Stream::new(&text, &tokenizer)?;
        let windows = tokens.len(&text) / lengths.raw;
        // Whoever asks for some gets at least one.
        let kept = |windows: usize| (windows as f64 * share).ceil() as usize;
        let held_out = kept(windows);
        if windows <= held_out {
            let need = lengths.raw * (1..).find(|w| kept(*w) < *w).unwrap_or(usize::MAX);
            let unit = if tokens == Stream::Bytes { "bytes" } else { "tokens" };
            return Err(Error::input(
                format!("the text is too short: {} {unit}", tokens.len(&text)),
                format!(
                    "an example takes {} {unit}; give at least {need} {unit} of text, and much more to learn from",
                    lengths.raw
                ),
            ));
        }
        let train = windows - held_out;
        let inner = Inner { text, task, tokenizer, tokens, sentinels, corruption, lengths, train, held_out };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.inner.task
    }
    /// The text.
    pub fn text(&self) -> &Text {
        &self.inner.text
    }
    /// How its text became tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.tokenizer
    }
    /// Tokens of the text.
    pub fn tokens(&self) -> usize {
        self.inner.tokens.len(&self.inner.text)
    }
    /// A digest of the text and of how examples and batches are made of it: sources with the same digest give
    /// the same batches.
    pub fn digest(&self) -> String {
        let Inner { text, task, tokenizer, corruption, train, held_out, .. } = &*self.inner;
        let mut hasher = blake3::Hasher::new();
        let Task { batch, input_length, target_length, vocab } = task;
        for number in [batch, input_length, target_length, vocab, train, held_out] {
            hasher.update(&(*number as u64).to_le_bytes());
        }
        for number in [corruption.density, corruption.mean_span] {
            hasher.update(&number.to_le_bytes());
        }
        if let Tokenizer::Pieces(pieces) = tokenizer {
            hasher.update(b"pieces").update(pieces.digest().as_bytes());
        }
        for end in &text.ends {
            hasher.update(b"apart").update(&(*end as u64).to_le_bytes());
        }
        hasher.update(&text.bytes).finalize().to_hex().to_string()
    }
    /// How long examples are before they are padded.
    pub fn lengths(&self) -> &Lengths {
        &self.inner.lengths
    }
    /// Examples in an epoch.
    pub fn examples(&self) -> usize {
        self.inner.train
    }
    /// Examples kept for evaluation.
    pub fn held_out(&self) -> usize {
        self.inner.held_out
    }

    /// The batch of training step `step`, counted from 0. The same for the same numbers, always and
    /// everywhere.
    pub fn batch(&self, seed: u32, step: u64) -> Batch {
        let Inner { task, train, .. } = &*self.inner;
        let (size, train) = (task.batch as u64, *train as u64);
        // A batch has a part of one or of several epochs.
        let mut order: Option<(u64, Permutation)> = None;
        let rows = (step * size..(step + 1) * size).map(|n| {
            let (epoch, index) = (n / train, n % train);
            let order = match &order {
                Some((of, order)) if *of == epoch => order,
                _ => &order.insert((epoch, Permutation::new(train, &[ORDER, u64::from(seed), epoch]))).1,
            };
            (order.at(index), epoch)
        });
        let rows: Vec<(u64, u64)> = rows.collect();
        self.rows(seed, rows)
    }

    /// How many batches all held-out examples make; the last one may be part empty.
    pub fn held_out_batches(&self) -> usize {
        self.inner.held_out.div_ceil(self.inner.task.batch)
    }

    /// The held-out batch with this number. Its noise depends on nothing else, so that evaluations of
    /// different runs can be compared.
    pub fn held_out_batch(&self, number: usize) -> Batch {
        let Inner { task, train, held_out, .. } = &*self.inner;
        let of = number * task.batch..((number + 1) * task.batch).min(*held_out);
        self.rows(0, of.map(|i| ((train + i) as u64, HELD_OUT)))
    }

    /// Examples from windows and epochs; what is missing to a whole batch is padding.
    fn rows(&self, seed: u32, rows: impl IntoIterator<Item = (u64, u64)>) -> Batch {
        let Task { batch, input_length, target_length, .. } = self.inner.task;
        let (mut inputs, mut targets) = (vec![PAD; batch * input_length], vec![PAD; batch * target_length]);
        let places = inputs.chunks_exact_mut(input_length).zip(targets.chunks_exact_mut(target_length));
        for ((input, target), (window, epoch)) in places.zip(rows) {
            let (from, to) = self.example(seed, window, epoch);
            // Both fit: the lengths were checked.
            input[..from.len()].copy_from_slice(&from);
            target[..to.len()].copy_from_slice(&to);
        }
        Batch { size: batch, inputs, targets }
    }

    fn example(&self, seed: u32, window: u64, epoch: u64) -> (Vec<i32>, Vec<i32>) {
        let Inner { text, tokens, sentinels, corruption, lengths, .. } = &*self.inner;
        let start = window as usize * lengths.raw;
        let raw = tokens.read(text, start..start + lengths.raw);
        let mask = corruption.mask(raw.len(), &mut Rng::keyed(&[NOISE, u64::from(seed), epoch, window]));
        // There are as many as an example of this length has spans.
        let sentinel = |span: usize| sentinels[span];
        let mut input = spans::replace(&raw, mask.iter().copied(), sentinel);
        let mut target = spans::replace(&raw, mask.iter().map(|m| !m), sentinel);
        input.push(EOS);
        target.push(EOS);
        (input, target)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { text, task, lengths, train, held_out, .. } = &*self.inner;
        let mut out = f.debug_struct("Source");
        out.field("bytes", &text.bytes.len()).field("task", task).field("lengths", lengths);
        out.field("train", train).field("held_out", held_out).finish()
    }
}

impl Batch {
    /// Inputs as the program takes them.
    pub fn inputs(&self) -> HostTensor {
        self.tensor(&self.inputs)
    }
    /// Targets as the program takes them.
    pub fn targets(&self) -> HostTensor {
        self.tensor(&self.targets)
    }
    /// Tokens of inputs and targets that are not padding.
    pub fn tokens(&self) -> usize {
        self.inputs.iter().chain(&self.targets).filter(|t| **t != PAD).count()
    }
    /// Tokens of targets that are not padding.
    pub fn target_tokens(&self) -> usize {
        self.targets.iter().filter(|t| **t != PAD).count()
    }

    fn tensor(&self, tokens: &[i32]) -> HostTensor {
        HostTensor::s32(&[self.size, tokens.len() / self.size], tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Bytes, Loader, tokenizer::tests::words};
    use std::collections::BTreeSet;

    const TASK: Task = Task { batch: 4, input_length: 32, target_length: 16, vocab: 300 };

    /// A text in which every window is another one.
    fn text(bytes: usize) -> Text {
        Text::new((0..bytes / 5).flat_map(|i| format!("{i:04} ").into_bytes()).collect::<Vec<u8>>())
    }

    fn source(bytes: usize, held_out: f64) -> Source {
        Source::new(text(bytes), TASK, &Options { held_out, ..Options::default() }).unwrap()
    }

    /// The text of an example: the spans of the target put back into the input.
    fn restored(input: &[i32], target: &[i32]) -> Vec<u8> {
        let bytes = Bytes::new(TASK.vocab, 4).unwrap();
        let mut out = Vec::new();
        for token in input {
            match bytes.byte(*token) {
                Some(byte) => out.push(byte),
                None if *token == EOS || *token == PAD => {}
                None => {
                    let at = target.iter().position(|t| t == token).expect("the target has the sentinel");
                    out.extend(target[at + 1..].iter().map_while(|t| bytes.byte(*t)));
                }
            }
        }
        out
    }

    fn examples(batch: &Batch) -> Vec<Vec<u8>> {
        let inputs = batch.inputs.chunks(TASK.input_length);
        inputs.zip(batch.targets.chunks(TASK.target_length)).map(|(i, t)| restored(i, t)).collect()
    }

    #[test]
    fn an_epoch_has_every_window_once_and_the_next_one_in_another_order() {
        let source = source(5000, 0.0);
        let (raw, windows) = (source.lengths().raw, source.examples());
        let all: BTreeSet<&[u8]> = source.text().bytes.chunks_exact(raw).collect();
        let read: Vec<Vec<u8>> =
            (0..windows.div_ceil(2) as u64).flat_map(|step| examples(&source.batch(5, step))).collect();
        let (first, second) = (&read[..windows], &read[windows..2 * windows]);
        for epoch in [first, second] {
            assert_eq!(epoch.iter().map(Vec::as_slice).collect::<BTreeSet<_>>(), all);
        }
        assert_ne!(first, second);
        assert_ne!(examples(&source.batch(5, 0)), examples(&source.batch(6, 0)));
        assert_eq!(source.digest(), self::source(5000, 0.0).digest());
        assert_ne!(source.digest(), self::source(5000, 0.1).digest());
        assert_ne!(source.digest(), self::source(5005, 0.0).digest());
    }

    #[test]
    fn noise_differs_between_epochs_and_seeds_and_batches_repeat() {
        let source = source(40, 0.0);
        assert_eq!(source.examples(), 1);
        let batch = source.batch(0, 0);
        let rows: BTreeSet<&[i32]> = batch.inputs.chunks(TASK.input_length).collect();
        assert!(rows.len() > 1, "the same window, four epochs");
        assert_eq!(batch, source.batch(0, 0));
        assert_ne!(batch, source.batch(1, 0));
        assert_ne!(batch, source.batch(0, 1));
    }

    #[test]
    fn inputs_and_targets_end_and_are_padded() {
        let source = source(2000, 0.0);
        let Lengths { input, target, .. } = *source.lengths();
        let batch = source.batch(0, 3);
        for (row, len) in batch
            .inputs
            .chunks(TASK.input_length)
            .map(|r| (r, input))
            .chain(batch.targets.chunks(TASK.target_length).map(|r| (r, target)))
        {
            assert_eq!(row[len - 1], EOS);
            assert!(row[..len - 1].iter().all(|t| *t > EOS) && row[len..].iter().all(|t| *t == PAD));
        }
        assert_eq!(batch.tokens(), TASK.batch * (input + target));
        assert_eq!(batch.inputs().dims, [TASK.batch, TASK.input_length]);
        assert_eq!(batch.targets().dims, [TASK.batch, TASK.target_length]);
    }

    #[test]
    fn held_out_windows_are_never_trained_on() {
        let source = source(5000, 0.1);
        let (train, held_out) = (source.examples(), source.held_out());
        let tested: Vec<Vec<u8>> =
            (0..source.held_out_batches()).flat_map(|n| examples(&source.held_out_batch(n))).collect();
        let tested: BTreeSet<_> = tested.into_iter().filter(|e| !e.is_empty()).collect();
        assert_eq!((tested.len(), held_out), (held_out, (train + held_out).div_ceil(10)));
        for step in 0..train as u64 {
            assert!(examples(&source.batch(1, step)).iter().all(|e| !tested.contains(e)));
        }
        let last = source.held_out_batch(source.held_out_batches() - 1);
        let rows = last.targets.chunks(TASK.target_length).filter(|r| r.iter().any(|t| *t != PAD)).count();
        assert_eq!(rows, (held_out - 1) % TASK.batch + 1);
    }

    #[test]
    fn the_loader_gives_the_same_batches_and_stops_when_dropped() {
        let source = source(2000, 0.0);
        let mut loader = Loader::start(source.clone(), 3, 5..9, 2).unwrap();
        for step in 5..9 {
            assert_eq!(loader.next().unwrap().0, source.batch(3, step));
        }
        assert!(loader.next().is_none());
        let mut endless = Loader::start(source, 3, 0..u64::MAX / 8, 2).unwrap();
        assert!(endless.next().is_some());
        drop(endless);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let fails = |text: Text, task: Task, held_out: f64, parts: &[&str]| {
            let options = Options { held_out, ..Options::default() };
            let error = Source::new(text, task, &options).unwrap_err().to_string();
            assert!(parts.iter().all(|p| error.contains(p)), "{error}");
        };
        fails(text(20), TASK, 0.0, &["too short: 20 bytes", "at least 34 bytes"]);
        fails(text(40), TASK, 0.1, &["too short: 40 bytes", "at least 68 bytes"]);
        fails(text(4000), Task { vocab: 256, ..TASK }, 0.0, &["vocabulary of 256", "at least 261"]);
        fails(text(4000), Task { target_length: 4, ..TASK }, 0.0, &["target_length", "at least 8"]);
        fails(text(4000), Task { input_length: 2, ..TASK }, 0.0, &["input_length"]);
        fails(text(4000), Task { batch: 0, ..TASK }, 0.0, &["batch of 0"]);
        fails(text(4000), TASK, 1.0, &["share of 1"]);
    }
    #[test]
    fn pieces_become_examples_with_the_tokenizers_sentinels() {
        let task = Task { vocab: 40, ..TASK };
        let options = Options { tokenizer: words(30, &[29, 28, 27, 26]), ..Options::default() };
        // Words of 1 to 7 letters.
        let text = Text::new((0..2000).map(|i| "x".repeat(1 + i * i % 7) + " ").collect::<String>());
        let source = Source::new(text.clone(), task, &options).unwrap();
        assert_eq!((source.tokens(), source.examples()), (2000, 2000 / source.lengths().raw));
        let batch = source.batch(1, 2);
        assert_eq!(batch, source.batch(1, 2));
        for row in batch.inputs.chunks(task.input_length) {
            assert_eq!(row.iter().filter(|t| **t > 25).copied().collect::<Vec<_>>(), [29, 28]);
        }
        let digest = |tokenizer: Tokenizer, vocab: usize| {
            let options = Options { tokenizer, ..Options::default() };
            Source::new(text.clone(), Task { vocab, ..TASK }, &options).unwrap().digest()
        };
        assert_ne!(digest(Tokenizer::Bytes, 300), digest(words(30, &[]), 300));
        let error = Source::new(self::text(40), task, &options).unwrap_err().to_string();
        assert!(error.contains("too short: 8 tokens") && error.contains("at least 34 tokens"), "{error}");
    }

    #[test]
    fn an_end_stands_between_documents() {
        let together = text(2000);
        let mut apart = together.clone();
        apart.ends = vec![10, 2000];
        let source = |text: Text| Source::new(text, TASK, &Options::default()).unwrap();
        assert_ne!(source(together.clone()).digest(), source(apart.clone()).digest());
        assert_eq!((source(together).tokens(), source(apart.clone()).tokens()), (2000, 2002));
        let source = source(apart);
        let all = source.inner.tokens.read(source.text(), 0..2002);
        assert_eq!((all[9], all[10], all[11], all[2001]), (3 + 32, EOS, 3 + 48, EOS));
        assert_eq!(all.iter().filter(|t| **t == EOS).count(), 2);
    }
}
