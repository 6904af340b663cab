//! Mixtures: batches of examples from one or several corpora.
//!
//! Rows are numbered through all steps. The interleaving maps the number of a row to a corpus and to the
//! index of the row within that corpus (`interleaving.rs`). A permutation per epoch maps that index to a row
//! of the corpus. Both are functions of the seed and the number.

use super::{
    batch::Batch,
    batch_source::BatchSource,
    batch_spec::{self, BatchSpec},
    example::ExampleBuilder,
    interleaving::{Interleaving, MAX_CORPORA},
    order::{Permutation, Rng},
    packing::{Packed, pieces},
    rates::{Temperature, Weight, shares},
    rows::Rows,
    spans::{Lengths, SpanCorruption},
    tokenizer::Tokenizer,
    tokens::Tokens,
};
use crate::{Error, Result, SpecialTokens, Text};
use std::{fmt, ops::Range, sync::Arc};

/// Options for making examples.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The tokenizer of a text.
    pub tokenizer: Tokenizer,
    /// The share of each corpus, at its end, that is held out for evaluation: in `[0, 1]`. With 1, all
    /// rows are for evaluation, and there are none for training.
    pub held_out: f64,
    /// The amount of noise for span corruption.
    pub corruption: SpanCorruption,
    /// Determines sampling rates that are not given.
    pub temperature: Temperature,
}

/// One corpus of a mixture.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The name; empty for the only corpus.
    pub name: String,
    /// The sampling rate relative to the other corpora. `None` means it follows from the number of examples.
    pub rate: Option<f64>,
    /// The tokens.
    pub tokens: Tokens,
}

/// One or several corpora, divided into examples.
pub struct Mixture {
    spec: BatchSpec,
    corruption: SpanCorruption,
    builder: ExampleBuilder,
    corpora: Vec<CorpusRows>,
    interleaving: Interleaving,
    /// For each held-out batch, the index of its corpus and its number among the held-out batches of that
    /// corpus.
    held_out: Vec<(usize, usize)>,
}

/// The rows of one corpus.
struct CorpusRows {
    corpus: Corpus,
    /// Part of the keys of random numbers. `None` if there is only one corpus.
    salt: Option<u64>,
    /// The number of rows for training.
    train: usize,
    /// The number of rows for evaluation.
    held_out: usize,
    rows: Division,
}

/// The division of tokens into rows.
enum Division {
    /// Consecutive windows of equal length, first those for training.
    Windows,
    /// Pieces of documents, several per row: the rows for training, and those for evaluation.
    Packed([Packed; 2]),
}

/// Takes the place of the epoch number in the keys of held-out examples.
const HELD_OUT: u64 = u64::MAX;
/// The first element of the key of a permutation of rows.
const ORDER: u64 = 1;
/// The first element of the key of an example's random numbers.
const NOISE: u64 = 2;

impl Mixture {
    /// Makes examples of one text.
    ///
    /// # Errors
    /// As [`Mixture::new`], and if the text cannot be tokenized.
    pub fn of_text(text: Text, spec: BatchSpec, options: &Options) -> Result<Self> {
        let tokens = Tokens::of_text(&text, &options.tokenizer)?;
        Self::new(vec![Corpus { name: String::new(), rate: None, tokens }], spec, options)
    }

