//! `meshc generate`: generates text or token ids.

use crate::{
    args::{
        data::TokenizerArgs,
        ranges::{at_least_one, finite, positive, probability, whole, whole_32},
        subject::SubjectArgs,
    },
    output::stream::{end_if_closed, errln, write_bytes},
};
use anyhow::Result;
use data::Codec;
use driver::{
    failure::failure,
    files::{is_artefact, write_file},
    hosts::member::Member,
    inputs::{self, Input},
    request::{Request, Setting},
    session::{self, Prepared},
    tokenizer,
};
use interchange::{hf::generation::recorded, tensors};
use mesh::task::check::Purpose;
use proto::manifest::TaskKind;
use runtime::{
    HostTensor,
    checkpoint::Facts,
    generate::{Generator, Options, Sequence, Sizes},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Inputs: text, one per line (- for standard input); NAME.json, a list of texts or of lists of token
    /// ids; NAME.safetensors with token ids `input_ids`, padded with 0
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Output file: text, one per line; NAME.json; NAME.safetensors (`tokens`, `scores`). Default: standard
    /// output
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Decoding method: greedy, sample or beam
    #[arg(long, default_value = "greedy", value_parser = ["greedy", "sample", "beam"])]
    method: String,
    /// Number of beams
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = at_least_one, allow_negative_numbers = true)]
    beams: usize,
    /// Number of sequences per input
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one, allow_negative_numbers = true)]
    sequences: usize,
    /// Sampling: seed of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole_32, allow_negative_numbers = true)]
    seed: u32,
    /// Sampling: temperature, by which logits are divided
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = positive, allow_negative_numbers = true)]
    temperature: f64,
    /// Sampling: restrict to the K most likely tokens. Default: all
    #[arg(long, value_name = "K", value_parser = at_least_one, allow_negative_numbers = true)]
    top_k: Option<usize>,
    /// Sampling: restrict to the most likely tokens with a total probability of P (nucleus sampling)
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = probability, allow_negative_numbers = true)]
    top_p: f64,
    /// Beam search: exponent of the length by which scores are divided
    #[arg(long, value_name = "POWER", default_value_t = 1.0, value_parser = finite, allow_negative_numbers = true)]
    length_penalty: f64,
    /// Beam search: stop when the best open beam would not improve the result (likely), when as many
    /// sequences have ended as there are beams (first), or when no better sequence is possible (certain)
    #[arg(long, value_name = "WHEN", value_parser = ["likely", "first", "certain"])]
    early_stopping: Option<String>,
    /// Penalty for tokens that a sequence already has: positive logits are divided by it, negative ones
    /// multiplied. Default: that of the converted model, or 1, no penalty
    #[arg(long, value_name = "FACTOR", value_parser = positive, allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// No sequence of N tokens occurs twice; 0 allows all. Default: that of the converted model, or 0
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    no_repeat_ngram_size: Option<usize>,
    /// Text that every output begins with (token ids with + between them if inputs are token ids); it
    /// counts in the lengths and not in the scores. Not for language models, whose inputs are prompts
    #[arg(long, value_name = "TEXT")]
    decoder_prompt: Option<String>,
    /// Smallest number of tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole, allow_negative_numbers = true)]
    min_length: usize,
    /// Largest number of tokens per sequence. Default: the model's target_length
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    max_length: Option<usize>,
    /// Recompute the whole prefix for every token instead of using a KV cache: the tokens of the decoder
    /// compete for experts as in training
    #[arg(long)]
    uncached: bool,
    /// Print JSON: a list of sequences with tokens, score, and text if the tokens stand for text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
}

/// Generates.
pub fn run(args: &Args) -> Result<ExitCode> {
    args.check()?;
    args.subject.run(Some(&args.input), |member, request| generate(args, member, request))
}

fn generate(args: &Args, member: &Member, request: &Request) -> Result<()> {
    let (mut session, (inputs, codec)) = session::open(member, request, prepare(args, request))?;
    let mut generator = Generator::new(&mut session)?;
    let kind = Kind::of(args);
    // Rank 0 writes what exists once.
    let (as_text, is_first) = (kind == Kind::Text, member.job.is_first());
    let options = Options {
        min_length: args.min_length,
        max_length: args.max_length,
        seed: args.seed,
        temperature: args.temperature as f32,
        top_k: args.top_k,
        top_p: args.top_p as f32,
        length_penalty: args.length_penalty as f32,
    };
    let mut all = Vec::new();
    generator.run(&inputs, &options, &mut |number, mut sequences| {
        member.job.enter("evaluate", number as u64);
        sequences.truncate(args.sequences);
        if is_first && as_text && args.output.is_none() {
            for line in lines(&sequences, codec.as_ref())? {
                write_bytes(format!("{line}\n").as_bytes());
            }
            end_if_closed();
        }
        all.push(sequences);
        Ok(())
    })?;
    if !is_first {
        return Ok(());
    }
    let result = encoded(kind, &all, codec.as_ref())?;
    match &args.output {
        Some(path) => write_file(path, &result),
        None if as_text => Ok(()),
        None => {
            write_bytes(&[&result[..], b"\n"].concat());
            Ok(())
        }
    }
}

