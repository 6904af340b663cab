//! `meshc eval`: loss, perplexity and accuracy on a text, or on the share of it that training held out;
//! metrics of tasks by generation and by rank classification.

use crate::{
    args::{
        data::{DataOptions, FORMS, Source},
        ranges::{at_least_one, inner_share},
        subject::SubjectArgs,
    },
    output::stream::{out, outln},
};
use anyhow::Result;
use clap::ArgGroup;
use driver::{
    Request,
    failure::failure,
    files::write_file,
    hosts::member::Member,
    predict::predict,
    session::{self, Prepared},
};
use mesh::task::check::Purpose;
use runtime::train;
use serde_json::{Map, Value, json};
use std::{path::PathBuf, process::ExitCode};
use tasks::{Method, evaluation};

/// Arguments.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("text").args(FORMS).required(true)))]
pub struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    data: DataOptions,
    /// Share of the text, from its end, that is evaluated. `meshc train --eval-every` holds out 0.05.
    /// Default: all
    #[arg(long, value_name = "SHARE", value_parser = inner_share, allow_negative_numbers = true)]
    held_out: Option<f64>,
    /// Largest number of batches. Default: all
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    batches: Option<usize>,
    /// With --tasks: the ways to evaluate. generate compares generated texts with the targets, rank takes the
    /// likeliest label, loss is that of the targets
    #[arg(long, num_args = 1.., value_name = "WAY", default_value = "generate",
        value_parser = ["generate", "rank", "loss"])]
    by: Vec<String>,
    /// With --tasks: largest number of examples of each task. Default: all
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    examples: Option<usize>,
    /// With --tasks: write the predictions to this file, one JSON object per example and line
    #[arg(long, value_name = "FILE.jsonl")]
    predictions: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Evaluates.
pub fn run(args: &Args) -> Result<ExitCode> {
    let is_text = args.data.tasks.is_empty();
    if is_text && (args.predictions.is_some() || args.examples.is_some() || args.by != ["generate"]) {
        return Err(failure(
            "`--by`, `--examples` and `--predictions` have no effect without tasks",
            "leave them out, or name tasks with --tasks in place of --data",
        ));
    }
    args.subject.run(None, |member, request| match is_text {
        true => show(args, &losses(args, member, request)?),
        false => evaluate_tasks(args, member, request),
    })
}

/// Evaluates tasks in the ways of `--by`.
fn evaluate_tasks(args: &Args, member: &Member, request: &Request) -> Result<()> {
    let is_by = |way: &str| args.by.iter().any(|by| by == way);
    if member.is_in_job() && args.by.len() > 1 {
        return Err(failure(
            "`--by` has several ways, and each has its own program: a job of several processes runs only one",
            "evaluate one way at a time, or leave out the options of several processes",
        ));
    }
    let mut result = if is_by("loss") { losses(args, member, request)? } else { Map::new() };
    let methods = [("generate", Method::Generate), ("rank", Method::Rank)];
    let methods: Vec<Method> = methods.into_iter().filter(|(way, _)| is_by(way)).map(|(_, m)| m).collect();
    if methods.is_empty() {
        return show(args, &result);
    }
    let parameters = session::parameters(request, args.subject.checkpoint.as_deref())?;
    let wanted = args.data.examples(args.examples)?;
    let codec = |sizes| {
        let codec = args.data.tokenizer().choice().codec(sizes, &parameters.checkpoint)?;
        codec.map_err(|unknown| unknown.error())
    };
    let mut all = Vec::new();
    for method in methods {
        all.extend(predict(member, request, &parameters, &wanted, method, &codec)?);
    }
    if !member.job.is_first() {
        return Ok(());
    }
    if let Some(path) = &args.predictions {
        write_file(path, all.iter().map(|of| of.lines()).collect::<String>().as_bytes())?;
    }
    match args.json {
        true => drop(result.insert("tasks".into(), json!(evaluation::by_name(&all)))),
        false => out!("{}", evaluation::table(&all)),
    }
    show(args, &result)
}

/// Prints results; of several processes, only the first has any.
fn show(args: &Args, result: &Map<String, Value>) -> Result<()> {
    match args.json && !result.is_empty() {
        true => outln!("{}", serde_json::to_string_pretty(result)?),
        false => out!("{}", driver::evaluation::text(result)),
    }
    Ok(())
}

/// Returns the means of the outputs of `eval_step`; nothing in processes other than the first.
fn losses(args: &Args, member: &Member, request: &Request) -> Result<Map<String, Value>> {
    let (mut session, (source, batches)) = session::open(member, request, prepare(args, member, request))?;
    let means = train::evaluate(&mut session, &*source.batches(), batches, &member.job)?;
    if !member.job.is_first() {
        return Ok(Map::new());
    }
    let mut result = driver::evaluation::object(&means, &source.batches().corpora());
    result.insert("batches".into(), batches.into());
    // Rows that `--held-out` or `--batches` leaves out, and tokens at the end that fill no row.
    let counts = ["rows", "rows_left_out", "tokens_left_over"].into_iter().zip(source.rows(batches));
    counts.for_each(|(name, count)| drop(result.insert(name.into(), count.into())));
    Ok(result)
}

/// Returns the program, its parameters, the rows, and the number of batches.
fn prepare(args: &Args, member: &Member, request: &Request) -> Result<Prepared<(Source, usize)>> {
    let functions = &["eval_step"];
    let parameters = session::parameters(request, args.subject.checkpoint.as_deref())?;
    let texts = args.data.open_for(&member.job, &parameters.checkpoint)?;
    let artefact = session::artefact(request, &parameters, &[], Purpose::Evaluate, functions)?;
    let share = args.held_out.unwrap_or(1.0);
    let source = texts.source(&artefact, share)?;
    let batches = source.batches().held_out_batches().min(args.batches.unwrap_or(usize::MAX));
    if batches == 0 {
        return Err(failure(
            format!("`--held-out {share}` of the text is less than one batch"),
            "raise --held-out, or give more text",
        ));
    }
    let digest = source.batches().digest();
    Ok(Prepared { parameters, artefact, functions, inputs: (source, batches), digest })
}
