//! `meshc score`: log-likelihoods of given targets.

use crate::{
    args::{data::DataOptions, ranges::at_least_one, subject::SubjectArgs},
    output::stream::{errln, outln},
};
use anyhow::{Context, Result};
use clap::ArgGroup;
use driver::{
    Request,
    failure::failure,
    hosts::member::Member,
    request::Setting,
    session::{self, Prepared},
    source::Source,
    teacher_logits,
    tokenizer::{Unknown, encode, room},
};
use mesh::task::check::Purpose;
use proto::manifest::TaskKind;
use runtime::{
    Checkpoint,
    generate::{Score, Scorer, Sizes},
};
use serde_json::{Value, json};
use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

/// An input and its target, as token ids.
type Pair = (Vec<i32>, Vec<i32>);

/// Arguments.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("text").args(["input", "data", "mixture", "tasks"]).required(true)))]
// Nothing of this command reads rows with a teacher's logits.
#[command(mut_arg("teacher_logits", |arg| arg.hide(true)))]
pub struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    /// Pairs of input and target, one per line (- for standard input): a JSON object with `input` and
    /// `target` (texts or lists of token ids), or two texts separated by a tab
    #[arg(long, value_name = "FILE", conflicts_with = "teacher_logits")]
    input: Option<PathBuf>,
    /// Write the rows of --data, --mixture or --tasks (of --split) with the model's largest logits for each
    /// target token to this file, the data of `meshc train --teacher-logits`
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "input")]
    logits: Option<PathBuf>,
    /// With --logits: number of logits for each target token
    #[arg(long, value_name = "K", default_value_t = 64, requires = "logits", conflicts_with = "input",
        value_parser = at_least_one, allow_negative_numbers = true)]
    top: usize,
    #[command(flatten)]
    data: DataOptions,
}

/// Prints one JSON object per pair, one per line, and the totals to standard error; or writes logits.
pub fn run(args: &Args) -> Result<ExitCode> {
    args.subject.run(args.input.as_deref(), |member, request| match (&args.input, &args.logits) {
        (Some(input), _) => score(args, input, member, request),
        (None, Some(path)) => logits(args, path, member, request),
        (None, None) => Err(failure(
            "`--data`, `--mixture` and `--tasks` have rows whose logits `--logits` writes",
            "add --logits FILE, or give pairs with --input; `meshc eval` prints losses of text",
        )),
    })
}

/// Writes the largest logits of the rows.
fn logits(args: &Args, path: &Path, member: &Member, request: &Request) -> Result<()> {
    if member.is_in_job() {
        return Err(failure(
            "`--logits`: one process writes the file, and this is a job of several",
            "leave out the options of several processes",
        ));
    }
    let (mut session, (source, teacher)) = session::open(member, request, rows(args, member, request))?;
    let facts = teacher_logits::write(&mut session, &source, args.top, path, &teacher)?;
    outln!("{}: {} rows with {} logits for each target token", path.display(), facts.rows, facts.top);
    Ok(())
}

/// Returns the program that gives logits, its parameters and the rows.
fn rows(args: &Args, member: &Member, request: &Request) -> Result<Prepared<(Source, Arc<Checkpoint>)>> {
    let functions = &["eval_step"];
    let settings = [("task", "logits".to_owned()), ("packing", "false".to_owned())];
    let parameters = session::parameters(request, args.subject.checkpoint.as_deref())?;
    let texts = args.data.open_for(&member.job, &parameters.checkpoint)?;
    let artefact = session::artefact(request, &parameters, &settings, Purpose::Evaluate, functions)?;
    let source = texts.source(&artefact, 1.0)?;
    let (digest, checkpoint) = (source.batches().digest(), parameters.checkpoint.clone());
    Ok(Prepared { parameters, artefact, functions, inputs: (source, checkpoint), digest })
}

fn score(args: &Args, input: &Path, member: &Member, request: &Request) -> Result<()> {
    let (mut session, pairs) = session::open(member, request, prepare(args, input, request))?;
    member.job.enter("evaluate", 0);
    let scores = Scorer::new(&mut session)?.run(&pairs)?;
    if !member.job.is_first() {
        return Ok(());
    }
    let mut sum = Score::default();
    for score in &scores {
        outln!("{}", described(score));
        sum.log_likelihood += score.log_likelihood;
        sum.tokens += score.tokens;
        sum.correct += score.correct;
    }
    let mut all = described(&sum);
    all["pairs"] = scores.len().into();
    errln!("{all}");
    Ok(())
}

/// Returns the program, its parameters and the pairs.
fn prepare(args: &Args, input: &Path, request: &Request) -> Result<Prepared<Vec<Pair>>> {
    let functions = &["score"];
    let name = input.display().to_string();
    let mut text = String::new();
    match name.as_str() {
        "-" => std::io::stdin().read_to_string(&mut text).map(|_| ()).context("reading standard input")?,
        _ => {
            text = proto::regular::read_to_string(input)
                .with_context(|| format!("reading the pairs `{name}`"))?
        }
    }
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return Err(failure(format!("`{name}` has no pairs"), "give at least one pair"));
    }
    let batch = lines.len().clamp(1, 32).next_multiple_of(request.devices());
    let mut settings = vec![("task", "score".to_owned()), ("batch", batch.to_string())];
    let parameters = session::parameters(request, args.subject.checkpoint.as_deref())?;
    let build =
        |settings: &[Setting]| session::artefact(request, &parameters, settings, Purpose::Score, functions);
    let mut artefact = build(&settings)?;
    let sizes = Sizes::of_program(&artefact, TaskKind::Score)?;
    let codec = args.data.tokenizer().choice().codec(sizes, &parameters.checkpoint)?;
    let text = |text: &str| Ok(encode(codec.as_ref().map_err(Unknown::error)?, sizes, text)?);
    let pairs = lines.iter().map(|(number, line)| pair(line, &text, &name, *number));
    let inputs = pairs.collect::<Result<Vec<_>>>()?;
    if let Some(room) = room(sizes, inputs.iter().map(|(input, _)| input.len()).max()) {
        settings.push(room);
        artefact = build(&settings)?;
    }
    let digest = session::digest(&inputs);
    Ok(Prepared { parameters, artefact, functions, inputs, digest })
}

fn described(score: &Score) -> Value {
    let mean = score.log_likelihood / score.tokens.max(1) as f64;
    json!({
        "log_likelihood": score.log_likelihood, "tokens": score.tokens, "correct": score.correct,
        "per_token": mean, "perplexity": (-mean).exp(),
    })
}

/// Parses a line; `text` makes tokens of text.
fn pair(line: &str, text: &dyn Fn(&str) -> Result<Vec<i32>>, name: &str, number: usize) -> Result<Pair> {
    let wrong = |why: String| {
        failure(
            format!("line {} of `{name}` is not a pair: {why}", number + 1),
            "write {\"input\": …, \"target\": …} with texts or lists of token ids, or two texts separated by a tab",
        )
    };
    if !line.trim_start().starts_with('{') {
        let (input, target) = line.split_once('\t').ok_or_else(|| wrong("it has no tab".into()))?;
        return Ok((text(input)?, text(target)?));
    }
    let value: Value = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
    let field = |key: &str| match &value[key] {
        Value::String(s) => text(s),
        Value::Null => Err(wrong(format!("it has no `{key}`"))),
        other => serde_json::from_value(other.clone()).map_err(|e| wrong(format!("`{key}`: {e}"))),
    };
    Ok((field("input")?, field("target")?))
}
