//! `meshc check`: checks a model, and the mesh and layout for it.

use crate::{
    args::{model::ModelArgs, placement::PlacementArgs},
    output::{
        failure,
        host::HOST,
        stream::{end_if_closed, errln, outln},
    },
};
use anyhow::Result;
use compiler::pipeline::Stage;
use driver::{
    diagnostics::Mistakes,
    lint,
    lower::{Watch, lower},
    placement::place,
    program,
    request::Request,
    summary::summary,
    watch::Watched,
};
use serde_json::json;
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model: built-in (see `meshc models`), a Rust program (.rs) or program text (.mesh)
    model: PathBuf,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Warnings that are errors, by label, or all; repeatable
    #[arg(long, value_name = "LABEL")]
    deny: Vec<String>,
    /// Print the result as JSON: {"ok", "program", "mistakes", "warnings"}
    #[arg(long)]
    json: bool,
    /// Check again whenever a file of the model changes, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Runs every stage except the last, once or after every change.
pub fn run(args: &Args) -> Result<()> {
    if !args.watch {
        return once(args);
    }
    let mut files = Watched::new(&args.model);
    loop {
        once(args).unwrap_or_else(|error| failure::say(&error));
        end_if_closed();
        files.wait();
        errln!("\n{} has changed", args.model.display());
    }
}

fn once(args: &Args) -> Result<()> {
    let denied = lint::denied(&args.deny)?;
    let result = check(args).and_then(|(said, warnings)| {
        let (denied, warnings) = warnings.split(&denied);
        if denied.mistakes.is_empty() { Ok((said, warnings.as_warnings())) } else { Err(denied.into()) }
    });
    if !args.json {
        return result.map(|(said, warnings)| {
            if !warnings.mistakes.is_empty() {
                errln!("{warnings}");
            }
            outln!("{said}");
        });
    }
    let warnings = result.as_ref().map_or(json!([]), |(_, warnings)| warnings.json());
    let mistakes = match &result {
        Ok(_) => json!([]),
        Err(error) => match error.downcast_ref::<Mistakes>() {
            Some(mistakes) => mistakes.json(),
            None => json!([{"message": error.to_string()}]),
        },
    };
    outln!(
        "{:#}",
        json!({"ok": result.is_ok(), "program": args.model, "mistakes": mistakes, "warnings": warnings})
    );
    result.map(drop)
}

fn check(args: &Args) -> Result<(String, Mistakes)> {
    let request = Request {
        settings: args.settings.options(),
        placement: args.placement.options(),
        ..Request::new(&args.model, HOST)
    };
    let program = program::load(&request)?;
    let placement = place(&program.module, &request.placement)?;
    let lowered = lower(&program, &placement, Stage::SimplifyLocal, &mut Watch::default())?;
    let warnings = lint::lints(&program, &placement, lowered.as_ref().map(|lowered| &lowered.local));
    Ok((summary(&program, &placement), Mistakes::new(program.name.as_str(), &warnings, &program.sources)))
}
