//! Predictions for tasks, by generation or by rank classification.

use crate::{
    failure::failure,
    hosts::member::Member,
    request::{Request, Setting},
    session::{self, Parameters, Prepared},
    tokenizer::encode,
};
use anyhow::Result;
use data::Codec;
use mesh::task::check::Purpose;
use runtime::{
    Session,
    generate::{Generator, Options, Scorer, Sizes},
};
use tasks::{Example, Method, Predictions, TaskSpec};

/// A task and the examples to predict.
pub type Wanted = (TaskSpec, Vec<Example>);

/// Makes the codec between text and tokens for a program of these sizes.
pub type MakeCodec<'a> = &'a dyn Fn(Sizes) -> Result<Codec>;

/// Functions that generate.
pub const GENERATE: [&str; 3] = ["encode", "decode", "results"];

/// Predicts the targets of tasks, with a program that is compiled for it, in all processes of a job. Each of
/// them returns all predictions.
///
/// # Errors
/// Among others, if no task has a label set for [`Method::Rank`].
pub fn predict(
    member: &Member,
    request: &Request,
    parameters: &Parameters,
    wanted: &[Wanted],
    method: Method,
    codec: MakeCodec<'_>,
) -> Result<Vec<Predictions>> {
    match method {
        Method::Generate => {
            let settings = settings(request, wanted);
            let (purpose, functions) = (Purpose::Generate, &GENERATE);
            let mut session = opened(member, request, parameters, wanted, (&settings, purpose, functions))?;
            generate(&mut Generator::new(&mut session)?, wanted, codec)
        }
        Method::Rank => {
            let labelled = wanted.iter().filter(|(spec, _)| spec.label.is_some());
            let wanted: Vec<Wanted> = labelled.cloned().collect();
            if wanted.is_empty() {
                return Err(failure(
                    "rank classification needs a task with a label set",
                    "add [label] to a task, or leave out `--by rank`",
                ));
            }
            let count = wanted.iter().flat_map(|(_, examples)| examples).map(|e| e.labels.len()).sum();
            let settings = [("task", "score".to_owned()), ("batch", rows(request, count))];
            let (purpose, functions) = (Purpose::Score, &["score"]);
            let mut session = opened(member, request, parameters, &wanted, (&settings, purpose, functions))?;
            let mut scorer = Scorer::new(&mut session)?;
            let codec = codec(scorer.sizes())?;
            wanted.iter().map(|task| rank(&mut scorer, task, &codec)).collect()
        }
    }
}

/// Opens the session of a program with these settings and functions.
fn opened(
    member: &Member,
    request: &Request,
    parameters: &Parameters,
    wanted: &[Wanted],
    (settings, purpose, functions): (&[Setting], Purpose, &'static [&'static str]),
) -> Result<Session> {
    let prepare = || {
        let artefact = session::artefact(request, parameters, settings, purpose, functions)?;
        let (parameters, digest) = (parameters.clone(), session::digest(&wanted));
        Ok(Prepared { parameters, artefact, functions, inputs: (), digest })
    };
    let session = session::open(member, request, prepare())?.0;
    member.job.enter("evaluate", 0);
    Ok(session)
}

/// Returns the settings of a program that generates the targets of these tasks.
pub fn settings(request: &Request, wanted: &[Wanted]) -> Vec<(&'static str, String)> {
    let count = wanted.iter().map(|(_, examples)| examples.len()).sum();
    vec![
        ("task", "generate".to_owned()),
        ("method", "greedy".to_owned()),
        ("beams", "1".to_owned()),
        ("batch", rows(request, count)),
        ("filter", "false".to_owned()),
    ]
}

/// At most 32 rows, and a multiple of the devices.
fn rows(request: &Request, count: usize) -> String {
    count.clamp(1, 32).next_multiple_of(request.devices()).to_string()
}

/// Generates the targets of tasks.
///
/// # Errors
/// The codec does not fit the program, or generation fails.
pub fn generate(
    generator: &mut Generator<'_>,
    wanted: &[Wanted],
    codec: MakeCodec<'_>,
) -> Result<Vec<Predictions>> {
    let sizes = generator.sizes();
    let codec = codec(sizes)?;
    let mut all = Vec::new();
    for (spec, examples) in wanted {
        let (inputs, truncated) = inputs(examples, &codec, sizes)?;
        let mut tokens = vec![Vec::new(); examples.len()];
        generator.run(&inputs, &Options::default(), &mut |number, sequences| {
            tokens[number] = sequences.into_iter().next().map(|s| s.tokens).unwrap_or_default();
            Ok(())
        })?;
        let texts = tokens.iter().map(|tokens| codec.decode(tokens)).collect::<data::Result<_>>()?;
        let (spec, examples) = (spec.clone(), examples.clone());
        let method = Method::Generate;
        all.push(Predictions { spec, method, examples, texts, scores: Vec::new(), truncated });
    }
    Ok(all)
}

/// Scores the labels of every example, and predicts the likeliest.
fn rank(scorer: &mut Scorer<'_>, (spec, examples): &Wanted, codec: &Codec) -> Result<Predictions> {
    let sizes = scorer.sizes();
    let (inputs, truncated) = inputs(examples, codec, sizes)?;
    let mut pairs = Vec::new();
    for (example, input) in examples.iter().zip(&inputs) {
        for label in &example.labels {
            pairs.push((input.clone(), encode(codec, sizes, label)?));
        }
    }
    let mut left = scorer.run(&pairs)?.into_iter().map(|score| score.log_likelihood);
    let scores: Vec<Vec<f64>> =
        examples.iter().map(|example| left.by_ref().take(example.labels.len()).collect()).collect();
    let best = |(example, scores): (&Example, &Vec<f64>)| {
        let best = scores.iter().zip(&example.labels).max_by(|a, b| a.0.total_cmp(b.0));
        best.map(|(_, label)| label.clone()).unwrap_or_default()
    };
    let texts = examples.iter().zip(&scores).map(best).collect();
    let (spec, examples) = (spec.clone(), examples.clone());
    Ok(Predictions { spec, method: Method::Rank, examples, texts, scores, truncated })
}

/// Returns the tokens of inputs, cut to what the program takes, and the number of those that were cut.
fn inputs(examples: &[Example], codec: &Codec, sizes: Sizes) -> Result<(Vec<Vec<i32>>, usize)> {
    let (room, mut truncated) = (sizes.input_length.max(1), 0);
    let cut = |example: &Example| {
        let mut tokens = encode(codec, sizes, &example.inputs)?;
        if let Some(end) = tokens.last().copied().filter(|_| tokens.len() > room) {
            truncated += 1;
            tokens.truncate(if sizes.continues { room } else { room - 1 });
            tokens.extend((!sizes.continues).then_some(end));
        }
        Ok(tokens)
    };
    let tokens = examples.iter().map(cut).collect::<Result<_>>()?;
    Ok((tokens, truncated))
}
