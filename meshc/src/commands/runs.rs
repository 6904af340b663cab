//! `meshc runs`: a page about training runs, or their results as JSON.

use crate::output::stream::{out, outln};
use anyhow::{Context, Result};
use driver::{
    comparison,
    failure::failure,
    files::write_file,
    run_folder::{CONFIG, METRICS, RUN},
};
use page::{run::Run, run_page::page, speedup};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run directories (`meshc train --run-dir`) or metrics files; several runs are compared
    #[arg(required = true, value_name = "RUN_DIR")]
    runs: Vec<PathBuf>,
    /// HTML file to write. Default: index.html in the run directory; for several runs with evaluations none
    #[arg(short, long, value_name = "FILE.html")]
    output: Option<PathBuf>,
    /// Print one JSON object; a page is written only with -o
    #[arg(long)]
    json: bool,
}

/// Writes the page, or prints the object.
pub fn run(args: &Args) -> Result<()> {
    let runs = args.runs.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    if args.json {
        let all: Vec<_> = runs.iter().map(Run::summary).collect();
        if let Some(output) = &args.output {
            write_file(output, page(&runs).as_bytes())?;
        }
        outln!(
            "{}",
            serde_json::to_string_pretty(&json!({ "runs": all, "speedups": speedup::json(&runs) }))?
        );
        return Ok(());
    }
    let compared = comparison::text(&runs);
    let output = match (&args.output, args.runs.as_slice()) {
        (Some(output), _) => output.clone(),
        (None, [one]) if one.is_dir() => one.join("index.html"),
        (None, _) if !compared.is_empty() => {
            out!("{compared}");
            return Ok(());
        }
        (None, _) => {
            return Err(failure(
                "several runs, or a metrics file, have no directory for the page",
                "name the HTML file with -o FILE.html",
            ));
        }
    };
    write_file(&output, page(&runs).as_bytes())?;
    out!("{compared}");
    outln!("{}", output.display());
    Ok(())
}

/// Reads a run directory or a metrics file. The run may still be writing.
fn read(path: &Path) -> Result<Run> {
    let file = if path.is_dir() { path.join(METRICS) } else { path.to_owned() };
    let bytes = match proto::regular::read(&file) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(failure(
                format!("`{}` is not a run: there is no `{}`", path.display(), file.display()),
                "name a directory that `meshc train --run-dir` has written, or a file of `--metrics`",
            ));
        }
        Err(e) => return Err(e).with_context(|| format!("reading `{}`", file.display())),
    };
    let about =
        proto::regular::read(&path.join(RUN)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let mut run = Run::parse(&path.display().to_string(), about.unwrap_or_default(), &bytes);
    if let Ok(config) = proto::regular::read_to_string(&path.join(CONFIG)) {
        run.add_settings(&config);
    }
    if run.numbers.is_empty() && !bytes.iter().all(u8::is_ascii_whitespace) && bytes.contains(&b'\n') {
        return Err(failure(
            format!("no line of `{}` has the metrics of a step", file.display()),
            "name a directory that `meshc train --run-dir` has written, or a file of `--metrics`",
        ));
    }
    Ok(run)
}
