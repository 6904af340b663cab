//! `meshc eval`: loss, perplexity and accuracy on a text, or on the share of it that training held out.

use crate::{
    args::{
        data::DataOptions,
        ranges::{at_least_one, inner_share},
        subject::SubjectArgs,
    },
    output::stream::outln,
};
use anyhow::Result;
use data::{BatchSource, Mixture};
use driver::{
    Request,
    failure::failure,
    hosts::member::Member,
    session::{self, Prepared},
};
use mesh::task::check::Purpose;
use runtime::{Contract, train};
use serde_json::{Map, Value};
use std::{process::ExitCode, sync::Arc};

/// Arguments.
#[derive(clap::Args, Debug)]
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
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Evaluates.
pub fn run(args: &Args) -> Result<ExitCode> {
    args.subject.run(None, |member, request| evaluate(args, member, request))
}

fn evaluate(args: &Args, member: &Member, request: &Request) -> Result<()> {
    let (mut session, (source, batches)) = session::open(member, request, prepare(args, member, request))?;
    let means = train::evaluate(&mut session, &*source, batches, &member.job)?;
    if !member.job.is_first() {
        return Ok(());
    }
    let mut result: Map<String, Value> =
        means.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
    result.insert("batches".into(), batches.into());
    result.insert("rows".into(), source.held_out_rows_of(batches).into());
    // Rows that `--held-out` or `--batches` leaves out, and tokens at the end that fill no row.
    let all = source.train_rows() + source.held_out_rows();
    result.insert("rows_left_out".into(), (all - source.held_out_rows_of(batches)).into());
    result.insert("tokens_left_over".into(), source.left_over().into());
    if let Some(loss) = means.get("loss") {
        result.insert("perplexity".into(), loss.exp().into());
    }
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&result)?);
    } else {
        result.iter().for_each(|(name, value)| outln!("{name:24} {value}"));
    }
    Ok(())
}

/// Returns the program, its parameters, the rows, and the number of batches.
fn prepare(args: &Args, member: &Member, request: &Request) -> Result<Prepared<(Arc<Mixture>, usize)>> {
    let functions = &["eval_step"];
    let parameters = session::parameters(request, args.subject.checkpoint.as_deref())?;
    let texts = args.data.open_for(&member.job, &parameters.checkpoint)?;
    let artefact = session::artefact(request, &parameters, &[], Purpose::Evaluate, functions)?;
    let share = args.held_out.unwrap_or(1.0);
    let source = texts.mixture(Contract::batch_spec(&artefact)?, share)?;
    let batches = source.held_out_batches().min(args.batches.unwrap_or(usize::MAX));
    if batches == 0 {
        return Err(failure(
            format!("`--held-out {share}` of the text is less than one batch"),
            "raise --held-out, or give more text",
        ));
    }
    let digest = source.digest();
    Ok(Prepared { parameters, artefact, functions, inputs: (source, batches), digest })
}