    /// Makes examples of corpora that have the same tokenizer.
    ///
    /// # Errors
    /// If an option is out of range, a corpus is too short for one training row, the tokenizers differ, or
    /// the program's lengths and vocabulary do not fit the objective.
    pub fn new(corpora: Vec<Corpus>, spec: BatchSpec, options: &Options) -> Result<Self> {
        let (corruption, share) = (options.corruption, options.held_out);
        if spec.batch == 0 {
            return Err(Error::input(
                "the program has batches of 0 rows",
                "give the model a `batch` of at least 1",
            ));
        }
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::input(
                format!("the held-out share must be in [0, 1], got {share}"),
                "0.05 holds out the last 5 % of each corpus; 0 holds out no rows, 1 all",
            ));
        }
        let tokenizer = common_tokenizer(&corpora)?;
        let builder = ExampleBuilder::new(&spec, corruption, &tokenizer)?;
        let several = corpora.len() > 1;
        let rows = |corpus: Corpus| CorpusRows::new(corpus, several, &spec, &builder, share);
        let corpora: Vec<CorpusRows> = corpora.into_iter().map(rows).collect::<Result<_>>()?;
        let weights: Vec<Weight<'_>> = corpora.iter().map(CorpusRows::weight).collect();
        let interleaving = Interleaving::new(&shares(&weights, options.temperature)?);
        // Round-robin, so that the first batches cover every corpus.
        let batches = |corpus: &CorpusRows| corpus.held_out.div_ceil(spec.batch);
        let most = corpora.iter().map(batches).max().unwrap_or(0);
        let round = |n: usize| {
            corpora.iter().enumerate().filter(move |(_, c)| n < batches(c)).map(move |(i, _)| (i, n))
        };
        let held_out = (0..most).flat_map(round).collect();
        Ok(Self { spec, corruption, builder, corpora, interleaving, held_out })
    }

    /// The requirements of the program on its batches.
    pub fn spec(&self) -> &BatchSpec {
        &self.spec
    }

    /// The corpora, in the order of their names.
    pub fn corpora(&self) -> impl Iterator<Item = &Corpus> {
        self.corpora.iter().map(|rows| &rows.corpus)
    }

    /// The share of rows of each corpus, after rounding.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        self.interleaving.shares()
    }

    /// The tokenizer of all corpora.
    pub fn tokenizer(&self) -> &Tokenizer {
        // There is at least one corpus.
        self.corpora[0].corpus.tokens.tokenizer()
    }

    /// The number of tokens of all corpora.
    pub fn tokens(&self) -> usize {
        self.corpora().map(|corpus| corpus.tokens.len()).sum()
    }

    /// The lengths of the longest example, without padding.
    pub fn lengths(&self) -> &Lengths {
        self.builder.longest()
    }

    /// The number of training rows in one epoch of all corpora.
    pub fn train_rows(&self) -> usize {
        self.corpora.iter().map(|rows| rows.train).sum()
    }

    /// The number of held-out rows.
    pub fn held_out_rows(&self) -> usize {
        self.corpora.iter().map(|rows| rows.held_out).sum()
    }

    /// The number of held-out rows in the first `batches` held-out batches.
    pub fn held_out_rows_of(&self, batches: usize) -> usize {
        let size = self.spec.batch;
        let rows =
            |(corpus, number): &(usize, usize)| size.min(self.corpora[*corpus].held_out - number * size);
        self.held_out.iter().take(batches).map(rows).sum()
    }

    /// The number of tokens that are in no row: without packing, those after the last whole row of a corpus.
    pub fn left_over(&self) -> usize {
        let of = |rows: &CorpusRows| match &rows.rows {
            Division::Windows => {
                rows.corpus.tokens.len() - (rows.train + rows.held_out) * self.builder.longest().raw
            }
            Division::Packed(_) => 0,
        };
        self.corpora.iter().map(of).sum()
    }

    /// The mean number of examples per training row. `None` without packing.
    pub fn examples_per_row(&self) -> Option<f64> {
        let packed = self.corpora.iter().filter_map(|corpus| match &corpus.rows {
            Division::Windows => None,
            Division::Packed([train, _]) => Some((train.examples(), train.rows())),
        });
        let (examples, rows) = packed.reduce(|a, b| (a.0 + b.0, a.1 + b.1))?;
        Some(examples as f64 / rows.max(1) as f64)
    }

    /// Writes one row of a corpus into row `to` of the batch, or counts its tokens if the row is not among
    /// `rows`. Held-out rows are numbered after the training rows.
    fn fill(
        &self,
        corpus: &CorpusRows,
        (row, key): (u64, [u64; 2]),
        batch: &mut Batch,
        (to, rows): (usize, &Rows),
    ) -> Result<()> {
        for (number, piece) in self.examples(corpus, row as usize) {
            let rng = &mut Rng::keyed(&corpus.key(NOISE, &[key[0], key[1], number]));
            if rows.contains(to) {
                let (input, target) = self.builder.example(&corpus.corpus.tokens.read(piece)?, rng);
                batch.put(to, &input, &target);
            } else {
                batch.count(to, self.builder.sizes(piece.len(), rng));
            }
        }
        Ok(())
    }

    /// Returns the examples of a row: their numbers in the keys of random numbers, and their tokens.
    fn examples(&self, corpus: &CorpusRows, row: usize) -> Vec<(u64, Range<usize>)> {
        match &corpus.rows {
            Division::Windows => {
                let raw = self.builder.longest().raw;
                vec![(row as u64, row * raw..(row + 1) * raw)]
            }
            Division::Packed([train, held_out]) => {
                let (packed, row) = match row.checked_sub(corpus.train) {
                    None => (train, row),
                    Some(row) => (held_out, row),
                };
                packed.row(row).map(|(number, piece)| (u64::from(number), piece.range())).collect()
            }
        }
    }
}

