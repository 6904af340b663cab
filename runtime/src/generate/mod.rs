//! Generation and scoring with programs that have the functions for it.
//!
//! The host encodes a batch, starts `decode` again and again until no sequence is open or all are as long as
//! wanted, and fetches tokens and scores once. Tokens are chosen on the devices; a call goes on by several
//! positions; and where devices work on their own, the host learns one call late that all sequences have ended.
//!
//! Reading order: here, [`score`].

pub mod score;

pub use score::{Score, Scorer};

use crate::{Error, HostTensor, Outputs, Result, Session};
use std::collections::BTreeMap;

/// What can be chosen for every call, without compiling again.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Options {
    /// Sequences do not end before they have this many tokens.
    pub min_length: usize,
    /// They end when they have this many; nothing: as many as the program has room for.
    pub max_length: Option<usize>,
    /// Of sampling: where its random numbers begin.
    pub seed: u32,
    /// Of sampling: what logits are divided by.
    pub temperature: f32,
    /// Of sampling: how many of the most likely tokens are looked at; nothing: all.
    pub top_k: Option<usize>,
    /// Of sampling: the share of probability that is looked at, the most likely tokens first; 1: all.
    pub top_p: f32,
    /// Of beam search: scores are divided by the length to this power.
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

/// One generated sequence.
#[derive(Clone, PartialEq, Debug)]
pub struct Sequence {
    /// Its tokens, the end-of-sequence token included if it came that far.
    pub tokens: Vec<i32>,
    /// The sum of the logarithms of its tokens' probabilities; of a beam search, divided by the power of the
    /// length.
    pub score: f64,
}

/// Generates with the program of a session.
pub struct Generator<'s> {
    session: &'s mut Session,
    sizes: Sizes,
    beams: usize,
    steps: usize,
    method: String,
    filter: bool,
}

/// Sizes that the program was made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Sequences in a batch.
    pub batch: usize,
    /// Tokens of an input.
    pub input_length: usize,
    /// Tokens of a target.
    pub target_length: usize,
    /// Tokens there are.
    pub vocab: usize,
}

/// The token after which there is nothing.
const EOS: i32 = 1;

impl<'s> Generator<'s> {
    /// For a session whose program generates and whose parameters have values.
    pub fn new(session: &'s mut Session) -> Result<Self> {
        let sizes = Sizes::of(session, "generate")?;
        let artefact = session.artefact();
        let (beams, steps) = (artefact.number("beams")?, artefact.number("steps")?);
        let method = artefact.meta("method").unwrap_or("greedy").to_owned();
        let filter = artefact.meta("filter") == Some("true");
        for function in ["encode", "decode", "results"] {
            session.compile(function)?;
        }
        if artefact_has(session, "prepare") {
            session.call("prepare", &BTreeMap::new())?.wait()?;
            session.release("prepare");
        }
        Ok(Self { session, sizes, beams, steps, method, filter })
    }

