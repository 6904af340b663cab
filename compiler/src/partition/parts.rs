//! A split dim as two dims: its shards, and the elements of one shard.

use super::walk::{Walk, fresh};
use mesh::{Dim, Name, TensorDim, Type};

/// A dim factored into its shards and the elements of one shard.
pub(super) struct Parts {
    /// One element per shard, split like the dim.
    pub(super) shard: TensorDim,
    /// The elements of one shard.
    pub(super) part: TensorDim,
}

impl Parts {
    /// The parts of `dim`; `None` if `ty` does not split it.
    pub(super) fn of(walk: &Walk<'_>, ty: &Type, dim: &Name) -> Option<Self> {
        let d = ty.dim(dim).filter(|d| !d.axes.is_empty())?;
        let shards = walk.cx.env.mesh.product(&d.axes);
        let shard = Dim::new(fresh(ty, dim, "shard"), shards);
        let part = Dim::new(fresh(ty, dim, "part"), d.dim.size / shards);
        Some(Self {
            shard: TensorDim { dim: shard, axes: d.axes.clone() },
            part: TensorDim { dim: part, axes: Vec::new() },
        })
    }
    /// Both dims, the shards first.
    pub(super) fn both(&self) -> Vec<TensorDim> {
        vec![self.shard.clone(), self.part.clone()]
    }
}