impl BatchSource for Mixture {
    fn batch_rows(&self, seed: u32, step: u64, needed: &Rows) -> Result<Batch> {
        if self.corpora.iter().any(|rows| rows.train == 0) {
            return Err(Error::input(
                "all rows are held out for evaluation",
                "hold out less than all of each corpus to train on the rest",
            ));
        }
        let (size, seed) = (self.spec.batch as u64, u64::from(seed));
        let mut batch = Batch::empty(&self.spec);
        let rows = self.interleaving.rows(seed, step * size..(step + 1) * size);
        if self.corpora.len() > 1 {
            batch.corpora = rows.iter().map(|(corpus, _)| *corpus).collect();
        }
        // The last epoch and its permutation, per corpus: a batch may span several epochs.
        let mut orders: Vec<Option<(u64, Permutation)>> = vec![None; self.corpora.len()];
        for (to, (corpus, index)) in rows.into_iter().enumerate() {
            let (rows, order) = (&self.corpora[corpus], &mut orders[corpus]);
            let (epoch, index) = (index / rows.train as u64, index % rows.train as u64);
            let permutation = match order {
                Some((known, permutation)) if *known == epoch => permutation,
                Some(_) | None => {
                    let new = Permutation::new(rows.train as u64, &rows.key(ORDER, &[seed, epoch]));
                    &mut order.insert((epoch, new)).1
                }
            };
            self.fill(rows, (permutation.at(index), [seed, epoch]), &mut batch, (to, needed))?;
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
        let (corpus, number) = self.held_out[number];
        let (corpus, size) = (&self.corpora[corpus], self.spec.batch);
        let mut batch = Batch::empty(&self.spec);
        let rows = number * size..((number + 1) * size).min(corpus.held_out);
        for (to, row) in rows.enumerate() {
            let row = (corpus.train + row) as u64;
            self.fill(corpus, (row, [0, HELD_OUT]), &mut batch, (to, needed))?;
        }
        Ok(batch)
    }

    fn held_out_corpus(&self, number: usize) -> Option<&str> {
        (self.corpora.len() > 1).then(|| self.corpora[self.held_out[number].0].corpus.name.as_str())
    }

    fn corpora(&self) -> Vec<&str> {
        self.corpora.iter().map(|rows| rows.corpus.name.as_str()).collect()
    }

    fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let BatchSpec { batch, input_length, target_length, vocab, objective, packing, special_tokens } =
            &self.spec;
        let corpora = self.corpora.len();
        for number in [*batch, *input_length, *target_length, *vocab, usize::from(*packing), corpora] {
            hasher.update(&(number as u64).to_le_bytes());
        }
        hasher.update(batch_spec::name(*objective).as_bytes());
        if *special_tokens != (SpecialTokens { pad: 0, eos: 1, sentinels: None }) {
            // T5's special tokens are left out of the digest: older checkpoints have digests without them.
            hasher.update(format!("{special_tokens:?}").as_bytes());
        }
        for number in [self.corruption.density, self.corruption.mean_span] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(self.tokenizer().identity().as_bytes());
        for (rows, share) in self.corpora.iter().zip(self.shares()) {
            hasher.update(&share.to_le_bytes()).update(rows.corpus.name.as_bytes());
            for number in [rows.train, rows.held_out] {
                hasher.update(&(number as u64).to_le_bytes());
            }
            hasher.update(rows.corpus.tokens.digest().as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn tokenizer_identity(&self) -> &str {
        self.tokenizer().identity()
    }

    fn tokenizer_file(&self) -> Option<Arc<[u8]>> {
        self.tokenizer().file()
    }
}

/// Returns the tokenizer that all corpora have.
fn common_tokenizer(corpora: &[Corpus]) -> Result<Tokenizer> {
    let Some((first, others)) = corpora.split_first() else {
        return Err(Error::input("the mixture has no corpus", "name at least one"));
    };
    if corpora.len() > MAX_CORPORA {
        return Err(Error::input(
            format!("the mixture has {} corpora, more than {MAX_CORPORA}", corpora.len()),
            "combine some of them into one corpus",
        ));
    }
    let tokenizer = first.tokens.tokenizer();
    match others.iter().find(|other| other.tokens.tokenizer().identity() != tokenizer.identity()) {
        None => Ok(tokenizer.clone()),
        Some(other) => Err(Error::input(
            format!(
                "corpus `{}` was tokenized by `{}`, and corpus `{}` by `{}`",
                first.name,
                tokenizer.name(),
                other.name,
                other.tokens.tokenizer().name()
            ),
            "prepare all corpora with the same tokenizer",
        )),
    }
}

impl CorpusRows {
    fn new(
        corpus: Corpus,
        several: bool,
        spec: &BatchSpec,
        builder: &ExampleBuilder,
        share: f64,
    ) -> Result<Self> {
        let salt = several.then(|| {
            let digest = blake3::hash(corpus.name.as_bytes());
            digest.as_bytes()[..8].try_into().map_or(0, u64::from_le_bytes)
        });
        let name = if several { format!("corpus `{}`", corpus.name) } else { "the text".to_owned() };
        if spec.packing {
            Self::packed(corpus, salt, spec, builder, share, &name)
        } else {
            Self::windows(corpus, salt, builder, share, &name)
        }
    }

    fn windows(
        corpus: Corpus,
        salt: Option<u64>,
        builder: &ExampleBuilder,
        share: f64,
        name: &str,
    ) -> Result<Self> {
        let (raw, len, unit) = (builder.longest().raw, corpus.tokens.len(), corpus.tokens.unit());
        let windows = len / raw;
        let held_out = held_out(windows, share);
        if windows <= held_out && share < 1.0 || windows == 0 {
            let enough = |w: &usize| self::held_out(*w, share) < *w || share == 1.0;
            let need = raw * (1..).find(enough).unwrap_or(usize::MAX);
            return Err(Error::input(
                format!("{name} is too short: {len} {unit}"),
                format!(
                    "an example takes {raw} {unit}; give at least {need} {unit}, and much more for useful training"
                ),
            ));
        }
        Ok(Self { corpus, salt, train: windows - held_out, held_out, rows: Division::Windows })
    }

    fn packed(
        corpus: Corpus,
        salt: Option<u64>,
        spec: &BatchSpec,
        builder: &ExampleBuilder,
        share: f64,
        name: &str,
    ) -> Result<Self> {
        let (raw, len, unit) = (builder.longest().raw, corpus.tokens.len(), corpus.tokens.unit());
        let mut train = pieces(len, &corpus.tokens.ends()?, builder.least(), raw);
        if u32::try_from(train.len()).is_err() {
            return Err(Error::input(
                format!("{name} has {} examples, more than packing supports (2^32)", train.len()),
                "divide it into several corpora of a mixture",
            ));
        }
        let held_out = train.split_off(train.len() - held_out(train.len(), share));
        if train.is_empty() && (share < 1.0 || held_out.is_empty()) {
            let (least, all) = (builder.least(), held_out.len());
            return Err(Error::input(
                format!("{name} is too short: {len} {unit} with {all} examples, {all} of them held out"),
                format!("an example takes from {least} to {raw} {unit} of a document; give more text"),
            ));
        }
        let room = (spec.input_length, spec.target_length);
        let packed = [train, held_out].map(|pieces| Packed::new(pieces, room, |raw| builder.lengths(raw)));
        let [train, held_out] = packed.each_ref().map(Packed::rows);
        Ok(Self { corpus, salt, train, held_out, rows: Division::Packed(packed) })
    }

    fn weight(&self) -> Weight<'_> {
        let examples = match &self.rows {
            Division::Windows => self.train,
            Division::Packed([train, _]) => train.examples(),
        };
        // Without rows for training, nothing is sampled.
        let examples = examples.max(usize::from(self.train == 0));
        Weight { name: &self.corpus.name, rate: self.corpus.rate, examples: examples as u64 }
    }

    /// The key of random numbers for `purpose` and `parts` within this corpus.
    fn key(&self, purpose: u64, parts: &[u64]) -> Vec<u64> {
        [purpose].into_iter().chain(parts.iter().copied()).chain(self.salt).collect()
    }
}

/// The number of held-out items: at least one for a share above 0.
fn held_out(items: usize, share: f64) -> usize {
    (items as f64 * share).ceil() as usize
}

impl fmt::Debug for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Mixture");
        out.field("tokens", &self.tokens()).field("spec", self.spec()).field("lengths", self.lengths());
        out.field("train", &self.train_rows()).field("held_out", &self.held_out_rows()).finish()
    }
}

#[cfg(test)]
mod tests;
