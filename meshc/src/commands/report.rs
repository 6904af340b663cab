//! `meshc report`: the cost of a program.

use crate::{
    args::{model::ModelArgs, placement::PlacementArgs},
    output::{
        host::HOST,
        stream::{out, outln},
    },
};
use anyhow::{Context, Result};
use compiler::pipeline::Stage;
use driver::{
    ahead::{COMPILED, read_module},
    failure::failure,
    files,
    lower::{REPORT, Watch, choose, lower},
    placement::place,
    program,
    request::Request,
    subject::is_compiled,
    target::Target,
};
use report::{
    Report,
    compiled::Compiled,
    difference::Costs,
    html,
    optimized::{self, Optimized},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Artefact directory, model (built-in, .rs or .mesh), or optimized program (.pb)
    #[arg(value_name = "ARTEFACT|MODEL|PROGRAM")]
    subject: PathBuf,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Function to report on. Default: train_step, else eval_step, else the first function
    #[arg(long)]
    function: Option<String>,
    /// Print JSON: parameters, flops_per_sequence, flops_per_device, peak_bytes_per_device, collectives, …
    #[arg(long)]
    json: bool,
    /// Write an HTML page with charts: shards by device, memory over the program, traffic by mesh axis
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Compare with another artefact or model, which is compiled with the same options; exit code 1 if
    /// collectives, bytes, FLOPs or memory differ
    #[arg(long, value_name = "ARTEFACT|MODEL", conflicts_with = "html")]
    diff: Option<PathBuf>,
    /// Compare with this file of --write-lock; exit code 1 if collectives, bytes, FLOPs or memory differ
    #[arg(long, value_name = "FILE", conflicts_with_all = ["diff", "html"])]
    lock: Option<PathBuf>,
    /// Write the costs of all functions to this file, for --lock
    #[arg(long, value_name = "FILE", conflicts_with_all = ["diff", "lock"])]
    write_lock: Option<PathBuf>,
    /// Slice that an optimized program (.pb) was compiled for, which gives the time of a call
    #[arg(long, conflicts_with_all = ["diff", "html", "lock", "write_lock"])]
    target: Option<Target>,
}

/// Reports.
pub fn run(args: &Args) -> Result<ExitCode> {
    let request = Request {
        settings: args.settings.options(),
        placement: args.placement.options(),
        ..Request::new(&args.subject, HOST)
    };
    if args.subject.extension().is_some_and(|e| e == "pb") {
        return optimized(args, &request).map(|()| ExitCode::SUCCESS);
    }
    if args.target.is_some() {
        let what =
            format!("--target is for optimized programs (.pb), and `{}` is none", args.subject.display());
        return Err(failure(what, "leave it out: an artefact knows its target"));
    }
    let (reports, compiled) = reports(&request)?;
    if let Some(code) = compared(args, &request, &Costs::of(&reports))? {
        return Ok(code);
    }
    let report = choose(&reports, args.function.as_deref())?;
    let compiled = compiled.into_iter().find(|c| c.function == report.function);
    if let Some(file) = &args.html {
        files::write_file(file, html::page(report, compiled.as_ref()).as_bytes())?;
        if !args.json {
            outln!("{}", file.display());
            return Ok(ExitCode::SUCCESS);
        }
    }
    if args.json {
        let mut value = serde_json::to_value(report)?;
        if let (Value::Object(fields), Some(compiled)) = (&mut value, &compiled) {
            fields.insert("compiled".into(), serde_json::to_value(compiled)?);
        }
        outln!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        out!("{report}");
        compiled.iter().for_each(|c| out!("{c}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes or compares a lock, or compares with another program. `None` if no such option is given.
fn compared(args: &Args, request: &Request, new: &Costs) -> Result<Option<ExitCode>> {
    if let Some(file) = &args.write_lock {
        files::write_file(file, new.lock().as_bytes())?;
        outln!("{}", file.display());
        return Ok(Some(ExitCode::SUCCESS));
    }
    let old = match (&args.lock, &args.diff) {
        (Some(file), _) => {
            let text = proto::regular::read_to_string(file)
                .with_context(|| format!("reading the lock `{}` (--write-lock writes it)", file.display()))?;
            Costs::parse(&text).map_err(|line| {
                let what = format!("{}:{line}: not a line of a lock", file.display());
                failure(what, "write it again with --write-lock")
            })?
        }
        (None, Some(other)) => Costs::of(&reports(&Request { subject: other.clone(), ..request.clone() })?.0),
        (None, None) => return Ok(None),
    };
    // A lock is older than the program, and `--diff B` tells what changes from this program to B.
    let changes = if args.lock.is_some() { old.changes(new) } else { new.changes(&old) };
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&json!({ "changes": changes }))?);
    } else if changes.is_empty() {
        outln!("the costs are equal");
    } else {
        changes.iter().for_each(|change| out!("{change}"));
    }
    Ok(Some(if changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn reports(request: &Request) -> Result<(Vec<Report>, Vec<Compiled>)> {
    if is_compiled(&request.subject) { stored(request) } else { Ok((made(request)?, Vec::new())) }
}

fn made(request: &Request) -> Result<Vec<Report>> {
    let program = program::load(request)?;
    let placement = place(&program.module, &request.placement)?;
    let lowered = lower(&program, &placement, Stage::SimplifyLocal, &mut Watch::default())?;
    Ok(lowered.map(|l| l.reports).unwrap_or_default())
}

/// Reads the reports of an artefact, and the plugin's own numbers for its functions.
fn stored(request: &Request) -> Result<(Vec<Report>, Vec<Compiled>)> {
    let dir: &Path = &request.subject;
    request.refuse_options()?;
    files::open(dir)?;
    let compiled = dir.join(COMPILED);
    let compiled = if compiled.is_file() { read(&compiled)? } else { Vec::new() };
    Ok((read(&dir.join(REPORT))?, compiled))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = proto::regular::read(path).with_context(|| {
        format!("reading `{}` (recompile the model with `meshc compile`, which writes it)", path.display())
    })?;
    serde_json::from_slice(&bytes).map_err(|e| {
        failure(
            format!("`{}` is not a report: {e}", path.display()),
            "it was altered or is from another version: recompile the model with `meshc compile`",
        )
    })
}

/// Reports on an optimized program alone. `--mesh` names its axes.
fn optimized(args: &Args, request: &Request) -> Result<()> {
    let path = &args.subject;
    let wrong = args.function.is_some() || request.placement.layout.is_some() || args.html.is_some();
    if !request.settings.is_empty() || wrong {
        return Err(failure(
            format!(
                "`{}` is an optimized program: settings, functions and layouts do not apply",
                path.display()
            ),
            "leave out all options except --mesh, which names groups of devices, --target and --json",
        ));
    }
    let bytes = proto::regular::read(path).with_context(|| format!("reading `{}`", path.display()))?;
    let module = read_module(&bytes).ok_or_else(|| {
        failure(
            format!("`{}` is not an HLO module", path.display()),
            "name a file that `meshc compile --emit optimized-hlo` or a plugin has written",
        )
    })?;
    let slice = args.target.as_ref().and_then(Target::slice);
    let mesh = request.placement.mesh.clone().unwrap_or_default();
    let counted: Optimized = optimized::count(&module, &mesh, slice);
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&counted)?);
    } else {
        out!("{counted}");
    }
    Ok(())
}
