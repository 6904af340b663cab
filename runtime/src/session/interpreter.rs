//! Interpreters, which take the place of a plugin.

use crate::{HostTensor, Result};
use proto::manifest::{Manifest, Tensor};
use std::{collections::BTreeMap, fmt};

/// Calls functions of one program on the host.
pub trait Interpreter: Send + Sync + fmt::Debug {
    /// Calls a function with whole tensors: its inputs by name, and the state that it reads, by name of the
    /// state. All of them have the types of the manifest.
    ///
    /// # Errors
    /// The program has no such function, or it fails.
    fn call(
        &self,
        function: &str,
        inputs: &BTreeMap<String, HostTensor>,
        state: &BTreeMap<String, &HostTensor>,
    ) -> Result<Interpreted>;
}

/// The results of a call.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Interpreted {
    /// The outputs that are not state, by name.
    pub outputs: BTreeMap<String, HostTensor>,
    /// The state that the function writes.
    pub state: BTreeMap<String, HostTensor>,
}

/// Makes all tensors of a program whole: no dim is split over devices.
pub(super) fn hold_whole_tensors(manifest: &mut Manifest) {
    let unsplit = |tensor: &mut Tensor| {
        for dim in &mut tensor.dims {
            dim.axes.clear();
            dim.local_size = dim.size;
        }
    };
    manifest.state.iter_mut().filter_map(|state| state.tensor.as_mut()).for_each(unsplit);
    for function in &mut manifest.functions {
        function.inputs.iter_mut().filter_map(|input| input.tensor.as_mut()).for_each(unsplit);
        function.outputs.iter_mut().filter_map(|output| output.tensor.as_mut()).for_each(unsplit);
    }
}
