//! State on the devices: parameters, optimizer slots and counters, by name.

use super::buffer::Buffer;
use crate::{Artefact, Error, Result};
use pjrt::Argument;
use proto::manifest::{Function, Tensor};
use std::{collections::BTreeMap, sync::Arc};

/// The shards of one tensor of the state, by local index. Snapshots share them.
pub(crate) type Shards = Vec<Arc<Buffer>>;

/// The state of a session.
#[derive(Default)]
pub(super) struct State(BTreeMap<String, Shards>);

impl State {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Returns the shards of a tensor.
    pub(super) fn get(&self, name: &str) -> Result<&[Arc<Buffer>]> {
        self.0.get(name).map(Vec::as_slice).ok_or_else(|| uninitialized(name))
    }

    /// Replaces some tensors.
    pub(super) fn put(&mut self, new: BTreeMap<String, Vec<Buffer>>) {
        self.0.extend(
            new.into_iter().map(|(name, buffers)| (name, buffers.into_iter().map(Arc::new).collect())),
        );
    }

    /// Returns true if a snapshot shares any tensor that a call of `f` donates. Nothing but a snapshot shares
    /// a buffer, so what is not shared now stays so.
    pub(super) fn is_shared(&self, f: &Function) -> bool {
        let donated = f.inputs.iter().filter(|i| i.donated_to.is_some());
        let mut buffers = donated.filter_map(|i| self.0.get(&i.state)).flatten();
        buffers.any(|buffer| Arc::strong_count(buffer) > 1)
    }

    /// Takes out the tensors that a call of `f` donates. They must not be shared.
    pub(super) fn take_donated(&mut self, f: &Function) -> Result<BTreeMap<String, Vec<Buffer>>> {
        let mut taken = BTreeMap::new();
        for input in f.inputs.iter().filter(|i| i.donated_to.is_some()) {
            let buffers = self.0.remove(&input.state).ok_or_else(|| uninitialized(&input.state))?;
            let own = |buffer| Arc::into_inner(buffer).expect("`is_shared` was false just before");
            taken.insert(input.state.clone(), buffers.into_iter().map(own).collect());
        }
        Ok(taken)
    }
}

/// Returns the donated tensors of a call that failed to start. `arguments` are the ones that the plugin
/// returned, by device; tensors with missing shards are left out.
pub(super) fn returned(
    f: &Function,
    arguments: Vec<Vec<Option<Argument<'_>>>>,
) -> BTreeMap<String, Vec<Buffer>> {
    let mut returned: BTreeMap<String, Vec<Buffer>> = BTreeMap::new();
    let count = arguments.len();
    for device in arguments {
        for (input, argument) in f.inputs.iter().zip(device) {
            if let Some(Argument::Donate(buffer)) = argument {
                returned.entry(input.state.clone()).or_default().push(Buffer::Device(buffer));
            }
        }
    }
    returned.retain(|_, buffers| buffers.len() == count);
    returned
}

/// Returns the type of a tensor of the state.
///
/// # Errors
/// The program has no such state.
pub(super) fn declared<'a>(artefact: &'a Artefact, name: &str) -> Result<&'a Tensor> {
    let entry = artefact.manifest.state.iter().find(|s| s.name == name).ok_or_else(|| {
        Error::input(
            format!("program `{}` has no state `{name}`", artefact.manifest.program),
            "the artefact's manifest lists its state",
        )
    })?;
    Ok(entry.tensor.as_ref().expect("artefacts are checked when they are read"))
}

pub(super) fn uninitialized(name: &str) -> Error {
    Error::input(format!("state `{name}` has no value yet"), "run `init`, or restore a checkpoint, first")
}
