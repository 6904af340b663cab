//! Batches of examples.
//!
//! Every row of every step has a number. A schedule says which text it is of and the how-manieth of that text
//! ([`mixture`](super::mixture)), a permutation of the epoch which of its examples; both are functions of the seed
//! and these numbers.

use super::{
    batch::Batch,
    corpus::Corpus,
    mixture::{self, Schedule, Temperature, shares},
    objective::Maker,
    order::{Permutation, Rng},
    packing::{Packed, pieces},
    spans::{Lengths, SpanCorruption},
    task::Task,
    tokenizer::Tokenizer,
};
use crate::{Error, Result, Text};
use std::{fmt, sync::Arc};

/// What can be chosen about examples.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How text becomes tokens.
    pub tokenizer: Tokenizer,
    /// Share of each text, at its end, that is kept for evaluation.
    pub held_out: f64,
    /// How much of it is missing, where spans are.
    pub corruption: SpanCorruption,
    /// What rates of several texts follow from.
    pub temperature: Temperature,
}

/// One of several texts.
#[derive(Clone, Debug)]
pub struct Named {
    /// Its name; empty for the only text there is.
    pub name: String,
    /// How often it is taken, if that is given.
    pub rate: Option<f64>,
    /// Its tokens.
    pub corpus: Corpus,
}

/// Texts, cut into examples. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    inner: Arc<Inner>,
}

struct Inner {
    task: Task,
    corruption: SpanCorruption,
    maker: Maker,
    parts: Vec<Part>,
    schedule: Schedule,
    /// The text of each held-out batch, and its number among those of this text.
    held_out: Vec<(usize, usize)>,
}

/// One text.
struct Part {
    named: Named,
    /// Part of the keys of its random numbers, if there are other texts.
    salt: Option<u64>,
    /// Rows for training.
    train: usize,
    /// Rows for evaluation.
    held_out: usize,
    rows: Rows,
}

/// What rows are made of.
enum Rows {
    /// All tokens, one after the other, in windows of equal length: first those for training.
    Windows,
    /// Pieces of documents, several in a row: those for training, and those for evaluation.
    Packed([Packed; 2]),
}

/// Stands where the number of the epoch does, for examples that are in none.
const HELD_OUT: u64 = u64::MAX;
/// What random numbers are for: part of their keys.
const ORDER: u64 = 1;
const NOISE: u64 = 2;

impl Source {
    /// Examples of one text for `task`.
    pub fn new(text: Text, task: Task, options: &Options) -> Result<Self> {
        let corpus = Corpus::of_text(text, &options.tokenizer)?;
        Self::mixed(vec![Named { name: String::new(), rate: None, corpus }], task, options)
    }

