//! Arguments and results of a call.

use super::{
    assignment::DeviceAssignment,
    buffer::Buffer,
    interpreter::Interpreted,
    state::{State, uninitialized},
    transfer::{Output, start_reads},
};
use crate::{
    Error, HostTensor, Result,
    watched::{Failed, is_assertion},
};
use pjrt::{Argument, Event};
use proto::manifest::{Function, Input, InputKind, OutputKind, Tensor};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Instant,
};

/// A call of a function, from its start to the end of its run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallSpan {
    /// The function.
    pub function: String,
    /// The start, before inputs are sent.
    pub begin: Instant,
    /// The end of the run on all devices.
    pub end: Instant,
}

/// The calls of a session, for a profile.
pub type Calls = Arc<Mutex<Vec<CallSpan>>>;

/// Results of a call, as they are transferred to the host.
pub struct Outputs {
    /// The outputs that are not state, in the order of the program.
    pub values: Vec<Output>,
    done: Vec<Event>,
}

impl Outputs {
    /// Waits for the run to end on all devices.
    pub(super) fn wait_for_run(&mut self) -> Result<()> {
        pjrt::wait_all(std::mem::take(&mut self.done)).map_err(Error::pjrt("running a program"))
    }

    /// Waits for the run to end on all devices, and for its results. Assertions are not among them.
    ///
    /// # Errors
    /// The run failed, and its new state cannot be read either; or an assertion of the program failed.
    pub fn wait(mut self) -> Result<BTreeMap<String, HostTensor>> {
        self.wait_for_run()?;
        let (mut results, mut failed) = (BTreeMap::new(), Failed::default());
        for output in self.values {
            let (name, tensor) = (output.name.clone(), output.tensor().clone());
            let value = output.wait()?;
            if is_assertion(&name) {
                failed.examine(&name, &tensor, &value)?;
            } else {
                results.insert(name, value);
            }
        }
        failed.result().map(|()| results)
    }
}

/// Checks that `inputs` are the inputs of `f`, with the right types, and that the state it reads has values.
pub(super) fn check_inputs(f: &Function, inputs: &BTreeMap<String, HostTensor>, state: &State) -> Result<()> {
    let wanted: Vec<&Input> = f.inputs.iter().filter(|i| i.kind() != InputKind::State).collect();
    let names = || {
        let names: Vec<&str> = wanted.iter().map(|i| i.name.as_str()).collect();
        format!("its inputs are {}", names.join(", "))
    };
    for input in &wanted {
        let value = inputs
            .get(&input.name)
            .ok_or_else(|| Error::input(format!("`{}` needs input `{}`", f.name, input.name), names()))?;
        value.require(&format!("input `{}` of `{}`", input.name, f.name), tensor_of(input))?;
    }
    for name in inputs.keys() {
        if !wanted.iter().any(|i| i.name == *name) {
            return Err(Error::input(format!("`{}` has no input `{name}`", f.name), names()));
        }
    }
    match f.inputs.iter().find(|i| i.kind() == InputKind::State && !state.contains(&i.state)) {
        Some(input) => Err(uninitialized(&input.state)),
        None => Ok(()),
    }
}

/// Returns the declared type of an input.
pub(super) fn tensor_of(input: &Input) -> &Tensor {
    input.tensor.as_ref().expect("artefacts are checked when they are read")
}

/// Lists the arguments of `f` for each device of this process, in `order` (local indices). State in `donated`
/// is given away, all other state and the buffers in `sent` are lent.
pub(super) fn arguments<'a>(
    f: &Function,
    order: &[usize],
    state: &'a State,
    donated: BTreeMap<String, Vec<Buffer>>,
    sent: &'a BTreeMap<String, Vec<Buffer>>,
) -> Result<Vec<Vec<Argument<'a>>>> {
    let mut donated: BTreeMap<String, Vec<Option<Buffer>>> =
        donated.into_iter().map(|(name, buffers)| (name, buffers.into_iter().map(Some).collect())).collect();
    let mut argument = |input: &Input, device: usize| {
        if input.kind() != InputKind::State {
            return Ok(Argument::Borrow(sent[&input.name][device].on_device()));
        }
        Ok(match donated.get_mut(&input.state) {
            Some(own) => {
                let buffer = own[device].take().expect("each device's buffer is taken once");
                Argument::Donate(buffer.into_device())
            }
            None => Argument::Borrow(state.get(&input.state)?[device].on_device()),
        })
    };
    order.iter().map(|device| f.inputs.iter().map(|input| argument(input, *device)).collect()).collect()
}

/// Separates the new state of a run from its other outputs, and starts to read the latter. The run's outputs
/// are by local index.
pub(super) fn results(
    f: &Function,
    assignment: &DeviceAssignment,
    execution: pjrt::Execution,
) -> Result<(BTreeMap<String, Vec<Buffer>>, Outputs)> {
    let pjrt::Execution { outputs, done } = execution;
    let mut by_output: Vec<Vec<Buffer>> = f.outputs.iter().map(|_| Vec::new()).collect();
    for device in outputs {
        for (shards, buffer) in by_output.iter_mut().zip(device) {
            shards.push(Buffer::Device(buffer));
        }
    }
    let (mut values, mut state) = (Vec::new(), BTreeMap::new());
    for (output, shards) in f.outputs.iter().zip(by_output) {
        if output.kind() == OutputKind::State {
            state.insert(output.state.clone(), shards);
        } else {
            let tensor = output.tensor.as_ref().expect("artefacts are checked when they are read");
            values.push(start_reads(&output.name, tensor, assignment, &shards)?);
        }
    }
    Ok((state, Outputs { values, done }))
}

/// Separates the results of an interpreter into the new state, as shards, and the other outputs, in the order
/// of the program.
///
/// # Errors
/// A result is missing, or has another type than in the manifest.
pub(super) fn interpreted(
    f: &Function,
    assignment: &DeviceAssignment,
    mut results: Interpreted,
) -> Result<(BTreeMap<String, Vec<Buffer>>, Outputs)> {
    let (mut values, mut state) = (Vec::new(), BTreeMap::new());
    for output in &f.outputs {
        let is_state = output.kind() == OutputKind::State;
        let (from, name) = match is_state {
            true => (&mut results.state, &output.state),
            false => (&mut results.outputs, &output.name),
        };
        let value = from.remove(name).ok_or_else(|| {
            Error::input(
                format!("the interpreter of `{}` returned no `{name}`", f.name),
                "this is a bug of the interpreter: report it with the program",
            )
        })?;
        let tensor = output.tensor.as_ref().expect("artefacts are checked when they are read");
        value.require(&format!("result `{name}` of `{}`", f.name), tensor)?;
        let shards = vec![Buffer::Host(value)];
        if is_state {
            state.insert(name.clone(), shards);
        } else {
            values.push(start_reads(name, tensor, assignment, &shards)?);
        }
    }
    Ok((state, Outputs { values, done: Vec::new() }))
}