/// The tokens of the inputs, and the codec, if there is one.
type Encoded = (Vec<Vec<i32>>, Option<Codec>);

/// Returns the program, its parameters and the encoded inputs.
fn prepare(args: &Args, request: &Request) -> Result<Prepared<Encoded>> {
    args.check_artefact(request)?;
    let functions = &["encode", "decode", "results"];
    let input = inputs::read(&args.input)?;
    let parameters = session::parameters(request, args.subject.checkpoint.as_deref())?;
    let mut settings = args.settings(request, input.len());
    add_recorded(request, parameters.checkpoint.facts(), &mut settings);
    let build = |settings: &[Setting]| {
        session::artefact(request, &parameters, settings, Purpose::Generate, functions)
    };
    let mut artefact = build(&settings)?;
    let sizes = Sizes::of_program(&artefact, TaskKind::Generate)?;
    let codec = match args.tokenizer.choice().codec(sizes, &parameters.checkpoint)? {
        Ok(codec) => Some(codec),
        Err(unknown) if Kind::of(args) == Kind::Text || input.is_text() => return Err(unknown.error()),
        Err(_) => None,
    };
    let is_text = input.is_text();
    let inputs = tokens(input, codec.as_ref(), sizes)?;
    if let Some(prompt) = &args.decoder_prompt {
        let codec = codec.as_ref().filter(|_| is_text);
        settings.push(("decoder_prompt", prompt_tokens(prompt, codec)?));
        artefact = build(&settings)?;
    }
    if let Some(room) = tokenizer::room(sizes, inputs.iter().map(Vec::len).max()) {
        settings.push(room);
        artefact = build(&settings)?;
    }
    let digest = session::digest(&inputs);
    Ok(Prepared { parameters, artefact, functions, inputs: (inputs, codec), digest })
}

/// Adds the defaults of generation that a checkpoint records, unless the user has set them, and says so.
fn add_recorded(request: &Request, facts: &Facts, settings: &mut Vec<Setting>) {
    let is_given = |key: &str, settings: &[Setting]| settings.iter().any(|(given, _)| *given == key);
    let mut taken = Vec::new();
    for (key, value) in recorded(facts) {
        if !is_given(key, settings) && !request.settings.sets(key) && !is_artefact(&request.subject) {
            taken.push(format!("{key}={value}"));
            settings.push((key, value));
        }
    }
    if !taken.is_empty() {
        errln!("generation options of the checkpoint: {}", taken.join(" "));
    }
}

/// Returns the token ids of a decoder's prompt with `+` between them. Without a codec, `prompt` has ids.
fn prompt_tokens(prompt: &str, codec: Option<&Codec>) -> Result<String> {
    let ids: Vec<i32> = match codec {
        Some(codec) => codec.encode_part(prompt)?,
        None => {
            let id = |part: &str| {
                part.trim().parse().map_err(|_| {
                    let what = format!("`--decoder-prompt {prompt}`: `{part}` is no token id");
                    failure(what, "inputs are token ids: give the prompt's, such as 12+7")
                })
            };
            prompt.split('+').map(id).collect::<Result<_>>()?
        }
    };
    Ok(ids.iter().map(i32::to_string).collect::<Vec<_>>().join("+"))
}

/// Returns the bytes of the output file.
fn encoded(kind: Kind, all: &[Vec<Sequence>], codec: Option<&Codec>) -> Result<Vec<u8>> {
    Ok(match kind {
        Kind::Text => {
            let mut text = String::new();
            for sequences in all {
                lines(sequences, codec)?.iter().for_each(|line| text += &format!("{line}\n"));
            }
            text.into_bytes()
        }
        Kind::Json => {
            let list: Vec<Value> = all.iter().map(|s| described(s, codec)).collect::<Result<_>>()?;
            serde_json::to_vec_pretty(&list)?
        }
        Kind::Safetensors => packed(all)?,
    })
}

impl Args {
    /// Checks combinations of options before anything is read.
    fn check(&self) -> Result<()> {
        let (sampling, search) = (self.method == "sample", self.method == "beam");
        let wrong = |what: String, help: &str| Err(failure(what, help));
        if !sampling && (self.top_k.is_some() || self.top_p < 1.0 || self.temperature != 1.0) {
            return wrong(
                format!(
                    "`--temperature`, `--top-k` and `--top-p` have no effect with `--method {}`",
                    self.method
                ),
                "add --method sample, or leave them out",
            );
        }
        if !search && self.early_stopping.is_some() {
            return wrong(
                format!("`--early-stopping` has no effect with `--method {}`", self.method),
                "add --method beam, or leave it out",
            );
        }
        match self.method.as_str() {
            "greedy" if self.sequences > 1 => wrong(
                format!("`--sequences {}`: `--method greedy` gives one sequence per input", self.sequences),
                "use --method sample or beam",
            ),
            "beam" if self.sequences > self.beams => wrong(
                format!("`--sequences {}` exceeds `--beams {}`", self.sequences, self.beams),
                "raise --beams to the number of sequences",
            ),
            _ => Ok(()),
        }
    }

