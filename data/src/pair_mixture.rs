//! Batches of supervised tasks: pairs of one or several tasks, sampled by rate.
//!
//! As in [`mixture`](super::mixture), a batch is a function of the seed and the step: the interleaving maps
//! the number of a row to a task and an index, and a permutation per epoch maps that index to a row.

use super::{
    batch::Batch,
    batch_source::BatchSource,
    batch_spec::BatchSpec,
    interleaving::{Interleaving, MAX_CORPORA},
    order::Permutation,
    packing::Assignment,
    pairs::Pairs,
    rates::{Temperature, Weight, shares},
    rows::Rows,
    tokenizer::Tokenizer,
};
use crate::{Error, Result};
use std::{fmt, sync::Arc};

/// The pairs of one task.
#[derive(Clone, Debug)]
pub struct PairCorpus {
    /// The name of the task.
    pub name: String,
    /// The sampling rate relative to the other tasks. `None` means it follows from the number of pairs.
    pub rate: Option<f64>,
    /// The pairs for training.
    pub train: Pairs,
    /// The pairs for evaluation.
    pub held_out: Pairs,
}

/// Supervised tasks, sampled by rate.
pub struct PairMixture {
    spec: BatchSpec,
    tokenizer: Tokenizer,
    tasks: Vec<Task>,
    interleaving: Interleaving,
    /// For each held-out batch, the index of its task and its number among the held-out batches of that task.
    held_out: Vec<(usize, usize)>,
}

struct Task {
    corpus: PairCorpus,
    /// Part of the keys of random numbers: a digest of the name.
    salt: u64,
    train: Division,
    held_out: Division,
}

/// The division of pairs into rows.
enum Division {
    /// One pair per row.
    Single(usize),
    /// Several pairs per row.
    Packed(Assignment),
}

/// The first element of the key of a permutation of rows; not a purpose of the text mixture.
const ORDER: u64 = 4;

impl PairMixture {
    /// Makes batches of tasks, whose tokens `tokenizer` has made.
    ///
    /// # Errors
    /// There is no task, the program takes no inputs, or a rate is out of range.
    pub fn new(
        corpora: Vec<PairCorpus>,
        tokenizer: Tokenizer,
        spec: BatchSpec,
        temperature: Temperature,
    ) -> Result<Self> {
        check(&corpora, &spec)?;
        let weight = |corpus: &PairCorpus| corpus.train.len().max(1) as u64;
        let weights: Vec<Weight<'_>> =
            corpora.iter().map(|c| Weight { name: &c.name, rate: c.rate, examples: weight(c) }).collect();
        let interleaving = Interleaving::new(&shares(&weights, temperature)?);
        let tasks: Vec<Task> = corpora.into_iter().map(|corpus| Task::new(corpus, &spec)).collect();
        // Round-robin, so that the first batches cover every task.
        let batches = |task: &Task| task.held_out.rows().div_ceil(spec.batch);
        let most = tasks.iter().map(batches).max().unwrap_or(0);
        let round = |n: usize| {
            tasks.iter().enumerate().filter(move |(_, t)| n < batches(t)).map(move |(i, _)| (i, n))
        };
        let held_out = (0..most).flat_map(round).collect();
        Ok(Self { spec, tokenizer, tasks, interleaving, held_out })
    }

    /// The tokenizer of all tasks.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tasks, in the order of their indices.
    pub fn corpora(&self) -> impl Iterator<Item = &PairCorpus> {
        self.tasks.iter().map(|task| &task.corpus)
    }

