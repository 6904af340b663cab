//! The cost of collectives: bytes that each device sends, by the usual ring algorithms. The partitioner
//! chooses by it, and the report sums it.

use mesh::{AxisId, AxisSet, Mesh, Module, Type, ir::Collective, schedule::Gather};

/// The axes over which a collective communicates; empty for those that send nothing.
pub fn axes(op: &Collective) -> AxisSet {
    let set = |axes: &[AxisId]| axes.iter().copied().collect();
    match op {
        Collective::AllReduce { kind: _, axes } => *axes,
        Collective::AllGather { dim: _, axes } | Collective::ReduceScatter { dim: _, axes } => set(axes),
        Collective::AllToAll { from: _, to: _, axes } => set(axes),
        Collective::Permute { dim: _, axes, by: _, wrap: _ } => set(axes),
        Collective::Shard { dim: _, axes: _ } | Collective::AsPending { axes: _ } => AxisSet::EMPTY,
    }
}

/// The bytes that one device sends when `op` is applied to an operand of type `x`. In a ring of `n` devices
/// an all-gather, a reduce-scatter and an all-to-all send `(n - 1) / n` of the larger side, an all-reduce
/// twice that. A permute sends its operand, unless no shard reaches another device.
pub fn wire_bytes(mesh: &Mesh, op: &Collective, x: &Type) -> u64 {
    let n: u64 = axes(op).iter().map(|a| mesh.size(a) as u64).product();
    let bytes = x.local_bytes(mesh) as u64;
    // The sizes of a program are not bounded by any machine.
    let around = |times: u128| {
        let sent = times * u128::from(bytes) * u128::from(n - 1) / u128::from(n);
        u64::try_from(sent).unwrap_or(u64::MAX)
    };
    match op {
        Collective::AllReduce { kind: _, axes: _ } => around(2),
        Collective::AllGather { dim: _, axes: _ } => bytes.saturating_mul(n - 1),
        Collective::ReduceScatter { dim: _, axes: _ } | Collective::AllToAll { from: _, to: _, axes: _ } => {
            around(1)
        }
        Collective::Permute { dim: _, axes: _, by, wrap } => {
            let by = by.unsigned_abs() as u64;
            let stays = by.is_multiple_of(n) || (!wrap && by > n);
            if stays { 0 } else { bytes }
        }
        Collective::Shard { dim: _, axes: _ } | Collective::AsPending { axes: _ } => 0,
    }
}

/// True if stored parameters that the state layout shards further than the layout are gathered once a step
/// (schedule entry `gather=step`) instead of layer by layer.
pub fn gathers_once(module: &Module) -> bool {
    module.schedule.gather == Gather::Step
}