    /// Refuses options that a compiled program does not take.
    fn check_artefact(&self, request: &Request) -> Result<()> {
        let given = [
            ("--repetition-penalty", self.repetition_penalty.is_some()),
            ("--no-repeat-ngram-size", self.no_repeat_ngram_size.is_some()),
            ("--decoder-prompt", self.decoder_prompt.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given && is_artefact(&request.subject)) {
            None => Ok(()),
            Some((option, _)) => Err(failure(
                format!("`{option}` has no effect: `{}` is compiled", request.subject.display()),
                "compile the model with --set repetition_penalty, no_repeat_ngram_size or decoder_prompt, or name \
                 the model itself",
            )),
        }
    }

    /// Returns the settings of the program for a number of inputs.
    fn settings(&self, request: &Request, inputs: usize) -> Vec<Setting> {
        let beams = match self.method.as_str() {
            "beam" => self.beams,
            "sample" => self.sequences,
            _ => 1,
        };
        // At most 32 rows, and a multiple of the devices.
        let batch = inputs.clamp(1, 32).next_multiple_of(request.devices());
        let mut settings = vec![
            ("task", "generate".to_owned()),
            ("method", self.method.clone()),
            ("beams", beams.to_string()),
            ("batch", batch.to_string()),
            ("admit", (batch / 8).max(1).next_multiple_of(request.devices()).to_string()),
            ("filter", (self.top_k.is_some() || self.top_p < 1.0).to_string()),
        ];
        settings.extend(self.early_stopping.clone().map(|when| ("early_stopping", when)));
        settings.extend(self.max_length.map(|n| ("target_length", n.to_string())));
        settings.extend(self.repetition_penalty.map(|factor| ("repetition_penalty", factor.to_string())));
        settings.extend(self.no_repeat_ngram_size.map(|n| ("no_repeat_ngram_size", n.to_string())));
        settings.extend(self.uncached.then(|| ("decode", "uncached".to_owned())));
        settings
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Json,
    Safetensors,
}

impl Kind {
    fn of(args: &Args) -> Self {
        let ends =
            |ending: &str| args.output.as_ref().is_some_and(|p| p.extension().is_some_and(|e| e == ending));
        if ends("safetensors") {
            Self::Safetensors
        } else if args.json || ends("json") {
            Self::Json
        } else {
            Self::Text
        }
    }
}

fn tokens(input: Input, codec: Option<&Codec>, sizes: Sizes) -> Result<Vec<Vec<i32>>> {
    match (input, codec) {
        (Input::Tokens(rows), _) => Ok(rows),
        (Input::Texts(texts), Some(codec)) => {
            Ok(texts.iter().map(|t| tokenizer::encode(codec, sizes, t)).collect::<Result<_, _>>()?)
        }
        (Input::Texts(_), None) => Err(failure(
            "the model's vocabulary is too small for bytes, so that it cannot read text",
            "name the model's tokenizer with --tokenizer, or give token ids: --input NAME.json or NAME.safetensors",
        )),
    }
}

fn lines(sequences: &[Sequence], codec: Option<&Codec>) -> data::Result<Vec<String>> {
    let text = |s: &Sequence| codec.map_or_else(|| Ok(String::new()), |c| c.decode(&s.tokens));
    // One line per sequence: line breaks are escaped.
    sequences.iter().map(|s| Ok(text(s)?.replace('\n', "\\n").replace('\r', "\\r"))).collect()
}

fn described(sequences: &[Sequence], codec: Option<&Codec>) -> Result<Value> {
    let one = |s: &Sequence| {
        let mut value = json!({ "tokens": s.tokens, "score": s.score });
        if let Some(codec) = codec {
            value["text"] = codec.decode(&s.tokens)?.into();
        }
        Ok(value)
    };
    Ok(json!({ "sequences": sequences.iter().map(one).collect::<Result<Vec<_>>>()? }))
}

fn packed(all: &[Vec<Sequence>]) -> Result<Vec<u8>> {
    let (rows, per) = (all.len(), all.first().map_or(0, Vec::len));
    let width = all.iter().flatten().map(|s| s.tokens.len()).max().unwrap_or(0);
    let mut tokens = vec![0; rows * per * width];
    for (place, sequence) in tokens.chunks_exact_mut(width.max(1)).zip(all.iter().flatten()) {
        place[..sequence.tokens.len()].copy_from_slice(&sequence.tokens);
    }
    let scores: Vec<f32> = all.iter().flatten().map(|s| s.score as f32).collect();
    tensors::to_bytes(&BTreeMap::from([
        ("tokens".to_owned(), HostTensor::s32(&[rows, per, width], &tokens)),
        ("scores".to_owned(), HostTensor::f32(&[rows, per], &scores)),
    ]))
}