    /// The sizes of the program.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Sequences for each of `inputs`, token ids without padding, the best or the first first. `each` is told
    /// as soon as a batch is done: the number of an input, and its sequences.
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
                format!("the largest length is {length}, but the program makes 1 to {max} tokens"),
                format!("compile it with a `target_length` of {length}, or ask for at most {max}"),
            ));
        }
        if options.min_length > options.max_length.unwrap_or(max) {
            let largest = options.max_length.unwrap_or(max);
            return wrong(
                format!("the smallest length, {}, is above the largest, {largest}", options.min_length),
                "swap them, or leave one of them out",
            );
        }
        if !(options.temperature > 0.0 && options.temperature.is_finite()) {
            return wrong(
                format!("the temperature is {}", options.temperature),
                "a number above 0; for the most likely tokens choose method=greedy",
            );
        }
        if !(options.top_p > 0.0 && options.top_p <= 1.0) {
            return wrong(format!("top_p is {}", options.top_p), "a share above 0, at most 1");
        }
        if let Some(k) = options.top_k.filter(|k| *k == 0 || *k > vocab) {
            return wrong(format!("top_k is {k}, of {vocab} tokens"), "from 1 to the size of the vocabulary");
        }
        if !options.length_penalty.is_finite() {
            return wrong(format!("the length penalty is {}", options.length_penalty), "a finite number");
        }
        let filtered = options.top_k.is_some() || options.top_p < 1.0;
        if filtered && self.method == "sample" && !self.filter {
            return wrong(
                "top_k and top_p are left out of this program".into(),
                "compile it with filter=true",
            );
        }
        Ok(())
    }

    /// One batch: for each row its sequences.
    fn batch(&mut self, rows: &[Vec<i32>], first: usize, options: &Options) -> Result<Vec<Vec<Sequence>>> {
        let Sizes { batch, input_length, target_length, .. } = self.sizes;
        let inputs = BTreeMap::from([("inputs".to_owned(), padded(rows, batch, input_length))]);
        let encoded = self.session.call("encode", &inputs)?;
        let length = options.max_length.unwrap_or(target_length);
        let inputs = self.inputs(first, length, options);
        let lag = usize::from(self.session.client().platform_name().map_err(platform)? != "cpu");
        let mut before: Option<Outputs> = None;
        for call in 0..length.div_ceil(self.steps) {
            let now = self.session.call("decode", &inputs)?;
            let known = if lag == 0 { Some(now) } else { before.replace(now) };
            // Whoever knows one call late asks from the second call on.
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
        let of_search = ["max_length", "length_penalty"];
        let inputs =
            inputs.into_iter().filter(|(n, _)| self.method == "beam" && of_search.contains(&n.as_str()));
        let results = self.session.call("results", &inputs.collect())?.wait()?;
        self.sequences(&results, length)
    }

    /// The inputs of `decode`.
    fn inputs(&self, first: usize, length: usize, options: &Options) -> BTreeMap<String, HostTensor> {
        let whole = |value: usize| HostTensor::s32(&[], &[i32::try_from(value).unwrap_or(i32::MAX)]);
        let real = |value: f32| HostTensor::f32(&[], &[value]);
        let mut inputs = vec![("min_length", whole(options.min_length)), ("max_length", whole(length))];
        if self.method == "sample" {
            inputs.push(("seed", HostTensor::u32_scalar(options.seed)));
            inputs.push(("first", whole(first)));
            inputs.push(("temperature", real(options.temperature)));
            if self.filter {
                inputs.push(("top_k", whole(options.top_k.unwrap_or(self.sizes.vocab))));
                // Above any sum of probabilities, which may exceed 1 by rounding.
                inputs.push(("top_p", real(if options.top_p < 1.0 { options.top_p } else { 2.0 })));
            }
        }
        if self.method == "beam" {
            inputs.push(("length_penalty", real(options.length_penalty)));
        }
        inputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn sequences(&self, results: &BTreeMap<String, HostTensor>, length: usize) -> Result<Vec<Vec<Sequence>>> {
        let output = |name: &str| {
            results.get(name).ok_or_else(|| {
                Error::input(
                    format!("`results` of this program gives no `{name}`"),
                    "generate with a program of the library's, compiled with task=generate",
                )
            })
        };
        let (tokens, scores) = (output("tokens")?, output("scores")?.to_f64()?);
        let width = tokens.dims.last().copied().unwrap_or(1).max(1);
        let tokens = tokens.to_f64()?;
        let sequence = |(row, score): (&[f64], &f64)| {
            let mut tokens: Vec<i32> = row[..length.min(width)].iter().map(|t| *t as i32).collect();
            let end = tokens.iter().position(|t| *t == EOS).map_or(tokens.len(), |at| at + 1);
            tokens.truncate(end);
            Sequence { tokens, score: *score }
        };
        let all: Vec<Sequence> = tokens.chunks_exact(width).zip(&scores).map(sequence).collect();
        Ok(all.chunks(self.beams).map(<[Sequence]>::to_vec).collect())
    }
}

fn artefact_has(session: &Session, function: &str) -> bool {
    session.artefact().manifest.functions.iter().any(|f| f.name == function)
}

fn platform(error: pjrt::Error) -> Error {
    Error::pjrt("asking for the platform")(error)
}

impl Sizes {
    /// Of a program with this task.
    pub fn of(session: &Session, task: &str) -> Result<Self> {
        let artefact = session.artefact();
        if artefact.meta("task") != Some(task) {
            let own = artefact.meta("task").unwrap_or("no task");
            return Err(Error::input(
                format!("program `{}` is for {own}, not made to {task}", artefact.manifest.program),
                format!("compile the model with --set task={task}"),
            ));
        }
        Ok(Self {
            batch: artefact.number("batch")?,
            input_length: artefact.number("input_length")?,
            target_length: artefact.number("target_length")?,
            vocab: artefact.number("vocab")?,
        })
    }

    /// An error if input `number` does not fit.
    pub fn check_input(&self, number: usize, tokens: &[i32]) -> Result<()> {
        self.check(&format!("input {}", number + 1), tokens, self.input_length, "input_length")
    }

    /// An error if `tokens` are none, too many for `room`, or not in the vocabulary.
    fn check(&self, what: &str, tokens: &[i32], room: usize, setting: &str) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::input(format!("{what} is empty"), "leave it out"));
        }
        if tokens.len() > room {
            return Err(Error::input(
                format!("{what} has {} tokens, but the program has room for {room}", tokens.len()),
                format!("compile the model with --set {setting}={}, or shorten it", tokens.len()),
            ));
        }
        match tokens.iter().find(|t| **t < 1 || **t as usize >= self.vocab) {
            None => Ok(()),
            Some(token) => Err(Error::input(
                format!("{what} has the token {token}"),
                format!("tokens are from 1 to {}; 0 is padding", self.vocab - 1),
            )),
        }
    }
}

/// Rows of tokens, filled up with padding to `batch` rows of `length`.
fn padded(rows: &[Vec<i32>], batch: usize, length: usize) -> HostTensor {
    let mut all = vec![0; batch * length];
    for (place, row) in all.chunks_exact_mut(length).zip(rows) {
        place[..row.len()].copy_from_slice(row);
    }
    HostTensor::s32(&[batch, length], &all)
}
