//! `meshc checkpoint`: lists, verifies, compares, prunes and converts checkpoints.

use crate::{
    args::ranges::{at_least_one, not_negative, share, steps, whole, whole_64},
    output::{
        host::HOST,
        stream::{out, outln},
    },
};
use anyhow::Result;
use driver::{failure::failure, subject::newest};
use interchange::{
    experts::{self, Conversion, Ffn, Keep},
    lora,
};
use report::table::{count, size, table};
use runtime::{
    Checkpoint,
    checkpoint::{
        Entry,
        diff::{Difference, diff},
        folder, keep,
    },
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
    /// List the checkpoints in a directory, or the tensors of one checkpoint
    List {
        /// Directory of checkpoints, or a checkpoint
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Read every byte and verify all digests; exit code 1 if anything is damaged
    Verify {
        /// Directories of checkpoints, or checkpoints
        #[arg(value_name = "DIR", required = true)]
        dirs: Vec<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Compare the tensors of two checkpoints; exit code 1 if they differ
    Diff {
        /// First checkpoint
        a: PathBuf,
        /// Second checkpoint
        b: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Remove valid checkpoints that no --keep option selects; damaged checkpoints stay
    Prune(Prune),
    /// Merge low-rank adapters (--set lora_rank=RANK) into their matrices
    Merge {
        /// Checkpoint of a model with adapters
        checkpoint: PathBuf,
        /// Checkpoint to create: the parameters of the model without adapters
        out: PathBuf,
    },
    /// Expert surgery: change the number of experts, make a dense model sparse, or a sparse model dense
    Convert(Convert),
}

#[derive(clap::Args, Debug)]
#[command(group(clap::ArgGroup::new("rules").required(true).multiple(true)))]
struct Prune {
    /// Directory of checkpoints
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Keep the newest N checkpoints; the newest one is always kept
    #[arg(long, visible_alias = "keep-last", value_name = "N", group = "rules", value_parser = at_least_one,
        allow_negative_numbers = true)]
    keep: Option<usize>,
    /// Keep the checkpoints of every N steps
    #[arg(long, value_name = "N", group = "rules", value_parser = steps, allow_negative_numbers = true)]
    keep_every: Option<u64>,
    /// Keep the N checkpoints with the smallest held-out loss
    #[arg(long, value_name = "N", group = "rules", value_parser = at_least_one, allow_negative_numbers = true)]
    keep_best: Option<usize>,
    /// Print the checkpoints that would be removed, and remove none
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct Convert {
    /// Checkpoint that names its model
    from: PathBuf,
    /// Checkpoint to create
    out: PathBuf,
    /// Number of experts. A multiple copies each expert; fewer need --keep-experts or --keep-by-load; from a
    /// dense model, every expert is a copy of the feed-forward layer
    #[arg(long, value_name = "N", required_unless_present = "dense", value_parser = at_least_one,
        allow_negative_numbers = true)]
    experts: Option<usize>,
    /// Make the model dense
    #[arg(long, conflicts_with = "experts")]
    dense: bool,
    /// Experts to keep, the same in every layer: 0,2,5
    #[arg(long, value_name = "E,…", value_delimiter = ',', requires = "experts", value_parser = whole,
        allow_negative_numbers = true)]
    keep_experts: Option<Vec<usize>>,
    /// In each layer, keep the experts with the highest load in the last 100 steps of this metrics file
    #[arg(long, value_name = "METRICS", requires = "experts", conflicts_with = "keep_experts")]
    keep_by_load: Option<PathBuf>,
    /// Dense layers that replace experts: fresh (initial values), mean (of all experts), or the number of an
    /// expert
    #[arg(long, value_name = "fresh|mean|EXPERT", default_value = "fresh", value_parser = ffn, requires = "dense")]
    ffn: Ffn,
    /// Factor of the last matrix of every expert. Default: the factor that compensates smaller gates
    #[arg(long, value_name = "FACTOR", value_parser = not_negative, allow_negative_numbers = true)]
    scale: Option<f64>,
    /// Noise on the router columns of copied experts, relative to the root mean square of the router. Without
    /// noise, all tokens of an expert and its copies go to the first copy
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = not_negative,
        allow_negative_numbers = true)]
    router_noise: f64,
    /// From a dense model: share of the hidden units of every expert that gets new weights (drop-upcycling)
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share, allow_negative_numbers = true)]
    reinitialize: f64,
    /// Seed of the noise and of initial values
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole_64, allow_negative_numbers = true)]
    seed: u64,
    /// Setting of the new model, such as sparse_step=2; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    let good = match &args.command {
        Command::List { dir, json } => list(dir, *json)?,
        Command::Verify { dirs, json } => verify(dirs, *json)?,
        Command::Diff { a, b, json } => compare(&newest(a, HOST.say)?, &newest(b, HOST.say)?, *json)?,
        Command::Prune(args) => prune(args)?,
        Command::Merge { checkpoint, out } => {
            let merged = lora::merge(&newest(checkpoint, HOST.say)?, out)?;
            outln!("{}: {merged} matrices merged with their adapters", out.display());
            true
        }
        Command::Convert(args) => convert_experts(args)?,
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn list(dir: &Path, as_json: bool) -> Result<bool> {
    if folder::is_one(dir) {
        return tensors(&Checkpoint::open(dir)?, as_json);
    }
    let (mut rows, mut values) = (Vec::new(), Vec::new());
    for (path, checkpoint) in folder::open(dir)? {
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
                let reason = error.reason();
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
        outln!("{}", serde_json::to_string_pretty(&json!({ "checkpoints": values }))?);
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
        outln!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(true);
    }
    outln!("step {}, {}", checkpoint.step(), size(checkpoint.bytes()));
    for (name, value) in checkpoint.facts() {
        outln!("{name}: {value}");
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
        for (path, checkpoint) in folder::open(dir)? {
            let path = path.display();
            let verified = checkpoint.and_then(|c| c.verify());
            good &= verified.is_ok();
            match (&verified, as_json) {
                (Ok(bytes), false) => outln!("{path}: good, {}", size(*bytes)),
                (Err(error), false) => outln!("{path}: DAMAGED: {}", error.reason()),
                (Ok(bytes), true) => {
                    values.push(json!({ "path": path.to_string(), "good": true, "bytes": bytes }))
                }
                (Err(error), true) => {
                    values.push(json!({ "path": path.to_string(), "good": false, "reason": error.reason() }))
                }
            }
        }
    }
    if as_json {
        outln!("{}", serde_json::to_string_pretty(&json!({ "good": good, "checkpoints": values }))?);
    }
    Ok(good)
}

