//! Generation and scoring with programs that were compiled for these tasks.
//!
//! The host encodes a batch, calls `decode` until all sequences have ended or reached the maximum length, and
//! then reads tokens and scores once. Tokens are chosen on the devices, and one call decodes several
//! positions. On devices that run asynchronously, the host learns one call late that all sequences have
//! ended.
//!
//! If there are more inputs than rows, rows whose sequences have ended begin other inputs while the others
//! continue (`slots`).
//!
//! Reading order: this file (generation), `slots`, [`score`] (scoring), [`teacher`] (logits for
//! distillation).

pub mod score;
mod slots;
pub mod teacher;

pub use score::{Score, Scorer};
pub use teacher::Teacher;

use crate::{Artefact, Contract, Error, HostTensor, Outputs, Result, Session};
use proto::manifest::{DecodingMethod, Generation, SpecialTokens, TaskKind};
use std::collections::BTreeMap;

/// Options of generation that need no recompilation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Options {
    /// The minimum number of tokens of a sequence.
    pub min_length: usize,
    /// The maximum number of tokens of a sequence. `None` means the program's target length.
    pub max_length: Option<usize>,
    /// Sampling: the seed of the random numbers.
    pub seed: u32,
    /// Sampling: the divisor of the logits.
    pub temperature: f32,
    /// Sampling: the number of most likely tokens to sample from. `None` means all.
    pub top_k: Option<usize>,
    /// Sampling: the probability mass of the most likely tokens to sample from. 1 means all tokens.
    pub top_p: f32,
    /// Beam search: the exponent of the length by which scores are divided.
    pub length_penalty: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            min_length: 0,
            max_length: None,
            seed: 0,
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            length_penalty: 1.0,
        }
    }
}

/// A generated sequence.
#[derive(Clone, PartialEq, Debug)]
pub struct Sequence {
    /// The tokens, including the end-of-sequence token if it was generated.
    pub tokens: Vec<i32>,
    /// The sum of the log probabilities of the tokens. For beam search, divided by the length to the power of
    /// the length penalty.
    pub score: f64,
}

/// Generates sequences with the program of a session.
pub struct Generator<'s> {
    session: &'s mut Session,
    sizes: Sizes,
    contract: Contract,
    generation: Generation,
    /// The number of inputs that can begin while other rows continue; `None` means that none can.
    admitted: Option<usize>,
}

/// The sizes of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Sequences per batch.
    pub batch: usize,
    /// Maximum number of tokens of an input.
    pub input_length: usize,
    /// Maximum number of tokens of a target.
    pub target_length: usize,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// True if inputs are the beginning of a text that targets continue: no end token follows them.
    pub continues: bool,
    /// The tokens for padding, ends of sequences, and removed spans.
    pub special_tokens: SpecialTokens,
}

impl<'s> Generator<'s> {
    /// Compiles and prepares the session's program, whose parameters must have values.
    ///
    /// # Errors
    /// The program was not compiled with `task=generate`, or a function cannot be compiled.
    pub fn new(session: &'s mut Session) -> Result<Self> {
        let contract = Contract::of_kind(session.artefact(), TaskKind::Generate)?;
        let sizes = Sizes::of(&contract);
        let generation = contract.task().generation.unwrap_or_default();
        for function in ["encode", "decode", "results"] {
            session.compile(function)?;
        }
        let admitted = slots::admitted(session.artefact(), &contract);
        if artefact_has(session, "prepare") {
            session.call("prepare", &BTreeMap::new())?.wait()?;
            session.release("prepare");
        }
        Ok(Self { session, sizes, contract, generation, admitted })
    }

    /// Returns the sizes of the program.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Generates sequences for each of `inputs` (token ids without padding), best first for beam search.
    /// Calls `each` with the index of an input and its sequences, in the order of inputs, as soon as they are
    /// done.
    ///
    /// # Errors
    /// An option is invalid for the program, an input is empty, too long or not in the vocabulary, or a call
    /// fails.
    pub fn run(
        &mut self,
        inputs: &[Vec<i32>],
        options: &Options,
        each: &mut dyn FnMut(usize, Vec<Sequence>) -> Result<()>,
    ) -> Result<()> {
        self.check(options)?;
        for (number, input) in inputs.iter().enumerate() {
            self.sizes.check_input(number, input)?;
        }
        if let Some(admitted) = self.admitted.filter(|_| inputs.len() > self.sizes.batch) {
            return self.continuously(inputs, admitted, options, each);
        }
        for (number, rows) in inputs.chunks(self.sizes.batch).enumerate() {
            let first = number * self.sizes.batch;
            let sequences = self.batch(rows, first, options)?;
            for (row, sequences) in sequences.into_iter().take(rows.len()).enumerate() {
                each(first + row, sequences)?;
            }
        }
        Ok(())
    }

