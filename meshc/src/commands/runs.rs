//! `meshc runs`: training runs as a page, or what they came to as JSON.

use crate::{
    failure::failure,
    folder::write_file,
    page::{self, run::Run},
};
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folders of runs (`meshc train --run-dir`), or files of metrics; several are compared
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// The page. Default: index.html in the run's folder
    #[arg(short, long, value_name = "FILE.html")]
    output: Option<PathBuf>,
    /// Print one JSON object; a page is written only where -o names it
    #[arg(long)]
    json: bool,
}

/// Writes the page, or prints the object.
pub fn run(args: &Args) -> Result<()> {
    let runs = args.runs.iter().map(|path| Run::read(path)).collect::<Result<Vec<_>>>()?;
    if args.json {
        let all: Vec<_> = runs.iter().map(Run::summary).collect();
        if let Some(output) = &args.output {
            write_file(output, page::page(&runs).as_bytes())?;
        }
        println!("{}", serde_json::to_string_pretty(&json!({ "runs": all }))?);
        return Ok(());
    }
    let output = match (&args.output, args.runs.as_slice()) {
        (Some(output), _) => output.clone(),
        (None, [one]) if one.is_dir() => one.join("index.html"),
        (None, _) => {
            return Err(failure(
                "there is no one folder for the page",
                "name a file for it with -o FILE.html",
            ));
        }
    };
    write_file(&output, page::page(&runs).as_bytes())?;
    println!("{}", output.display());
    Ok(())
}
