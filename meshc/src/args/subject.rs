//! Programs with parameters: a model, an artefact or a checkpoint.

use super::{model::ModelArgs, placement::PlacementArgs, plugin::PluginArgs};
use crate::output::host::HOST;
use driver::{
    request::Request,
    target::{Target, TargetOptions},
};
use std::path::PathBuf;

/// A program, its parameters, and the devices it runs on.
#[derive(clap::Args, Debug)]
pub struct SubjectArgs {
    /// Model (built-in, .rs or .mesh), artefact directory, or checkpoint that names its model
    #[arg(value_name = "MODEL|ARTEFACT|CHECKPOINT")]
    subject: PathBuf,
    /// Checkpoint with the parameters, or a directory of checkpoints (the newest valid one is used)
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Target: cpu, gpu, or a TPU slice such as tpu:v5e:2x4. Default: the platform of the plugin
    #[arg(long)]
    target: Option<Target>,
    #[command(flatten)]
    plugin: PluginArgs,
}

impl SubjectArgs {
    /// Returns the request.
    pub fn request(&self) -> Request {
        Request {
            settings: self.settings.options(),
            placement: self.placement.options(),
            target: TargetOptions { target: self.target.clone(), ..TargetOptions::default() },
            plugin: self.plugin.options(),
            ..Request::new(&self.subject, HOST)
        }
    }
}