    /// Examples of several texts, whose tokens are the same tokenizer's.
    pub fn mixed(texts: Vec<Named>, task: Task, options: &Options) -> Result<Self> {
        let (corruption, share) = (options.corruption, options.held_out);
        if task.batch == 0 || !(0.0..1.0).contains(&share) {
            return Err(Error::input(
                format!("a batch of {} with a share of {share} held out", task.batch),
                "a batch has at least 1 sequence; the share is from 0, less than 1",
            ));
        }
        let tokenizer = one_tokenizer(&texts)?;
        let maker = Maker::new(&task, corruption, &tokenizer)?;
        let several = texts.len() > 1;
        let part = |named: Named| Part::new(named, several, &task, &maker, share);
        let parts: Vec<Part> = texts.into_iter().map(part).collect::<Result<_>>()?;
        let amounts: Vec<mixture::Amount<'_>> =
            parts.iter().map(|p| (p.named.name.as_str(), p.named.rate, p.examples() as u64)).collect();
        let schedule = Schedule::new(&shares(&amounts, options.temperature)?);
        // In turn, so that the first batches have something of every text.
        let batches = |part: &Part| part.held_out.div_ceil(task.batch);
        let most = parts.iter().map(batches).max().unwrap_or(0);
        let held_out = (0..most)
            .flat_map(|n| {
                parts.iter().enumerate().filter(move |(_, p)| n < batches(p)).map(move |(p, _)| (p, n))
            })
            .collect();
        Ok(Self { inner: Arc::new(Inner { task, corruption, maker, parts, schedule, held_out }) })
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.inner.task
    }
    /// The texts, in the order of their names.
    pub fn texts(&self) -> impl Iterator<Item = &Named> {
        self.inner.parts.iter().map(|part| &part.named)
    }
    /// The share of rows that each text has.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        self.inner.schedule.shares()
    }
    /// How text became tokens.
    pub fn tokenizer(&self) -> &Tokenizer {
        // There is one text at least.
        self.inner.parts[0].named.corpus.tokenizer()
    }
    /// Tokens of all texts.
    pub fn tokens(&self) -> usize {
        self.texts().map(|text| text.corpus.len()).sum()
    }
    /// A digest of the tokens and of how examples and batches are made of them: sources with the same digest give
    /// the same batches.
    pub fn digest(&self) -> String {
        let Inner { task, corruption, parts, schedule, .. } = &*self.inner;
        let mut hasher = blake3::Hasher::new();
        let Task { batch, input_length, target_length, vocab, objective, packing } = task;
        for number in [*batch, *input_length, *target_length, *vocab, usize::from(*packing), parts.len()] {
            hasher.update(&(number as u64).to_le_bytes());
        }
        hasher.update(objective.name().as_bytes());
        for number in [corruption.density, corruption.mean_span] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(self.tokenizer().identity().as_bytes());
        for (part, share) in parts.iter().zip(schedule.shares()) {
            hasher.update(&share.to_le_bytes()).update(part.named.name.as_bytes());
            for number in [part.train, part.held_out] {
                hasher.update(&(number as u64).to_le_bytes());
            }
            hasher.update(part.named.corpus.digest().as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
    /// How long examples are before they are padded; the longest, if they differ.
    pub fn lengths(&self) -> &Lengths {
        self.inner.maker.most()
    }
    /// Rows in an epoch of all texts: examples, or several of them in each.
    pub fn examples(&self) -> usize {
        self.inner.parts.iter().map(|part| part.train).sum()
    }
    /// Rows kept for evaluation.
    pub fn held_out(&self) -> usize {
        self.inner.parts.iter().map(|part| part.held_out).sum()
    }
    /// How many examples a row has on average, if rows have several.
    pub fn examples_per_row(&self) -> Option<f64> {
        let packed = self.inner.parts.iter().filter_map(|part| match &part.rows {
            Rows::Windows => None,
            Rows::Packed([train, _]) => Some((train.examples(), train.rows())),
        });
        let (examples, rows) = packed.reduce(|a, b| (a.0 + b.0, a.1 + b.1))?;
        Some(examples as f64 / rows.max(1) as f64)
    }

    /// The batch of training step `step`, counted from 0. The same for the same numbers, always and
    /// everywhere.
    pub fn batch(&self, seed: u32, step: u64) -> Result<Batch> {
        let Inner { task, parts, schedule, .. } = &*self.inner;
        let (size, seed) = (task.batch as u64, u64::from(seed));
        let mut batch = Batch::empty(task);
        let rows = schedule.rows(seed, step * size..(step + 1) * size);
        if parts.len() > 1 {
            batch.texts = rows.iter().map(|(of, _)| *of).collect();
        }
        // A batch has parts of one or several epochs of each text.
        let mut orders: Vec<Option<(u64, Permutation)>> = vec![None; parts.len()];
        for (place, (of, n)) in rows.into_iter().enumerate() {
            let part = &parts[of];
            let (epoch, index) = (n / part.train as u64, n % part.train as u64);
            let order = match &mut orders[of] {
                Some((known, order)) if *known == epoch => order,
                other => {
                    &mut other
                        .insert((
                            epoch,
                            Permutation::new(part.train as u64, &part.key(ORDER, &[seed, epoch])),
                        ))
                        .1
                }
            };
            self.row(part, order.at(index), [seed, epoch], &mut batch, place)?;
        }
        Ok(batch)
    }

    /// How many batches all held-out examples make; the last one of each text may be part empty.
    pub fn held_out_batches(&self) -> usize {
        self.inner.held_out.len()
    }

    /// The text that a held-out batch is of, if there are several.
    pub fn held_out_text(&self, number: usize) -> Option<&str> {
        let Inner { parts, held_out, .. } = &*self.inner;
        (parts.len() > 1).then(|| parts[held_out[number].0].named.name.as_str())
    }

    /// The held-out batch with this number. Its noise depends on nothing else, so that evaluations of
    /// different runs can be compared.
    pub fn held_out_batch(&self, number: usize) -> Result<Batch> {
        let Inner { task, parts, held_out, .. } = &*self.inner;
        let (part, number) = (&parts[held_out[number].0], held_out[number].1);
        let mut batch = Batch::empty(task);
        let rows = number * task.batch..((number + 1) * task.batch).min(part.held_out);
        for (place, row) in rows.enumerate() {
            self.row(part, (part.train + row) as u64, [0, HELD_OUT], &mut batch, place)?;
        }
        Ok(batch)
    }

    /// Makes a row of a text, those for evaluation after those for training.
    fn row(&self, part: &Part, row: u64, key: [u64; 2], batch: &mut Batch, place: usize) -> Result<()> {
        let maker = &self.inner.maker;
        let example = |tokens: &[i32], number: u64| {
            maker.example(tokens, &mut Rng::keyed(&part.key(NOISE, &[key[0], key[1], number])))
        };
        match &part.rows {
            Rows::Windows => {
                let raw = maker.most().raw;
                let start = row as usize * raw;
                let (input, target) = example(&part.named.corpus.read(start..start + raw)?, row);
                batch.put(place, &input, &target);
            }
            Rows::Packed(packed) => {
                let (packed, row) = match (row as usize).checked_sub(part.train) {
                    None => (&packed[0], row as usize),
                    Some(row) => (&packed[1], row),
                };
                for (number, piece) in packed.row(row) {
                    let (input, target) = example(&part.named.corpus.read(piece.range())?, u64::from(number));
                    batch.put(place, &input, &target);
                }
            }
        }
        Ok(())
    }
}

/// That of all texts.
fn one_tokenizer(texts: &[Named]) -> Result<Tokenizer> {
    let Some((first, others)) = texts.split_first() else {
        return Err(Error::input("a mixture of no texts", "name at least one"));
    };
    let tokenizer = first.corpus.tokenizer();
    if texts.len() > mixture::MOST {
        return Err(Error::input(
            format!("a mixture of {} texts", texts.len()),
            format!("at most {} are mixed", mixture::MOST),
        ));
    }
    match others.iter().find(|other| other.corpus.tokenizer().identity() != tokenizer.identity()) {
        None => Ok(tokenizer.clone()),
        Some(other) => Err(Error::input(
            format!(
                "the tokens of text `{}` are those of `{}`, and those of `{}` of `{}`",
                first.name,
                tokenizer.name(),
                other.name,
                other.corpus.tokenizer().name()
            ),
            "prepare all texts with the same tokenizer",
        )),
    }
}

impl Part {
    fn new(named: Named, several: bool, task: &Task, maker: &Maker, share: f64) -> Result<Self> {
        let salt = several.then(|| {
            let digest = blake3::hash(named.name.as_bytes());
            digest.as_bytes()[..8].try_into().map_or(0, u64::from_le_bytes)
        });
        // Whoever asks for some gets at least one.
        let kept = |all: usize| (all as f64 * share).ceil() as usize;
        let (raw, len, unit) = (maker.most().raw, named.corpus.len(), named.corpus.unit());
        let of = if several { format!("text `{}`", named.name) } else { "the text".to_owned() };
        if !task.packing {
            let windows = len / raw;
            let held_out = kept(windows);
            if windows <= held_out {
                let need = raw * (1..).find(|w| kept(*w) < *w).unwrap_or(usize::MAX);
                return Err(Error::input(
                    format!("{of} is too short: {len} {unit}"),
                    format!(
                        "an example takes {raw} {unit}; give at least {need} {unit} of text, and much more to learn from"
                    ),
                ));
            }
            return Ok(Self { named, salt, train: windows - held_out, held_out, rows: Rows::Windows });
        }
        let mut train = pieces(len, &named.corpus.ends()?, maker.least(), raw);
        if u32::try_from(train.len()).is_err() {
            return Err(Error::input(
                format!("{of} has {} examples", train.len()),
                "examples that share rows are at most 4 billion: split the text into several of a mixture",
            ));
        }
        let held_out = train.split_off(train.len() - kept(train.len()));
        if train.is_empty() {
            return Err(Error::input(
                format!(
                    "{of} is too short: {len} {unit} with {} examples, {} of them held out",
                    held_out.len(),
                    held_out.len()
                ),
                format!(
                    "an example takes from {} to {raw} {unit} of a document; give more text",
                    maker.least()
                ),
            ));
        }
        let room = (task.input_length, task.target_length);
        let packed = [train, held_out].map(|pieces| Packed::new(pieces, room, |raw| maker.lengths(raw)));
        let [train, held_out] = packed.each_ref().map(Packed::rows);
        Ok(Self { named, salt, train, held_out, rows: Rows::Packed(packed) })
    }

    /// Examples for training.
    fn examples(&self) -> usize {
        match &self.rows {
            Rows::Windows => self.train,
            Rows::Packed([train, _]) => train.examples(),
        }
    }

    /// The key of random numbers of this text.
    fn key(&self, what: u64, of: &[u64]) -> Vec<u64> {
        [what].into_iter().chain(of.iter().copied()).chain(self.salt).collect()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Source");
        out.field("tokens", &self.tokens()).field("task", self.task()).field("lengths", self.lengths());
        out.field("train", &self.examples()).field("held_out", &self.held_out()).finish()
    }
}

#[cfg(test)]
mod tests;
