//! The sharding of parameters, slots and inputs.

use super::bytes;
use mesh::{Function, Mesh, Module, Type};
use serde::{Deserialize, Serialize};

/// A state or input tensor, and how it is split.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Placed {
    /// Its name.
    pub name: String,
    /// `param`, `slot`, `counter` or `input`.
    pub kind: String,
    /// Its element type.
    pub dtype: String,
    /// Its dims.
    pub dims: Vec<PlacedDim>,
    /// Bytes on one device.
    pub bytes: u64,
}

/// A dim and the axes that it is split over.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PlacedDim {
    /// Its name.
    pub name: String,
    /// Its logical size.
    pub size: usize,
    /// The axes, major first.
    pub axes: Vec<String>,
}

/// All state, and the inputs of `f`.
pub(super) fn all(local: &Module, f: &Function) -> Vec<Placed> {
    let mesh = &local.env.mesh;
    let states = local.env.states.iter().map(|(_, s)| place(mesh, &s.name, s.kind.name(), &s.ty));
    let inputs = f.inputs.iter().zip(f.body.param_types()).map(|(name, ty)| place(mesh, name, "input", ty));
    states.chain(inputs).collect()
}

fn place(mesh: &Mesh, name: &str, kind: &str, ty: &Type) -> Placed {
    let dims = ty.dims.iter().map(|d| PlacedDim {
        name: d.dim.name.to_string(),
        size: d.dim.size,
        axes: d.axes.iter().map(|a| mesh.name(*a).to_string()).collect(),
    });
    Placed {
        name: name.to_owned(),
        kind: kind.to_owned(),
        dtype: ty.dtype.name().to_owned(),
        dims: dims.collect(),
        bytes: bytes(mesh, ty),
    }
}