    /// The share of rows of each task, after rounding.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        self.interleaving.shares()
    }

    /// The number of training rows in one epoch of all tasks.
    pub fn train_rows(&self) -> usize {
        self.tasks.iter().map(|task| task.train.rows()).sum()
    }

    /// The number of held-out rows.
    pub fn held_out_rows(&self) -> usize {
        self.tasks.iter().map(|task| task.held_out.rows()).sum()
    }

    /// The number of held-out rows in the first `batches` held-out batches.
    pub fn held_out_rows_of(&self, batches: usize) -> usize {
        let size = self.spec.batch;
        let rows =
            |(task, number): &(usize, usize)| size.min(self.tasks[*task].held_out.rows() - number * size);
        self.held_out.iter().take(batches).map(rows).sum()
    }

    /// Puts the pairs of a row into row `to` of the batch, or counts their tokens if the row is not needed.
    fn fill(
        (pairs, division): (&Pairs, &Division),
        row: usize,
        batch: &mut Batch,
        (to, needed): (usize, &Rows),
    ) {
        let put = |batch: &mut Batch, index: usize| {
            let (input, target) = pairs.get(index);
            match needed.contains(to) {
                true => batch.put(to, input, target),
                false => batch.count(to, (input.len(), target.len())),
            }
        };
        match division {
            Division::Single(_) => put(batch, row),
            Division::Packed(rows) => rows.row(row).iter().for_each(|index| put(batch, *index as usize)),
        }
    }
}

impl BatchSource for PairMixture {
    fn batch_rows(&self, seed: u32, step: u64, needed: &Rows) -> Result<Batch> {
        if let Some(task) = self.tasks.iter().find(|task| task.train.rows() == 0) {
            return Err(Error::input(
                format!("the task `{}` has no examples for training", task.corpus.name),
                "give it a split `train`, or leave the task out",
            ));
        }
        let (size, seed) = (self.spec.batch as u64, u64::from(seed));
        let mut batch = Batch::empty(&self.spec);
        let rows = self.interleaving.rows(seed, step * size..(step + 1) * size);
        if self.tasks.len() > 1 {
            batch.corpora = rows.iter().map(|(task, _)| *task).collect();
        }
        // The last epoch and its permutation, per task: a batch may span several epochs.
        let mut orders: Vec<Option<(u64, Permutation)>> = vec![None; self.tasks.len()];
        for (to, (number, index)) in rows.into_iter().enumerate() {
            let (task, order) = (&self.tasks[number], &mut orders[number]);
            let length = task.train.rows() as u64;
            let (epoch, index) = (index / length, index % length);
            let permutation = match order {
                Some((known, permutation)) if *known == epoch => permutation,
                Some(_) | None => {
                    let new = Permutation::new(length, &[ORDER, seed, epoch, task.salt]);
                    &mut order.insert((epoch, new)).1
                }
            };
            let row = permutation.at(index) as usize;
            Self::fill((&task.corpus.train, &task.train), row, &mut batch, (to, needed));
        }
        Ok(batch)
    }

    fn epoch_batches(&self) -> usize {
        self.train_rows() / self.spec.batch
    }

    fn held_out_batches(&self) -> usize {
        self.held_out.len()
    }

    fn held_out_batch_rows(&self, number: usize, needed: &Rows) -> Result<Batch> {
        let (task, number) = self.held_out[number];
        let (task, size) = (&self.tasks[task], self.spec.batch);
        let mut batch = Batch::empty(&self.spec);
        let rows = number * size..((number + 1) * size).min(task.held_out.rows());
        for (to, row) in rows.enumerate() {
            Self::fill((&task.corpus.held_out, &task.held_out), row, &mut batch, (to, needed));
        }
        Ok(batch)
    }

    fn held_out_corpus(&self, number: usize) -> Option<&str> {
        (self.tasks.len() > 1).then(|| self.tasks[self.held_out[number].0].corpus.name.as_str())
    }

