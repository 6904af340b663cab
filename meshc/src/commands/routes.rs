//! `meshc routes`: which tokens go to which expert, in every sparse layer.

use crate::{
    args::{
        data::{DataOptions, FORMS, Source},
        ranges::{at_least_one, inner_share, positive},
        subject::SubjectArgs,
    },
    output::stream::{errln, out, outln},
};
use anyhow::Result;
use clap::ArgGroup;
use driver::{
    Request,
    failure::failure,
    files::write_file,
    hosts::member::Member,
    routes::{self, FUNCTIONS, Options, settings},
    session::{self, Prepared},
};
use mesh::task::check::Purpose;
use std::{path::PathBuf, process::ExitCode};

/// Arguments.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("text").args(FORMS).required(true)))]
pub struct Args {
    #[command(flatten)]
    subject: SubjectArgs,
    #[command(flatten)]
    data: DataOptions,
    /// Share of the text, from its end, that is routed. Default: all
    #[arg(long, value_name = "SHARE", value_parser = inner_share, allow_negative_numbers = true)]
    held_out: Option<f64>,
    /// Largest number of rows, rounded up to whole batches: the same number of batches of every corpus.
    /// Default: all, or as many as are sure to need at most 2.5 GiB of memory for counts
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    sample: Option<usize>,
    /// Capacity factors for which the recorded choices are replayed, to count the tokens that they would drop
    #[arg(long, num_args = 1.., value_name = "FACTOR", value_parser = positive, allow_negative_numbers = true)]
    capacity_factor: Vec<f64>,
    /// HTML page to write
    #[arg(short, long, value_name = "FILE.html")]
    output: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Routes the text, and prints tables or the object.
pub fn run(args: &Args) -> Result<ExitCode> {
    args.subject.run(None, |member, request| observe(args, member, request))
}

fn observe(args: &Args, member: &Member, request: &Request) -> Result<()> {
    if member.is_in_job() {
        return Err(failure(
            "routing is recorded by one process, and this is a job of several",
            "leave out the options of several processes, and sample rows with --sample",
        ));
    }
    let (mut session, (source, checkpoint)) = session::open(member, request, prepare(args, member, request))?;
    let options = Options { sample: args.sample, factors: args.capacity_factor.clone() };
    let found = routes::observe(&mut session, &checkpoint, &source, &options)?;
    if let Some(path) = &args.output {
        write_file(path, report::html::routes::page(&found).as_bytes())?;
        errln!("{}", path.display());
    }
    match args.json {
        true => outln!("{}", serde_json::to_string_pretty(&found)?),
        false => out!("{found}"),
    }
    Ok(())
}

/// Returns the program, its parameters, the rows, and the path of the checkpoint.
fn prepare(args: &Args, member: &Member, request: &Request) -> Result<Prepared<(Source, String)>> {
    let parameters = session::parameters(request, args.subject.checkpoint.as_deref())?;
    let texts = args.data.open_for(&member.job, &parameters.checkpoint)?;
    let artefact = session::artefact(request, &parameters, &settings(), Purpose::Evaluate, &FUNCTIONS)?;
    let source = texts.source(&artefact, args.held_out.unwrap_or(1.0))?;
    let inputs = (source, parameters.checkpoint.dir().display().to_string());
    Ok(Prepared { parameters, artefact, functions: &FUNCTIONS, inputs, digest: String::new() })
}
