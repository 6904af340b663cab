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
    artefact, device,
    failure::failure,
    files::write_file,
    request::Request,
    target::{Target, TargetOptions},
};
use interchange::tensors::{read, to_bytes};
use proto::manifest::{Function, InputKind, OutputKind};
use runtime::{Artefact, HostTensor};
use std::{collections::BTreeMap, path::PathBuf};

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
        ..Request::new(&args.subject, HOST)
    };
    let artefact = artefact::of_request(&request)?;
    let function = artefact.function(&args.function)?.clone();
    check_names(&function)?;
    let mut given = read(&args.inputs)?;
    seed(args, &function, &mut given)?;
    let given = sort(&artefact, &function, given)?;
    let mut session = device::session(&request, artefact)?;
    for (name, value) in &given.state {
        session.set_state(name, value)?;
    }
    let mut results = session.call(&function.name, &given.inputs)?.wait()?;
    for output in function.outputs.iter().filter(|o| o.kind() == OutputKind::State) {
        results.insert(output.state.clone(), session.state(&output.state)?);
    }
    write_file(&args.outputs, &to_bytes(&results)?)?;
    outln!("{}: {}", args.outputs.display(), results.keys().cloned().collect::<Vec<_>>().join(", "));
    Ok(())
}

/// Checks that outputs and written state have distinct names: a file has one tensor per name.
fn check_names(function: &Function) -> Result<()> {
    let states: Vec<&str> =
        function.outputs.iter().filter(|o| o.kind() == OutputKind::State).map(|o| o.state.as_str()).collect();
    let clash =
        function.outputs.iter().find(|o| o.kind() != OutputKind::State && states.contains(&o.name.as_str()));
    match clash {
        None => Ok(()),
        Some(output) => Err(failure(
            format!(
                "`{}` has an output and writes a state tensor that are both named `{}`",
                function.name, output.name
            ),
            "rename the output in the model: a file has one tensor per name",
        )),
    }
}

fn seed(args: &Args, function: &Function, given: &mut BTreeMap<String, HostTensor>) -> Result<()> {
    let Some(seed) = args.seed else { return Ok(()) };
    let Some(input) = function.inputs.iter().find(|i| i.kind() == InputKind::Seed) else {
        let what = format!("`--seed {seed}` has no effect: `{}` has no seed input", function.name);
        return Err(failure(what, "leave it out"));
    };
    match given.insert(input.name.clone(), HostTensor::u32_scalar(seed)) {
        None => Ok(()),
        Some(_) => Err(failure(
            format!(
                "the seed is given twice: by `--seed {seed}`, and as tensor `{}` in --inputs",
                input.name
            ),
            "leave one of them out",
        )),
    }
}

/// Given tensors, sorted by their use.
#[derive(Default)]
struct Given {
    inputs: BTreeMap<String, HostTensor>,
    state: BTreeMap<String, HostTensor>,
}

/// Splits tensors into inputs and state. State of the program that this function does not read is ignored, so
/// that the outputs of `init` can be given to every function.
fn sort(artefact: &Artefact, function: &Function, given: BTreeMap<String, HostTensor>) -> Result<Given> {
    let mut sorted = Given::default();
    let is_input =
        |name: &str| function.inputs.iter().any(|i| i.kind() != InputKind::State && i.name == name);
    let reads = |name: &str| function.inputs.iter().any(|i| i.kind() == InputKind::State && i.state == name);
    let mut extra = Vec::new();
    for (name, value) in given {
        if is_input(&name) {
            sorted.inputs.insert(name, value);
        } else if reads(&name) {
            sorted.state.insert(name, value);
        } else if !artefact.manifest.state.iter().any(|s| s.name == name) {
            extra.push(name);
        }
    }
    let wanted = |kind_is_state: bool| {
        function.inputs.iter().filter(move |i| (i.kind() == InputKind::State) == kind_is_state)
    };
    if let Some(name) = extra.first() {
        let known =
            function.inputs.iter().map(|i| if i.kind() == InputKind::State { &i.state } else { &i.name });
        let near = mesh::layout::suggest(name, known.map(String::as_str));
        let inputs: Vec<&str> = wanted(false).map(|i| i.name.as_str()).collect();
        let help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("its inputs are {}; state has its name in the manifest", list(&inputs)),
        };
        return Err(failure(
            format!("--inputs has a tensor `{name}`, which `{}` does not take", function.name),
            help,
        ));
    }
    let missing: Vec<&str> =
        wanted(false).map(|i| i.name.as_str()).filter(|n| !sorted.inputs.contains_key(*n)).collect();
    if !missing.is_empty() {
        return Err(failure(
            format!("`{}` needs {}, which --inputs does not have", function.name, list(&missing)),
            "add a tensor of that name to a file of --inputs; a seed can be given with --seed",
        ));
    }
    let missing: Vec<&str> =
        wanted(true).map(|i| i.state.as_str()).filter(|n| !sorted.state.contains_key(*n)).collect();
    if !missing.is_empty() {
        return Err(failure(
            format!("`{}` reads the state {}, which --inputs does not have", function.name, list(&missing)),
            "create the state with `meshc run ARTEFACT init --outputs state.safetensors`, and pass that file with \
             --inputs",
        ));
    }
    Ok(sorted)
}

/// Formats a list of names; long lists are truncated.
fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(6).map(|n| format!("`{n}`")).collect();
    match names.len() - shown.len() {
        0 if names.is_empty() => "none".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
