//! Calls of a function with whole tensors by name.

use crate::failure::failure;
use anyhow::Result;
use proto::manifest::{Function, InputKind, OutputKind};
use runtime::{Artefact, HostTensor, Session};
use std::collections::BTreeMap;

/// Calls a function of `artefact` in the session that `open` creates for it. Returns its outputs, and the
/// state that it writes. `tensors` are inputs and state under their names in the manifest; `seed` is the
/// value of its seed.
///
/// # Errors
/// There is no such function; tensors are missing, or the function does not take them; the call fails.
pub fn call(
    artefact: Artefact,
    function: &str,
    tensors: BTreeMap<String, HostTensor>,
    seed: Option<u32>,
    open: impl FnOnce(Artefact) -> Result<Session>,
) -> Result<BTreeMap<String, HostTensor>> {
    let function = artefact.function(function)?.clone();
    let given = given(&artefact, &function, tensors, seed)?;
    let mut session = open(artefact)?;
    for (name, value) in &given.state {
        session.set_state(name, value)?;
    }
    let mut results = session.call(&function.name, &given.inputs)?.wait()?;
    for output in function.outputs.iter().filter(|o| o.kind() == OutputKind::State) {
        results.insert(output.state.clone(), session.state(&output.state)?);
    }
    Ok(results)
}

/// Returns the tensors that a call takes.
fn given(
    artefact: &Artefact,
    function: &Function,
    mut tensors: BTreeMap<String, HostTensor>,
    seed: Option<u32>,
) -> Result<Given> {
    check_names(function)?;
    add_seed(seed, function, &mut tensors)?;
    sort(artefact, function, tensors)
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

fn add_seed(seed: Option<u32>, function: &Function, given: &mut BTreeMap<String, HostTensor>) -> Result<()> {
    let Some(seed) = seed else { return Ok(()) };
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

/// Splits tensors into inputs and state. State of the program that this function does not read, and outputs
/// of the program that are no inputs of it, are ignored, so that the results of one call can be given to the
/// next.
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
        } else if !is_of_program(artefact, &name) {
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

/// True if `name` is the name of a state, or of an output of any function.
fn is_of_program(artefact: &Artefact, name: &str) -> bool {
    let mut outputs = artefact.manifest.functions.iter().flat_map(|f| &f.outputs);
    artefact.manifest.state.iter().any(|s| s.name == name)
        || outputs.any(|output| output.kind() != OutputKind::State && output.name == name)
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
