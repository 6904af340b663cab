//! Artefacts in memory, for commands that run what they compile.

use super::{
    lower::{Watch, emit, lower},
    program::Program,
};
use crate::{
    args::{
        placement::{PlacementArgs, place},
        plugin::{FlagArgs, PluginArgs},
        target::Target,
    },
    output::failure::failure,
};
use anyhow::{Context, Result};
use compiler::pipeline::Stage;
use runtime::{Artefact, plugin::Platform};

/// Compiles `program` for `target`; without a target, for the platform of the plugin.
pub fn of_program(
    program: &Program,
    placement: &PlacementArgs,
    target: Option<&Target>,
    flags: &FlagArgs,
    plugin: &PluginArgs,
) -> Result<Artefact> {
    let placement = place(&program.module, placement)?;
    let target = match (target, plugin.platform()) {
        (Some(target), _) => target.clone(),
        (None, Some(Platform::Gpu)) => Target::Gpu,
        (None, Some(Platform::Tpu)) => {
            return Err(failure(
                "the slice to compile for is unknown: `--plugin tpu` does not name one",
                "name it with --target",
            ));
        }
        (None, Some(Platform::Cpu) | None) => Target::Cpu,
    };
    let mut watch = Watch::default();
    let lowered = lower(program, &placement, Stage::Hlo, &mut watch)?.context("all stages ran")?;
    let built = emit(program, &placement, &target, &flags.of(&target)?, &lowered, &mut watch)?;
    Ok(Artefact::new(program.name.clone(), built.manifest, built.files.into_iter().collect())?)
}
