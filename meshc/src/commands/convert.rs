//! `meshc convert`: models of other systems to checkpoints and back, and against numbers that came with them.

use crate::{
    args::{
        model::ModelArgs,
        plugin::{PluginArgs, environment},
    },
    build::verification::{Compiler, Wanted},
    output::failure::failure,
};
use anyhow::Result;
use interchange::hf::{Folder, export::export, import::import, verify::verify};
use mesh::{Layout, Mesh};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Arguments.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    verify: VerifyFolder,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// From a folder of Hugging Face's T5, mT5 or SwitchTransformers (config.json, safetensors) to a checkpoint
    Hf(Hf),
    /// From a checkpoint to such a folder
    ToHf(ToHf),
}

#[derive(clap::Args, Debug)]
struct VerifyFolder {
    /// Run the model in this folder on its inputs.safetensors and compare with its expected.safetensors
    #[arg(long, value_name = "DIR", required = true)]
    verify: Option<PathBuf>,
    #[command(flatten)]
    where_: Where,
}

#[derive(clap::Args, Debug)]
struct Hf {
    /// The folder
    dir: PathBuf,
    /// The checkpoint to be made
    #[arg(required_unless_present = "verify")]
    out: Option<PathBuf>,
    /// Compare the model with the folder's expected.safetensors besides
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    where_: Where,
}

#[derive(clap::Args, Debug)]
struct ToHf {
    /// The checkpoint
    checkpoint: PathBuf,
    /// The folder to be made
    out: PathBuf,
    /// The model that the checkpoint is of, such as t5 or switch. Default: what the checkpoint says
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    settings: ModelArgs,
    /// The most bytes of a file with tensors
    #[arg(long, value_name = "BYTES", default_value_t = 5_000_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    shard_size: u64,
}

/// Where a verification runs, and how it is told.
#[derive(clap::Args, Debug)]
struct Where {
    /// How many devices; the sizes of the layout's axes are found
    #[arg(long, value_name = "N")]
    devices: Option<usize>,
    /// Axes of the mesh and their sizes, instead of --devices
    #[arg(long, value_name = "AXIS=SIZE,…", value_parser = Mesh::parse)]
    mesh: Option<Mesh>,
    /// Which dim is split over which axes: batch:data+expert,experts:expert. Default: the model's own layout
    #[arg(long, value_name = "DIM:AXIS[+AXIS],…", value_parser = Layout::parse)]
    layout: Option<Layout>,
    /// How parameters are split further
    #[arg(long, value_name = "DIM:AXIS[+AXIS],…", value_parser = Layout::parse)]
    state_layout: Option<Layout>,
    /// Print the differences as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plugin: PluginArgs,
}

/// Converts.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        None => match &args.verify.verify {
            Some(dir) => compare(dir, &args.verify.where_),
            None => Err(failure("there is nothing to convert", "see `meshc convert --help`")),
        },
        Some(What::Hf(hf)) => from_hf(hf),
        Some(What::ToHf(to)) => {
            let done = export(
                &to.checkpoint,
                to.model.as_deref(),
                &to.settings.overrides()?,
                &to.out,
                to.shard_size,
            )?;
            let files = if done.files == 1 { "1 file".to_owned() } else { format!("{} files", done.files) };
            println!("{}: {} tensors in {files}", to.out.display(), done.tensors);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn from_hf(args: &Hf) -> Result<ExitCode> {
    if args.verify {
        environment(None)?;
    }
    if let Some(out) = &args.out {
        let done = import(&Folder::open(&args.dir)?, out)?;
        let said = format!("{}: {} tensors, {} parameters", out.display(), done.tensors, done.elements);
        if args.where_.json { eprintln!("{said}") } else { println!("{said}") }
    }
    if args.verify { compare(&args.dir, &args.where_) } else { Ok(ExitCode::SUCCESS) }
}

fn compare(dir: &Path, args: &Where) -> Result<ExitCode> {
    environment(None)?;
    let wanted = Wanted {
        devices: args.devices,
        mesh: args.mesh.clone(),
        layout: args.layout.clone(),
        state_layout: args.state_layout.clone(),
    };
    let comparison = verify(dir, &Compiler { wanted, plugin: args.plugin.clone() })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        print!("{comparison}");
    }
    let failures = comparison.failures();
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        eprintln!("{} are too far off: {}", failures.len(), failures.join(", "));
    }
    Ok(ExitCode::FAILURE)
}
