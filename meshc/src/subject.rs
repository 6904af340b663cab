//! What `generate`, `eval` and `score` work on: a program with parameters from a checkpoint.
//!
//! A program comes from a model, from an artefact, or from what a checkpoint says of itself. Only the functions
//! that are called are compiled.

use crate::{
    artefact,
    commands::refuse_options,
    device::PluginArgs,
    failure::failure,
    flags::FlagArgs,
    folder,
    model::{self, ModelArgs, Program, origin::Origin},
    placement::PlacementArgs,
    target::Target,
};
use anyhow::Result;
use mesh::{Diagnostics, Site, dsl::Args};
use runtime::{
    Checkpoint, Session,
    checkpoint::{Which, folder::list, is_url},
};
use std::path::{Path, PathBuf};

/// Which program, with which parameters, on which devices.
#[derive(clap::Args, Debug)]
pub struct SubjectArgs {
    /// A model (.rs or .mesh), an artefact directory, or a checkpoint that says which model it is of
    #[arg(value_name = "MODEL|ARTEFACT|CHECKPOINT")]
    subject: PathBuf,
    /// Where the parameters come from: a checkpoint, or a folder of checkpoints (the newest good one)
    #[arg(long, value_name = "DIR")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// cpu, gpu or a TPU slice such as tpu:v5e:2x4. Default: what the plugin is for
    #[arg(long)]
    target: Option<Target>,
    #[command(flatten)]
    plugin: PluginArgs,
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
        folder::is_artefact(&self.subject) || self.subject.extension().is_some_and(|e| e == "mesh")
    }

    /// A session whose parameters have values. `settings` hold unless the user has set them; only `functions` of the
    /// program are made.
    pub fn session(&self, settings: &[Setting], functions: &[&str]) -> Result<Session> {
        let is_folder = self.subject.is_dir() || is_url(&self.subject);
        let is_checkpoint = is_folder && !folder::is_artefact(&self.subject);
        let checkpoint = match (&self.checkpoint, is_checkpoint) {
            (Some(_), true) => {
                return Err(failure(
                    format!("`{}` is a checkpoint, and --checkpoint names another", self.subject.display()),
                    "leave --checkpoint out, or name the model in front",
                ));
            }
            (Some(dir), false) => open(dir)?,
            (None, true) => open(&self.subject)?,
            (None, false) => {
                return Err(failure(
                    format!("`{}` has no parameters", self.subject.display()),
                    "name a checkpoint with --checkpoint, such as the newest of `meshc train --checkpoint-dir`",
                ));
            }
        };
        let artefact = if folder::is_artefact(&self.subject) {
            refuse_options(&self.subject, &self.settings, &self.placement)?;
            folder::open(&self.subject)?
        } else {
            let mut program = match is_checkpoint {
                true => self.described(&checkpoint, settings)?,
                false => model::load(&self.subject, &self.with(settings))?,
            };
            if functions.iter().all(|name| program.module.function(name).is_some()) {
                // What parameters are to be prepared by is part of all that use them.
                let kept = |name: &str| functions.contains(&name) || name == "prepare";
                program.module.functions.retain(|f| kept(&f.name));
            }
            artefact::of_program(
                &program,
                &self.placement,
                self.target.as_ref(),
                &FlagArgs::default(),
                &self.plugin,
            )?
        };
        for name in functions {
            artefact.function(name)?;
        }
        let mut session = self.plugin.session(artefact)?;
        session.restore(&checkpoint, Which::Params)?;
        Ok(session)
    }

    /// The user's settings, and after them those of `settings` that the user has not set.
    fn with(&self, settings: &[Setting]) -> ModelArgs {
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

    /// The program of the model that the checkpoint says it is of.
    fn described(&self, checkpoint: &Checkpoint, settings: &[Setting]) -> Result<Program> {
        let origin = Origin::of(checkpoint, None, &self.with(settings))?;
        let preset = models::zoo::named(&origin.model).ok_or_else(|| {
            failure(
                format!("`{}` is of a model `{}`, which is not known", origin.name, origin.model),
                "name the model file, and the checkpoint with --checkpoint",
            )
        })?;
        let words = origin.settings.split_whitespace().flat_map(|s| ["--set".to_owned(), s.to_owned()]);
        let words = ["--dtype".to_owned(), origin.dtype.clone()].into_iter().chain(words);
        let args = Args::parse(words).map_err(|d| anyhow::anyhow!("`{}`: {d}", origin.name))?;
        let site = Site::new(origin.name.clone(), 0, 0, "");
        let program = models::program::of_task(preset, &args, &site);
        let mistakes = args.mistakes();
        if !mistakes.is_empty() {
            return Err(failure(
                format!("`{}` has settings that make no model:\n{}", origin.name, Diagnostics(mistakes)),
                "correct them with --set KEY=VALUE",
            ));
        }
        Program::built(program, &origin.name)
    }
}

/// The checkpoint `dir`, or the newest good one in it.
fn open(dir: &Path) -> Result<Checkpoint> {
    let mut found = match dir.is_dir() || is_url(dir) {
        true => list(dir)?,
        false => Vec::new(),
    };
    while let Some(newest) = found.pop() {
        match newest.checkpoint {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(error) => eprintln!("warning: `{}` is left out: {error}", newest.dir.display()),
        }
    }
    Ok(Checkpoint::open(dir)?)
}
