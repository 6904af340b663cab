//! The commands, one file each.

mod check;
mod checkpoint;
mod compile;
mod convert;
mod data;
mod eval;
mod generate;
mod plan;
mod plugin;
mod report;
mod run;
mod runs;
mod score;
mod train;

use crate::{failure::failure, model::ModelArgs, placement::PlacementArgs};
use anyhow::Result;
use std::{path::Path, process::ExitCode};

/// Compiles and trains mesh-tensor programs: named dimensions over named axes of devices.
#[derive(clap::Parser, Debug)]
#[command(name = "meshc", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Check a model, and whether it fits a mesh and a layout
    Check(check::Args),
    /// Compile a model to an artefact directory
    Compile(compile::Args),
    /// Parameters, FLOPs, memory by part and collectives by axis of a model or an artefact
    Report(report::Args),
    /// Find a good mesh, layout and settings for a model on a TPU slice
    Plan(plan::Args),
    /// Call one function of an artefact with tensors from files
    Run(run::Args),
    /// Train a model, or an artefact, on text
    Train(Box<train::Args>),
    /// Training runs as a page: losses, throughput, loads of experts
    Runs(runs::Args),
    /// Evaluate on held-out text: loss, perplexity, accuracy
    Eval(eval::Args),
    /// Generate text, or token ids, for each input
    Generate(generate::Args),
    /// How likely given targets are
    Score(score::Args),
    /// List, verify, compare, convert and remove checkpoints
    Checkpoint(checkpoint::Args),
    /// Models of Hugging Face's transformers to checkpoints and back; or against numbers that came with them
    Convert(convert::Args),
    /// What there is to train on
    Data(data::Args),
    /// List, install and examine PJRT plugins
    Plugin(plugin::Args),
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::Check(args) => check::run(&args)?,
            Self::Compile(args) => compile::run(&args)?,
            Self::Report(args) => report::run(&args)?,
            Self::Plan(args) => return plan::run(&args),
            Self::Run(args) => run::run(&args)?,
            Self::Train(args) => return train::run(*args),
            Self::Runs(args) => runs::run(&args)?,
            Self::Eval(args) => eval::run(&args)?,
            Self::Generate(args) => generate::run(&args)?,
            Self::Score(args) => score::run(&args)?,
            Self::Checkpoint(args) => return checkpoint::run(&args),
            Self::Convert(args) => return convert::run(&args),
            Self::Data(args) => data::run(&args)?,
            Self::Plugin(args) => plugin::run(&args)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// For commands that take a model or an artefact: an error if options for a model were given for an artefact.
pub fn refuse_options(artefact: &Path, settings: &ModelArgs, placement: &PlacementArgs) -> Result<()> {
    if settings.is_empty() && placement.is_empty() {
        return Ok(());
    }
    Err(failure(
        format!(
            "`{}` is compiled: its mesh, its layouts and the model's settings are fixed",
            artefact.display()
        ),
        "leave --mesh, --layout, --state-layout, --dtype and --set out, or name the model itself",
    ))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
