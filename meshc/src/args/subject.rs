//! Programs with parameters: a model, an artefact or a checkpoint.

use super::{model::ModelArgs, placement::PlacementArgs, plugin::PluginArgs, target::Target};
use crate::output::{failure::failure, files::is_artefact};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// Which program, with which parameters, on which devices.
#[derive(clap::Args, Debug)]
pub struct SubjectArgs {
    /// A model (.rs or .mesh), an artefact directory, or a checkpoint that says which model it is of
    #[arg(value_name = "MODEL|ARTEFACT|CHECKPOINT")]
    pub subject: PathBuf,
    /// Where the parameters come from: a checkpoint, or a folder of checkpoints (the newest good one)
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    #[command(flatten)]
    pub settings: ModelArgs,
    #[command(flatten)]
    pub placement: PlacementArgs,
    /// cpu, gpu or a TPU slice such as tpu:v5e:2x4. Default: what the plugin is for
    #[arg(long)]
    pub target: Option<Target>,
    #[command(flatten)]
    pub plugin: PluginArgs,
}

/// A setting of the program and its value.
pub type Setting = (&'static str, String);

impl SubjectArgs {
    /// Devices of the mesh.
    pub fn devices(&self) -> usize {
        self.placement.mesh.as_ref().map_or(1, mesh::Mesh::devices)
    }

    /// Whether the program is compiled already, so that nothing can be set.
    pub fn is_compiled(&self) -> bool {
        is_artefact(&self.subject) || self.subject.extension().is_some_and(|e| e == "mesh")
    }

    /// The user's settings, and after them those of `settings` that the user has not set.
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
        "leave out --mesh, --layout, --state-layout, --dtype, --set and --schedule, or name the model itself",
    ))
}