    fn check(&self, options: &Options) -> Result<()> {
        let (max, vocab) = (self.sizes.target_length, self.sizes.vocab);
        let wrong = |what: String, help: &str| Err(Error::input(what, help));
        if let Some(length) = options.max_length.filter(|length| *length == 0 || *length > max) {
            return Err(Error::input(
                format!(
                    "`--max-length` must be from 1 to {max}, the target length of the program (got {length})"
                ),
                format!("compile the model with --set target_length={length}, or lower --max-length"),
            ));
        }
        if options.min_length > options.max_length.unwrap_or(max) {
            let largest = options.max_length.unwrap_or(max);
            return wrong(
                format!(
                    "`--min-length` must be at most {largest}, the maximum length (got {})",
                    options.min_length
                ),
                "lower --min-length, or raise --max-length",
            );
        }
        if !(options.temperature > 0.0 && options.temperature.is_finite()) {
            return wrong(
                format!("`--temperature` must be a finite number above 0 (got {})", options.temperature),
                "for the most likely tokens, compile the model with method=greedy",
            );
        }
        if !(options.top_p > 0.0 && options.top_p <= 1.0) {
            return wrong(
                format!("`--top-p` must be above 0 and at most 1 (got {})", options.top_p),
                "1 samples from all tokens",
            );
        }
        if let Some(k) = options.top_k.filter(|k| *k == 0 || *k > vocab) {
            return wrong(
                format!("`--top-k` must be from 1 to {vocab}, the size of the vocabulary (got {k})"),
                "leave it out to sample from all tokens",
            );
        }
        if !options.length_penalty.is_finite() {
            return wrong(
                format!("`--length-penalty` must be finite (got {})", options.length_penalty),
                "0 means no penalty",
            );
        }
        let filtered = options.top_k.is_some() || options.top_p < 1.0;
        if filtered && self.generation.method() == DecodingMethod::Sample && !self.generation.filter {
            return wrong(
                "`--top-k` and `--top-p` need a program that was compiled with filter=true".into(),
                "compile the model with --set filter=true",
            );
        }
        Ok(())
    }

    /// Generates one batch. Returns the sequences of each row.
    fn batch(&mut self, rows: &[Vec<i32>], first: usize, options: &Options) -> Result<Vec<Vec<Sequence>>> {
        let Sizes { batch, input_length, target_length, .. } = self.sizes;
        let input = self.contract.names().inputs.clone();
        let inputs = BTreeMap::from([(input, padded(rows, batch, input_length, self.sizes.pad()))]);
        let encoded = self.session.call("encode", &inputs)?;
        let length = options.max_length.unwrap_or(target_length);
        let inputs = self.inputs(first, length, options);
        let lag = usize::from(!self.session.uses_host_memory()?);
        let mut before: Option<Outputs> = None;
        for call in 0..length.div_ceil(self.generation.steps as usize) {
            let now = self.session.call("decode", &inputs)?;
            let known = if lag == 0 { Some(now) } else { before.replace(now) };
            // If the host learns the result one call late, there is one from the second call on.
            if let Some(known) = known.filter(|_| call >= lag)
                && known.wait()?.get("open").is_some_and(|open| open.to_f64().is_ok_and(|o| o == [0.0]))
            {
                break;
            }
        }
        encoded.wait()?;
        if let Some(before) = before {
            before.wait()?;
        }
        self.results(inputs, length)
    }

    /// Returns the sequences of each row. `inputs` are those of `decode`.
    fn results(&mut self, inputs: BTreeMap<String, HostTensor>, length: usize) -> Result<Vec<Vec<Sequence>>> {
        let method = self.generation.method();
        let of_search = ["max_length", "length_penalty"];
        let inputs = inputs
            .into_iter()
            .filter(|(n, _)| method == DecodingMethod::Beam && of_search.contains(&n.as_str()));
        let results = self.session.call("results", &inputs.collect())?.wait()?;
        self.sequences(&results, length)
    }