    fn corpora(&self) -> Vec<&str> {
        self.tasks.iter().map(|task| task.corpus.name.as_str()).collect()
    }

    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let BatchSpec { batch, input_length, target_length, vocab, objective: _, packing, special_tokens } =
            &self.spec;
        hasher.update(b"pairs");
        let tasks = self.tasks.len();
        for number in [*batch, *input_length, *target_length, *vocab, usize::from(*packing), tasks] {
            hasher.update(&(number as u64).to_le_bytes());
        }
        hasher.update(format!("{special_tokens:?}").as_bytes());
        hasher.update(self.tokenizer.identity().as_bytes());
        for (task, share) in self.tasks.iter().zip(self.shares()) {
            hasher.update(&share.to_le_bytes()).update(task.corpus.name.as_bytes());
            for pairs in [&task.corpus.train, &task.corpus.held_out] {
                hasher.update(&(pairs.len() as u64).to_le_bytes());
                pairs.hash(&mut hasher);
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    fn tokenizer_identity(&self) -> &str {
        self.tokenizer.identity()
    }

    fn tokenizer_file(&self) -> Option<Arc<[u8]>> {
        self.tokenizer.file()
    }
}

fn check(corpora: &[PairCorpus], spec: &BatchSpec) -> Result<()> {
    if corpora.is_empty() || corpora.len() > MAX_CORPORA {
        let what = format!("there are {} tasks", corpora.len());
        return Err(Error::input(what, format!("give from 1 to {MAX_CORPORA} tasks")));
    }
    if spec.input_length == 0 || spec.batch == 0 || spec.target_length == 0 {
        return Err(Error::input(
            format!(
                "the program takes {} rows of {} input and {} target tokens, which hold no pair",
                spec.batch, spec.input_length, spec.target_length
            ),
            "tasks have inputs and targets: use a model with an encoder, with lengths of at least 1",
        ));
    }
    let first = |name: &str| corpora.iter().position(|corpus| corpus.name == name);
    match corpora.iter().enumerate().find(|(at, corpus)| first(&corpus.name) != Some(*at)) {
        Some((_, twice)) => Err(Error::input(
            format!("two tasks are named `{}`", twice.name),
            "leave one of them out, or give it another `name`",
        )),
        None => Ok(()),
    }
}

impl Task {
    fn new(corpus: PairCorpus, spec: &BatchSpec) -> Self {
        let digest = blake3::hash(corpus.name.as_bytes());
        let salt = digest.as_bytes()[..8].try_into().map_or(0, u64::from_le_bytes);
        let room = (spec.input_length, spec.target_length);
        let division = |pairs: &Pairs| match spec.packing {
            true => Division::Packed(Assignment::new(pairs.sizes(), room)),
            false => Division::Single(pairs.len()),
        };
        let (train, held_out) = (division(&corpus.train), division(&corpus.held_out));
        Self { corpus, salt, train, held_out }
    }
}

impl Division {
    fn rows(&self) -> usize {
        match self {
            Self::Single(rows) => *rows,
            Self::Packed(rows) => rows.rows(),
        }
    }
}

impl fmt::Debug for PairMixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("PairMixture");
        out.field("tasks", &BatchSource::corpora(self)).field("spec", &self.spec);
        out.field("train", &self.train_rows()).field("held_out", &self.held_out_rows()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Objective, SpecialTokens};
    use std::collections::BTreeMap;

    const SPEC: BatchSpec = BatchSpec {
        batch: 4,
        input_length: 6,
        target_length: 4,
        vocab: 300,
        objective: Objective::SpanCorruption,
        packing: false,
        special_tokens: SpecialTokens { pad: 0, eos: 1, sentinels: None },
    };

    /// A task with pairs `[n, 1] -> [n, n, 1]`, for n from `first`.
    fn task(name: &str, rate: Option<f64>, first: i32, train: i32, held_out: i32) -> PairCorpus {
        let pairs = |numbers: std::ops::Range<i32>| {
            let mut pairs = Pairs::default();
            numbers.for_each(|n| pairs.push(&[n, 1], &[n, n, 1], [SPEC.input_length, SPEC.target_length]));
            pairs
        };
        let middle = first + train;
        PairCorpus {
            name: name.into(),
            rate,
            train: pairs(first..middle),
            held_out: pairs(middle..middle + held_out),
        }
    }

    fn mixture(tasks: Vec<PairCorpus>, packing: bool) -> PairMixture {
        let spec = BatchSpec { packing, ..SPEC };
        PairMixture::new(tasks, Tokenizer::Bytes, spec, Temperature::default()).unwrap()
    }

    #[test]
    fn every_epoch_has_every_pair_once_and_tasks_their_shares() {
        let all = mixture(vec![task("a", Some(3.0), 10, 12, 5), task("b", Some(1.0), 50, 6, 2)], false);
        let mut seen = BTreeMap::new();
        for step in 0..16 {
            let batch = all.batch(3, step).unwrap();
            assert_eq!(batch, all.batch(3, step).unwrap());
            for (row, (input, target)) in batch.inputs.chunks(6).zip(batch.targets.chunks(4)).enumerate() {
                assert_eq!((&input[1..3], &target[..3]), (&[1, 0][..], &[input[0], input[0], 1][..]));
                assert_eq!(batch.corpora[row], usize::from(input[0] >= 50));
                *seen.entry(input[0]).or_insert(0) += 1;
            }
        }
        let of = |range: std::ops::Range<i32>| -> Vec<i32> {
            range.map(|n| seen.get(&n).copied().unwrap_or(0)).collect()
        };
        // Counts within a task differ by at most one: epochs have no gaps.
        for counts in [of(10..22), of(50..56)] {
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1 && *most > 0, "{counts:?}");
        }
        assert!((36..=58).contains(&of(10..22).iter().sum::<i32>()), "{seen:?}");
        assert_eq!((of(22..27), of(56..58)), (vec![0; 5], vec![0; 2]));
    }

