//! Artefacts in memory: read from a directory, or compiled to be run at once.

use crate::{
    builtin,
    failure::failure,
    files,
    lower::{Watch, emit, lower, whole_outputs},
    placement::place,
    program::{self, Program},
    request::Request,
    subject::{has_checkpoints, is_compiled},
    target::Target,
};
use anyhow::{Context, Result};
use compiler::pipeline::Stage;
use mesh::verify::Local;
use proto::manifest::{Output, OutputKind};
use runtime::{Artefact, plugin::Platform};

/// Opens the artefact that is the subject of a request, or compiles the model that is.
pub fn of_request(request: &Request) -> Result<Artefact> {
    let subject = &request.subject;
    if is_compiled(subject) {
        return opened(request);
    }
    if !subject.exists() && !has_checkpoints(subject) && builtin::named(subject).is_none() {
        let name = subject.display().to_string();
        return Err(failure(
            format!("there is no artefact, no model file and no built-in model `{name}`"),
            format!("create an artefact with `meshc compile MODEL -o DIR`, or {}", builtin::advice(&name)),
        ));
    }
    of_program(&program::load(request)?, request)
}

/// Opens the artefact that is the subject of a request, and refuses options that have no effect on it.
pub fn opened(request: &Request) -> Result<Artefact> {
    request.refuse_options()?;
    if let Some(word) = request.flags.words().next() {
        return Err(failure(
            format!("`{word}` has no effect on the compiled artefact `{}`", request.subject.display()),
            "give flags to `meshc compile`, which stores them in the artefact",
        ));
    }
    let artefact = files::open(&request.subject)?;
    match &request.target.target {
        Some(target) if target.to_string() != artefact.manifest.target => Err(failure(
            format!(
                "`--target {target}`: `{}` is compiled for {}",
                request.subject.display(),
                artefact.manifest.target
            ),
            "leave --target out; --plugin selects the devices it runs on",
        )),
        Some(_) | None if request.several_hosts => has_whole_outputs(artefact),
        Some(_) | None => Ok(artefact),
    }
}

/// Refuses an artefact with outputs of which a host could read only a part.
fn has_whole_outputs(artefact: Artefact) -> Result<Artefact> {
    let functions = artefact.manifest.functions.iter().filter(|f| f.name != "init");
    let outputs = functions.flat_map(|f| f.outputs.iter().map(move |output| (f, output)));
    let is_split = |output: &Output| {
        let dims = output.tensor.iter().flat_map(|tensor| &tensor.dims);
        output.kind() != OutputKind::State && dims.into_iter().any(|dim| !dim.axes.is_empty())
    };
    match outputs.into_iter().find(|(_, output)| is_split(output)) {
        Some((function, output)) => Err(failure(
            format!(
                "`{}` is compiled for one host: output `{}` of `{}` is split over the devices",
                artefact.origin, output.name, function.name
            ),
            "compile it again with --several-hosts, or train the model itself",
        )),
        None => Ok(artefact),
    }
}

/// Compiles the program of a request for its target; without a target, for the platform of the plugin.
pub fn of_program(program: &Program, request: &Request) -> Result<Artefact> {
    Ok(with_local(program, request)?.0)
}

/// [`of_program`] with the program of one device that it was emitted from.
pub(crate) fn with_local(program: &Program, request: &Request) -> Result<(Artefact, Local)> {
    let placement = place(&program.module, &request.placement)?;
    let target = target(request)?;
    let mut watch = Watch::default();
    let mut lowered = lower(program, &placement, Stage::Hlo, &mut watch)?.context("all stages ran")?;
    if request.several_hosts {
        lowered = whole_outputs(program, lowered)?;
    }
    let built = emit(program, &placement, &target, &request.flags.of(&target)?, &lowered, &mut watch)?;
    let artefact = Artefact::new(program.name.clone(), built.manifest, built.files.into_iter().collect())?;
    Ok((artefact, lowered.local))
}

/// Returns the target of a request; without a target, the platform of its plugin.
pub(crate) fn target(request: &Request) -> Result<Target> {
    match (&request.target.target, request.plugin.platform()) {
        (Some(target), _) => Ok(target.clone()),
        (None, Some(Platform::Gpu)) => Ok(Target::Gpu),
        (None, Some(Platform::Tpu)) => Err(failure(
            "the slice to compile for is unknown: `--plugin tpu` does not name one",
            "name it with --target",
        )),
        (None, Some(Platform::Cpu) | None) => Ok(Target::Cpu),
    }
}