    /// Returns the inputs of `decode`.
    fn inputs(&self, first: usize, length: usize, options: &Options) -> BTreeMap<String, HostTensor> {
        let whole = |value: usize| HostTensor::s32(&[], &[i32::try_from(value).unwrap_or(i32::MAX)]);
        let real = |value: f32| HostTensor::f32(&[], &[value]);
        let mut inputs = vec![("min_length", whole(options.min_length)), ("max_length", whole(length))];
        let names = self.contract.names();
        if self.generation.method() == DecodingMethod::Sample {
            inputs.push((names.seed.as_str(), HostTensor::u32_scalar(options.seed)));
            inputs.push(("first", whole(first)));
            inputs.push(("temperature", real(options.temperature)));
            if self.generation.filter {
                inputs.push(("top_k", whole(options.top_k.unwrap_or(self.sizes.vocab))));
                // Larger than any sum of probabilities, which may exceed 1 by rounding.
                inputs.push(("top_p", real(if options.top_p < 1.0 { options.top_p } else { 2.0 })));
            }
        }
        if self.generation.method() == DecodingMethod::Beam {
            inputs.push(("length_penalty", real(options.length_penalty)));
        }
        inputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn sequences(&self, results: &BTreeMap<String, HostTensor>, length: usize) -> Result<Vec<Vec<Sequence>>> {
        let output = |name: &str| {
            results.get(name).ok_or_else(|| {
                Error::input(
                    format!("the function `results` of this program has no output `{name}`"),
                    "use a model of the library, compiled with --set task=generate",
                )
            })
        };
        let (tokens, scores) = (output("tokens")?, output("scores")?.to_f64()?);
        let width = tokens.dims.last().copied().unwrap_or(1).max(1);
        let tokens = tokens.to_f64()?;
        let eos = self.sizes.special_tokens.eos as i32;
        let sequence = |(row, score): (&[f64], &f64)| {
            let mut tokens: Vec<i32> = row[..length.min(width)].iter().map(|t| *t as i32).collect();
            let end = tokens.iter().position(|t| *t == eos).map_or(tokens.len(), |at| at + 1);
            tokens.truncate(end);
            Sequence { tokens, score: *score }
        };
        let all: Vec<Sequence> = tokens.chunks_exact(width).zip(&scores).map(sequence).collect();
        Ok(all.chunks(self.generation.beams as usize).map(<[Sequence]>::to_vec).collect())
    }
}

fn artefact_has(session: &Session, function: &str) -> bool {
    session.artefact().manifest.functions.iter().any(|f| f.name == function)
}

impl Sizes {
    /// The sizes of a program.
    ///
    /// # Errors
    /// The program was compiled for another task.
    pub fn of_program(artefact: &Artefact, kind: TaskKind) -> Result<Self> {
        Ok(Self::of(&Contract::of_kind(artefact, kind)?))
    }

    /// The sizes of a contract.
    pub fn of(contract: &Contract) -> Self {
        let task = contract.task();
        Self {
            batch: task.batch as usize,
            input_length: task.input_length as usize,
            target_length: task.target_length as usize,
            vocab: task.vocab as usize,
            continues: task.continues,
            special_tokens: contract.special_tokens(),
        }
    }

    /// The padding token.
    fn pad(&self) -> i32 {
        self.special_tokens.pad as i32
    }

    /// Checks the tokens of input `number`.
    pub fn check_input(&self, number: usize, tokens: &[i32]) -> Result<()> {
        self.check(&format!("input {}", number + 1), tokens, self.input_length, "input_length")
    }

    /// Checks that `tokens` are not empty, at most `room`, and in the vocabulary.
    fn check(&self, what: &str, tokens: &[i32], room: usize, setting: &str) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::input(format!("{what} is empty"), "leave it out"));
        }
        if tokens.len() > room {
            return Err(Error::input(
                format!("{what} has {} tokens, but the program takes at most {room}", tokens.len()),
                format!("compile the model with --set {setting}={}, or shorten it", tokens.len()),
            ));
        }
        match tokens.iter().find(|t| **t < 0 || **t as usize >= self.vocab || **t == self.pad()) {
            None => Ok(()),
            Some(token) => Err(Error::input(
                format!("{what} has the invalid token {token}"),
                format!("valid tokens are 0 to {}, except {}, which is padding", self.vocab - 1, self.pad()),
            )),
        }
    }
}

/// Pads rows of tokens to a tensor `[batch, length]`.
fn padded(rows: &[Vec<i32>], batch: usize, length: usize, pad: i32) -> HostTensor {
    let mut all = vec![pad; batch * length];
    for (place, row) in all.chunks_exact_mut(length).zip(rows) {
        place[..row.len()].copy_from_slice(row);
    }
    HostTensor::s32(&[batch, length], &all)
}
