//! Built-in models by name: the presets of `models::zoo`, built in this process.

use crate::{
    diagnostics::{Mistakes, Sources},
    settings::Settings,
};
use anyhow::Result;
use mesh::{Module, Site, dsl, layout::suggest};
use models::zoo::{self, Preset};
use std::path::Path;

/// Returns the built-in model that `path` names: a bare name without a directory or an ending. `None` means a
/// path.
pub fn named(path: &Path) -> Option<&'static Preset> {
    let name = path.to_str()?;
    zoo::ALL.iter().find(|preset| preset.name == name)
}

/// Returns a note if a file or folder has the name of the built-in model that `path` names.
pub fn shadowed(path: &Path) -> Option<String> {
    let Preset { name, .. } = named(path).filter(|_| path.exists())?;
    Some(format!(
        "note: `{name}` is the built-in model; write `./{name}` for the file or folder of that name"
    ))
}

/// Builds the program of a built-in model.
pub fn module(preset: &Preset, settings: &Settings) -> Result<Module> {
    let site = Site::new(preset.name, 0, 0, "");
    let build = |args: &dsl::Args| models::program::of_task((preset.config)(), args, &site);
    let sources = Sources::default();
    dsl::run(settings.words()?, build)
        .map_err(|diagnostics| Mistakes::new(preset.name, &diagnostics, &sources).into())
}

/// Advice for a name that is neither a model file nor a built-in model.
pub fn advice(name: &str) -> String {
    let known: Vec<&str> = zoo::ALL.iter().map(|preset| preset.name).collect();
    let near = suggest(name, known.iter().copied());
    let hint = near.map_or_else(String::new, |near| format!("did you mean `{near}`? "));
    format!(
        "{hint}name a model program (.rs), a program as text (.mesh), a checkpoint, or a built-in model: {}",
        known.join(", ")
    )
}
