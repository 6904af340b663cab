//! `meshc report`: what a program costs.

use super::refuse_options;
use crate::{
    failure::failure,
    folder,
    lower::{REPORT, Watch, choose, lower},
    model::{self, ModelArgs},
    placement::{PlacementArgs, place},
};
use anyhow::{Context, Result};
use compiler::{pipeline::Stage, report::Report};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// An artefact directory, or a model (.rs or .mesh)
    #[arg(value_name = "ARTEFACT|MODEL")]
    subject: PathBuf,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// The function to report on. Default: train_step, else eval_step, else the first
    #[arg(long)]
    function: Option<String>,
    /// Print it as JSON: parameters, flops_per_sequence, flops_per_device, peak_bytes_per_device, collectives, …
    #[arg(long)]
    json: bool,
}

/// Reports.
pub fn run(args: &Args) -> Result<()> {
    let compiled = args.subject.is_dir() && !model::is_checkpoint(&args.subject);
    let reports = if compiled { stored(args)? } else { made(args)? };
    let report = choose(&reports, args.function.as_deref())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

fn made(args: &Args) -> Result<Vec<Report>> {
    let program = model::load(&args.subject, &args.settings)?;
    let placement = place(&program.module, &args.placement)?;
    let lowered = lower(&program, &placement, Stage::Tidy, &mut Watch::default())?;
    Ok(lowered.map(|l| l.reports).unwrap_or_default())
}

/// The report that was written with an artefact.
fn stored(args: &Args) -> Result<Vec<Report>> {
    let dir: &Path = &args.subject;
    refuse_options(dir, &args.settings, &args.placement)?;
    folder::open(dir)?;
    let path = dir.join(REPORT);
    let bytes = fs::read(&path).with_context(|| {
        format!(
            "reading `{}` (compile the model again with `meshc compile`, which writes it)",
            path.display()
        )
    })?;
    serde_json::from_slice(&bytes).map_err(|e| {
        failure(
            format!("`{}` is not a report: {e}", path.display()),
            "it is altered, or of another version: compile the model again with `meshc compile`",
        )
    })
}
