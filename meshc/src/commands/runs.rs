//! `meshc runs`: training runs as a page.

use crate::{
    failure::failure,
    folder::write_file,
    page::{self, run::Run},
};
use anyhow::Result;
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
}

/// Writes the page.
pub fn run(args: &Args) -> Result<()> {
    let runs = args.runs.iter().map(|path| Run::read(path)).collect::<Result<Vec<_>>>()?;
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
