//! `meshc check`: whether a model is a legal program, and a layout legal for it.

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
    /// The model: a program in Rust (.rs) or as text (.mesh)
    model: PathBuf,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Print {"ok", "program", "mistakes"} as JSON
    #[arg(long)]
    json: bool,
}

/// Runs every stage but the last.
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
    Ok(format!("{} is right: {} on {place}", program.module.name, functions.join(", ")))
}
