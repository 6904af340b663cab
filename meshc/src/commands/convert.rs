//! `meshc convert`: imports and exports models of other systems, and verifies them against expected values.

use crate::{
    args::{
        model::ModelArgs,
        plugin::{PluginArgs, environment},
        ranges::{at_least_one, steps},
    },
    output::{
        host::HOST,
        stream::{errln, out, outln},
    },
};
use anyhow::Result;
use driver::{
    failure::failure, overview::number, placement::PlacementOptions, request::Request, subject::newest_path,
    verification::Compiler,
};
use interchange::{
    Overrides, arrays,
    hf::{Folder, export::export, import::import, verify::verify},
};
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
    /// Import a Hugging Face T5, mT5, SwitchTransformers, Mistral, Mixtral or GLM-4-MoE model (config.json
    /// and safetensors) as a checkpoint
    Hf(Hf),
    /// Export a checkpoint as a Hugging Face model
    ToHf(ToHf),
    /// Import a checkpoint of T5X (checkpoint and zarr), or of Mesh TensorFlow (.index and .data files)
    #[command(visible_alias = "tf")]
    T5x {
        /// Folder of the checkpoint, or its path without .index
        dir: PathBuf,
        /// Checkpoint to create
        out: PathBuf,
        #[command(flatten)]
        settings: ModelArgs,
    },
    /// Export a checkpoint in the format of T5X
    ToT5x(Export),
}

#[derive(clap::Args, Debug)]
struct VerifyFolder {
    /// Run the model in this directory on its inputs.safetensors and compare with its expected.safetensors
    #[arg(long, value_name = "DIR", required = true)]
    verify: Option<PathBuf>,
    #[command(flatten)]
    where_: Where,
}

#[derive(clap::Args, Debug)]
struct Hf {
    /// Directory of the Hugging Face model
    dir: PathBuf,
    /// Checkpoint to create
    #[arg(required_unless_present = "verify")]
    out: Option<PathBuf>,
    /// Also compare the model with the expected.safetensors of the directory
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    where_: Where,
}

#[derive(clap::Args, Debug)]
struct Export {
    /// Checkpoint to export, or a directory of checkpoints (the newest valid one is used)
    checkpoint: PathBuf,
    /// Directory to create
    out: PathBuf,
    /// Model of the checkpoint, such as t5 or switch. Default: the model that the checkpoint names
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    settings: ModelArgs,
}

#[derive(clap::Args, Debug)]
struct ToHf {
    #[command(flatten)]
    from: Export,
    /// Largest size of a file of tensors, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 5_000_000_000, value_parser = steps,
        allow_negative_numbers = true)]
    shard_size: u64,
}

/// Devices and output of a verification.
#[derive(clap::Args, Debug)]
struct Where {
    /// Number of devices; the sizes of the layout's axes are chosen automatically
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    devices: Option<usize>,
    /// Mesh axes and their sizes, instead of --devices
    #[arg(long, value_name = "AXIS=SIZE,…", value_parser = Mesh::parse)]
    mesh: Option<Mesh>,
    /// Mesh axes that each dim is split over: batch:data+expert,experts:expert. Default: the model's own
    /// layout
    #[arg(long, value_name = "DIM:AXIS[+AXIS],…", value_parser = Layout::parse)]
    layout: Option<Layout>,
    /// Additional splits of stored parameters
    #[arg(long, value_name = "DIM:AXIS[+AXIS],…", value_parser = Layout::parse)]
    state_layout: Option<Layout>,
    /// Print the differences as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plugin: PluginArgs,
}

/// Converts or verifies.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        None => match &args.verify.verify {
            Some(dir) => compare(dir, &args.verify.where_),
            None => Err(failure("no model was given", "see `meshc convert --help`")),
        },
        Some(What::Hf(hf)) => from_hf(hf),
        Some(What::T5x { dir, out, settings }) => {
            outln!("{}", arrays::import(dir, &settings.options().overrides()?, out)?);
            Ok(ExitCode::SUCCESS)
        }
        Some(What::ToHf(ToHf { from, shard_size })) => {
            let (dir, model, overrides) = from.resolved()?;
            let done = export(&dir, model, &overrides, &from.out, *shard_size)?;
            outln!(
                "{}: {} tensors in {}",
                from.out.display(),
                done.tensors,
                number(done.files as u64, "file")
            );
            match done.tokenizer {
                Ok(files) => outln!("tokenizer: {}", files.join(", ")),
                Err(why) => outln!("tokenizer: none, because {why}"),
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(What::ToT5x(to)) => {
            let (dir, model, overrides) = to.resolved()?;
            outln!("{}", arrays::export(&dir, model, &overrides, &to.out)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Export {
    fn resolved(&self) -> Result<(PathBuf, Option<&str>, Overrides)> {
        let dir = newest_path(&self.checkpoint, HOST.say)?;
        Ok((dir, self.model.as_deref(), self.settings.options().overrides()?))
    }
}

fn from_hf(args: &Hf) -> Result<ExitCode> {
    if args.verify {
        environment(None)?;
    }
    if let Some(out) = &args.out {
        let done = import(&Folder::open(&args.dir)?, out)?;
        let said = format!("{}: {} tensors, {} parameters", out.display(), done.tensors, done.elements);
        if args.where_.json {
            errln!("{said}")
        } else {
            outln!("{said}")
        }
        done.warnings.iter().for_each(|warning| errln!("warning: {warning}"));
    }
    if args.verify { compare(&args.dir, &args.where_) } else { Ok(ExitCode::SUCCESS) }
}

fn compare(dir: &Path, args: &Where) -> Result<ExitCode> {
    environment(None)?;
    let Where { mesh, layout, state_layout, .. } = args;
    let placement =
        PlacementOptions { mesh: mesh.clone(), layout: layout.clone(), state_layout: state_layout.clone() };
    let request = Request { placement, plugin: args.plugin.options(), ..Request::new(dir, HOST) };
    let comparison = verify(dir, &Compiler { request, devices: args.devices })?;
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        out!("{comparison}");
    }
    let failures = comparison.failures();
    if failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        errln!("{} exceed the tolerance: {}", failures.len(), failures.join(", "));
    }
    Ok(ExitCode::FAILURE)
}