fn compare(a: &Checkpoint, b: &Checkpoint, as_json: bool) -> Result<bool> {
    let diff = diff(a, b)?;
    let same = diff.changed.is_empty();
    if as_json {
        let value = |difference: &Difference| match difference {
            Difference::OnlyInA(shape) => json!({ "only_in": "a", "type": shape }),
            Difference::OnlyInB(shape) => json!({ "only_in": "b", "type": shape }),
            Difference::Types { a, b } => json!({ "a": a, "b": b }),
            Difference::Elements { differ, elements, max_abs } => {
                json!({ "differ": differ, "elements": elements, "max_abs": max_abs })
            }
        };
        let changed: serde_json::Map<String, Value> =
            diff.changed.iter().map(|(name, difference)| (name.clone(), value(difference))).collect();
        let steps = [a.step(), b.step()];
        let all = json!({ "same": same, "equal": diff.equal, "steps": steps, "tensors": changed });
        outln!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        outln!("a: step {}, {}\nb: step {}, {}", a.step(), a.dir().display(), b.step(), b.dir().display());
        out!("{diff}");
        outln!("{} tensors differ, {} are equal", count(diff.changed.len() as u64), count(diff.equal));
    }
    Ok(same)
}

fn prune(args: &Prune) -> Result<bool> {
    let Prune { dir, keep, keep_every, keep_best, dry_run, json: as_json } = args;
    if folder::is_one(dir) {
        return Err(failure(
            format!("`{}` is a checkpoint, not a directory of checkpoints", dir.display()),
            "name the directory that contains it",
        ));
    }
    folder::open(dir)?;
    // The same rules as during training.
    let rules = keep::Keep { newest: *keep, every: *keep_every, best: *keep_best };
    let removed = keep::prune(dir, &rules, *dry_run)?;
    if *as_json {
        let text = |paths: &[PathBuf]| paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        let kept: Vec<PathBuf> = folder::open(dir)?
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| !removed.contains(path))
            .collect();
        let all = json!({ "removed": text(&removed), "kept": text(&kept), "dry_run": dry_run });
        outln!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(true);
    }
    for path in &removed {
        outln!("{} {}", if *dry_run { "would remove" } else { "removed" }, path.display());
    }
    if removed.is_empty() {
        outln!("no checkpoint to remove");
    }
    Ok(true)
}

fn convert_experts(args: &Convert) -> Result<bool> {
    let keep = args.keep_experts.clone().map(Keep::These);
    let wanted = Conversion {
        experts: args.experts,
        keep: keep.or(args.keep_by_load.clone().map(Keep::ByLoad)),
        ffn: args.ffn,
        scale: args.scale,
        noise: args.router_noise,
        reinitialize: args.reinitialize,
        seed: args.seed,
        settings: args.settings.clone(),
    };
    let done = experts::convert(&newest(&args.from, HOST.say)?, &args.out, &wanted)?;
    outln!(
        "{}: {} tensors copied, {} converted, {} slots reset to zero",
        args.out.display(),
        done.same,
        done.made,
        done.zeroed
    );
    if !done.fresh.is_empty() {
        outln!("initial values: {}", done.fresh.join(", "));
    }
    Ok(true)
}

fn ffn(text: &str) -> Result<Ffn, String> {
    match text {
        "fresh" => Ok(Ffn::Fresh),
        "mean" => Ok(Ffn::Mean),
        number => number
            .parse()
            .map(Ffn::Expert)
            .map_err(|_| "must be fresh, mean, or the number of an expert, from 0".to_owned()),
    }
}

/// Returns the reason of an error about a checkpoint, without the path and the help.
fn print(heads: &[&str], align: &str, rows: &[Vec<String>]) -> Result<()> {
    let mut out = String::new();
    table(&mut out, heads, align, rows)?;
    out!("{out}");
    Ok(())
}