    #[test]
    fn held_out_batches_are_of_one_task_each() {
        let all = mixture(vec![task("a", None, 10, 3, 5), task("b", None, 50, 3, 2)], false);
        let names: Vec<_> = (0..all.held_out_batches()).map(|n| all.held_out_corpus(n).unwrap()).collect();
        assert_eq!(names, ["a", "b", "a"]);
        let firsts = |n: usize| -> Vec<i32> {
            all.held_out_batch(n).unwrap().inputs.chunks(6).map(|row| row[0]).collect()
        };
        assert_eq!([firsts(0), firsts(1), firsts(2)], [[13, 14, 15, 16], [53, 54, 0, 0], [17, 0, 0, 0]]);
        assert_eq!((all.held_out_rows(), all.held_out_rows_of(2)), (7, 6));
    }

    #[test]
    fn packed_rows_hold_several_pairs_and_rows_that_are_not_needed_are_counted() {
        let all = mixture(vec![task("a", None, 10, 7, 1)], true);
        // Two inputs of 2 tokens would fit, but only one target of 3 in 4.
        assert_eq!(all.train_rows(), 7);
        let wide = BatchSpec { packing: true, target_length: 9, ..SPEC };
        let temperature = Temperature::default();
        let all = PairMixture::new(vec![task("a", None, 10, 7, 1)], Tokenizer::Bytes, wide, temperature);
        let all = all.unwrap();
        assert_eq!(all.train_rows(), 3);
        let batch = all.batch(0, 0).unwrap();
        let segments = &batch.segments.as_ref().unwrap()[1];
        assert!(segments.chunks(9).all(|row| row[..3] == [1, 1, 1]));
        let some = all.batch_rows(0, 0, &Rows::of(std::iter::once(1..2))).unwrap();
        assert_eq!(some.inputs[6..12], batch.inputs[6..12]);
        assert_eq!((some.tokens(), some.target_tokens()), (batch.tokens(), batch.target_tokens()));
    }

    #[test]
    fn digests_tell_sources_apart() {
        let digest = |tasks, packing| mixture(tasks, packing).digest();
        let one = digest(vec![task("a", None, 10, 7, 1)], false);
        assert_eq!(one, digest(vec![task("a", None, 10, 7, 1)], false));
        for other in [
            digest(vec![task("a", None, 10, 7, 1)], true),
            digest(vec![task("b", None, 10, 7, 1)], false),
            digest(vec![task("a", None, 10, 6, 2)], false),
            digest(vec![task("a", None, 11, 7, 1)], false),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn tasks_that_cannot_be_batched_are_refused() {
        let new = |tasks, spec| {
            PairMixture::new(tasks, Tokenizer::Bytes, spec, Temperature::default()).unwrap_err().to_string()
        };
        let one = || task("a", None, 10, 1, 1);
        assert!(new(vec![], SPEC).contains("there are 0 tasks"));
        assert!(new(vec![one(), one()], SPEC).contains("two tasks are named `a`"));
        assert!(new(vec![one()], BatchSpec { input_length: 0, ..SPEC }).contains("of 0 input"));
        let none = mixture(vec![task("a", None, 10, 0, 1)], false).batch(0, 0).unwrap_err().to_string();
        assert!(none.contains("`a` has no examples for training"), "{none}");
    }
}
