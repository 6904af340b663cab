//! `meshc check`: checks a model, and the mesh and layout for it.

use crate::{
    args::{
        model::ModelArgs,
        placement::{PlacementArgs, place},
    },
    build::{
        lower::{Watch, lower},
        program,
    },
    output::diagnostics::Mistakes,
};
use anyhow::Result;
use compiler::pipeline::Stage;
use serde_json::json;
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model: a Rust program (.rs) or program text (.mesh)
    model: PathBuf,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Print the result as JSON: {"ok", "program", "mistakes"}
    #[arg(long)]
    json: bool,
}

/// Runs every stage except the last.
pub fn run(args: &Args) -> Result<()> {
    let result = check(args);
    if !args.json {
        return result.map(|said| println!("{said}"));
    }
    let mistakes = match &result {
        Ok(_) => json!([]),
        Err(error) => match error.downcast_ref::<Mistakes>() {
            Some(mistakes) => mistakes.json(),
            None => json!([{"message": error.to_string()}]),
        },
    };
    println!("{:#}", json!({"ok": result.is_ok(), "program": args.model, "mistakes": mistakes}));
    result.map(drop)
}

fn check(args: &Args) -> Result<String> {
    let program = program::load(&args.model, &args.settings)?;
    let placement = place(&program.module, &args.placement)?;
    lower(&program, &placement, Stage::SimplifyLocal, &mut Watch::default())?;
    let functions: Vec<String> = program.module.functions.iter().map(|f| f.name.to_string()).collect();
    let place = match placement.mesh.devices() {
        1 => "one device".to_owned(),
        n => format!("{n} devices ({}) with the layout {}", placement.mesh, placement.layout),
    };
    Ok(format!("{} is valid: {} on {place}", program.module.name, functions.join(", ")))
}
