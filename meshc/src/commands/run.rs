//! `meshc run`: calls a function with whole tensors from files.

use crate::{
    args::{
        model::ModelArgs,
        placement::PlacementArgs,
        plugin::{PluginArgs, environment},
        ranges,
    },
    output::{host::HOST, stream::outln},
};
use anyhow::Result;
use driver::{
    artefact,
    call::call,
    device,
    files::write_file,
    interpreter,
    profile::Recorder,
    program,
    request::Request,
    target::{Target, TargetOptions},
};
use interchange::tensors::{read, to_bytes};
use runtime::{Artefact, Session, watched};
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Artefact directory, or model (built-in, .rs or .mesh), which is compiled first
    #[arg(value_name = "ARTEFACT|MODEL")]
    subject: PathBuf,
    /// Function to call, such as init, train_step or eval_step
    function: String,
    /// Tensors of inputs and of state that the function reads, under their names in the manifest; repeatable
    #[arg(long, value_name = "FILE.safetensors")]
    inputs: Vec<PathBuf>,
    /// File for the outputs and the state that the function writes
    #[arg(long, value_name = "FILE.safetensors")]
    outputs: PathBuf,
    /// Value of the input `seed`, unless a file contains it
    #[arg(long, value_name = "N", value_parser = ranges::whole_32, allow_negative_numbers = true)]
    seed: Option<u32>,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Target of a model: cpu, gpu, or a TPU slice such as tpu:v5e:2x4. Default: the platform of the plugin
    #[arg(long)]
    target: Option<Target>,
    /// Write a profile of the call to this folder: trace.json, and that of the plugin if it has a profiler
    #[arg(long, value_name = "DIR")]
    profile: Option<PathBuf>,
    #[command(flatten)]
    plugin: PluginArgs,
}

/// Calls the function.
pub fn run(args: &Args) -> Result<()> {
    environment(None)?;
    let request = Request {
        settings: args.settings.options(),
        placement: args.placement.options(),
        target: TargetOptions { target: args.target.clone(), ..TargetOptions::default() },
        plugin: args.plugin.options(),
        profile: args.profile.as_deref().map(Recorder::new),
        ..Request::new(&args.subject, HOST)
    };
    let (artefact, interpreter) = if request.plugin.is_interpreter() {
        interpreter::check(&request)?;
        let (artefact, interpreter) = interpreter::of_program(&program::load(&request)?, &request)?;
        (artefact, Some(interpreter))
    } else {
        (artefact::of_request(&request)?, None)
    };
    let open = |artefact: Artefact| match interpreter {
        Some(interpreter) => Ok(Session::interpreted(interpreter, artefact)),
        None => device::session(&request, artefact),
    };
    let results = call(artefact, &args.function, read(&args.inputs)?, args.seed, open)?;
    request.profile.as_ref().map_or(Ok(()), |profile| profile.end(HOST.say))?;
    for (name, value) in &results {
        if let Some(name) = watched::printed(name) {
            outln!("{name} = {}", watched::text(&value.dims, &value.to_f64()?));
        }
    }
    write_file(&args.outputs, &to_bytes(&results)?)?;
    outln!("{}: {}", args.outputs.display(), results.keys().cloned().collect::<Vec<_>>().join(", "));
    Ok(())
}
