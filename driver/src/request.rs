//! A model, and everything the user says about its compilation and its devices.

use crate::{
    failure::failure,
    files::{self, is_artefact},
    host::Host,
    placement::PlacementOptions,
    plugin::{Flags, PluginOptions},
    profile::Recorder,
    settings::{Settings, key},
    target::{Target, TargetOptions},
};
use anyhow::Result;
use runtime::plugin::Platform;
use std::path::{Path, PathBuf};

/// The input of every build.
#[derive(Clone, Debug)]
pub struct Request {
    /// A model (built-in, .rs or .mesh), an artefact directory or a checkpoint.
    pub subject: PathBuf,
    /// The settings of the model.
    pub settings: Settings,
    /// The mesh and the layouts.
    pub placement: PlacementOptions,
    /// The target.
    pub target: TargetOptions,
    /// The flags of the plugin's compiler.
    pub flags: Flags,
    /// The plugin.
    pub plugin: PluginOptions,
    /// True if several hosts run the program: outputs that are not state are then whole on every device, so
    /// that every host can read them.
    pub several_hosts: bool,
    /// The profile of the calls of its session. `None` means that there is none.
    pub profile: Option<Recorder>,
    /// The process.
    pub host: Host,
}

/// A setting of the program and its value.
pub type Setting = (&'static str, String);

impl Request {
    /// Returns a request without options.
    pub fn new(subject: &Path, host: Host) -> Self {
        Self {
            subject: subject.to_owned(),
            settings: Settings::default(),
            placement: PlacementOptions::default(),
            target: TargetOptions::default(),
            flags: Flags::default(),
            plugin: PluginOptions::default(),
            several_hosts: false,
            profile: None,
            host,
        }
    }

    /// Returns the number of devices of the mesh.
    pub fn devices(&self) -> usize {
        self.placement.mesh.as_ref().map_or(1, mesh::Mesh::devices)
    }

    /// Returns true if the program runs on TPUs, as far as the request tells.
    pub fn is_for_tpus(&self) -> bool {
        let of_artefact = || {
            let artefact = is_artefact(&self.subject).then(|| files::open(&self.subject).ok())??;
            Platform::of_target(&artefact.manifest.target).ok()
        };
        let platform = self.plugin.platform().or_else(|| self.target.target.as_ref().map(Target::platform));
        platform.or_else(of_artefact) == Some(Platform::Tpu)
    }

    /// Returns the request with additional schedule entries.
    pub fn scheduled(&self, entries: &[String]) -> Self {
        let mut request = self.clone();
        request.settings.schedule.extend(entries.iter().cloned());
        request
    }

    /// Returns the user's settings, completed by those of `settings` that the user has not set.
    pub fn completed(&self, settings: &[Setting]) -> Self {
        let mut request = self.clone();
        let is_compiled = is_artefact(&self.subject) || self.subject.extension().is_some_and(|e| e == "mesh");
        if !is_compiled {
            let is_given = |name: &str| self.settings.settings.iter().any(|setting| key(setting) == name);
            let more = settings.iter().filter(|(name, _)| !is_given(name));
            request.settings.settings.extend(more.map(|(name, value)| format!("{name}={value}")));
        }
        request
    }

    /// Refuses options of a model, because the subject is an artefact.
    pub fn refuse_options(&self) -> Result<()> {
        if self.settings.is_empty() && self.placement.is_empty() {
            return Ok(());
        }
        Err(failure(
            format!(
                "`{}` is compiled: --mesh, --layout, --state-layout, --dtype, --set and --schedule have no effect",
                self.subject.display()
            ),
            "leave them out, or name the model itself",
        ))
    }
}
