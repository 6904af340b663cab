//! Artefacts in memory, for commands that run what they compile.

use crate::{
    failure::failure,
    lower::{Watch, emit, lower, whole_outputs},
    placement::place,
    program::Program,
    request::Request,
    target::Target,
};
use anyhow::{Context, Result};
use compiler::pipeline::Stage;
use runtime::{Artefact, plugin::Platform};

/// Compiles the program of a request for its target; without a target, for the platform of the plugin.
pub fn of_program(program: &Program, request: &Request) -> Result<Artefact> {
    let placement = place(&program.module, &request.placement)?;
    let target = match (&request.target.target, request.plugin.platform()) {
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
    let mut lowered = lower(program, &placement, Stage::Hlo, &mut watch)?.context("all stages ran")?;
    if request.several_hosts {
        lowered = whole_outputs(program, lowered)?;
    }
    let built = emit(program, &placement, &target, &request.flags.of(&target)?, &lowered, &mut watch)?;
    Ok(Artefact::new(program.name.clone(), built.manifest, built.files.into_iter().collect())?)
}
