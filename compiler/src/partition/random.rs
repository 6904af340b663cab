//! Random numbers depend on the logical position: each device generates its own shard, also of stored
//! tensors.

use super::walk::Walk;
use mesh::{
    AxisSet, Diagnostic, Inst, TensorDim,
    ir::{Op, Random},
};

pub(super) fn partition(walk: &mut Walk<'_>, inst: &Inst, op: &Random) -> Result<(), Diagnostic> {
    let home = walk.home(inst.results[0]);
    let counter = walk.want(inst.args[1], &home, AxisSet::EMPTY);
    let args = [walk.get_layout(inst.args[0])?, walk.get(inst.args[1], &counter)?];
    let own = |d: &TensorDim| op.dims.iter().any(|own| own.dim.name == d.dim.name);
    let dims = home.dims.into_iter().filter(own).collect();
    walk.done(inst, Op::Random(Random { dims, ..op.clone() }), &args)
}
