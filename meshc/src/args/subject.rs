//! Programs with parameters: a model, an artefact or a checkpoint.

use super::{model::ModelArgs, placement::PlacementArgs, plugin::PluginArgs, target::Target};
use crate::output::{failure::failure, files::is_artefact};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// A program, its parameters, and the devices it runs on.
#[derive(clap::Args, Debug)]
pub struct SubjectArgs {
    /// Model (built-in, .rs or .mesh), artefact directory, or checkpoint that names its model
    #[arg(value_name = "MODEL|ARTEFACT|CHECKPOINT")]
    pub subject: PathBuf,
    /// Checkpoint with the parameters, or a directory of checkpoints (the newest valid one is used)
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    #[command(flatten)]
    pub settings: ModelArgs,
    #[command(flatten)]
    pub placement: PlacementArgs,
    /// Target: cpu, gpu, or a TPU slice such as tpu:v5e:2x4. Default: the platform of the plugin
    #[arg(long)]
    pub target: Option<Target>,
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// A setting of the program and its value.
pub type Setting = (&'static str, String);

impl SubjectArgs {
    /// Returns the number of devices of the mesh.
    pub fn devices(&self) -> usize {
        self.placement.mesh.as_ref().map_or(1, mesh::Mesh::devices)
    }

    /// True if the program's settings are fixed: an artefact, or a program as text.
    pub fn is_compiled(&self) -> bool {
        is_artefact(&self.subject) || self.subject.extension().is_some_and(|e| e == "mesh")
    }

    /// Returns the user's settings, completed by those of `settings` that the user has not set.
    pub fn with(&self, settings: &[Setting]) -> ModelArgs {
        let mut all = self.settings.clone();
        if !self.is_compiled() {
            let given =
                |key: &str| all.settings.iter().any(|s| s.split('=').next().map(str::trim) == Some(key));
            let more: Vec<String> = settings
                .iter()
                .filter(|(key, _)| !given(key))
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            all.settings.extend(more);
        }
        all
    }
}

/// Refuses options of a model if the subject is an artefact.
pub fn refuse_options(artefact: &Path, settings: &ModelArgs, placement: &PlacementArgs) -> Result<()> {
    if settings.is_empty() && placement.is_empty() {
        return Ok(());
    }
    Err(failure(
        format!(
            "`{}` is compiled: --mesh, --layout, --state-layout, --dtype, --set and --schedule have no effect",
            artefact.display()
        ),
        "leave them out, or name the model itself",
    ))
}
