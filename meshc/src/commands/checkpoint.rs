//! `meshc checkpoint`: what is in checkpoints, whether they are whole, how two differ, removing old ones,
//! and other numbers of experts.

use crate::{args::ranges::at_least_one, output::failure::failure};
use anyhow::Result;
use interchange::experts::{self, Conversion, Ffn, Keep};
use report::table::{count, size, table};
use runtime::{
    Checkpoint,
    checkpoint::{Entry, folder, is_checkpoint, is_url, keep},
};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// The checkpoints in a folder, or the tensors of one
    List {
        /// A folder of checkpoints, or a checkpoint
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Read every byte and compare all digests. Exit code 1 if anything is damaged
    Verify {
        /// Folders of checkpoints, or checkpoints
        #[arg(value_name = "DIR", required = true)]
        dirs: Vec<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Tensors that are in one of two checkpoints only, or differ. Exit code 1 if there are any
    Diff {
        /// A checkpoint
        a: PathBuf,
        /// Another one
        b: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove good checkpoints that none of the --keep options names; damaged ones stay
    Prune(Prune),
    /// The same model with another number of experts, with experts where it had none, or without them
    Convert(Convert),
}

#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("rules").required(true).multiple(true)))]
struct Prune {
    /// A folder of checkpoints
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// So many stay, the newest. The newest one stays in any case
    #[arg(long, visible_alias = "keep-last", value_name = "N", group = "rules", value_parser = at_least_one)]
    keep: Option<usize>,
    /// Those of every so many steps stay
    #[arg(long, value_name = "STEPS", group = "rules", value_parser = clap::value_parser!(u64).range(1..))]
    keep_every: Option<u64>,
    /// So many stay, those with the smallest loss on held-out text
    #[arg(long, value_name = "N", group = "rules", value_parser = at_least_one)]
    keep_best: Option<usize>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct Convert {
    /// A checkpoint that says which model it is of
    from: PathBuf,
    /// The checkpoint to be made
    out: PathBuf,
    /// How many experts: a multiple copies each of them, fewer need --keep-experts or --keep-by-load; of a dense model,
    /// every expert is its feed-forward layer
    #[arg(long, value_name = "N", required_unless_present = "dense", value_parser = at_least_one)]
    experts: Option<usize>,
    /// No experts
    #[arg(long, conflicts_with = "experts")]
    dense: bool,
    /// The experts that stay, in every layer: 0,2,5
    #[arg(long, value_name = "E,…", value_delimiter = ',', requires = "experts")]
    keep_experts: Option<Vec<usize>>,
    /// In each layer the experts stay that had the most tokens in the last 100 steps of this metrics file
    #[arg(long, value_name = "METRICS", requires = "experts", conflicts_with = "keep_experts")]
    keep_by_load: Option<PathBuf>,
    /// What the dense layer is where there were experts: fresh (initial values), mean, or the number of an expert
    #[arg(long, value_name = "fresh|mean|EXPERT", default_value = "fresh", value_parser = ffn, requires = "dense")]
    ffn: Ffn,
    /// What the last matrix of every expert is multiplied by. Default: what makes up for smaller gates
    #[arg(long, value_name = "FACTOR")]
    scale: Option<f64>,
    /// Noise on the router's columns of copies, by the root mean square of the router: without it, a token cannot
    /// tell copies apart, and all go to the first
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    router_noise: f64,
    /// Of the noise and of initial values
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A setting of the model that is wanted, such as sparse_step=2; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Does it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let good = match &args.command {
        Command::List { dir, json } => list(dir, *json)?,
        Command::Verify { dirs, json } => verify(dirs, *json)?,
        Command::Diff { a, b, json } => diff(&Checkpoint::open(a)?, &Checkpoint::open(b)?, *json)?,
        Command::Prune(args) => prune(args)?,
        Command::Convert(args) => convert_experts(args)?,
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a folder is a checkpoint, whole or not, and not a folder of them.
fn is_one(dir: &Path) -> bool {
    is_checkpoint(dir) || dir.join("manifest.json").exists() || dir.join("COMMIT").exists()
}

/// The checkpoints that `dir` is or has: names, and what came of opening them.
fn all(dir: &Path) -> Result<Vec<(PathBuf, runtime::Result<Checkpoint>)>> {
    if is_one(dir) {
        return Ok(vec![(dir.to_owned(), Checkpoint::open(dir))]);
    }
    let found = if dir.is_dir() || is_url(dir) { folder::list(dir)? } else { Vec::new() };
    if found.is_empty() {
        return Err(failure(
            format!("`{}` is no checkpoint, and has none", dir.display()),
            "name the folder that was given to `meshc train --checkpoint-dir`, or one of the folders in it",
        ));
    }
    Ok(found.into_iter().map(|f| (f.dir, f.checkpoint)).collect())
}

fn list(dir: &Path, as_json: bool) -> Result<bool> {
    if is_one(dir) {
        return tensors(&Checkpoint::open(dir)?, as_json);
    }
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for (path, checkpoint) in all(dir)? {
        let path = path.display().to_string();
        match checkpoint {
            Ok(c) => {
                let fact = |name: &str| c.facts().get(name).filter(|f| !f.is_empty());
                let text = |name: &str| fact(name).map_or("-", String::as_str).to_owned();
                values.push(json!({ "path": path, "step": c.step(), "good": true, "bytes": c.bytes(),
                    "tensors": c.tensors().len(), "facts": c.facts() }));
                rows.push(vec![
                    c.step().to_string(),
                    c.tensors().len().to_string(),
                    size(c.bytes()),
                    text("program"),
                    text("mesh"),
                    path,
                ]);
            }
            Err(error) => {
                let reason = reason(&error);
                values.push(json!({ "path": path, "good": false, "reason": reason }));
                rows.push(vec![
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    "-".into(),
                    format!("{path}: {reason}"),
                ]);
            }
        }
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&json!({ "checkpoints": values }))?);
    } else {
        print(&["step", "tensors", "size", "program", "mesh", "where"], ">>><<<", &rows)?;
    }
    Ok(true)
}

fn tensors(checkpoint: &Checkpoint, as_json: bool) -> Result<bool> {
    let kind = |e: &Entry| format!("{:?}", e.kind).to_lowercase();
    if as_json {
        let value = |e: &Entry| {
            json!({ "name": e.name, "kind": kind(e), "dtype": e.dtype, "dims": e.dims, "bytes": e.bytes(),
                "boxes": e.boxes.len() })
        };
        let values: Vec<Value> = checkpoint.tensors().iter().map(value).collect();
        let all = json!({ "step": checkpoint.step(), "facts": checkpoint.facts(), "tensors": values });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(true);
    }
    println!("step {}, {}", checkpoint.step(), size(checkpoint.bytes()));
    for (name, value) in checkpoint.facts() {
        println!("{name}: {value}");
    }
    let row = |e: &Entry| {
        vec![kind(e), size(e.bytes()), e.boxes.len().to_string(), format!("{} {}", e.name, e.shape())]
    };
    let rows: Vec<Vec<String>> = checkpoint.tensors().iter().map(row).collect();
    print(&["kind", "size", "boxes", "tensor"], "<>><", &rows)?;
    Ok(true)
}

fn verify(dirs: &[PathBuf], as_json: bool) -> Result<bool> {
    let (mut good, mut values) = (true, Vec::new());
    for dir in dirs {
        for (path, checkpoint) in all(dir)? {
            let path = path.display();
            let verified = checkpoint.and_then(|c| c.verify());
            good &= verified.is_ok();
            match (&verified, as_json) {
                (Ok(bytes), false) => println!("{path}: good, {}", size(*bytes)),
                (Err(error), false) => println!("{path}: DAMAGED: {}", reason(error)),
                (Ok(bytes), true) => {
                    values.push(json!({ "path": path.to_string(), "good": true, "bytes": bytes }))
                }
                (Err(error), true) => {
                    values.push(json!({ "path": path.to_string(), "good": false, "reason": reason(error) }))
                }
            }
        }
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&json!({ "good": good, "checkpoints": values }))?);
    }
    Ok(good)
}

fn diff(a: &Checkpoint, b: &Checkpoint, as_json: bool) -> Result<bool> {
    let (mut lines, mut changed, mut equal) = (Vec::new(), serde_json::Map::new(), 0u64);
    let mut note = |name: &str, line: String, value: Value| {
        lines.push(line);
        changed.insert(name.to_owned(), value);
    };
    for entry in a.tensors() {
        let name = &entry.name;
        let Some(other) = b.tensor(name) else {
            note(
                name,
                format!("- {name} {}", entry.shape()),
                json!({ "only_in": "a", "type": entry.shape() }),
            );
            continue;
        };
        if entry.shape() != other.shape() {
            let (was, is) = (entry.shape(), other.shape());
            note(name, format!("~ {name} {was} -> {is}"), json!({ "a": was, "b": is }));
            continue;
        }
        // One tensor at a time.
        let (x, y) = (a.read(name)?, b.read(name)?);
        if x.bytes == y.bytes {
            equal += 1;
            continue;
        }
        let (x, y) = (x.to_f64()?, y.to_f64()?);
        let apart = x.iter().zip(&y).map(|(x, y)| (x - y).abs());
        let largest = apart.fold(0.0, |m: f64, d| if d.is_nan() { f64::NAN } else { m.max(d) });
        let differ = x.iter().zip(&y).filter(|(x, y)| x.to_bits() != y.to_bits()).count();
        note(
            name,
            format!("* {name}: {differ} of {} elements differ, by {largest:.3e} at most", x.len()),
            json!({ "differ": differ, "elements": x.len(), "max_abs": largest }),
        );
    }
    for entry in b.tensors().iter().filter(|e| a.tensor(&e.name).is_none()) {
        let (name, shape) = (&entry.name, entry.shape());
        note(name, format!("+ {name} {shape}"), json!({ "only_in": "b", "type": shape }));
    }
    let same = lines.is_empty();
    if as_json {
        let all = json!({ "same": same, "equal": equal, "steps": [a.step(), b.step()], "tensors": changed });
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        println!("a: step {}, {}\nb: step {}, {}", a.step(), a.dir().display(), b.step(), b.dir().display());
        lines.iter().for_each(|line| println!("{line}"));
        println!("{} tensors differ, {} are equal", count(lines.len() as u64), count(equal));
    }
    Ok(same)
}

fn prune(args: &Prune) -> Result<bool> {
    let Prune { dir, keep, keep_every, keep_best, dry_run, json: as_json } = args;
    if is_one(dir) {
        return Err(failure(
            format!("`{}` is a checkpoint, not a folder of them", dir.display()),
            "name the folder that it is in",
        ));
    }
    all(dir)?;
    // As while training.
    let rules = keep::Keep { newest: *keep, every: *keep_every, best: *keep_best };
    let removed = keep::prune(dir, &rules, *dry_run)?;
    if *as_json {
        let text = |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        let kept: Vec<PathBuf> =
            all(dir)?.into_iter().map(|(path, _)| path).filter(|path| !removed.contains(path)).collect();
        let all = json!({ "removed": text(&removed), "kept": text(&kept), "dry_run": dry_run });
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(true);
    }
    for path in &removed {
        println!("{} {}", if *dry_run { "would remove" } else { "removed" }, path.display());
    }
    if removed.is_empty() {
        println!("there is nothing to remove");
    }
    Ok(true)
}

fn convert_experts(args: &Convert) -> Result<bool> {
    for (flag, value) in [("--scale", args.scale.unwrap_or(1.0)), ("--router-noise", args.router_noise)] {
        if !value.is_finite() || value < 0.0 {
            return Err(failure(format!("{flag} is {value}"), "give a number from 0"));
        }
    }
    let keep = args.keep_experts.clone().map(Keep::These);
    let wanted = Conversion {
        experts: args.experts,
        keep: keep.or(args.keep_by_load.clone().map(Keep::ByLoad)),
        ffn: args.ffn,
        scale: args.scale,
        noise: args.router_noise,
        seed: args.seed,
        settings: args.settings.clone(),
    };
    let done = experts::convert(&Checkpoint::open(&args.from)?, &args.out, &wanted)?;
    println!(
        "{}: {} tensors as they were, {} made of others, {} slots zero",
        args.out.display(),
        done.same,
        done.made,
        done.zeroed
    );
    if !done.fresh.is_empty() {
        println!("initial values: {}", done.fresh.join(", "));
    }
    Ok(true)
}

fn ffn(text: &str) -> Result<Ffn, String> {
    match text {
        "fresh" => Ok(Ffn::Fresh),
        "mean" => Ok(Ffn::Mean),
        number => number.parse().map(Ffn::Expert).map_err(|e| format!("fresh, mean, or a number: {e}")),
    }
}

/// What is wrong with a checkpoint, without where and what to do.
fn reason(error: &runtime::Error) -> String {
    match error {
        runtime::Error::Checkpoint { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

fn print(heads: &[&str], align: &str, rows: &[Vec<String>]) -> Result<()> {
    let mut out = String::new();
    table(&mut out, heads, align, rows)?;
    print!("{out}");
    Ok(())
}
