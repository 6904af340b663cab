//! The commands, one file each.

mod check;
mod compile;
mod plugin;
mod report;
mod run;

use anyhow::Result;

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
    /// Call one function of an artefact with tensors from files
    Run(run::Args),
    /// List, install and examine PJRT plugins
    Plugin(plugin::Args),
}

impl Command {
    /// Does it.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Check(args) => check::run(&args),
            Self::Compile(args) => compile::run(&args),
            Self::Report(args) => report::run(&args),
            Self::Run(args) => run::run(&args),
            Self::Plugin(args) => plugin::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        <super::Cli as clap::CommandFactory>::command().debug_assert();
    }
}
